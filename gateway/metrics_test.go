package gateway

import (
	"testing"

	"threadhub/internal/testkit"
)

// Every call is counted by how it ended, once, and nothing else is.
func TestEveryCallIsCountedByItsEnd(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{Failover: once})
	h.chat("whole", "").want(t, 200)
	h.chat("streamed", `,"stream":true`).want(t, 200)
	h.chat("[[sim status=500]]", "").want(t, 502)
	h.chat("[[sim fault=cut after=2]]", `,"stream":true`).want(t, 200)
	h.do("POST", "/v1/chat/completions", "{").want(t, 400)
	if n := metric(t, h.opts.Registry, "threadhub_attempts_total"); n != 4 {
		t.Errorf("%v attempts were counted, want 4", n)
	}
	if n := metric(t, h.opts.Registry, "threadhub_store_up"); n != 1 {
		t.Error("the store is not told to be up")
	}
	if n := metric(t, h.opts.Registry, "threadhub_stream_end_total"); n != 4 {
		t.Errorf("%v ends were counted, want those of the 4 calls", n)
	}
}
