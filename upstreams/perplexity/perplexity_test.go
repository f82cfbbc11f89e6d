package perplexity_test

import (
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"

	"threadhub/internal/fault"
	"threadhub/internal/seal"
	"threadhub/upstreams"
	"threadhub/upstreams/perplexity"
	"threadhub/upstreams/upstreamstest"
)

// Most keys get 403 at this list, which is in preview; those that may use it, the list.
var check = upstreamstest.Check{Folder: "testdata/check", Path: "router/v1/models", Models: 2, Narrow: true}

// Embeddings are made at one place, whichever API answers chats. AH+B/w== is 0, 127, -127, -1.
var embeds = upstreamstest.Embeds{
	Path:   "v1/embeddings",
	Body:   `{"model":"m","input":["one","two"],"dimensions":4,"encoding_format":"base64_int8"}`,
	Answer: `{"object":"list","model":"m","data":[{"object":"embedding","index":0,"embedding":"AH+B/w=="},{"object":"embedding","index":1,"embedding":"fwAAAA"}],"usage":{"prompt_tokens":2,"total_tokens":2,"cost":{"currency":"USD","input_cost":8e-09,"total_cost":8e-09}}}`,
	Told: `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0,1,-1,-0.007874016]},{"object":"embedding","index":1,"embedding":[1,0,0,0]}],"model":"m",
		"usage":{"prompt_tokens":2,"total_tokens":2,"cost":8e-09,"cost_details":{"currency":"USD","input_cost":8e-09,"total_cost":8e-09}}}`,
}

// Anybody gets the list of models.
var lists = upstreamstest.Lists{
	Path: "v1/models", Entry: upstreamstest.ModelEntry, List: upstreamstest.ModelList, Recorded: "list/models.resp.json",
	Want: []upstreams.Model{{ID: "perplexity/sonar"}, {ID: "openai/gpt-6-luna"}},
}

// By the Agent API an answer is a response, and its stream ends with the whole of it.
var agent = upstreamstest.Subject{
	New:    perplexity.New,
	Header: header,
	ID:     "X-Request-Id",
	Check:  check,
	Embeds: embeds,
	Lists:  lists,
	Wire: &upstreamstest.Wire{
		Path:          "v1/responses",
		StreamPath:    "v1/responses",
		Authorization: "Authorization",
		Answer: func(text string) string {
			return `{"id":"resp_1","object":"response","created_at":1,"model":"m","status":"completed","error":null,"output":[{"type":"message","role":"assistant","content":[{"type":"output_text","text":` +
				strconv.Quote(text) + `,"annotations":[]}]}],"usage":{"input_tokens":3,"output_tokens":2,"total_tokens":5}}`
		},
		Delta: func(text string) string {
			return `{"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_1","output_index":0,"content_index":0,"delta":` + strconv.Quote(text) + `}`
		},
		Last:  `{"type":"response.completed","response":{"id":"resp_1","model":"m","status":"completed","error":null,"output":[],"usage":{"input_tokens":3,"output_tokens":2}}}`,
		Marks: []string{`"response.completed"`},
	},
	More: `,"tools":[{"type":"function","function":{"name":"get_weather"}}]`,
}

// sonar is asked in the older form, which is nearly OpenAI's.
var sonar = upstreamstest.Subject{
	New: func(o upstreams.Options) (*upstreams.Client, error) {
		o.API = perplexity.Sonar
		return perplexity.New(o)
	},
	Header: header,
	ID:     "X-Request-Id",
	Check:  check,
	Embeds: embeds,
	Lists:  lists,
	Wire: &upstreamstest.Wire{
		Path:          "chat/completions",
		StreamPath:    "chat/completions",
		Authorization: "Authorization",
		Answer:        upstreamstest.Answer,
		Delta:         upstreamstest.Delta,
		Last:          `{"id":"1","object":"chat.completion.done","choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]}`,
		Marks:         []string{`"chat.completion.done"`, "[DONE]"},
	},
}

var header = map[string]string{"X-Request-Id": "r-1", "Retry-After": "2", "X-Ratelimit-Remaining-Requests": "4"}

var subjects = map[string]upstreamstest.Subject{"agent": agent, "sonar": sonar}

func TestUpstream(t *testing.T) {
	for name, s := range subjects {
		t.Run(name, func(t *testing.T) { upstreamstest.Run(t, s) })
	}
}

