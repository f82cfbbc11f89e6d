package gemini

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/tidwall/gjson"

	"threadhub/upstreams"
)

// files is where Gemini keeps what was uploaded to it.
const files = "https://generativelanguage.googleapis.com/"

// mediaPart appends part i of message n, which is no text; nothing if it is left out. whole says that it is a part of its
// own, and not inside the answer of a tool, where less may stand beside the data.
func (t *translation) mediaPart(dst []byte, n, i int, part gjson.Result, whole bool) []byte {
	param := place(n, fmt.Sprintf(".content[%d]", i))
	w := object{b: append(dst, '{')}
	switch kind := part.Get("type").Str; kind {
	case "image_url":
		t.lose(part.Get("image_url"), "url", "detail")
		t.image(&w, n, param+".image_url", part.Get("image_url"), whole)
	case "video_url":
		t.lose(part.Get("video_url"), "url")
		t.located(&w, n, param+".video_url.url", part.Get("video_url.url"), aVideo)
	case "input_audio":
		t.lose(part.Get("input_audio"), "data", "format")
		t.audio(&w, param+".input_audio", part.Get("input_audio"))
	case "file":
		t.lose(part.Get("file"), "file_id", "file_data")
		t.file(&w, n, param+".file", part.Get("file"))
	default:
		t.unsupported(param+".type", "gemini has no content parts of this type")
	}
	if w.n == 0 {
		return dst
	}
	t.lose(part, "type", "image_url", "video_url", "input_audio", "file")
	return append(w.b, '}')
}

func (t *translation) image(w *object, n int, param string, v gjson.Result, whole bool) {
	at := v
	if v.IsObject() {
		at, param = v.Get("url"), param+".url"
	}
	t.located(w, n, param, at, anImage)
	switch detail := v.Get("detail").Str; {
	case detail == "" || detail == "auto" || w.n == 0:
	case (detail == "low" || detail == "high") && whole && !t.model.old && !t.model.gemma:
		w.raw("mediaResolution", `{"level":"MEDIA_RESOLUTION_`+strings.ToUpper(detail)+`"}`)
	default:
		t.dropped("image_url.detail", "unsupported")
	}
}

// ownImage writes an image the model drew in an earlier turn, with its signature.
func (t *translation) ownImage(n int, v gjson.Result) {
	at := v.Get("image_url.url")
	if at.Type != gjson.String {
		return
	}
	t.contents.try("model", func(dst []byte) []byte {
		w := object{b: append(dst, '{')}
		t.located(&w, n, place(n, ".images"), at, anImage)
		if t.err != nil && t.past(n) {
			t.err = nil
			t.dropped("messages.images", "unsupported")
			return dst
		}
		if w.n == 0 {
			return dst
		}
		if s := upstreams.Signature(v.Get("extra_content.google.thought_signature")); s != "" && !t.model.gemma {
			w.raw("thoughtSignature", s)
		}
		return append(w.b, '}')
	})
}

func (t *translation) audio(w *object, param string, v gjson.Result) {
	format := v.Get("format").Str
	if format == "" || strings.ContainsFunc(format, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }) {
		t.invalid("invalid_value", param+".format", "the format of the audio must be a word like wav or mp3")
	}
	t.inline(w, param+".data", "audio/"+format, v.Get("data").Str)
}

func (t *translation) file(w *object, n int, param string, v gjson.Result) {
	if id := v.Get("file_id"); id.Exists() && id.Type != gjson.Null {
		if !strings.HasPrefix(id.Str, files) {
			t.unsupported(param+".file_id", "gemini knows only files that were uploaded to it, by their whole address")
			return
		}
		t.located(w, n, param+".file_id", id, aFile)
		return
	}
	t.located(w, n, param+".file_data", v.Get("file_data"), aFile)
}

// media is what may stand at an address.
type media struct {
	types     []string // media types, or their beginnings
	otherwise string   // the type of what is not fetched, where the address does not tell
}

var (
	anImage = media{[]string{"image/"}, "image/jpeg"}
	aVideo  = media{[]string{"video/"}, "video/mp4"}
	aFile   = media{[]string{"application/pdf", "text/", "image/", "audio/", "video/"}, "application/pdf"}
)

