package secrets

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

// heads are answers that are not HTTP, in several ways. % stands for what is quoted.
var heads = map[string]string{
	"head-noise":   "%",
	"head-status":  "HTTP/1.1 %",
	"head-reason":  "HTTP/1.1 599 %\r\nContent-Length: 0",
	"head-length":  "HTTP/1.1 200 OK\r\nContent-Length: %",
	"head-coding":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: %",
	"head-field":   "HTTP/1.1 200 OK\r\n% no colon",
	"head-chunk":   "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n%",
	"head-type":    "HTTP/1.1 200 OK\r\nContent-Type: %\r\nContent-Length: 0",
	"head-packed":  "HTTP/1.1 200 OK\r\nContent-Encoding: %\r\nContent-Length: 0",
	"head-onwards": "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/%\r\nContent-Length: 0",
	"head-switch":  "HTTP/1.1 101 %\r\nUpgrade: %\r\nConnection: Upgrade",
}

// trials are how the parrot answers those who try out a key, one after the other.
var trials = []string{"401", "400", "page", "whole", "head-noise", "500", "head-length", "429"}

// voice is how a provider words an error, the beginning of a stream, an error within it, and an answer that is none.
type voice struct{ failure, chunk, event, choice string }

const (
	chatChunk  = `{"id":"x","object":"chat.completion.chunk","model":"sim-1","choices":[{"index":0,"delta":{"content":"Well"},"finish_reason":null}]}`
	chatChoice = `{"choices":[{"index":0,"finish_reason":"error","message":null,"error":"%"}]}`
	chatError  = `{"error":{"message":"%","type":"%","param":"%","code":"%"}}`
	routeError = `{"error":{"message":"%","code":502,"metadata":{"raw":"%","provider_name":"%","error_type":"%","provider_code":"%"}},"user_id":"%"}`
	agentError = `"error":{"message":"%","type":"%","code":"%"}`
)

// voices are those of the providers. % stands for what is quoted, wherever text may be.
var voices = map[string]voice{
	"openai":     {chatError, chatChunk, chatError, chatChoice},
	"openrouter": {routeError, chatChunk, routeError, chatChoice},
	"gemini": {
		failure: `{"error":{"code":400,"message":"%","status":"%","details":[` +
			`{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"%","domain":"%","metadata":{"service":"%","consumer":"%"}},` +
			`{"@type":"type.googleapis.com/google.rpc.LocalizedMessage","locale":"en-US","message":"%"},` +
			`{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":"%","description":"%"}]},` +
			`{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaMetric":"%","quotaId":"%","quotaValue":"%"}]},` +
			`{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"%"},{"@type":"%"}]}}`,
		chunk:  `{"candidates":[{"content":{"parts":[{"text":"Well"}],"role":"model"},"index":0}],"modelVersion":"sim-1","responseId":"x"}`,
		event:  `{"error":{"code":503,"message":"%","status":"%"}}`,
		choice: `{"candidates":[{"finishReason":"OTHER","finishMessage":"%","index":0}],"promptFeedback":{"blockReason":"%","blockReasonMessage":"%"}}`,
	},
	"perplexity": {
		failure: `{` + agentError + `,"detail":[{"loc":["body","%"],"msg":"%","type":"%"}]}`,
		chunk:   `{"type":"response.output_text.delta","sequence_number":1,"item_id":"m","output_index":0,"content_index":0,"delta":"Well"}`,
		event:   `{"type":"response.failed","sequence_number":2,` + agentError + `}`,
		choice:  `{"id":"resp_1","object":"response","status":"failed","model":"sim-1","output":[],` + agentError + `,"incomplete_details":{"reason":"%"}}`,
	},
}

// parrot is a provider whose every answer is an error that quotes what it was asked, and by which key. The first word of
// the last message says how.
type parrot struct {
	voice
	asked, tried atomic.Int64 // questions, and those who try out a key
}

// words are those of the last message, in whichever form.
func words(body []byte) string {
	for _, path := range []string{"messages.@reverse.0.content", "contents.@reverse.0.parts.0.text", "input.@reverse.0.content"} {
		if v := gjson.GetBytes(body, path); v.Exists() {
			return v.Str
		}
	}
	return ""
}

