package upstreams

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"
)

// Google's models sign calls of functions, and the newer ones want the signature back with the call (Google, thought
// signatures). What is here is shared by the providers that have such models.

// GoogleDemands reports whether models of the family refuse a call of a function that comes back without a signature. A
// generation that is not known yet is taken for one like the newest.
func GoogleDemands(family string) bool {
	return family != "gemini-1" && family != "gemini-2" && family != "gemma"
}

// Signature is v as a JSON string if it can be a signature: base64 of either alphabet, or one of the words Google has for
// none. It is "" for anything else.
func Signature(v gjson.Result) string {
	if v.Type != gjson.String || v.Str == "" || len(v.Raw) != len(v.Str)+2 || !IsBase64(v.Str) {
		return ""
	}
	return v.Raw
}

// IsBase64 reports whether s has nothing but characters of base64, of either alphabet.
func IsBase64(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '+' || c == '/' || c == '-' || c == '_' || c == '=') {
			return false
		}
	}
	return true
}

// shortSignature is fewer characters than any signature of Google's has.
const shortSignature = 24

// CallID takes apart the id of a call in which another gateway hides a signature: LiteLLM writes id__thought__signature,
// Bifrost id_ts_signature. The signature is a JSON string, "" if there is none; then id is returned as it came.
func CallID(id string) (clean, signature string) {
	if at := strings.Index(id, "__thought__"); at >= 0 {
		if hidden := id[at+len("__thought__"):]; hidden != "" && IsBase64(hidden) {
			return id[:at], `"` + hidden + `"`
		}
		return id[:at], ""
	}
	// Names of functions may hold _ts_, and some ids are names: only what is long enough was hidden there.
	if at := strings.Index(id, "_ts_"); at >= 0 {
		if hidden := id[at+len("_ts_"):]; len(hidden) >= shortSignature && IsBase64(hidden) {
			return id[:at], `"` + hidden + `"`
		}
	}
	return id, ""
}

// signaturePlaces are where in a call its signature may be: where Google's own compatible endpoint and we put it, where
// Portkey does, and where LiteLLM's own client does.
var signaturePlaces = []string{
	"extra_content.google.thought_signature", "function.thought_signature",
	"provider_specific_fields.thought_signature", "function.provider_specific_fields.thought_signature",
}

// CallSignature finds the signature of a call of a function as a client sends it back, whichever gateway the client had it
// from, a JSON string, "" if it has none; and the id of the call without it. details are the reasoning_details of its
// message, where OpenRouter and Bifrost put signatures. first says that no call of the message goes before it: a detail
// that names no call is the first one's.
func CallSignature(call, details gjson.Result, first bool) (id, signature string) {
	id, hidden := CallID(call.Get("id").String())
	for _, at := range signaturePlaces {
		if s := Signature(call.Get(at)); s != "" {
			return id, s
		}
	}
	if hidden != "" {
		return id, hidden
	}
	return id, DetailSignature(details, func(of string) bool {
		return of == "" && first || id != "" && (of == id || of == "tool_call_"+id)
	})
}

// DetailSignature finds a signature of Google's in reasoning_details: the first that is of what is wanted, by its id.
func DetailSignature(details gjson.Result, wanted func(of string) bool) (signature string) {
	if !details.IsArray() {
		return ""
	}
	details.ForEach(func(_, d gjson.Result) bool {
		if !wanted(d.Get("id").Str) {
			return true
		}
		signature = detailSignature(d)
		return signature == ""
	})
	return signature
}

// detailSignature is the signature of Google's in an element of reasoning_details; "" if it holds none.
func detailSignature(d gjson.Result) string {
	switch format := d.Get("format").Str; {
	case d.Get("type").Str != "reasoning.encrypted":
	case strings.HasPrefix(format, "google-gemini"): // OpenRouter
		return Signature(d.Get("data"))
	case format == "" && strings.HasPrefix(d.Get("id").Str, "tool_call_"): // Bifrost
		return Signature(d.Get("signature"))
	}
	return ""
}

// OnlySignatures reports whether reasoning_details hold nothing but signatures of Google's.
func OnlySignatures(details gjson.Result) bool {
	only := true
	details.ForEach(func(_, d gjson.Result) bool {
		only = detailSignature(d) != ""
		return only
	})
	return only
}

// CallName is what a call of a function is known by: its id, and what is called with what. Some models count their calls
// anew in each answer, and a signature on another call than its own is refused. It is "" for a call without an id.
func CallName(call gjson.Result) string {
	id, _ := CallID(call.Get("id").Str)
	if id == "" {
		return ""
	}
	f, arguments := call.Get("function"), call.Get("function.arguments")
	if custom := call.Get("custom"); custom.IsObject() {
		f, arguments = custom, custom.Get("input")
	}
	text := arguments.Raw
	if arguments.Type == gjson.String {
		text = arguments.Str
	}
	h := sha256.New()
	for _, s := range []string{id, f.Get("name").Str, sorted(text)} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// sorted is JSON with its members in order and without white space, as clients may write it anew; what is no JSON is
// itself, and nothing is an empty object.
func sorted(text string) string {
	if strings.TrimSpace(text) == "" {
		return "{}"
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil || d.More() {
		return text
	}
	b, err := json.Marshal(v)
	if err != nil {
		return text
	}
	return string(b)
}

// Signed returns the signatures of the calls in a message as we give and keep it, by CallName; nil if there are none.
func Signed(message []byte) (by map[string]string) {
	if !bytes.Contains(message, []byte(`"thought_signature"`)) {
		return nil
	}
	gjson.GetBytes(message, "tool_calls").ForEach(func(_, call gjson.Result) bool {
		name, s := CallName(call), Signature(call.Get(signaturePlaces[0]))
		if name != "" && s != "" {
			if by == nil {
				by = map[string]string{}
			}
			by[name] = s[1 : len(s)-1]
		}
		return true
	})
	return by
}

// Signatures are those of calls of functions in a request that its client did not send back.
type Signatures struct {
	Known   map[string]string // by CallName: what others know of them
	Unknown []string          // names of those that are not in Known
}

// Of is the signature of a call, a JSON string; "" if it is not known.
func (s *Signatures) Of(call gjson.Result) string {
	name := CallName(call)
	if known := s.Known[name]; known != "" && IsBase64(known) {
		return `"` + known + `"`
	}
	if name != "" {
		s.Unknown = append(s.Unknown, name)
	}
	return ""
}
