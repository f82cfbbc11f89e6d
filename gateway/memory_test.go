package gateway

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/metering"
	"threadhub/threads"
)

// memory is a store in memory, for schedules: a hundred thousand of them would take a real one an hour. It does what
// Postgres does with what chats ask of it, in the words in which they ask, and knows nothing else. It has one org.
// TestMemoryIsLikeTheStores plays the same schedules on it and on a real one.
type memory struct {
	db.Store // nil: what no chat asks for
	stages   []db.Stage

	mu       sync.Mutex // a transaction has it to its end
	leases   map[id.Owner]time.Time
	calls    map[id.Request]*memCall
	opened   []*memCall // in their order
	threads  map[id.Thread]*memThread
	lines    []metering.Line
	replays  map[id.Request]*calls.Replay
	commits  int
	mistakes []string // what broke a key
}

type memCall struct {
	calls.Opening
	owner    id.Owner
	epoch    int
	state    string
	outcome  calls.Outcome
	reason   string
	record   string
	facts    [][]byte // to be merged, the first of them first
	openedAt time.Time
	closedAt time.Time
	until    time.Time // of the claim
	attempts []calls.Attempt

	openedBy, closedBy int // which commit
}

type memThread struct {
	threads.Thread
	messages []*threads.Message
}

func newMemory(stages []db.Stage) *memory {
	db.Order(stages)
	return &memory{
		stages: stages, leases: map[id.Owner]time.Time{}, calls: map[id.Request]*memCall{}, threads: map[id.Thread]*memThread{},
		replays: map[id.Request]*calls.Replay{},
	}
}

func (m *memory) Dialect() db.Dialect { return db.Postgres }

// Commit runs u's rows one after the other, as Postgres runs the stages of a group.
func (m *memory) Commit(_ context.Context, u *db.Unit) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.commits++
	before := len(m.mistakes)
	u.Rows(m.stages, func(stage string, row any) {
		switch r := row.(type) {
		case *calls.Further:
			m.further(r)
		case *calls.Closing:
			m.closing(stage, r)
		case *calls.Taking:
			m.taking(r)
		case *threads.Answer:
			m.answer(r)
		case *calls.Replay:
			if c := m.calls[r.Call]; c != nil && c.closedBy == m.commits && c.Claim != "" && c.outcome == calls.Complete {
				m.replays[r.Call] = r
			}
		case *metering.Line:
			m.line(r)
		case *calls.Opening:
			m.opening(stage, r)
		case *threads.Input:
			m.input(stage, r)
		default:
			panic("memory knows no row of " + stage)
		}
	})
	if len(m.mistakes) > before {
		return fmt.Errorf("%s", m.mistakes[before])
	}
	return nil
}

func asJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func (m *memory) taking(r *calls.Taking) {
	c, me, epoch := m.calls[r.Of.ID], r.By, r.Of.Epoch
	if r.Taken = c != nil && c.state == "open" && (c.epoch == epoch || c.owner == me && c.epoch == epoch+1); r.Taken {
		c.owner, c.epoch = me, epoch+1
	}
}

func (m *memory) further(r *calls.Further) {
	c := m.calls[r.ID]
	if r.Begun = c != nil && c.state == "open" && c.epoch == r.Epoch; !r.Begun {
		return
	}
	c.HoldPico = r.HoldPico
	c.facts = append(c.facts, asJSON(r.Aim))
	c.ended(r.Before)
	if len(c.attempts) == r.N {
		c.attempts = append(c.attempts, calls.Attempt{N: r.N, Provider: r.Provider, Model: r.Model, KeyName: r.KeyName, State: calls.Begun, StartedAt: time.Now()})
	}
}

func (c *memCall) ended(e calls.AttemptEnd) {
	if e.N >= len(c.attempts) {
		return
	}
	a := &c.attempts[e.N]
	a.State, a.Status, a.Code, a.UpstreamID, a.MaybeBilled, a.EndedAt = e.State, e.Status, e.Code, e.UpstreamID, e.MaybeBilled, time.Now()
}

func (m *memory) closing(stage string, r *calls.Closing) {
	c := m.calls[r.ID]
	switch stage {
	case "calls.close":
		if c == nil || c.epoch != r.Epoch || c.state != "open" {
			return
		}
		c.state, c.outcome, c.reason, c.record, c.closedAt, c.closedBy = "closed", r.Outcome, r.Reason, r.RecordID, time.Now(), m.commits
		c.facts = append(c.facts, asJSON(r.Facts))
		if r.Outcome != calls.Complete {
			c.Claim = ""
		}
	case "calls.end":
		if c != nil && c.closedBy == m.commits {
			for _, a := range r.Attempts {
				c.ended(a)
			}
		}
	default:
		r.Recorded = c != nil && c.record == r.RecordID
	}
}

