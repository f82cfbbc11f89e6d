package sdk

import (
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"threadhub/internal/testkit"
	"threadhub/simulator"
	"threadhub/test/rig"
)

// world is one gateway process on one store, with its providers and an org of two users.
type world struct {
	sim    *simulator.Simulator
	gw     *rig.Gateway
	writer rig.Seeded // whose key the SDKs have
	reader rig.Seeded // a colleague with another tool
}

func newWorld(t *testing.T, store string) *world {
	t.Helper()
	w := &world{sim: rig.Simulator(t, simulator.Options{})}
	// A silent stream finds out by its heartbeat that the client has left. Nobody comes back for an answer here.
	house := rig.NewHouse(t, rig.Options{Database: rig.Stores[store](t), Sim: w.sim, Env: append([]string{
		"THREADHUB_TIMEOUTS__HEARTBEAT=1s", "THREADHUB_STREAMS__RESUME_GRACE=0s",
	}, rig.AskedOnce...)}) // so that it is the SDK that asks again
	w.writer = house.Seed("sdk", "writer@example.com", "admin")
	w.reader = house.Seed("sdk", "reader@example.com", "viewer")
	w.gw = house.Serve()
	w.gw.ProviderKeys(t, w.writer)
	t.Cleanup(func() {
		if err := w.gw.Stop(30 * time.Second); err != nil {
			t.Errorf("the gateway ended: %v", err)
		}
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", tail(house.Log.String(), 200))
		}
	})
	return w
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// isDollars reports whether text is exactly so many pico-dollars.
func isDollars(text string, pico int64) bool {
	r, ok := new(big.Rat).SetString(text)
	return ok && r.Cmp(big.NewRat(pico, 1_000_000_000_000)) == 0
}

// thread is GET /api/threads/{id}.
type thread struct {
	ID       string `json:"id"`
	Messages []kept `json:"messages"`
}

// kept is a message as a thread shows it.
type kept struct {
	ID         string          `json:"message_id"`
	Sequence   int             `json:"sequence"`
	Role       string          `json:"role"`
	Content    json.RawMessage `json:"content"`
	ToolCalls  []keptCall      `json:"tool_calls"`
	ToolCallID string          `json:"tool_call_id"`
	Status     string          `json:"status"`
	Incomplete string          `json:"incomplete_reason"`
	CreatedAt  time.Time       `json:"created_at"`

	Provider       string `json:"provider"`
	ModelRequested string `json:"model_requested"`
	ModelServed    string `json:"model_served"`
	Route          string `json:"route"`
	Reason         string `json:"reason"`
	Attempts       int    `json:"attempts"`
	LatencyMS      int64  `json:"latency_ms"`
	Finish         string `json:"finish_reason"`
	Usage          usage  `json:"usage"`
	CostUSD        string `json:"cost_usd"`
	CostStatus     string `json:"cost_status"`
	RequestID      string `json:"request_id"`
}

type keptCall struct {
	ID       string `json:"id"`
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

// call is GET /v1/requests/{id}.
type call struct {
	ID             string  `json:"id"`
	Status         string  `json:"status"`
	Reason         string  `json:"status_reason"`
	Thread         *string `json:"thread_id"`
	Stream         bool    `json:"stream"`
	ModelRequested string  `json:"model_requested"`
	Provider       string  `json:"provider"`
	Model          string  `json:"model"`
	Attempts       []struct {
		UpstreamID string  `json:"upstream_request_id"`
		HTTPStatus int     `json:"http_status"`
		CostUSD    *string `json:"cost_usd"`
		CostStatus *string `json:"cost_status"`
	} `json:"attempts"`
	Usage      usage   `json:"usage"`
	CostUSD    *string `json:"cost_usd"`
	CostStatus *string `json:"cost_status"`
}

// readThread reads a thread with the colleague's tool.
func (w *world) readThread(t *testing.T, id string) thread {
	t.Helper()
	var th thread
	if err := w.gw.Must(t, 200, "GET", "/api/threads/"+id, w.reader.Key, nil).JSON(&th); err != nil {
		t.Fatal(err)
	}
	return th
}

// readCall reads a call that has ended, or is about to, with the colleague's tool.
func (w *world) readCall(t *testing.T, id string) (c call) {
	t.Helper()
	testkit.Eventually(t, settled, func() bool {
		c = call{}
		if err := w.gw.Must(t, 200, "GET", "/v1/requests/"+id, w.reader.Key, nil).JSON(&c); err != nil {
			t.Fatal(err)
		}
		return c.Status != "open"
	}, "the call %s stays open", id)
	return c
}

// settled is how long what follows a call may take.
const settled = 5 * time.Second