func TestErrors(t *testing.T) {
	type f = upstreamstest.Fault
	rejected := f{Kind: fault.Upstream, Code: "upstream_auth", Message: "key was refused", Final: true}
	retired := f{Kind: fault.Denied, Code: "permission_denied", Message: "/v1/responses", Final: true}
	for _, s := range subjects {
		s.Errors(t, "testdata/errors", map[string]f{
			"400_agent_model":    {Kind: fault.Invalid, Code: "invalid_model", Message: "is not supported"},
			"400_alternation":    {Kind: fault.Invalid, Message: "should be alternating"},
			"401":                rejected,
			"401_html":           rejected,
			"403_migration":      retired,
			"403_retired":        retired,
			"403_router_preview": {Kind: fault.Denied, Code: "permission_denied", Message: "may not do this: The Router API", Final: true},
			"422":                {Kind: fault.Invalid, Param: "max_tokens", Message: "Input should be a valid integer"},
			"429":                {Kind: fault.RateLimited, Code: "rate_limit_exceeded", Message: "try again later"},
			"500":                {Kind: fault.Upstream, Code: "upstream_error", Message: "Internal server error"},
		})
	}
}

func TestStreams(t *testing.T) {
	type f = upstreamstest.Fault
	agent.Streams(t, "testdata/agent", map[string]f{
		"stream":               {},
		"stream_failed":        {Kind: fault.Upstream, Code: "upstream_error", Message: "model overloaded"},
		"stream_function_call": {},
	})
	sonar.Streams(t, "testdata/sonar", map[string]f{"stream_concise": {}, "stream_full": {}, "stream_full_done": {}})
}

func FuzzStream(f *testing.F)       { agent.FuzzStream(f, "testdata/agent") }
func FuzzSonarStream(f *testing.F)  { sonar.FuzzStream(f, "testdata/sonar") }
func FuzzRefusal(f *testing.F)      { agent.FuzzRefusal(f, "testdata/errors") }
func FuzzSonarRefusal(f *testing.F) { sonar.FuzzRefusal(f, "testdata/errors") }

func BenchmarkChunk(b *testing.B) {
	for name, s := range subjects {
		b.Run(name, s.BenchmarkChunk)
	}
}

func BenchmarkSent(b *testing.B) {
	for name, s := range subjects {
		b.Run(name, s.BenchmarkSent)
	}
}

func TestEveryFileIsUsed(t *testing.T) {
	upstreamstest.Unused(t,
		"agent/preset.req.json", "agent/stream.req.json", "agent/tools.req.json", "agent/*.resp.json", "agent/*.want.json", "agent/*.sse", "agent/*.want.jsonl",
		"sonar/plain.req.json", "sonar/*.resp.json", "sonar/*.want.json", "sonar/*.sse", "sonar/*.want.jsonl",
		"errors/*.http", "mapping/10_pplx.in.openai.json", "mapping/10_pplx.out.agent.json", "check/router/v1/models.resp.json", "embeddings/int8.*.json", "list/models.resp.json")
}

// What the provider complains of at the end of an answer is told, with its key masked, and what the answer took is kept.
func TestComplaints(t *testing.T) {
	const failed = `{"id":"r","model":"m","status":"failed","error":{"message":"no ` + upstreamstest.Key + `","code":"server_error"},"output":[],"usage":{"input_tokens":3,"output_tokens":2,"cost":{"total_cost":0.5}}}`
	ask := func(raw string, stream bool) (payloads int, usage string, err error) {
		u, err := perplexity.New(upstreams.Options{BaseURL: upstreamstest.Replies(t, raw).URL})
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		r := &upstreams.Request{
			Body: []byte(`{"model":"m/m","messages":[{"role":"user","content":"x"}]}`), Model: "m/m", Stream: stream, Key: seal.NewSecret(upstreamstest.Key),
		}
		if err := u.Translate(r); err != nil {
			t.Fatal(err)
		}
		a, err := u.Chat(t.Context(), r)
		if err != nil {
			return 0, string(upstreams.FailureOf(err).Body), err
		}
		defer a.Stream.Close()
		for {
			p, err := a.Stream.Next()
			if err != nil {
				return payloads, usage, err
			}
			payloads++
			usage = string(p)
		}
	}
	const want = `"usage":{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":{},"completion_tokens_details":{},"cost":0.5,"cost_details":{"total_cost":0.5}}}`
	for about, try := range map[string]func() (int, string, error){
		"whole": func() (int, string, error) {
			return ask(upstreamstest.Reply("200 OK", failed, upstreamstest.JSON), false)
		},
		"streamed, beside": func() (int, string, error) {
			return ask(upstreamstest.EventStream+upstreamstest.Data(`{"type":"response.failed","error":{"message":"no `+upstreamstest.Key+`"},"response":`+failed+`}`), true)
		},
		"streamed": func() (int, string, error) {
			return ask(upstreamstest.EventStream+upstreamstest.Data(`{"type":"response.failed","response":`+failed+`}`), true)
		},
	} {
		_, usage, err := try()
		if f := fault.From(err); errors.Is(err, io.EOF) || f.Code != "upstream_error" || f.Message != "perplexity: no [secret]" {
			t.Errorf("%s: %v", about, err)
		}
		if len(usage) < len(want) || usage[len(usage)-len(want):] != want {
			t.Errorf("%s: its usage is %s", about, usage)
		}
	}
}