func (m *memory) answer(r *threads.Answer) {
	c := m.calls[r.Call]
	if c == nil || c.closedBy != m.commits || c.Thread == "" {
		return
	}
	a := r.Message
	a.Seq, a.Call = c.FirstSeq+c.NIn, c.ID
	m.append(c.Thread, a)
}

func (m *memory) append(thread id.Thread, a threads.Message) {
	t := m.threads[thread]
	if a.Seq != len(t.messages) {
		m.mistakes = append(m.mistakes, fmt.Sprintf("message %d of %s, where %d is due", a.Seq, thread, len(t.messages)))
		return
	}
	if a.CreatedAt.IsZero() {
		a.CreatedAt = time.Now()
	}
	a.Raw = bytes.Clone(a.Raw)
	t.messages = append(t.messages, &a)
}

func (m *memory) line(r *metering.Line) {
	c := m.calls[r.Call]
	if c == nil || c.closedBy != m.commits && (r.Kind == metering.Use || c.state != "closed") {
		return
	}
	if !slices.ContainsFunc(m.lines, func(l metering.Line) bool { return l.Call == r.Call && l.N == r.N && l.Kind == r.Kind }) {
		m.lines = append(m.lines, *r)
	}
}

// holder is the open call of a thread.
func (m *memory) holder(thread id.Thread) *memCall {
	for _, c := range m.opened {
		if thread != "" && c.Thread == thread && c.state == "open" {
			return c
		}
	}
	return nil
}

// claimant is the call that has a claim.
func (m *memory) claimant(key id.Key, claim string) *memCall {
	for _, c := range m.opened {
		if claim != "" && c.Key == key && c.Claim == claim {
			return c
		}
	}
	return nil
}

func (m *memory) opening(stage string, r *calls.Opening) {
	c := m.calls[r.ID]
	switch stage {
	case "calls.open":
		if c != nil || m.holder(r.Thread) != nil || m.claimant(r.Key, r.Claim) != nil {
			return
		}
		c = &memCall{Opening: *r, owner: r.Owner, state: "open", facts: [][]byte{asJSON(r.Facts)}, openedAt: time.Now(), until: time.Now().Add(calls.ClaimFor), openedBy: m.commits}
		m.calls[r.ID] = c
		m.opened = append(m.opened, c)
	case "calls.begin":
		if c != nil && c.openedBy == m.commits {
			c.attempts = []calls.Attempt{{Provider: r.Provider, Model: r.Model, KeyName: r.KeyName, State: calls.Begun, StartedAt: time.Now()}}
		}
	case "calls.opened":
		switch {
		case c != nil:
			r.Result = calls.Won
		case m.claimant(r.Key, r.Claim) != nil:
			r.Result = calls.Repeats
		case m.holder(r.Thread) != nil:
			r.Result = calls.Busy
		default:
			r.Result = calls.Stale
		}
	default:
		panic("memory knows no stage " + stage)
	}
}

func (m *memory) input(stage string, r *threads.Input) {
	c := m.calls[r.Call]
	if c == nil || c.openedBy != m.commits {
		return
	}
	t := m.threads[r.Thread]
	switch stage {
	case "threads.fence":
		seq, chain := -1, []byte(nil)
		if t != nil && len(t.messages) > 0 {
			head := t.messages[len(t.messages)-1]
			seq, chain = head.Seq, head.Chain
		}
		if seq != r.PrevSeq || !bytes.Equal(chain, r.PrevChain) || r.Create != (t == nil) {
			delete(m.calls, c.ID)
			m.opened = slices.DeleteFunc(m.opened, func(o *memCall) bool { return o == c })
		}
	case "threads.create":
		m.threads[r.Thread] = &memThread{Thread: threads.Thread{ID: r.Thread, Org: r.Org, User: r.User, Visibility: "org", CreatedAt: time.Now()}}
	case "threads.append":
		for _, in := range r.Messages {
			in.Call = r.Call
			m.append(r.Thread, in)
		}
	default:
		panic("memory knows no stage " + stage)
	}
}

// Query is db.Store's.
func (m *memory) Query(_ context.Context, _ id.Org, qs ...db.Query) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.query(qs...)
}

