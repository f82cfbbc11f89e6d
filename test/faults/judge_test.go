package faults

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"threadhub/internal/id"
	"threadhub/migrations"
	"threadhub/simulator"
	"threadhub/test/kills"
	"threadhub/test/rig"
)

// held is what the store holds of an exchange.
type held struct {
	call     *kills.Call // nil: no call
	inputs   []kills.Message
	answer   *kills.Message
	attempts []kills.Attempt
	lines    []kills.Line // of use
	late     []kills.Line // of other kinds
}

func (w *world) rows() *kills.Rows {
	w.Helper()
	all, err := w.db.Read(context.Background(), id.Org(w.who.Org))
	if err != nil {
		w.Fatal(err)
	}
	return all[0]
}

// holds returns what the store holds of e: of its call, by its id, or, where no id came, by its message.
func (w *world) holds(e *kills.Exchange) (h held) {
	w.Helper()
	rows := w.rows()
	call := e.Request
	for _, m := range rows.Messages {
		if m.Role == "user" && m.Text == e.Text {
			h.inputs = append(h.inputs, m)
			if call == "" {
				call = m.Call
			}
		}
	}
	for i, c := range rows.Calls {
		if c.ID == call {
			h.call = &rows.Calls[i]
		}
	}
	for i, m := range rows.Messages {
		if m.Call == call && m.Role == "assistant" {
			h.answer = &rows.Messages[i]
		}
	}
	for _, a := range rows.Attempts {
		if a.Call == call {
			h.attempts = append(h.attempts, a)
		}
	}
	for _, l := range rows.Lines {
		switch {
		case l.Call != call:
		case l.Kind == "use":
			h.lines = append(h.lines, l)
		default:
			h.late = append(h.late, l)
		}
	}
	return h
}

// settled waits for the end of e's call.
func (w *world) settled(e *kills.Exchange) held {
	w.Helper()
	w.eventually(20*time.Second, func() bool {
		h := w.holds(e)
		return h.call == nil || h.call.State == "closed"
	}, "the call %s of %q to be closed", e.Request, e.Text)
	return w.holds(e) // messages are read before calls: those of the moment of its closing may be missing
}

// What a ledger line is.
const (
	exact     = "exact"     // as the provider told
	estimated = "estimated" // by an estimate
	free      = "free"      // nothing, and nobody worked for it
	perhaps   = "perhaps"   // nothing, but the provider may have billed
	noLine    = "none"
)

// end is what became of an exchange. Members that are empty are not looked at.
type end struct {
	status  int
	codes   []string // one of them
	done    bool     // the answer was acknowledged
	outcome string   // of the call; "none": there is no call
	reason  []string // one of them
	line    string
	within  time.Duration // from the question to the end
}

// Ends that many rows have.
var (
	well    = end{status: 200, done: true, outcome: "complete", line: exact}
	nothing = end{outcome: "none", line: noLine} // nothing is kept, and nobody was asked
)

// refused is an answer with an error and nothing of it kept.
func refused(status int, code string) end {
	e := nothing
	e.status, e.codes = status, []string{code}
	return e
}

// broken is a stream that ends in an error, with what came kept.
func broken(line string, code ...string) end {
	return end{status: 200, codes: code, outcome: "incomplete", reason: code, line: line}
}

// failed is an answer with an error, and an empty one in the thread.
func failed(status int, line string, code ...string) end {
	return end{status: status, codes: code, outcome: "failed", reason: code, line: line}
}

// want compares what became of e with what should have.
func (w *world) want(e *kills.Exchange, is end) held {
	w.Helper()
	h := w.settled(e)
	wrong := func(format string, args ...any) {
		w.Helper()
		w.Errorf("%s: %s (status %d %q, done %v, seen %.60q, error %v; kept: %s)", e.Text, fmt.Sprintf(format, args...), e.Status, e.Code, e.Done, e.Seen, e.Err, h)
	}
	if is.status != 0 && e.Status != is.status {
		wrong("want status %d", is.status)
	}
	if is.codes != nil && !slices.Contains(is.codes, e.Code) {
		wrong("want code %v", is.codes)
	}
	if is.done != e.Done {
		wrong("want done %v", is.done)
	}
	if is.within != 0 && took(e) > is.within+slack {
		wrong("it took %v, not %v", took(e), is.within)
	}
	if e.Status == 503 && e.Answer.Get("Retry-After") == "" {
		wrong("there is no Retry-After")
	}
	switch {
	case is.outcome == "":
		return h
	case is.outcome == "none":
		if h.call != nil || len(h.inputs) > 0 || w.sent(e) {
			wrong("nothing should be kept, and nobody asked")
		}
		return h
	case h.call == nil:
		wrong("there is no call")
		return h
	case h.call.Outcome != is.outcome:
		wrong("want outcome %s", is.outcome)
	case is.reason != nil && !slices.Contains(is.reason, h.call.Reason):
		wrong("want reason %v", is.reason)
	}
	if e.Thread != "" && len(h.inputs) != 1 {
		wrong("the input is there %d times", len(h.inputs))
	}
	if e.Thread != "" && h.answer == nil {
		wrong("there is no answer in the thread")
	}
	line := h.line()
	if is.line == estimated && line == exact && w.provider() == "gemini" && e.Stream {
		line = estimated // every chunk of Gemini's tells the usage so far
	}
	if is.line != "" && line != is.line {
		wrong("want a line that is %s", is.line)
	}
	return h
}

