package gateway

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"threadhub/internal/id"
	"threadhub/metering"
	"threadhub/router/failover"
	"threadhub/simulator"
	"threadhub/upstreams"
	"threadhub/upstreams/openai"
)

// once asks nothing again, and everything for as long as it fails.
var once = failover.Options{Retries: -1, NoBreaker: true}

// aliases sets the org's aliases, each a list of targets.
func (h *house) aliases(list string) {
	h.t.Helper()
	h.do("PUT", "/api/router/rules", `{"rules":[{"id":"all","targets":["openai"]}],"aliases":`+list+`}`).want(h.t, 200)
}

// play arms the simulator.
func (h *house) play(scripts ...simulator.Script) {
	h.t.Helper()
	if err := h.sim.Play(scripts...); err != nil {
		h.t.Fatal(err)
	}
}

// attemptsOf is what became of a call, as one line an attempt: target, key, state, code, whether it may be billed, and what its
// line of the ledger says.
func (h *house) attemptsOf(r heard) (list []string) {
	h.t.Helper()
	var call struct {
		Attempts []attemptShape
	}
	if err := json.Unmarshal(h.do("GET", "/v1/requests/"+r.header.Get("X-Request-Id"), "").want(h.t, 200).body, &call); err != nil {
		h.t.Fatal(err)
	}
	lines, err := metering.Lines(h.t.Context(), h.store, h.admin.Org, id.Request(r.header.Get("X-Request-Id")))
	if err != nil || len(lines) != len(call.Attempts) {
		h.t.Fatalf("%d lines for %d attempts, %v", len(lines), len(call.Attempts), err)
	}
	if got := r.header.Get("X-Threadhub-Attempts"); got != fmt.Sprint(len(lines)) {
		h.t.Errorf("the client was told of %q attempts, there are %d", got, len(lines))
	}
	for i, a := range call.Attempts {
		l := lines[i]
		if a.N != i || l.N != i || l.Kind != metering.Use || l.Provider != a.Provider || l.Model != a.Model || l.MaybeBilled != a.MaybeBilled || a.EndedAt == nil {
			h.t.Errorf("attempt %d is %+v, its line %+v", i, a, l)
		}
		text := a.Provider + "/" + a.Model + " " + *a.KeyName + " " + a.State
		if a.Code != nil {
			text += " " + *a.Code
		}
		if a.MaybeBilled {
			text += " maybe"
		}
		if free := l.Charge.Cost == 0; free != (a.State == "failed") {
			h.t.Errorf("attempt %d (%s) cost %v", i, text, l.Charge.Cost)
		}
		list = append(list, text)
	}
	return list
}

const (
	gpt  = "openai/gpt-5-mini default "
	luma = "openrouter/openai/gpt-4.1-mini default "
)

