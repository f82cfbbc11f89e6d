package gemini

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/upstreams"
)

// maxCandidates is how many choices an answer may hold: Gemini gives 8.
const maxCandidates = 128

// candidate is one answer as far as it came. Texts that end in Raw or are JSON stay as Gemini wrote them.
type candidate struct {
	index  int
	finish string // Gemini's own word for its end; "" while it has not ended
	usable bool   // it holds anything for the client
	calls  int

	signature string // of the text that had one last, a JSON string
	tools     []byte // parts of the server's own tools, joined by commas: they go back as they were

	text      []byte // decoded: places in it may be named
	starts    []int  // where in text each part of a whole answer begins; -1 for what is no text
	grounding gjson.Result
	cited     []gjson.Result // what the model wrote as it stands elsewhere
}

// maxCited is how many such places are told of. An answer that has more is a loop.
const maxCited = 1024

// cites takes the places of a citationMetadata: Google's clients name them otherwise than its API.
func (c *candidate) cites(v gjson.Result) {
	for _, name := range []string{"citationSources", "citations"} {
		each(v.Get(name), func(_ int, place gjson.Result) bool {
			if len(c.cited) < maxCited {
				c.cited = append(c.cited, place)
			}
			return true
		})
	}
}

// part is one part of a candidate's content.
type part struct {
	raw              string
	text, call, data gjson.Result
	signature        string // a JSON string
	thought, server  bool
}

func takeApart(v gjson.Result) part {
	p := part{raw: v.Raw}
	v.ForEach(func(key, v gjson.Result) bool {
		switch key.Str {
		case "text":
			p.text = v
		case "functionCall":
			p.call = v
		case "inlineData":
			p.data = v
		case "thought":
			p.thought = v.Type == gjson.True
		case "thoughtSignature":
			p.signature = upstreams.Signature(v)
		case "toolCall", "toolResponse", "executableCode", "codeExecutionResult":
			p.server = true
		}
		return true
	})
	return p
}

// keep takes from a part what belongs to the message rather than to one of its pieces.
func (c *candidate) keep(p part) {
	switch {
	case p.server:
		if len(c.tools) > 0 {
			c.tools = append(c.tools, ',')
		}
		c.tools = append(c.tools, p.raw...)
	case p.signature != "" && !p.thought && !p.call.IsObject() && !p.data.IsObject():
		c.signature = p.signature
	}
}

// reason is how the API says why a candidate ended, and broken that Gemini could not go on with what the model wrote.
// What was cut or filtered stays so, whatever calls it holds: they may be cut as well.
func (c *candidate) reason() (reason string, broken bool) {
	switch c.finish {
	case "MAX_TOKENS", continued:
		return "length", false
	case "SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION", "LANGUAGE",
		"IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION":
		return "content_filter", false
	case "MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS":
		return "stop", true
	}
	if c.calls > 0 {
		return "tool_calls", false
	}
	return "stop", false
}

// malformed is the fault of an answer of which nothing can be used.
func malformed(finish string) error {
	return fault.New(fault.Upstream, "gemini: the model's answer could not be used (%s)", plain(finish)).WithCode("upstream_malformed")
}

func protocol(text string) error {
	return fault.New(fault.Upstream, "gemini %s", text).WithCode("upstream_protocol")
}

// appendCall appends a call as a member of tool_calls, in a stream with its index.
func (w *words) appendCall(dst []byte, c *candidate, p part, streamed bool) []byte {
	o := object{b: append(dst, '{')}
	if streamed {
		o.raw("index", strconv.Itoa(c.calls))
	}
	c.calls++
	c.usable = true
	id := text(p.call.Get("id"))
	if len(id) <= len(`""`) {
		id = `"call_` + w.dialect.fresh() + `"`
	}
	o.raw("id", id)
	o.raw("type", `"function"`)
	o.key("function")
	f := object{b: append(o.b, '{')}
	name := text(p.call.Get("name"))
	if own, ok := w.renamed[p.call.Get("name").Str]; ok {
		name = own
	}
	if name == "" {
		name = `""`
	}
	f.raw("name", name)
	f.key("arguments")
	args := "{}"
	if a := p.call.Get("args"); a.IsObject() {
		args = compact(a.Raw)
	}
	o.b = append(gjson.AppendJSONString(f.b, args), '}')
	o.extra(p.signature, nil, "")
	return append(o.b, '}')
}

// extra writes what only Gemini knows, where there is some. found is how an answer was grounded, as Gemini wrote it.
func (o *object) extra(signature string, tools []byte, found string) {
	if signature == "" && len(tools) == 0 && found == "" {
		return
	}
	o.key("extra_content")
	g := object{b: append(o.b, `{"google":{`...)}
	g.raw("thought_signature", signature)
	g.raw("grounding_metadata", found)
	if len(tools) > 0 {
		g.key("tool_parts")
		g.b = append(append(append(g.b, '['), tools...), ']')
	}
	o.b = append(g.b, `}}`...)
}

// compact takes the white space out of JSON that has lines.
func compact(raw string) string {
	var b bytes.Buffer
	if !strings.Contains(raw, "\n") || json.Compact(&b, []byte(raw)) != nil {
		return raw
	}
	return b.String()
}

