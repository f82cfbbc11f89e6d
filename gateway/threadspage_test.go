package gateway

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/upstreams"
)

// actor is a provider that says what it is told to, and remembers what it was shown.
type actor struct {
	mu    sync.Mutex
	says  func(body []byte) (*upstreams.Answer, error)
	shown []byte // the messages of the last request
}

func (a *actor) Forward() []string                  { return nil }
func (a *actor) Translate(*upstreams.Request) error { return nil }

func (a *actor) Chat(_ context.Context, r *upstreams.Request) (*upstreams.Answer, error) {
	a.mu.Lock()
	says := a.says
	a.shown = []byte(gjson.GetBytes(r.Body, "messages").Raw)
	a.mu.Unlock()
	return says(r.Body)
}

func (a *actor) play(says func(body []byte) (*upstreams.Answer, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.says = says
}

// line is a message of an example.
type line struct{ role, text string }

func parseLines(s string) (list []line) {
	for part := range strings.SplitSeq(s, "|") {
		role, text, _ := strings.Cut(strings.TrimSpace(part), ":")
		list = append(list, line{strings.TrimSpace(role), strings.TrimSpace(text)})
	}
	return list
}

// json is the message as clients and providers write it.
func (l line) json() string {
	switch l.role {
	case "assistant calls":
		return fmt.Sprintf(`{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":%q,"arguments":"{}"}}]}`, l.text)
	case "tool":
		return fmt.Sprintf(`{"role":"tool","tool_call_id":"call_1","content":%q}`, l.text)
	}
	return fmt.Sprintf(`{"role":%q,"content":%q}`, l.role, l.text)
}

func (l line) isAnswer() bool { return strings.HasPrefix(l.role, "assistant") }

func array(list []line) string {
	texts := make([]string, len(list))
	for i, l := range list {
		texts[i] = l.json()
	}
	return "[" + strings.Join(texts, ",") + "]"
}

// said is a message, as a thread or a provider has it, as examples write it.
func said(m gjson.Result) string {
	role, text := m.Get("role").Str, m.Get("content").Str
	switch {
	case m.Get("tool_calls").Exists():
		role, text = "assistant calls", m.Get("tool_calls.0.function.name").Str
		if m.Get("status").Str == "incomplete" {
			role = "assistant (cut) calls"
		}
	case m.Get("status").Str == "incomplete" && text == "":
		role = "assistant (nothing)"
	case m.Get("status").Str == "incomplete":
		role = "assistant (cut)"
	}
	return role + ": " + text
}

func saidAll(messages gjson.Result) string {
	var list []string
	for _, m := range messages.Array() {
		list = append(list, said(m))
	}
	return strings.Join(list, " | ")
}

func written(list []line) string {
	var texts []string
	for _, l := range list {
		texts = append(texts, l.role+": "+l.text)
	}
	return strings.Join(texts, " | ")
}

// wholeAnswer is a provider's answer with these choices.
func wholeAnswer(messages ...string) *upstreams.Answer {
	var choices []string
	for i, m := range messages {
		choices = append(choices, fmt.Sprintf(`{"index":%d,"message":%s,"finish_reason":"stop"}`, i, m))
	}
	return &upstreams.Answer{Status: 200, Body: []byte(`{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[` +
		strings.Join(choices, ",") + `],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)}
}

// cutStream says one piece, and then breaks.
type cutStream struct {
	delta string // JSON
	said  bool
}

func (s *cutStream) Next() ([]byte, error) {
	if s.said {
		return nil, fault.New(fault.Upstream, "the provider broke off").WithCode("upstream_reset")
	}
	s.said = true
	return fmt.Appendf(nil, `{"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":%s}]}`, s.delta), nil
}

func (s *cutStream) Close() error { return nil }

// example is one block of the page: what its lines say, by their first word. A word may be there twice.
type example map[string][]string

func (e example) one(t *testing.T, word string) string {
	t.Helper()
	if len(e[word]) > 1 {
		t.Fatalf("%q is there %d times", word, len(e[word]))
	}
	return strings.Join(e[word], "")
}

var exampleWords = []string{"on diverge", "has", "send", "model", "answer", "result", "fork", "named", "choices", "busy", "room", "omitted"}

func pageExamples(t *testing.T) (list []example) {
	t.Helper()
	page, err := os.ReadFile("../docs/threads.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, block := range strings.Split(string(page), "```thread\n") {
		if i == 0 {
			continue
		}
		text, _, _ := strings.Cut(block, "```")
		e := example{}
		for l := range strings.Lines(text) {
			l = strings.TrimSuffix(l, "\n")
			at := slices.IndexFunc(exampleWords, func(w string) bool { return strings.HasPrefix(l, w+" ") })
			if at < 0 {
				t.Fatalf("an example says %q", l)
			}
			e[exampleWords[at]] = append(e[exampleWords[at]], strings.TrimSpace(l[len(exampleWords[at]):]))
		}
		list = append(list, e)
	}
	if len(list) < 20 {
		t.Fatalf("only %d examples", len(list))
	}
	return list
}

