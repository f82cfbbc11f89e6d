package gateway

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidwall/gjson"

	"threadhub/internal/id"
	"threadhub/orgs"
	"threadhub/upstreams/signatures"
)

// asking counts how often somebody looks for signatures.
type asking struct {
	signatures.Store
	finds atomic.Int64
}

func (a *asking) Find(ctx context.Context, org id.Org, maker string, ids []string) map[string]string {
	a.finds.Add(1)
	return a.Store.Find(ctx, org, maker, ids)
}

const weatherTool = `,"tools":[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}]`

// agent is a client that has a tool, keeps its own copy of the conversation, and drops what it does not know.
type agent struct {
	h        *house
	t        *testing.T
	model    string
	stream   bool
	messages []string
	header   []string
}

// says asks the model, and returns the message it answers with, as it came.
func (a *agent) says() gjson.Result {
	a.t.Helper()
	body := fmt.Sprintf(`{"model":%q,"messages":[%s],"stream":%v%s}`, a.model, strings.Join(a.messages, ","), a.stream, weatherTool)
	r := a.h.do("POST", "/v1/chat/completions", body, a.header...).want(a.t, 200)
	if !a.stream {
		return gjson.GetBytes(r.body, "choices.0.message")
	}
	var calls []string
	for _, e := range events(r.body) {
		if c := gjson.Get(e, "choices.0.delta.tool_calls.0"); c.Exists() {
			calls = append(calls, c.Raw)
		}
	}
	return gjson.Parse(`{"role":"assistant","content":null,"tool_calls":[` + strings.Join(calls, ",") + `]}`)
}

// takes adds the model's calls to the conversation, without what a client of OpenAI does not know, and their results.
func (a *agent) takes(m gjson.Result) {
	var calls, results []string
	m.Get("tool_calls").ForEach(func(_, c gjson.Result) bool {
		calls = append(calls, fmt.Sprintf(`{"id":%q,"type":"function","function":%s}`, c.Get("id").Str, c.Get("function").Raw))
		results = append(results, fmt.Sprintf(`{"role":"tool","tool_call_id":%q,"content":"It is mild."}`, c.Get("id").Str))
		return true
	})
	if len(calls) == 0 {
		a.t.Fatalf("the model called nothing: %s", m.Raw)
	}
	a.messages = append(a.messages, `{"role":"assistant","content":null,"tool_calls":[`+strings.Join(calls, ",")+`]}`)
	a.messages = append(a.messages, results...)
}

// signed returns the signatures that the provider was given last.
func (h *house) signed() (list []string) {
	log := h.attempts()
	body := gjson.ParseBytes(log[len(log)-1].Body)
	for _, at := range []string{"contents.#.parts|@flatten|#.thoughtSignature", "input.#.thought_signature"} {
		for _, s := range body.Get(at).Array() {
			list = append(list, s.Str)
		}
	}
	return list
}

const noSignature = "skip_thought_signature_validator"

func signatureHouse(t *testing.T) (*house, *asking) {
	store := &asking{Store: signatures.NewLocal(signatures.Options{})}
	h := newHouse(t, stores["sqlite"](t), Options{Signatures: store})
	for _, p := range []string{"gemini", "perplexity"} {
		h.do("PUT", h.providers(p), `{"api_key":"sk-test-key-0123456789"}`).want(t, 200)
	}
	return h, store
}

// A client that drops what it does not know has the model's signatures put back into its calls, and nobody is asked for
// those of a client that keeps them.
func TestSignaturesSurviveClientsThatDropThem(t *testing.T) {
	for _, model := range []string{"gemini/gemini-3.8-flash", "perplexity/google/gemini-3.8-flash"} {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s streamed %v", model, stream), func(t *testing.T) {
				h, store := signatureHouse(t)
				a := &agent{h: h, t: t, model: model, stream: stream, messages: []string{`{"role":"user","content":"Please call the tool."}`}}
				m := a.says()
				own := m.Get("tool_calls.0.extra_content.google.thought_signature").Str
				if own == "" || store.finds.Load() != 0 {
					t.Fatalf("signed with %q, and %d looked for signatures: %s", own, store.finds.Load(), m.Raw)
				}
				kept := append([]string{}, a.messages...)
				a.takes(m)
				a.says()
				if got := h.signed(); len(got) != 1 || got[0] != own {
					t.Errorf("the provider was given the signatures %q, want %q", got, own)
				}
				if n := store.finds.Load(); n != 1 {
					t.Errorf("%d looked for signatures, want 1", n)
				}
				a.messages = append(kept, m.Raw, a.messages[len(a.messages)-1])
				if !stream {
					a.says()
					if got := h.signed(); len(got) != 1 || got[0] != own || store.finds.Load() != 1 {
						t.Errorf("a client that kept the signature: given %q, and %d looked for signatures", got, store.finds.Load())
					}
				}
			})
		}
	}
}

// What one org's model signed is nobody else's, nor another family's.
func TestSignaturesStayWithTheirMaker(t *testing.T) {
	h, store := signatureHouse(t)
	a := &agent{h: h, t: t, model: "gemini/gemini-3.8-flash", messages: []string{`{"role":"user","content":"Please call the tool."}`}}
	a.takes(a.says())
	a.model = "gemini/gemini-4-argon"
	a.says()
	if got := h.signed(); len(got) != 1 || got[0] != noSignature {
		t.Errorf("another family was given %q", got)
	}
	other := h.seed("other", "admin@other.test", orgs.Admin)
	mine := h.admin
	h.admin = other
	h.do("PUT", h.providers("gemini"), `{"api_key":"sk-test-key-0123456789"}`).want(t, 200)
	a.model = "gemini/gemini-3.8-flash"
	a.says()
	if got := h.signed(); len(got) != 1 || got[0] != noSignature {
		t.Errorf("another org was given %q", got)
	}
	h.admin = mine
	a.says()
	if got := h.signed(); len(got) != 1 || got[0] == noSignature || store.finds.Load() != 3 {
		t.Errorf("its own org was given %q after %d looks", got, store.finds.Load())
	}
}

// In a thread the answer is stored with its signature: a client that resends all of the conversation without it needs
// no other memory, and what another family or provider made is not taken.
func TestSignaturesComeFromTheThread(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.do("PUT", h.providers("gemini"), `{"api_key":"sk-test-key-0123456789"}`).want(t, 200)
		for _, first := range []string{"gemini/gemini-3.8-flash", "gemini/gemini-4-argon", "openai/gpt-4.1-mini"} {
			thread := "of-" + strings.ReplaceAll(first, "/", "-")
			a := &agent{h: h, t: t, model: first, messages: []string{`{"role":"user","content":"Please call the tool."}`}, header: []string{"X-Thread-Id", thread}}
			m := a.says()
			own := m.Get("tool_calls.0.extra_content.google.thought_signature").Str
			a.takes(m)
			a.model = "gemini/gemini-3.8-flash"
			body := fmt.Sprintf(`{"model":%q,"messages":[%s]%s}`, a.model, strings.Join(a.messages, ","), weatherTool)
			r := h.do("POST", "/v1/chat/completions", body, a.header...).want(t, 200)
			if mode := r.header.Get("X-Threadhub-Thread-Mode"); mode != "deduplicated" {
				t.Errorf("%s: the request was %s", first, mode)
			}
			want := noSignature
			if first == a.model {
				want = own
			}
			if got := h.signed(); len(got) != 1 || got[0] != want || want == "" {
				t.Errorf("after %s the provider was given %q, want %q", first, got, want)
			}
		}
	})
}