func (m *memory) query(qs ...db.Query) error {
	for _, q := range qs {
		for _, row := range m.rows(q.SQL, q.Args) {
			if err := q.Each(row); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *memory) Write(ctx context.Context, _ id.Org, f func(db.Tx) error) error { return m.tx(ctx, f) }

func (m *memory) Common(ctx context.Context, f func(db.Tx) error) error { return m.tx(ctx, f) }

func (m *memory) Walk(ctx context.Context, f func(db.Tx) error) error { return m.tx(ctx, f) }

func (m *memory) tx(ctx context.Context, f func(db.Tx) error) error {
	if ctx.Err() != nil { // it has waited too long
		return ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return f(memTx{m: m})
}

// rows answers a SELECT that a room sends, whose words it is known by.
func (m *memory) rows(sql string, args []any) (rows []memRow) {
	says := func(words string) bool { return strings.Contains(sql, words) }
	switch {
	case says("FROM threads t"):
		if t := m.threads[args[1].(id.Thread)]; t != nil {
			updated := t.CreatedAt
			if n := len(t.messages); n > 0 {
				updated = t.messages[n-1].CreatedAt
			}
			return []memRow{{t.Org, t.ID, t.User, "", "", t.Visibility, nil, nil, nil, t.CreatedAt, nil, updated}}
		}
	case says("role = 'system'"): // nobody sends one
	case says("raw FROM messages WHERE org_id = $1 AND thread_id = $2 ORDER BY seq"): // the judge's
		if t := m.threads[args[1].(id.Thread)]; t != nil {
			for _, a := range t.messages {
				rows = append(rows, memRow{a.Seq, a.Call, a.Role, string(a.Status), a.Raw})
			}
		}
	case says("claim IS NOT NULL, EXISTS"): // the judge's
		if c := m.calls[args[1].(id.Request)]; c != nil {
			rows = append(rows, memRow{c.epoch, c.record, c.Claim != "", m.replays[c.ID] != nil})
		}
	case says("FROM messages"), says("FROM (SELECT *, sum(octet_length(raw))"):
		t, most := m.threads[args[1].(id.Thread)], 1
		if len(args) > 2 {
			most = args[2].(int)
		}
		for i := 0; t != nil && i < min(most, len(t.messages)); i++ {
			a := t.messages[len(t.messages)-1-i]
			rows = append(rows, memRow{a.Seq, a.Call, a.Role, a.Raw, a.Own, a.Chain, string(a.Status), orNothing(a.Reason), a.Meta, a.CreatedAt})
		}
	case says("claim_until <= now()"):
		if c := m.claimant(args[1].(id.Key), args[2].(string)); c != nil {
			rows = append(rows, memRow{
				c.ID, c.state == "open", c.owner, m.lives(c), orNothing(string(c.Thread)), c.BodyHash, c.merged(), c.FirstSeq + c.NIn - 1,
				c.state != "open" && !c.until.After(time.Now()),
			})
		}
	case says("FROM replays"):
		if r := m.replays[args[1].(id.Request)]; r != nil {
			rows = append(rows, memRow{string(asJSON(r.Header)), r.Body, r.Stream})
		}
	case says("ORDER BY opened_at DESC, call_id DESC"):
		for _, c := range slices.Backward(m.opened) {
			same := c.Finger == args[1].(int64) && c.Key == args[2].(id.Key) && bytes.Equal(c.BodyHash, args[3].([]byte))
			open := c.state == "open" && m.lives(c)
			if same && (open || c.outcome == calls.Complete && time.Since(c.closedAt) <= args[4].(time.Duration)) {
				return []memRow{{c.ID, c.state == "open"}}
			}
		}
	case says("SELECT state = 'closed', outcome"):
		if c := m.calls[args[1].(id.Request)]; c != nil {
			closed := c.state == "closed"
			settled := closed && (c.reason == reasonLost || time.Since(c.closedAt) >= args[2].(time.Duration) || !m.lives(c))
			rows = append(rows, memRow{closed, orNothing(string(c.outcome)), settled})
		}
	case says("FROM ledger"):
		for _, l := range m.lines {
			if string(l.Call) == args[1].(string) {
				rows = append(rows, lineRow(l))
			}
		}
	case says("FROM attempts"):
		if c := m.calls[args[1].(id.Request)]; c != nil {
			for _, a := range c.attempts {
				rows = append(rows, memRow{
					a.N, a.Provider, a.Model, a.KeyName, string(a.State), int64(a.Status), a.Code, a.UpstreamID, a.MaybeBilled, nil, nil, a.StartedAt, a.EndedAt,
				})
			}
		}
	case says("SELECT org_id, call_id, key_id"):
		if c := m.calls[args[1].(id.Request)]; c != nil {
			rows = append(rows, memRow{
				c.Org, c.ID, c.Key, c.User, nil, orNothing(string(c.Thread)), c.epoch, c.state, orNothing(string(c.outcome)), orNothing(c.reason),
				c.FirstSeq, c.NIn, c.HoldPico, c.merged(), c.openedAt, c.closedAt,
			})
		}
	case says("SELECT DISTINCT owner FROM calls"):
		owners := map[id.Owner]bool{}
		for _, c := range m.opened {
			if c.state == "open" && !owners[c.owner] {
				owners[c.owner] = true
				rows = append(rows, memRow{c.owner})
			}
		}
	case says("SELECT owner FROM incarnations"):
		for _, o := range slices.Sorted(maps.Keys(m.leases)) {
			if !m.leases[o].Before(time.Now()) {
				rows = append(rows, memRow{o})
			}
		}
	case says("SELECT org_id, call_id, epoch FROM calls WHERE state = 'open' AND owner = $1"):
		for _, c := range m.opened {
			if c.state == "open" && c.owner == args[0].(id.Owner) {
				rows = append(rows, memRow{c.Org, c.ID, c.epoch})
			}
		}
	default:
		panic("memory does not know: " + sql)
	}
	return rows
}

// lives is calls.ownerLives.
func (m *memory) lives(c *memCall) bool {
	return c.epoch == 0 && !m.leases[c.owner].Before(time.Now())
}

// merged is a call's facts, each part over those before it.
func (c *memCall) merged() []byte {
	if len(c.facts) > 1 {
		all := map[string]json.RawMessage{}
		for _, f := range c.facts {
			if err := json.Unmarshal(f, &all); err != nil {
				panic(err)
			}
		}
		c.facts = [][]byte{asJSON(all)}
	}
	return c.facts[0]
}

func lineRow(l metering.Line) memRow {
	ch := l.Charge
	pico := func(p *metering.PicoUSD) any {
		if p == nil {
			return nil
		}
		return int64(*p)
	}
	return memRow{
		l.N, l.Kind, l.Key, l.User, l.Team, l.Thread, l.Provider, l.Model,
		ch.Input, ch.Cached, ch.CacheWrite, ch.AudioInput, ch.ToolInput, ch.Output, ch.Reasoning, ch.AudioOutput, ch.ImageOutput, ch.Searches,
		int64(ch.Cost), pico(ch.Computed), pico(ch.Provider), pico(ch.Vendor), string(ch.Status), l.MaybeBilled, ch.Version, nil,
	}
}

func orNothing(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// memTx is a transaction of which everybody sees at once what it does.
type memTx struct {
	db.Tx
	m *memory
}

func (t memTx) Dialect() db.Dialect { return db.Postgres }

func (t memTx) Query(_ context.Context, sql string, args []any, each func(db.Row) error) error {
	return t.m.query(db.Query{SQL: sql, Args: args, Each: each})
}

// QueryRow answers the one such question that is asked in a transaction: how many processes there are.
func (t memTx) QueryRow(_ context.Context, sql string, _ []any, dest ...any) error {
	if !strings.Contains(sql, "count(*) FROM incarnations") {
		panic("memory does not know: " + sql)
	}
	alive := int64(0)
	for _, until := range t.m.leases {
		if until.After(time.Now()) {
			alive++
		}
	}
	return memRow{alive}.Scan(dest...)
}

// Exec answers what a room changes outside of units.
func (t memTx) Exec(_ context.Context, sql string, args ...any) (int64, error) {
	m := t.m
	switch {
	case strings.Contains(sql, "INSERT INTO incarnations"):
		m.leases[args[0].(id.Owner)] = time.Now().Add(args[1].(time.Duration))
	case strings.Contains(sql, "UPDATE incarnations"):
		m.leases[args[0].(id.Owner)] = time.Now()
	case strings.Contains(sql, "DELETE FROM incarnations"):
	case strings.Contains(sql, "UPDATE calls SET facts"):
		c := m.calls[args[1].(id.Request)]
		retry := int64(args[2].(int))
		if c == nil {
			return 0, nil
		}
		before := gjson.GetBytes(c.merged(), "retry").Int()
		if before == retry {
			return 0, nil
		}
		c.facts = append(c.facts, fmt.Appendf(nil, `{"retry":%d}`, max(before, retry)))
	default:
		panic("memory does not know: " + sql)
	}
	return 1, nil
}

// memRow is a row of a result.
type memRow []any

// Scan is db.Row's.
func (r memRow) Scan(dest ...any) error {
	for i, d := range dest {
		v := r[i]
		if t, ok := v.(time.Time); ok && t.IsZero() {
			v = nil
		}
		if s, ok := d.(sql.Scanner); ok {
			if err := s.Scan(v); err != nil {
				return err
			}
			continue
		}
		if b, ok := d.(*[]byte); ok && v != nil {
			*b = bytes.Clone(v.([]byte))
			continue
		}
		to := reflect.ValueOf(d).Elem()
		switch {
		case v == nil:
			to.SetZero()
		case to.Kind() == reflect.Pointer:
			p := reflect.New(to.Type().Elem())
			p.Elem().Set(reflect.ValueOf(v).Convert(to.Type().Elem()))
			to.Set(p)
		default:
			to.Set(reflect.ValueOf(v).Convert(to.Type()))
		}
	}
	return nil
}
