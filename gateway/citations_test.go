package gateway

import (
	"os"
	"testing"

	"github.com/tidwall/gjson"

	"threadhub/upstreams"
	"threadhub/upstreams/perplexity"
	"threadhub/upstreams/upstreamstest"
)

// An answer's citations are shown with it in its thread, however it came, and so is what it cost.
func TestCitationsAreKept(t *testing.T) {
	t.Parallel()
	read := func(path string) string {
		b, err := os.ReadFile("../upstreams/perplexity/testdata/" + path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, c := range []struct{ api, whole, stream string }{
		{perplexity.Agent, "agent/plain.resp.json", "agent/stream.sse"},
		{perplexity.Sonar, "sonar/plain.resp.json", "sonar/stream_full.sse"},
	} {
		whole := upstreamstest.Reply("200 OK", read(c.whole), upstreamstest.JSON)
		stream := upstreamstest.EventStream + read(c.stream)
		server := upstreamstest.Serve(t, func(conn *upstreamstest.Conn) {
			answer := whole
			if gjson.GetBytes(conn.Body, "stream").Bool() {
				answer = stream
			}
			conn.Send(answer)
			conn.Close()
		})
		client, err := perplexity.New(upstreams.Options{BaseURL: server.URL, API: c.api})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		eachHouse(t, Options{}, func(t *testing.T, h *house) {
			h.opts.Upstreams["openrouter"] = client // under a name that the house has a key for
			for thread, more := range map[string]string{"whole": "", "streamed": `,"stream":true`} {
				body := `{"model":"openrouter/sonar","messages":[{"role":"user","content":"Latest Go release?"}],"seed":1` + more + `}`
				if got := h.do("POST", "/v1/chat/completions", body, "X-Thread-Id", thread).want(t, 200).header.Get("X-Threadhub-Warning"); c.api == perplexity.Agent && got != "dropped=seed;reason=unsupported" {
					t.Errorf("%s: warned of %q", thread, got)
				}
				m := gjson.GetBytes(h.do("GET", "/api/threads/"+thread, "").want(t, 200).body, "messages.1")
				for path, want := range map[string]string{
					"citations.0": "https://go.dev/doc/devel/release", "citations.#": "2", "search_results.1.title": "Go 1.26 notes",
					"annotations.0.url_citation.start_index": "34", "status": "complete", "cost_status": "reported",
				} {
					if got := m.Get(path).String(); got != want {
						t.Errorf("%s, %s: %s is %q, want %q", c.api, thread, path, got, want)
					}
				}
			}
		})
	}
}