// located writes what is at an address in message n: inside it, for a data URL; as it was fetched; or for Gemini to fetch.
func (t *translation) located(w *object, n int, param string, at gjson.Result, of media) {
	text := at.Str
	scheme, rest, ok := strings.Cut(text, ":")
	switch {
	case at.Type != gjson.String || !ok:
		t.invalid("invalid_value", param, "there must be a data URL or the address of a file")
	case strings.EqualFold(scheme, "data"):
		head, data, _ := strings.Cut(rest, ",")
		media, encoding, _ := strings.Cut(head, ";")
		if !strings.EqualFold(encoding, "base64") && !strings.HasSuffix(strings.ToLower(encoding), ";base64") {
			t.invalid("invalid_value", param, "a data URL must be in base64: data:image/png;base64,…")
			return
		}
		t.inline(w, param, media, data)
	case strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https"):
		t.remote(w, n, param, at, of)
	default:
		t.unsupported(param, "gemini takes data URLs and addresses that begin with https")
	}
}

// inline writes data that is in base64 already.
func (t *translation) inline(w *object, param, media, data string) {
	media = strings.ToLower(media)
	switch {
	case media == "image/svg+xml":
		t.unsupported(param, "gemini does not take SVG")
	case !isMedia(media):
		t.invalid("invalid_value", param, "the type of the data must be like image/png")
	case data == "" || !upstreams.IsBase64(strings.TrimRight(data, "=")) || strings.Contains(strings.TrimRight(data, "="), "="):
		t.invalid("invalid_value", param, "the data must be base64")
	default:
		w.key("inlineData")
		w.b = append(append(append(w.b, `{"mimeType":"`...), media...), `","data":"`...)
		w.b = append(append(w.b, data...), `"}`...)
	}
}

// isMedia reports whether s is a media type without parameters.
func isMedia(s string) bool {
	major, minor, ok := strings.Cut(s, "/")
	odd := func(r rune) bool {
		return r != '.' && r != '+' && r != '-' && r != '_' && (r < 'a' || r > 'z') && (r < '0' || r > '9')
	}
	return ok && major != "" && minor != "" && len(s) <= 100 && !strings.ContainsFunc(major, odd) && !strings.ContainsFunc(minor, odd)
}

// byEnding is the type that the ending of a name tells.
var byEnding = map[string]string{
	".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif",
	".heic": "image/heic", ".heif": "image/heif", ".avif": "image/avif", ".svg": "image/svg+xml",
	".mp4": "video/mp4", ".webm": "video/webm", ".mov": "video/quicktime",
	".pdf": "application/pdf", ".txt": "text/plain",
}

// remote writes what an address leads to, if it was fetched, and nothing where that cannot be had; or else the address for
// Gemini to fetch. Of its own files, and videos of YouTube, Gemini knows the type; of others it is a guess, and that it
// fetches them is not certain.
func (t *translation) remote(w *object, n int, param string, at gjson.Result, of media) {
	u, err := url.Parse(at.Str)
	if err != nil || u.Host == "" {
		t.invalid("invalid_value", param, "the address cannot be read")
		return
	}
	member := strings.Trim(plain(lastMember(param)), ".")
	if f, known := t.files[at.Str]; known && len(f.Data) == 0 {
		field := "messages.content." + member
		if t.recalls {
			field = "messages." + member
		}
		t.dropped(field, "not_fetched")
		return
	} else if known {
		w.key("inlineData")
		w.b = append(append(append(w.b, `{"mimeType":"`...), f.Type...), `","data":"`...)
		w.b = append(base64.StdEncoding.AppendEncode(w.b, f.Data), `"}`...)
		return
	}
	ending := byEnding[strings.ToLower(path.Ext(u.Path))]
	if ending == "image/svg+xml" {
		t.unsupported(param, "gemini does not take SVG")
		return
	}
	w.key("fileData")
	w.b = append(w.b, '{')
	if host := strings.TrimPrefix(strings.ToLower(u.Hostname()), "www."); !strings.HasPrefix(at.Str, files) && host != "youtube.com" && host != "youtu.be" {
		w.b = append(append(append(w.b, `"mimeType":"`...), cmp.Or(ending, of.otherwise)...), `",`...)
		t.Warn("unchecked=" + member + ";reason=not_fetched")
		t.links = append(t.links, upstreams.Link{URL: at.Str, Param: param, Types: of.types, Past: n < t.asked})
	}
	w.b = append(append(append(w.b, `"fileUri":`...), at.Raw...), '}')
}

// lastMember is the name of the part in a param that ends in .url.
func lastMember(param string) string {
	param = strings.TrimSuffix(param, ".url")
	return param[strings.LastIndexByte(param, '.')+1:]
}