// The rows of the fault matrix that speak of further attempts: what the client gets, what the thread and the ledger hold,
// and what the providers saw.
func TestFurtherAttempts(t *testing.T) {
	const answered = "200"
	for name, tt := range map[string]struct {
		model    string // "both": the alias of two targets
		warm     bool   // there is a kept connection
		whole    bool   // no stream is asked for: in one, the fault comes after the beginning
		scripts  []simulator.Script
		safe     bool // openai is marked safe
		down     bool // openai is not there
		status   string
		retry    string // Retry-After
		attempts []string
	}{
		"U1: out of reach, the next target":   {model: "both", down: true, status: answered, attempts: []string{gpt + "failed upstream_unreachable", luma + "ok"}},
		"U1: out of reach, and no other":      {model: "openai/gpt-5-mini", down: true, status: "502 upstream_unreachable", attempts: slices.Repeat([]string{gpt + "failed upstream_unreachable"}, 3)},
		"U2: reset, it may be billed":         {model: "both", scripts: faults("fault=reset", 0), status: "502 upstream_reset", attempts: []string{gpt + "failed upstream_reset maybe"}},
		"U2: closed, it may be billed":        {model: "both", scripts: faults("fault=close", 0), status: "502 upstream_reset", attempts: []string{gpt + "failed upstream_reset maybe"}},
		"U2: reset, where that is safe":       {model: "both", safe: true, scripts: faults("fault=reset", 0), status: answered, attempts: []string{gpt + "failed upstream_reset maybe", luma + "ok"}},
		"U2: safe, but once":                  {model: "openai/gpt-5-mini", safe: true, scripts: faults("fault=reset", 0), status: "502 upstream_reset", attempts: slices.Repeat([]string{gpt + "failed upstream_reset maybe"}, 2)},
		"U3: reset in the header":             {model: "both", warm: true, scripts: faults("fault=reset_head", 0), status: "502 upstream_reset", attempts: []string{gpt + "failed upstream_reset maybe"}},
		"U3: where that is safe":              {model: "both", safe: true, scripts: faults("fault=reset_head", 0), status: answered, attempts: []string{gpt + "failed upstream_reset maybe", luma + "ok"}},
		"U7: silence is not asked again":      {model: "both", safe: true, scripts: faults("fault=silent", 0), status: "504 upstream_timeout", attempts: []string{gpt + "failed upstream_timeout maybe"}},
		"U11: a limit, the next target":       {model: "both", scripts: faults("status=429 retry_after=20", 0), status: answered, attempts: []string{gpt + "failed rate_limit_exceeded", luma + "ok"}},
		"U11: a limit, and no other":          {model: "openai/gpt-5-mini", scripts: faults("status=429 retry_after=20", 0), status: "429 rate_limit_exceeded", retry: "20", attempts: []string{gpt + "failed rate_limit_exceeded"}},
		"U11: a limit of many hours":          {model: "openai/gpt-5-mini", scripts: faults("status=429 retry_after=90000", 0), status: "429 rate_limit_exceeded", retry: "3600", attempts: []string{gpt + "failed rate_limit_exceeded"}},
		"U12: failed, the next target":        {model: "both", scripts: faults("status=503", 0), status: answered, attempts: []string{gpt + "failed upstream_error", luma + "ok"}},
		"U12: failed once":                    {model: "openai/gpt-5-mini", scripts: faults("status=500", 1), status: answered, attempts: []string{gpt + "failed upstream_error", gpt + "ok"}},
		"U12: failed again and again":         {model: "openai/gpt-5-mini", scripts: faults("status=529", 0), status: "502 upstream_error", attempts: slices.Repeat([]string{gpt + "failed upstream_error"}, 3)},
		"U12: to be asked later than one may": {model: "openai/gpt-5-mini", scripts: faults("status=503 retry_after=30", 0), status: "502 upstream_error", retry: "30", attempts: []string{gpt + "failed upstream_error"}},
		"U13: an error for an answer":         {whole: true, model: "openai/gpt-5-mini", scripts: faults("fault=error_200", 1), status: answered, attempts: []string{gpt + "failed upstream_error", gpt + "ok"}},
		"U14: half an answer was worked for":  {whole: true, model: "both", scripts: faults("fault=cut", 0), status: "502 upstream_protocol", attempts: []string{gpt + "failed upstream_protocol maybe"}},
		"U25: a stale connection":             {model: "both", warm: true, scripts: faults("fault=stale", 1), status: answered, attempts: []string{gpt + "failed upstream_reset maybe", gpt + "ok"}},
		"no credit, the next target":          {model: "both", scripts: faults("status=402", 0), status: answered, attempts: []string{gpt + "failed insufficient_quota", luma + "ok"}},
		"a bad key, the next target":          {model: "both", scripts: faults("status=401", 0), status: answered, attempts: []string{gpt + "failed provider_key_rejected", luma + "ok"}},
		"a bad key, and no other":             {model: "openai/gpt-5-mini", scripts: faults("status=401", 0), status: "502 provider_key_rejected", attempts: []string{gpt + "failed provider_key_rejected"}},
		"what the client has to mend":         {model: "both", scripts: faults("status=400", 0), status: "400", attempts: []string{gpt + "failed"}},
		"all fail: the last one's error":      {model: "both", scripts: append(faults("status=503", 0), simulator.Script{Provider: "openrouter", Do: "status=429 retry_after=7"}), status: "429 rate_limit_exceeded", retry: "7", attempts: []string{gpt + "failed upstream_error", luma + "failed rate_limit_exceeded"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachHouse(t, Options{Failover: failover.Options{RetrySafe: map[string]bool{"openai": tt.safe}}}, func(t *testing.T, h *house) {
				h.aliases(`{"both":["openai/gpt-5-mini","openrouter/openai/gpt-4.1-mini"]}`)
				if tt.down {
					h.opts.Upstreams["openai"] = absent(t)
				}
				if tt.warm {
					h.chat("warm", "").want(t, 200)
				}
				for _, more := range []string{"", `,"stream":true`} {
					if (tt.warm || tt.whole) && more != "" {
						continue
					}
					h.sim.Unplay()
					h.play(tt.scripts...)
					h.failover = failover.New(h.opts.Failover)
					seen := len(h.attempts())
					thread := fmt.Sprint("t", len(more))
					r := h.do("POST", "/v1/chat/completions", `{"model":"`+tt.model+`","messages":[{"role":"user","content":"hello"}]`+more+`}`, "X-Thread-Id", thread)
					status := strings.TrimSpace(fmt.Sprint(r.status, " ", r.code()))
					if !strings.HasPrefix(status, tt.status) || r.header.Get("Retry-After") != tt.retry && tt.retry != "" {
						t.Fatalf("%s: %s, to be asked again after %q", more, r.body, r.header.Get("Retry-After"))
					}
					if got := h.attemptsOf(r); !slices.EqualFunc(got, tt.attempts, strings.HasPrefix) {
						t.Errorf("%s: the attempts were\n%s", more, strings.Join(got, "\n"))
					}
					ok := r.status == 200
					if m := h.messages(id.Thread(thread)); len(m) != 2 || strings.HasSuffix(m[1], ":complete") != ok {
						t.Errorf("%s: the thread reads %q", more, m)
					}
					var last []string
					for _, a := range h.attempts()[seen:] {
						last = append(last, a.Provider)
					}
					if want := len(tt.attempts); !tt.down && len(last) != want {
						t.Errorf("%s: the providers saw %v", more, last)
					}
					if !h.free(id.Thread(thread)) {
						t.Errorf("%s: the turn is held", more)
					}
				}
			})
		})
	}
}

func faults(do string, times int) []simulator.Script {
	return []simulator.Script{{Provider: "openai", Do: do, Times: times}}
}

// absent is openai where nobody listens.
func absent(t *testing.T) upstreams.Upstream {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + ln.Addr().String()
	_ = ln.Close()
	u, err := openai.New(upstreams.Options{BaseURL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	return u
}