// line is what the last line of use is.
func (h held) line() string {
	if len(h.lines) == 0 {
		return noLine
	}
	switch l := h.lines[len(h.lines)-1]; {
	case l.CostPico == 0 && l.Input+l.Output+l.Cached == 0 && l.MaybeBilled:
		return perhaps
	case l.CostPico == 0 && l.Input+l.Output+l.Cached == 0:
		return free
	case l.Status == "estimated", l.Status == "unpriced": // of a model that only its provider has a price for
		return estimated
	}
	return exact
}

func (h held) String() string {
	if h.call == nil {
		return "no call"
	}
	answer := "none"
	if h.answer != nil {
		answer = fmt.Sprintf("%s %s %.60q", h.answer.Status, h.answer.Reason, h.answer.Text)
	}
	return fmt.Sprintf("call %s %s %s, %d inputs, answer %s, attempts %v, line %s", h.call.State, h.call.Outcome, h.call.Reason, len(h.inputs), answer, h.attempts, h.line())
}

// afterEnd is what the simulator says after the end of its answer, if it does: no part of it.
const afterEnd = "after the end"

// seen are the attempts of the row's org, as the providers have them.
func (w *world) seen() (list []simulator.Attempt) {
	ours := map[string]bool{}
	for _, p := range rig.Providers {
		ours[simulator.KeyHash("sk-"+p+"-of-"+w.who.Org)] = true
	}
	log := w.sim.Log()
	for _, s := range w.also {
		log = append(log, s.Log()...)
	}
	for _, a := range log {
		if ours[a.KeyHash] {
			if a.Provider != "gemini" { // which has no mark for its end but the end
				a.Text = strings.TrimSuffix(a.Text, afterEnd)
			}
			list = append(list, a)
		}
	}
	return list
}

// sent reports whether a provider was asked for e.
func (w *world) sent(e *kills.Exchange) bool {
	return slices.ContainsFunc(w.seen(), func(a simulator.Attempt) bool {
		return strings.Contains(string(a.Body), strings.TrimSpace(strings.Split(e.Text, "[[")[0])+" ") || e.Request != "" && strings.HasPrefix(a.Name, string(e.Request)+"-")
	})
}