// The page that explains threads says what they do.
func TestThreadsPage(t *testing.T) {
	t.Parallel()
	list := pageExamples(t)
	eachHouse(t, Options{TurnWait: 400 * time.Millisecond}, func(t *testing.T, h *house) {
		a := &actor{}
		h.opts.Upstreams = map[string]upstreams.Upstream{"openai": a}
		h.opts.Windows = map[string]int64{}
		for i, e := range list {
			t.Run(strconv.Itoa(i+1)+" "+strings.ReplaceAll(strings.Join(e["send"], ""), "|", "+"), func(t *testing.T) {
				h.t = t
				h.runExample(t, a, e, fmt.Sprint("example-", i+1))
			})
		}
	})
}

func (h *house) runExample(t *testing.T, a *actor, e example, thread string) {
	delete(h.opts.Windows, "openai")
	before, after := "", ""
	switch has := e["has"]; len(has) {
	case 2:
		before, after = has[0], has[1]
	case 1:
		after = has[0]
	}
	if before != "" {
		h.converse(t, a, thread, parseLines(before))
	}
	answers := strings.Split(e.one(t, "answer"), " / ")
	for i, text := range answers {
		answers[i] = line{"assistant", text}.json()
	}
	tell := func([]byte) (*upstreams.Answer, error) { return wholeAnswer(answers...), nil }
	body := `"model":"openai/page","messages":` + array(parseLines(e.one(t, "send")))
	header := []string{"X-Thread-Id", thread}
	switch e.one(t, "named") {
	case "in the body":
		body, header = body+`,"thread_id":"`+thread+`"`, nil
	case "in the metadata":
		body, header = body+`,"metadata":{"thread_id":"`+thread+`"}`, nil
	case "in the body and otherwise in the header":
		body += `,"thread_id":"another"`
	}
	if n := e.one(t, "choices"); n != "" {
		body += `,"n":` + n
	}
	if how := e.one(t, "on diverge"); how != "" {
		header = append(header, "X-Thread-On-Diverge", how)
	}
	if room := e.one(t, "room"); room != "" {
		tokens, policy, _ := strings.Cut(room, " tokens")
		n, err := strconv.ParseInt(tokens, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		body += `,"max_tokens":1`
		h.opts.Windows["openai"] = n + 1 + int64(len("{"+body+"}")-len(array(parseLines(e.one(t, "send")))))/4
		if policy != "" {
			h.setWindowPolicy(t, thread, "refuse")
		}
	}
	done := h.keepBusy(t, a, thread, e.one(t, "busy"))
	a.play(tell)
	r := h.do("POST", "/v1/chat/completions", "{"+body+"}", header...)
	done()
	e.check(t, h, a, r, thread, after)
}

func (e example) check(t *testing.T, h *house, a *actor, r heard, thread, after string) {
	t.Helper()
	got := strconv.Itoa(r.status)
	if r.status == 200 {
		got += " " + r.header.Get("X-Threadhub-Thread-Mode") + " " + r.header.Get("X-Threadhub-Thread-Seq")
	} else {
		got += " " + r.code()
		if at := gjson.GetBytes(r.body, "error.message").Str; strings.Contains(at, "at sequence ") {
			_, seq, _ := strings.Cut(at, "at sequence ")
			got += " at sequence " + strings.SplitN(seq, ";", 2)[0]
		}
	}
	if want := e.one(t, "result"); got != want {
		t.Fatalf("%s, want %s: %s", got, want, r.body)
	}
	if model := e.one(t, "model"); model != "" {
		if diff := cmp.Diff(written(parseLines(model)), saidAll(gjson.ParseBytes(a.shown))); diff != "" {
			t.Errorf("the model was shown (-want +got):\n%s", diff)
		}
	}
	omitted := e.one(t, "omitted")
	if omitted == "" {
		omitted = "0"
	}
	if got := r.header.Get("X-Threadhub-Thread-Omitted"); r.status == 200 && got != omitted {
		t.Errorf("%s were left out, want %s", got, omitted)
	}
	if r.status == 200 {
		if got := fmt.Sprint(h.call(r)["thread_omitted"]); got != omitted {
			t.Errorf("the request says that %s were left out, want %s", got, omitted)
		}
	}
	read := func(id string) string {
		return saidAll(gjson.GetBytes(h.do("GET", "/api/threads/"+id, "").want(t, 200).body, "messages"))
	}
	if after != "" {
		if diff := cmp.Diff(written(parseLines(after)), read(thread)); diff != "" {
			t.Errorf("the thread has (-want +got):\n%s", diff)
		}
	}
	if fork := e.one(t, "fork"); fork != "" {
		id := r.header.Get("X-Thread-Id")
		if id == thread {
			t.Fatal("the fork has the thread's own id")
		}
		if diff := cmp.Diff(written(parseLines(fork)), read(id)); diff != "" {
			t.Errorf("the fork has (-want +got):\n%s", diff)
		}
	}
}

// converse makes a thread by calls.
func (h *house) converse(t *testing.T, a *actor, thread string, list []line) {
	t.Helper()
	var input []line
	for _, l := range list {
		if !l.isAnswer() {
			input = append(input, l)
			continue
		}
		stream := ""
		switch l.role {
		case "assistant (nothing)":
			a.play(func([]byte) (*upstreams.Answer, error) {
				return nil, fault.New(fault.Upstream, "the provider is not there").WithCode("upstream_unreachable")
			})
		case "assistant (cut)", "assistant (cut) calls":
			stream = `,"stream":true`
			delta := fmt.Sprintf(`{"role":"assistant","content":%q}`, l.text)
			if l.role != "assistant (cut)" {
				delta = fmt.Sprintf(`{"role":"assistant","tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":%q,"arguments":"{\"zo"}}]}`, l.text)
			}
			a.play(func([]byte) (*upstreams.Answer, error) {
				return &upstreams.Answer{Status: 200, Stream: &cutStream{delta: delta}}, nil
			})
		default:
			a.play(func([]byte) (*upstreams.Answer, error) { return wholeAnswer(l.json()), nil })
		}
		h.do("POST", "/v1/chat/completions", `{"model":"openai/page","messages":`+array(input)+stream+`}`, "X-Thread-Id", thread)
		input = nil
	}
	got := saidAll(gjson.GetBytes(h.do("GET", "/api/threads/"+thread, "").want(t, 200).body, "messages"))
	if diff := cmp.Diff(written(list), got); diff != "" {
		t.Fatalf("the thread was to be (-want +got):\n%s", diff)
	}
}

// setWindowPolicy is what PATCH does.
func (h *house) setWindowPolicy(t *testing.T, thread, policy string) {
	t.Helper()
	err := h.store.Write(t.Context(), h.admin.Org, func(tx db.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE threads SET window_policy = $3 WHERE org_id = $1 AND thread_id = $2`, h.admin.Org, thread, policy)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// keepBusy lets another request hold the thread: for a moment, until the example's request waits for it, or until the
// returned function is called.
func (h *house) keepBusy(t *testing.T, a *actor, thread, how string) (done func()) {
	t.Helper()
	if how == "" {
		return func() {}
	}
	long := strings.HasPrefix(how, "for long")
	_, with, _ := strings.Cut(how, "with ")
	turn := parseLines(with)
	asked, release := make(chan struct{}), make(chan struct{})
	a.play(func([]byte) (*upstreams.Answer, error) {
		close(asked)
		<-release
		return wholeAnswer(turn[1].json()), nil
	})
	ended := make(chan heard, 1)
	go func() {
		req, _ := http.NewRequestWithContext(t.Context(), "POST", h.url+"/v1/chat/completions", strings.NewReader(`{"model":"openai/page","messages":`+array(turn[:1])+`}`))
		req.Header.Set("Authorization", "Bearer "+h.admin.APIKey.Reveal())
		req.Header.Set("X-Thread-Id", thread)
		resp, err := houseClient.Do(req)
		if err != nil {
			ended <- heard{body: []byte(err.Error())}
			return
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body)
		ended <- heard{status: resp.StatusCode, body: body}
	}()
	<-asked
	if !long {
		go func() {
			defer close(release)
			testkit.Eventually(t, 10*time.Second, func() bool {
				h.turns.mu.Lock()
				defer h.turns.mu.Unlock()
				return len(h.turns.lines[turnKey{h.admin.Org, id.Thread(thread)}]) == 2
			}, "the example's request to wait for the thread")
		}()
	}
	return func() {
		if long {
			close(release)
		}
		if r := <-ended; r.status != 200 {
			t.Errorf("the request that held the thread: %d %s", r.status, r.body)
		}
	}
}
