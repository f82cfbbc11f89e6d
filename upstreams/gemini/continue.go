package gemini

import (
	"math"
	"strconv"

	"github.com/tidwall/gjson"

	"threadhub/upstreams"
)

// One request of Gemini's newest models brings 32,768 tokens at most, in a stream twice as many. A longer answer ends in
// CONTINUATION, with a token: the same request with the token brings the rest. What the client asked for is one answer, so
// the rest is asked for, within the client's own limit, and never for ever.
const (
	maxRequests = 8
	maxTokens   = 8 * 32768 // where the client set no limit
)

// long is an answer that comes in several.
type long struct {
	request []byte         // that of the first
	limit   int64          // tokens of all of them; 0: the client set none
	asked   int            // for a rest, so many times
	earlier []gjson.Result // whole answers before the last
	spent   usage          // on answers before the last
}

// Requests is how many requests one answer of the model may take.
func Requests(model string) int {
	switch family := upstreams.GoogleFamily(model); {
	case !upstreams.GoogleDemands(family) || family == "gemini-3":
		return 1
	}
	return maxRequests
}

// Continue is upstreams.Continuer's. Of several candidates it is not known whose rest the token brings: they stay cut. On
// its way a stream tells tokens that nobody needs; the last one counts, if the stream ends in CONTINUATION.
func (w *words) Continue(whole []byte) bool {
	l, s := &w.long, &w.stream
	var root gjson.Result
	finish, token, used := "", s.token, s.usage
	if whole != nil {
		root = gjson.ParseBytes(whole)
		list := root.Get("candidates").Array()
		if len(list) != 1 {
			return false
		}
		finish, token, used = list[0].Get("finishReason").Str, list[0].Get("continuationToken"), root.Get("usageMetadata")
	} else if len(s.candidates) == 1 {
		finish = s.candidates[0].finish
	}
	spent := l.spent
	spent.add(used)
	limit := l.limit
	if limit <= 0 {
		limit = maxTokens
	}
	if finish != continued || upstreams.Signature(token) == "" || l.asked+1 >= maxRequests || spent.output() < 0 || spent.output() >= limit {
		return false
	}
	l.asked++
	l.spent = spent
	if whole != nil {
		l.earlier = append(l.earlier, root)
	} else {
		s.candidates[0].finish, s.token, s.usage = "", gjson.Result{}, gjson.Result{}
	}
	if l.request == nil {
		l.request = w.body
	}
	open := l.request[: len(l.request)-1 : len(l.request)-1]
	w.body = append(append(append(open, `,"continuationToken":`...), token.Raw...), '}')
	return true
}

const continued = "CONTINUATION"

// GiveUp is upstreams.Continuer's: what came so far ends as it was cut.
func (w *words) GiveUp() {
	w.warn("dropped=continuation;reason=upstream")
	if s := &w.stream; len(s.candidates) > 0 {
		s.candidates[0].finish = continued
	}
}

// usage is what answers took, as Gemini counts it.
type usage struct {
	prompt, tools, candidates, thoughts, cached, total int64
	audioIn, imageIn, audioCached, audioOut, imageOut  int64
	given                                              bool
}

// add adds a usageMetadata, if it is one.
func (u *usage) add(v gjson.Result) {
	if !v.IsObject() {
		return
	}
	u.given = true
	var one usage
	for name, n := range map[string]*int64{
		"promptTokenCount": &one.prompt, "toolUsePromptTokenCount": &one.tools, "candidatesTokenCount": &one.candidates,
		"thoughtsTokenCount": &one.thoughts, "cachedContentTokenCount": &one.cached,
	} {
		*n = count(v.Get(name))
	}
	one.total = plus(plus(one.prompt, one.tools), one.output())
	if t := v.Get("totalTokenCount"); t.Exists() {
		one.total = count(t)
	}
	one.audioIn, one.imageIn = ofModality(v.Get("promptTokensDetails"), "AUDIO"), ofModality(v.Get("promptTokensDetails"), "IMAGE")
	one.audioCached = ofModality(v.Get("cacheTokensDetails"), "AUDIO")
	one.audioOut, one.imageOut = ofModality(v.Get("candidatesTokensDetails"), "AUDIO"), ofModality(v.Get("candidatesTokensDetails"), "IMAGE")
	for _, n := range [][2]*int64{
		{&u.prompt, &one.prompt},
		{&u.tools, &one.tools},
		{&u.candidates, &one.candidates},
		{&u.thoughts, &one.thoughts},
		{&u.cached, &one.cached},
		{&u.total, &one.total},
		{&u.audioIn, &one.audioIn},
		{&u.imageIn, &one.imageIn},
		{&u.audioCached, &one.audioCached},
		{&u.audioOut, &one.audioOut},
		{&u.imageOut, &one.imageOut},
	} {
		*n[0] = plus(*n[0], *n[1])
	}
}

// ofModality adds up the tokens of one modality.
func ofModality(details gjson.Result, modality string) (n int64) {
	each(details, func(_ int, m gjson.Result) bool {
		if m.Get("modality").Str == modality {
			n = plus(n, count(m.Get("tokenCount")))
		}
		return true
	})
	return n
}

// count is how many v says; -1 if it says something else.
func count(v gjson.Result) int64 {
	n := v.Int()
	if v.Exists() && (v.Type != gjson.Number || float64(n) != v.Num) {
		return -1
	}
	return n
}

// plus adds counts. What cannot be one stays so, whatever is added to it: it is not for a sum to hide.
func plus(a, b int64) int64 {
	switch {
	case a < 0 || b < 0:
		return -1
	case a > math.MaxInt64-b:
		return math.MaxInt64
	}
	return a + b
}

// output is all that was written, thoughts among it.
func (u *usage) output() int64 { return plus(u.candidates, u.thoughts) }

// append appends the usage as the API shows it: what tools of the server read is part of the prompt, thoughts are part of
// the completion. searches are those of the web.
func (u *usage) append(dst []byte, searches int) []byte {
	n := func(name string, n int64) { dst = strconv.AppendInt(append(dst, name...), n, 10) }
	some := func(name string, count int64) {
		if count > 0 {
			n(name, count)
		}
	}
	n(`{"prompt_tokens":`, plus(u.prompt, u.tools))
	n(`,"completion_tokens":`, u.output())
	n(`,"total_tokens":`, u.total)
	n(`,"prompt_tokens_details":{"cached_tokens":`, u.cached)
	some(`,"audio_tokens":`, u.audioIn)
	some(`,"image_tokens":`, u.imageIn)
	some(`,"tool_tokens":`, u.tools)
	if u.audioCached > 0 {
		n(`,"cached_tokens_details":{"audio_tokens":`, u.audioCached)
		dst = append(dst, '}')
	}
	n(`},"completion_tokens_details":{"reasoning_tokens":`, u.thoughts)
	some(`,"audio_tokens":`, u.audioOut)
	some(`,"image_tokens":`, u.imageOut)
	dst = append(dst, '}')
	some(`,"num_search_queries":`, int64(searches))
	return append(dst, '}')
}
