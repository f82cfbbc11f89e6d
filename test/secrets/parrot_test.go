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

// parrot is a provider whose every answer is an error that quotes what it was asked, and by which key. The first word of
// the last message says how. tried counts those who try out a key.
func parrot(tried *atomic.Int64) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var asked struct{ Messages []struct{ Content string } }
		_ = json.Unmarshal(body, &asked)
		words := ""
		if n := len(asked.Messages); n > 0 {
			words = asked.Messages[n-1].Content
		}
		how, said, _ := strings.Cut(words, " ")
		if r.Method == http.MethodGet { // a key is tried out
			how = trials[int(tried.Add(1)-1)%len(trials)]
		}
		message, _ := json.Marshal("I cannot answer: " + said + " with " + r.Header.Get("Authorization"))
		failure := fmt.Sprintf(`{"error":{"message":%s,"type":%s,"param":%s,"code":%s}}`, message, message, message, message)
		chunk := `data: {"id":"x","object":"chat.completion.chunk","model":"sim-1","choices":[{"index":0,"delta":{"content":"Well"},"finish_reason":null}]}` + "\n\n"
		if status, err := strconv.Atoi(how); err == nil {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, failure)
			return
		}
		if head, ok := heads[how]; ok {
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.WriteString(c, strings.ReplaceAll(head, "%", said+" "+r.Header.Get("Authorization"))+"\r\n\r\n")
				_ = c.Close()
			}
			return
		}
		switch how {
		case "page":
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusBadGateway)
			_, _ = io.WriteString(w, "<html>"+said+" "+r.Header.Get("Authorization")+"</html>")
		case "whole":
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, failure)
		case "choice":
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"choices":[{"index":0,"finish_reason":"error","message":null,"error":`+string(message)+`}]}`)
		case "event":
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, chunk+"data: "+failure+"\n\n")
		case "noise":
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, chunk+"data: "+said+" "+r.Header.Get("Authorization")+"\n\n")
		}
	}))
}

// An error that quotes the prompt and the key brings neither into the log, the metrics or the tables.
func TestAProviderThatQuotesWhatItIsAsked(t *testing.T) {
	eachStore(t, func(t *testing.T, w *world) {
		var tried atomic.Int64
		provider := parrot(&tried)
		defer provider.Close()
		w.serve("THREADHUB_UPSTREAMS__OPENAI__BASE_URL=" + provider.URL + "/v1")
		for range trials { // before others use up how often keys may be tried out
			w.send("POST", "/api/orgs/"+w.admin.Org+"/providers/test", w.admin.Key, map[string]string{"provider": "openai", "api_key": w.providerKeys["openai"]})
		}
		if n := tried.Load(); n != int64(len(trials)) {
			t.Errorf("a key was tried out %d times", n)
		}
		w.administer()
		hows := []string{"page", "whole", "choice", "event", "noise"}
		hows = slices.AppendSeq(hows, maps.Keys(heads))
		for _, s := range statuses {
			hows = append(hows, strconv.Itoa(s))
		}
		for _, how := range hows {
			for _, stream := range []bool{false, true} {
				for thread, words := range map[string]string{"": w.plain, "parrot-" + how: w.thread} {
					var header []string
					if thread != "" {
						header = []string{"X-Thread-Id", thread + strconv.FormatBool(stream)}
					}
					body := fmt.Sprintf(`{"model":"openai/sim-1","stream":%v,"messages":[{"role":"user","content":"%s %s"}]}`, stream, how, words)
					w.send("POST", "/v1/chat/completions", w.admin.Key, body, header...)
				}
			}
		}
		w.look()
		w.collect(pageSinks(t, w.Operator)...)
		if err := w.Stop(20 * time.Second); err != nil {
			t.Error(err)
		}
		for _, h := range scan(append(w.sinks, w.places(t)...), append(w.secret, w.prompt...), w.allowed) {
			t.Errorf("the %s, %s, is in %s: %s", h.canary, h.form, h.sink, h.around)
		}
	})
}