// read notes what a thread holds, as the API tells it.
func (w *world) read(g *rig.Gateway, thread id.Thread) {
	r, err := g.Do(context.Background(), "GET", "/api/threads/"+string(thread), w.who.Key, nil)
	if err != nil || r.Status != 200 {
		return
	}
	var body struct {
		Messages []struct {
			Sequence              int
			Role, Status, Content string
		}
	}
	w.must(r.JSON(&body))
	read := kills.Read{Org: id.Org(w.who.Org), Thread: thread}
	for _, m := range body.Messages {
		if m.Status != "pending" {
			read.Messages = append(read.Messages, kills.Message{Seq: m.Sequence, Role: m.Role, Text: m.Content, Status: m.Status})
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reads = append(w.reads, read)
}

var orgIDs = regexp.MustCompile(`org_[0-9a-z]{6,}`)

// judge checks the invariants when all that was asked is over.
func (w *world) judge() {
	w.Helper()
	w.eventually(25*time.Second, func() bool {
		return !slices.ContainsFunc(w.rows().Calls, func(c kills.Call) bool { return c.State != "closed" })
	}, "all calls to be closed")
	w.eventually(20*time.Second, func() bool {
		return !slices.ContainsFunc(w.seen(), func(a simulator.Attempt) bool { return a.End == "" })
	}, "the providers to be through with all attempts")
	w.mu.Lock()
	asked, reads := w.undone.without(w.asked), w.reads
	w.mu.Unlock()
	seen := slices.DeleteFunc(w.seen(), func(a simulator.Attempt) bool { return w.undone.has(a.Begun) })
	for _, v := range kills.Check(kills.Evidence{
		Orgs: []*kills.Rows{w.rows()}, Seen: seen, Asked: asked, Reads: reads, Embedded: w.sqlite,
	}) {
		if w.excused[v.Rule] == "" {
			w.Error(v)
		}
	}
	for _, e := range asked {
		w.foreign(e)
	}
	w.logs()
	if !w.sqlite {
		w.guard()
	}
	if !w.shared() {
		w.atRest()
	}
	w.ledgers()
}

// span is a time between two moments.
type span [2]time.Time

func (s span) has(at time.Time) bool { return at.After(s[0]) && at.Before(s[1]) }

// without is what of asked began outside of the span. What ended in it was not acknowledged.
func (s span) without(asked []*kills.Exchange) (list []*kills.Exchange) {
	for _, e := range asked {
		if s.has(e.Began) {
			continue
		}
		if s.has(e.Ended) {
			lost := *e
			lost.Done = false
			e = &lost
		}
		list = append(list, e)
	}
	return list
}

// foreign looks for what is another org's in what a client got.
func (w *world) foreign(e *kills.Exchange) {
	raw := string(e.Raw)
	if strings.Contains(raw, w.secret) {
		w.Errorf("an answer holds another org's secret: %.200q", raw)
	}
	if i := strings.Index(raw, "-of-"+w.who.Org); i >= 0 {
		w.Errorf("an answer holds the org's own key at a provider: %.200q", raw[max(0, i-100):])
	}
	for _, org := range orgIDs.FindAllString(raw, -1) {
		if !strings.HasPrefix(org, w.who.Org) {
			w.Errorf("an answer names %s: %.200q", org, raw)
		}
	}
}

// logs looks for what must not be in them: panics, keys and contents.
func (w *world) logs() {
	log := w.house.Log.String()
	for _, bad := range []string{"panic", "DATA RACE", "fatal error", w.who.Key, w.stranger.Key, w.secret, "-of-" + w.who.Org, " of " + w.row.id + ", " + w.who.Org} {
		if bad == "panic" && w.row.id == "G10" {
			continue
		}
		if i := strings.Index(log, bad); i >= 0 {
			w.Errorf("the log holds %q: %.300s", bad, log[max(0, i-100):])
		}
	}
}

// guard asks the running database for its row-level security.
func (w *world) guard() {
	conn := w.connect()
	defer func() { _ = conn.Close(context.Background()) }()
	if err := migrations.Guard(context.Background(), conn); err != nil {
		w.Errorf("row-level security: %v", err)
	}
}

// atRest waits until the gateways have let go of everything.
func (w *world) atRest() {
	rig.CloseIdle()
	for _, g := range w.g {
		select {
		case <-g.Ended():
			continue
		default:
		}
		var now map[string]float64
		w.eventually(20*time.Second, func() bool {
			now = w.metrics(g)
			return now["threadhub_requests_inflight"] == 0 && now["threadhub_connections_open"] == 0 && now["go_goroutines"] < 120
		}, "the gateway to be at rest: in flight, connections, goroutines")
		if n := now["threadhub_panics_total"]; n != 0 && w.row.id != "G10" {
			w.Errorf("%v panics", n)
		}
	}
}

// ledgers has the product verify what it says can be verified.
func (w *world) ledgers() {
	if w.shared() {
		return // others are at work in it
	}
	cmd := exec.Command(w.house.Bin, "audit", "verify")
	cmd.Env = append(slices.Clone(w.house.Env), "DATABASE_URL="+w.db.URL)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.Errorf("audit verify: %v: %s", err, out)
	}
}

// pages fetches what operators read.
var pages = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// metrics reads all of a gateway's metrics, by name and labels; nil if it does not answer.
func (w *world) metrics(g *rig.Gateway) map[string]float64 {
	r, err := pages.Get(g.Operator + "/metrics")
	if err != nil {
		return nil
	}
	defer func() { _ = r.Body.Close() }()
	return parseMetrics(r.Body)
}

func parseMetrics(r io.Reader) map[string]float64 {
	all := map[string]float64{}
	for lines := bufio.NewScanner(r); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), "} ")
		if ok {
			name += "}"
		} else {
			name, value, ok = strings.Cut(lines.Text(), " ")
		}
		if n, err := strconv.ParseFloat(value, 64); ok && err == nil {
			all[name] = n
		}
	}
	return all
}

// moved checks that a metric of the first gateway has grown since the row began; of those with labels, that one has
// which holds all parts.
func (w *world) moved(name string, parts ...string) {
	w.Helper()
	w.eventually(10*time.Second, func() bool {
		for full, n := range w.metrics(w.g[0]) {
			fits := strings.HasPrefix(full, name) && !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(full, p) })
			if fits && n > w.before[full] {
				return true
			}
		}
		return false
	}, "the metric %s %v to move", name, parts)
}