func (p *parrot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	how, said, _ := strings.Cut(words(body), " ")
	if r.Method == http.MethodGet {
		how = trials[int(p.tried.Add(1)-1)%len(trials)]
	} else {
		p.asked.Add(1)
	}
	said += " " + r.Header.Get("Authorization") + r.Header.Get("X-Goog-Api-Key")
	send := func(kind string, status int, text string) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
	inner, _ := json.Marshal("I cannot answer: " + said)
	quoting := func(form string) string { return strings.ReplaceAll(form, `"%"`, string(inner)) }
	begun := "data: " + p.chunk + "\n\n"
	if status, err := strconv.Atoi(how); err == nil {
		send("application/json", status, quoting(p.failure))
		return
	}
	if head, ok := heads[how]; ok {
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_, _ = io.WriteString(c, strings.ReplaceAll(head, "%", said)+"\r\n\r\n")
			_ = c.Close()
		}
		return
	}
	switch how {
	case "page":
		send("text/html", http.StatusBadGateway, "<html>"+said+"</html>")
	case "whole":
		send("application/json", http.StatusOK, quoting(p.failure))
	case "choice":
		send("application/json", http.StatusOK, quoting(p.choice))
	case "event":
		send("text/event-stream", http.StatusOK, begun+"data: "+quoting(p.event)+"\n\n")
	case "noise":
		send("text/event-stream", http.StatusOK, begun+"data: "+said+"\n\n")
	}
}

// An error that quotes the prompt and the key brings neither into the log, the metrics or the tables.
func TestAProviderThatQuotesWhatItIsAsked(t *testing.T) {
	eachStore(t, func(t *testing.T, w *world) {
		for provider, v := range voices { // each in a life of its own, as keys may be tried out only so often
			w.mock(t, provider, &parrot{voice: v})
		}
		for _, h := range scan(append(w.sinks, w.places(t)...), append(w.secret, w.prompt...), w.allowed) {
			t.Errorf("the %s, %s, is in %s: %s", h.canary, h.form, h.sink, h.around)
		}
	})
}

// mock serves with a parrot in the place of a provider, and asks it in every way.
func (w *world) mock(t *testing.T, provider string, p *parrot) {
	t.Helper()
	server := httptest.NewServer(p)
	defer server.Close()
	w.serve("THREADHUB_UPSTREAMS__" + strings.ToUpper(provider) + "__BASE_URL=" + server.URL + "/v1")
	for range trials { // before others use up how often keys may be tried out
		w.send("POST", "/api/orgs/"+w.admin.Org+"/providers/test", w.admin.Key, map[string]string{"provider": provider, "api_key": w.providerKeys[provider]})
	}
	if n := p.tried.Load(); n != int64(len(trials)) {
		t.Errorf("a key of %s was tried out %d times", provider, n)
	}
	w.administer()
	w.tryOut(provider)
	hows := []string{"page", "whole", "choice", "event", "noise"}
	hows = slices.AppendSeq(hows, maps.Keys(heads))
	for _, s := range statuses {
		hows = append(hows, strconv.Itoa(s))
	}
	for _, how := range hows {
		for _, stream := range []bool{false, true} {
			for thread, words := range map[string]string{"": w.plain, provider + "-" + how: w.thread} {
				var header []string
				if thread != "" {
					header = []string{"X-Thread-Id", thread + strconv.FormatBool(stream)}
				}
				body := fmt.Sprintf(`{"model":"%s/sim-1","stream":%v,"messages":[{"role":"user","content":"%s %s"}]}`, provider, stream, how, words)
				w.send("POST", "/v1/chat/completions", w.admin.Key, body, header...)
			}
		}
	}
	if n := p.asked.Load(); n < int64(4*len(hows)) {
		t.Errorf("%s was asked %d times", provider, n)
	}
	w.look()
	w.collect(pageSinks(t, w.Operator)...)
	if err := w.Stop(20 * time.Second); err != nil {
		t.Error(err)
	}
}
