package openai

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSplice(t *testing.T) {
	f := func(in string, e Edits, want string) {
		t.Helper()
		c, err := ParseChat([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			return
		}
		if got := string(c.Splice(e)); got != want {
			t.Errorf("%s with %+v:\n got %s\nwant %s", in, e, got, want)
		}
		if string(c.Raw) != in {
			t.Errorf("%s was changed to %s", in, c.Raw)
		}
	}
	h := func(s ...string) (out [][]byte) {
		for _, m := range s {
			out = append(out, []byte(m))
		}
		return out
	}
	const a, b, c = `{"role":"system"}`, `{"role":"user"}`, `{"role":"assistant"}`
	body := func(messages string) string { return `{"model":"m","messages":[` + messages + `]}` }

	f(body(a), Edits{Model: `x"y`}, `{"model":"x\"y","messages":[`+a+`]}`)
	f(`{"messages":[`+a+`] , "mod\u0065l" : "m" }`, Edits{Model: "n"}, `{"messages":[`+a+`] , "mod\u0065l" : "n" }`)

	// How long the answer may be.
	bound := Edits{MaxTokens: 5, NewMax: "max_tokens"}
	f(body(a), bound, `{"max_tokens":5,"model":"m","messages":[`+a+`]}`)
	f(`{"model":"m", "max_tokens" : 100 ,"messages":[`+a+`]}`, bound, `{"model":"m", "max_tokens" : 5 ,"messages":[`+a+`]}`)
	f(`{"model":"m","max_completion_tokens":9,"messages":[`+a+`],"max_tokens":8}`, bound, `{"model":"m","max_completion_tokens":5,"messages":[`+a+`],"max_tokens":5}`)
	f(`{"model":"m","max_completion_tokens":9,"max_tokens":null,"messages":[`+a+`]}`, bound, `{"model":"m","max_completion_tokens":5,"max_tokens":null,"messages":[`+a+`]}`)
	f(`{"model":"m","max_completion_tokens":null,"max_tokens":null,"messages":[`+a+`]}`, bound, `{"model":"m","max_completion_tokens":null,"max_tokens":5,"messages":[`+a+`]}`)
	f(`{"model":"m","max_tokens":null,"messages":[`+a+`]}`, Edits{MaxTokens: 5, NewMax: "max_completion_tokens"},
		`{"max_completion_tokens":5,"model":"m","max_tokens":null,"messages":[`+a+`]}`)
	f(`{"model":"m","stream":true,"messages":[`+a+`]}`, Edits{MaxTokens: 5, NewMax: "max_tokens", IncludeUsage: true},
		`{"stream_options":{"include_usage":true},"max_tokens":5,"model":"m","stream":true,"messages":[`+a+`]}`)

	// History.
	f(body(a+` , `+b), Edits{History: h("1", "2"), At: 0}, body(`1,2,`+a+` , `+b))
	f(body(a+` , `+b), Edits{History: h("1", "2"), At: 1}, body(a+` , 1,2,`+b))
	f(body(a+` , `+b+` `), Edits{History: h("1"), At: 2}, body(a+` , `+b+`,1 `))
	f(body(a), Edits{History: h("1"), At: -3}, body(`1,`+a))
	f(body(a), Edits{History: h("1"), At: 9}, body(a+`,1`))

	// Messages left out, with their commas.
	f(body(a+` , `+b+` , `+c), Edits{Drop: []int{0}}, body(b+` , `+c))
	f(body(a+` , `+b+` , `+c), Edits{Drop: []int{1}}, body(a+` , `+c))
	f(body(a+` , `+b+` , `+c+` `), Edits{Drop: []int{2}}, body(a+` , `+b+` `))
	f(body(a+` , `+b+` , `+c), Edits{Drop: []int{2, 1, 1, 7, -1}}, body(a))
	f(body(` `+a+` , `+b+` `), Edits{Drop: []int{0, 1}}, body(`  `))
	f(body(a+` , `+b+` , `+c), Edits{Drop: []int{0}, History: h("1", "2"), At: 1}, body(`1,2,`+b+` , `+c))
	f(body(a+` , `+b+` , `+c), Edits{Drop: []int{1}, History: h("1"), At: 1}, body(a+` , 1,`+c))
	f(body(a+` , `+b+` , `+c), Edits{Drop: []int{2}, History: h("1"), At: 2}, body(a+` , `+b+`,1`))
	f(body(a+` , `+b), Edits{Drop: []int{0, 1}, History: h("1", "2"), At: 1}, body(`1,2`))

	// Others in their place.
	instead := func(at int, m string) map[int][]byte { return map[int][]byte{at: []byte(m)} }
	f(body(a+` , `+b+` , `+c), Edits{Instead: instead(1, "1")}, body(a+` , 1 , `+c))
	f(body(a+` , `+b+` `), Edits{Instead: map[int][]byte{1: []byte("1"), 0: []byte("0"), 2: []byte("2"), -1: []byte("3")}}, body(`0 , 1 `))
	f(body(a+` , `+b+` , `+c), Edits{Instead: instead(1, "1"), Drop: []int{0}}, body(`1 , `+c))
	f(body(a+` , `+b+` , `+c), Edits{Instead: instead(1, "1"), Drop: []int{2}}, body(a+` , 1`))
	f(body(a+` , `+b+` , `+c), Edits{Instead: instead(1, "1"), Drop: []int{1}}, body(a+` , `+c))
	f(body(a+` , `+b), Edits{Instead: instead(1, "1"), History: h("2"), At: 1}, body(a+` , 2,1`))
	f(body(a+` , `+b), Edits{Instead: instead(1, "1"), History: h("2"), At: 2}, body(a+` , 1,2`))
	f(body(a+` , `+b), Edits{Instead: instead(0, "1"), History: h("2"), At: 1}, body(`1 , 2,`+b))

	// Asking for usage.
	ask := Edits{IncludeUsage: true}
	stream := func(options string) string {
		return `{"model":"m","messages":[` + a + `],"stream":true` + options + `}`
	}
	f(body(a), ask, body(a)) // not a stream: refused by providers
	f(stream(""), ask, `{"stream_options":{"include_usage":true},`+stream("")[1:])
	f(stream(`,"stream_options":null`), ask, stream(`,"stream_options":{"include_usage":true}`))
	f(stream(`,"stream_options": { }`), ask, stream(`,"stream_options": {"include_usage":true }`))
	f(stream(`,"stream_options":{ "include_obfuscation":false}`), ask, stream(`,"stream_options":{"include_usage":true, "include_obfuscation":false}`))
	f(stream(`,"stream_options":{"x":1, "include_usage" : false }`), ask, stream(`,"stream_options":{"x":1, "include_usage" : true }`))
	f(stream(`,"stream_options":{"include_usage":null}`), ask, stream(`,"stream_options":{"include_usage":true}`))
	f(stream(`,"stream_options":{"include_usage":true}`), ask, stream(`,"stream_options":{"include_usage":true}`))

	// The thread's id is ours alone.
	in := `"model":"m","messages":[` + a + `]`
	f(`{ "thread_id" : "t" , `+in+`}`, Edits{}, `{ `+in+`}`)
	f(`{`+in+` , "thread_id":null }`, Edits{}, `{`+in+` }`)
	f(`{`+in+`,"metadata":{"thread_id":"t"},"x":1}`, Edits{}, `{`+in+`,"x":1}`)
	f(`{`+in+`,"metadata":{"thread_id":null , "k":"v"}}`, Edits{}, `{`+in+`,"metadata":{"k":"v"}}`)
	f(`{`+in+`,"metadata":{ "k":"v", "thread_id":"t" }}`, Edits{}, `{`+in+`,"metadata":{ "k":"v" }}`)
	f(`{`+in+`,"metadata":{},"thread_id":"t"}`, Edits{}, `{`+in+`,"metadata":{}}`)
	f(`{"thread_id":"t","metadata":{"thread_id":"t"},`+in+`}`, Edits{}, `{`+in+`}`)
	f(`{"thread_id":"t","metadata":{"thread_id":"t"},`+in+`,"stream":true}`, ask, `{"stream_options":{"include_usage":true},`+in+`,"stream":true}`)
	f(`{`+in+`,"metadata":{"thr\u0065ad_id":"t"}}`, Edits{}, `{`+in+`}`)
	f(`{`+in+`,"x":{"thread_id":"t"}}`, Edits{}, `{`+in+`,"x":{"thread_id":"t"}}`)
}

// item is a member of an object or an element of an array as written, with the white space around it.
type item struct {
	pre, text, post string
	gone            bool
}

// list writes what stays of items by the rule: each keeps its bytes; where some were left out, the white space before
// the first of them stays before what follows; at the end, the white space after the last.
func list(items []item) string {
	var b strings.Builder
	last := -1
	for i, it := range items {
		if it.gone {
			continue
		}
		if last >= 0 {
			b.WriteString(items[last].post + ",")
		}
		b.WriteString(items[last+1].pre + it.text)
		last = i
	}
	if n := len(items); last >= 0 {
		b.WriteString(items[n-1].post)
	} else if n > 0 {
		b.WriteString(items[0].pre + items[n-1].post)
	}
	return b.String()
}

func TestBytesOutsideEditsStay(t *testing.T) {
	ws := rapid.SampledFrom([]string{"", "", " ", "\n\t", "\r\n  "})
	odd := rapid.SampledFrom([]string{
		`12345678901234567890`, `-0.0e-0`, `1E400`, `"\u00e9\/é\ud800\u0000"`, `{ "b" : [ ] ,"a":{},"a" : 1}`, `[ 1 ,"]" , {"thread_id":"}"} ]`, `null`, `"\\\""`, `""`,
	})
	role := rapid.SampledFrom([]string{"user", "assistant", "system", "tool"})
	rapid.Check(t, func(t *rapid.T) {
		draw := func(g *rapid.Generator[string]) string { return g.Draw(t, "s") }
		coin := func(label string) bool { return rapid.Bool().Draw(t, label) }
		member := func(key, value string) item {
			return item{pre: draw(ws), text: key + draw(ws) + ":" + draw(ws) + value, post: draw(ws)}
		}

		var e Edits
		if coin("model") {
			e.Model = rapid.SampledFrom([]string{"other", `q"\uote`, "é\n"}).Draw(t, "to")
		}
		e.IncludeUsage = coin("usage")
		streams := coin("stream")

		// Messages, and what is to become of them.
		messages := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) item {
			text := "{" + draw(ws) + `"x":` + draw(odd) + `,"role"` + draw(ws) + `:"` + role.Draw(t, "role") + `"` + draw(ws) + "}"
			return item{pre: draw(ws), text: text, post: draw(ws)}
		}), 1, 6).Draw(t, "messages")
		before := "[" + list(messages) + "]"
		for i := range messages {
			if messages[i].gone = coin("drop"); messages[i].gone {
				e.Drop = append(e.Drop, i)
			}
			if coin("instead") {
				if e.Instead == nil {
					e.Instead = map[int][]byte{}
				}
				e.Instead[i] = []byte(`{"role":"assistant", "i":1}`)
				messages[i].text = string(e.Instead[i])
			}
		}
		for range rapid.IntRange(0, 3).Draw(t, "history") {
			e.History = append(e.History, []byte(`{"role": "user","h":1}`))
		}
		e.At = rapid.IntRange(-1, len(messages)+1).Draw(t, "at")
		if h := strings.Repeat(`,{"role": "user","h":1}`, len(e.History)); h != "" {
			behind, ahead := -1, -1
			for i, m := range messages {
				if !m.gone && i < e.At {
					behind = i
				}
				if !m.gone && i >= e.At && ahead < 0 {
					ahead = i
				}
			}
			switch {
			case ahead >= 0:
				messages[ahead].text = h[1:] + "," + messages[ahead].text
			case behind >= 0:
				messages[behind].text += h
			default:
				n := len(messages)
				messages = []item{{pre: messages[0].pre, text: h[1:], post: messages[n-1].post}}
			}
		}
		after := "[" + list(messages) + "]"

		// The other members: as they come, and as they should be.
		type pair struct{ in, out item }
		var pairs []pair
		same := func(m item) { pairs = append(pairs, pair{m, m}) }
		change := func(m item, old, new string) {
			out := m
			out.text = strings.TrimSuffix(m.text, old) + new
			pairs = append(pairs, pair{m, out})
		}
		model := member(rapid.SampledFrom([]string{`"model"`, `"\u006dodel"`}).Draw(t, "key"), `"the\/model"`)
		if e.Model == "" {
			same(model)
		} else {
			change(model, `"the\/model"`, string(appendString(nil, e.Model)))
		}
		change(member(`"messages"`, before), before, after)
		same(member(`"seed"`, draw(odd)))
		same(member(`"zz\u0020"`, draw(odd)))
		addOptions := false
		if streams {
			same(member(`"stream"`, "true"))
			options := rapid.SampledFrom([][2]string{
				{"", ""},
				{`null`, `{"include_usage":true}`},
				{`{}`, `{"include_usage":true}`},
				{`{ "include_usage" : false, "y":1 }`, `{ "include_usage" : true, "y":1 }`},
				{`{ "y":1 }`, `{"include_usage":true, "y":1 }`},
				{`{"include_usage":true}`, `{"include_usage":true}`},
			}).Draw(t, "options")
			switch {
			case options[0] == "":
				addOptions = e.IncludeUsage
			case e.IncludeUsage:
				change(member(`"stream_options"`, options[0]), options[0], options[1])
			default:
				same(member(`"stream_options"`, options[0]))
			}
		}
		if coin("thread_id") {
			m := member(rapid.SampledFrom([]string{`"thread_id"`, `"thread\u005fid"`}).Draw(t, "key"), rapid.SampledFrom([]string{`"t"`, `null`}).Draw(t, "value"))
			pairs = append(pairs, pair{m, item{pre: m.pre, text: m.text, post: m.post, gone: true}})
		}
		if coin("metadata") {
			var inner []item
			for range rapid.IntRange(0, 2).Draw(t, "before") {
				inner = append(inner, member(`"k"`, draw(odd)))
			}
			thread := coin("inner id")
			if thread {
				m := member(`"thread_id"`, `"t"`)
				m.gone = true
				inner = append(inner, m)
			}
			for range rapid.IntRange(0, 2).Draw(t, "after") {
				inner = append(inner, member(`"l"`, draw(odd)))
			}
			out := "{" + list(inner) + "}"
			for i := range inner {
				inner[i].gone = false
			}
			in := "{" + list(inner) + "}"
			m := member(`"metadata"`, in)
			if thread && len(inner) == 1 {
				pairs = append(pairs, pair{m, item{pre: m.pre, text: m.text, post: m.post, gone: true}})
			} else {
				change(m, in, out)
			}
		}
		pairs = rapid.Permutation(pairs).Draw(t, "order")
		var ins, outs []item
		for _, p := range pairs {
			ins, outs = append(ins, p.in), append(outs, p.out)
		}
		lead, trail := draw(ws), draw(ws)
		in := lead + "{" + list(ins) + "}" + trail
		added := ""
		if addOptions {
			added = `"stream_options":{"include_usage":true},`
		}
		want := lead + "{" + added + list(outs) + "}" + trail

		c, err := ParseChat([]byte(in))
		if err != nil {
			t.Fatalf("%s: %v", in, err)
		}
		got := string(c.Splice(e))
		if got != want {
			t.Fatalf("%+v\n in  %s\n got %s\nwant %s", e, in, got, want)
		}
		if !json.Valid([]byte(got)) {
			t.Fatalf("not JSON: %s", got)
		}
	})
}

func BenchmarkSplice(b *testing.B) {
	c, err := ParseChat(chat20k())
	if err != nil {
		b.Fatal(err)
	}
	history := make([][]byte, 20)
	for i := range history {
		history[i] = c.Messages[1].Raw
	}
	e := Edits{Model: "gpt-5.4", History: history, At: 1, IncludeUsage: true}
	b.ReportAllocs()
	for b.Loop() {
		c.Splice(e)
	}
}