// appendImage appends an image the model drew, as OpenRouter shows them.
func appendImage(dst []byte, p part) []byte {
	dst = append(dst, `{"type":"image_url","image_url":{"url":`...)
	dst = gjson.AppendJSONString(dst, "data:"+p.data.Get("mimeType").Str+";base64,"+p.data.Get("data").Str)
	o := object{b: append(dst, '}'), n: 1}
	o.extra(p.signature, nil, "")
	return append(o.b, '}')
}

// appendAnnotations appends a citation for each source of each place that Gemini says it found on the web, and for each
// place that stands elsewhere word for word; nothing if there is none.
func (c *candidate) appendAnnotations(dst []byte) []byte {
	chunks := c.grounding.Get("groundingChunks").Array()
	o := object{b: append(dst, '[')}
	each(c.grounding.Get("groundingSupports"), func(_ int, support gjson.Result) bool {
		from, to, ok := c.place(support.Get("segment"))
		each(support.Get("groundingChunkIndices"), func(_ int, index gjson.Result) bool {
			i := index.Int()
			if !ok || i < 0 || i >= int64(len(chunks)) {
				return true
			}
			web := chunks[i].Get("web")
			for _, other := range []string{"retrievedContext", "maps"} {
				if !web.Exists() {
					web = chunks[i].Get(other)
				}
			}
			if url := text(web.Get("uri")); url != "" {
				if o.n++; o.n > 1 {
					o.b = append(o.b, ',')
				}
				o.b = appendCitation(o.b, from, to, text(web.Get("title")), url)
			}
			return true
		})
		return true
	})
	for _, place := range c.cited {
		from, to, ok := c.place(place)
		if url := text(place.Get("uri")); ok && len(url) > len(`""`) {
			if o.n++; o.n > 1 {
				o.b = append(o.b, ',')
			}
			o.b = appendCitation(o.b, from, to, text(place.Get("title")), url)
		}
	}
	if o.n == 0 {
		return dst
	}
	return append(o.b, ']')
}

func appendCitation(dst []byte, from, to int, title, url string) []byte {
	dst = strconv.AppendInt(append(dst, `{"type":"url_citation","url_citation":{"start_index":`...), int64(from), 10)
	dst = strconv.AppendInt(append(dst, `,"end_index":`...), int64(to), 10)
	if title == "" {
		title = `""`
	}
	dst = append(append(dst, `,"title":`...), title...)
	return append(append(append(dst, `,"url":`...), url...), `}}`...)
}

// place is where in the text of the candidate a segment is, in characters. Gemini counts bytes, of one part or of the
// whole text; which, its own copy of the segment tells.
func (c *candidate) place(segment gjson.Result) (from, to int, ok bool) {
	start, end, quote := segment.Get("startIndex").Int(), segment.Get("endIndex").Int(), segment.Get("text").String()
	base := 0
	if i := segment.Get("partIndex").Int(); i >= 0 && i < int64(len(c.starts)) && c.starts[i] > 0 {
		base = c.starts[i]
	}
	for _, base := range []int64{int64(base), 0} {
		if s, e := base+start, base+end; start >= 0 && s <= e && e <= int64(len(c.text)) && (quote == "" || string(c.text[s:e]) == quote) {
			from, to = int(s), int(e)
			return utf8.RuneCount(c.text[:from]), utf8.RuneCount(c.text[:to]), true
		}
	}
	i := bytes.Index(c.text, []byte(quote))
	if quote == "" || i < 0 {
		return 0, 0, false
	}
	from = utf8.RuneCount(c.text[:i])
	return from, from + utf8.RuneCountInString(quote), true
}

// appendLogprobs appends a choice's logprobs, which may have come in several; null if there are none.
func appendLogprobs(dst []byte, results ...gjson.Result) []byte {
	o := object{b: append(dst, `{"content":[`...)}
	given := false
	for _, v := range results {
		top := v.Get("topCandidates").Array()
		given = given || v.Get("chosenCandidates").IsArray()
		each(v.Get("chosenCandidates"), func(i int, token gjson.Result) bool {
			if o.n++; o.n > 1 {
				o.b = append(o.b, ',')
			}
			o.b = append(appendToken(o.b, token), `,"top_logprobs":[`...)
			if i < len(top) {
				each(top[i].Get("candidates"), func(i int, token gjson.Result) bool {
					if i > 0 {
						o.b = append(o.b, ',')
					}
					o.b = append(appendToken(o.b, token), '}')
					return true
				})
			}
			o.b = append(o.b, `]}`...)
			return true
		})
	}
	if !given {
		return append(dst, "null"...)
	}
	return append(o.b, `],"refusal":null}`...)
}

// appendToken appends a token but for its closing brace.
func appendToken(dst []byte, v gjson.Result) []byte {
	token := v.Get("token").String()
	dst = gjson.AppendJSONString(append(dst, `{"token":`...), token)
	dst = append(dst, `,"logprob":`...)
	if p := v.Get("logProbability"); p.Type == gjson.Number {
		dst = append(dst, p.Raw...)
	} else {
		dst = append(dst, '0') // Gemini leaves zeros out
	}
	dst = append(dst, `,"bytes":[`...)
	for i := range len(token) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendInt(dst, int64(token[i]), 10)
	}
	return append(dst, ']')
}

// found is how the candidate was grounded, for a client that asked to be told.
func (w *words) found(c *candidate) string {
	if !w.grounding {
		return ""
	}
	return compact(c.grounding.Raw)
}

// searches counts what the candidate was grounded with.
func (c *candidate) searches() int { return int(c.grounding.Get("webSearchQueries.#").Int()) }