// The demand for a search is ours, in a form that Perplexity may not take: then a Sonar model is asked without, once, in the
// same attempt. What a client demands is its own, and a request that is bad in another way stays refused.
func TestSearchIsNotInsistedOn(t *testing.T) {
	const question, function = `"messages":[{"role":"user","content":"x"}]`, `"tools":[{"type":"function","function":{"name":"f"}}]`
	answer := upstreamstest.Reply("200 OK", agent.Wire.Answer("hi"), upstreamstest.JSON)
	stream := upstreamstest.EventStream + upstreamstest.Data(agent.Wire.Delta("hi")) + upstreamstest.Data(agent.Wire.Last)
	refusal := upstreamstest.Reply("400 Bad Request", `{"error":{"message":"validation failed: tool_choice","code":"invalid_request"}}`, upstreamstest.JSON)
	for about, c := range map[string]struct {
		model, more string
		stream      bool
		good        bool // once it is asked without
		asked       int
	}{
		"whole":                    {"sonar", "", false, true, 2},
		"a stream":                 {"sonar-pro", "", true, true, 2},
		"beside functions":         {"sonar", "," + function, false, true, 2},
		"refused without, too":     {"sonar", "", false, false, 2},
		"a demand of the client's": {"sonar", "," + function + `,"tool_choice":"required"`, false, true, 1},
		"another vendor's model":   {"openai/gpt-6-luna", "", false, true, 1},
	} {
		t.Run(about, func(t *testing.T) {
			var bodies, names []string
			server := upstreamstest.Serve(t, func(conn *upstreamstest.Conn) {
				bodies = append(bodies, string(conn.Body))
				names = append(names, conn.Request.Header.Get("X-Client-Request-Id"))
				switch {
				case len(bodies) == 1 || !c.good:
					conn.Send(refusal)
				case c.stream:
					conn.Send(stream)
					conn.Close()
				default:
					conn.Send(answer)
				}
			})
			u, err := perplexity.New(upstreams.Options{BaseURL: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			r := &upstreams.Request{
				Body: []byte(`{"model":"` + c.model + `",` + question + c.more + `}`), Model: c.model, Stream: c.stream, Key: seal.NewSecret(upstreamstest.Key), Attempt: "req_1-0",
			}
			if err := u.Translate(r); err != nil {
				t.Fatal(err)
			}
			a, err := u.Chat(t.Context(), r)
			if good := c.good && c.asked == 2; good != (err == nil) || !good && !fault.Is(err, fault.Invalid) {
				t.Fatalf("%v", err)
			}
			if err == nil && c.stream {
				defer a.Stream.Close()
				for err == nil {
					_, err = a.Stream.Next()
				}
				if err != io.EOF {
					t.Error(err)
				}
			}
			if len(bodies) != c.asked || names[len(names)-1] != "req_1-0" {
				t.Fatalf("asked %d times, as %q", len(bodies), names)
			}
			if c.asked == 1 {
				return
			}
			without := strings.Replace(bodies[0], `,"tool_choice":{"type":"web_search"}`, "", 1)
			if without == bodies[0] || bodies[1] != without {
				t.Errorf("asked %s, and then %s", bodies[0], bodies[1])
			}
		})
	}
}
