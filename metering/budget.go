package metering

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/internal/seedbug"
)

// Period is for how long the money of a budget is. Periods begin at midnight UTC, weeks on Monday.
type Period string

const (
	Day   Period = "day"
	Week  Period = "week"
	Month Period = "month"
	Total Period = "total" // for good
)

// Start is when the period that t is in began. Total began before everything.
func (p Period) Start(t time.Time) time.Time {
	y, m, d := t.UTC().Date()
	switch p {
	case Day:
		return time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	case Week:
		return time.Date(y, m, d-int(t.UTC().Weekday()+6)%7, 0, 0, 0, 0, time.UTC)
	case Month:
		return time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)
	}
	return time.Unix(0, 0).UTC()
}

// End is when the period that t is in ends, and the next one begins; zero for Total.
func (p Period) End(t time.Time) time.Time {
	start := p.Start(t)
	switch p {
	case Day:
		return start.AddDate(0, 0, 1)
	case Week:
		return start.AddDate(0, 0, 7)
	case Month:
		return start.AddDate(0, 1, 0)
	}
	return time.Time{}
}

// Sum is money over many lines, which a PicoUSD may be too small for. It prints as a PicoUSD does. The zero Sum is none.
type Sum struct{ pico big.Int }

// SumOf is p as a Sum.
func SumOf(p PicoUSD) (s Sum) {
	s.pico.SetInt64(int64(p))
	return s
}

// Plus is s and o together.
func (s Sum) Plus(o Sum) (sum Sum) {
	sum.pico.Add(&s.pico, &o.pico)
	return sum
}

// Minus is what is left of s without o.
func (s Sum) Minus(o Sum) (sum Sum) {
	sum.pico.Sub(&s.pico, &o.pico)
	return sum
}

// Cmp is negative where s is less than o, and positive where it is more.
func (s Sum) Cmp(o Sum) int { return s.pico.Cmp(&o.pico) }

// Pico is s as a PicoUSD; where it is too large, the largest or the smallest there is.
func (s Sum) Pico() PicoUSD {
	switch {
	case s.pico.IsInt64():
		return PicoUSD(s.pico.Int64())
	case s.pico.Sign() < 0:
		return math.MinInt64
	}
	return math.MaxInt64
}

// Percent is how much of whole s is, rounded down; of a whole of nothing, 100.
func (s Sum) Percent(whole PicoUSD) int64 {
	if whole <= 0 {
		return 100
	}
	var p big.Int
	p.Mul(&s.pico, big.NewInt(100))
	p.Quo(&p, big.NewInt(int64(whole)))
	if !p.IsInt64() {
		return math.MaxInt64
	}
	return max(0, p.Int64())
}

// String returns s in dollars, exact.
func (s Sum) String() string {
	if s.pico.IsInt64() {
		return PicoUSD(s.pico.Int64()).String()
	}
	var dollars, rest big.Int
	dollars.QuoRem(&s.pico, big.NewInt(int64(usd)), &rest)
	cents := PicoUSD(rest.Abs(&rest).Int64()).String() // 0 or 0.…
	return dollars.String() + cents[1:]
}

// MarshalText returns what String does; in JSON it becomes a string.
func (s Sum) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what ParseUSD does.
func (s *Sum) UnmarshalText(text []byte) error {
	p, err := ParseUSD(string(text))
	*s = SumOf(p)
	return err
}

// Scan reads a whole number of pico-dollars in digits.
func (s *Sum) Scan(v any) error {
	text, ok := v.(string)
	if _, good := s.pico.SetString(text, 10); !ok || !good {
		return fmt.Errorf("metering: a sum cannot be read from %T", v)
	}
	return nil
}

func (s Sum) digits() string { return s.pico.String() }

const usd = PicoUSD(1_000_000_000_000)

// Budget is how much an org, or a part of it, may spend in a period.
type Budget struct {
	ID     id.Budget
	Scope  string // org, team, user, key or thread
	Of     string // its id
	Period Period
	Limit  PicoUSD
	Hard   bool // no call is begun that might go beyond it
}

// Level is where a hard budget stands.
type Level struct {
	Budget
	Start time.Time // of the period
	Used  Sum       // what calls that were opened in it have cost, and may yet cost
	Needs PicoUSD   // what the call would have added
}

// Left is what may still be used.
func (l Level) Left() PicoUSD { return SumOf(l.Limit).Minus(l.Used).Pico() }

// Booking is what a unit changes in the hard budgets that its call counts in, which the store itself looks up by the call's
// row.
type Booking struct {
	Org  id.Org
	Call id.Request

	// Levels are those budgets as they stand after the commit, of Hold and More.
	Levels []Level
	// Over are those of them that have no room for it. The unit has changed nothing then, in no budget.
	Over []Level
	// Again says that there was no room beside other units of its group, and there may be now: run the unit again, Alone.
	Again bool

	kind  bookingKind
	epoch int
	hold  PicoUSD
	lines []*Line
}

// The kinds of bookings, in the order in which those of a group are made: what is given back can be taken in it.
type bookingKind int32

const (
	settles bookingKind = iota
	raises
	holds
)

// Budgets keeps what hard budgets have used: spent, as the ledger has it, and held for calls under way. For each of them
// and each of its periods that is one row, changed only in the transactions that open calls, make further attempts, and
// record them. A call counts in the period in which it was opened.
//
// Safe for concurrent use.
type Budgets struct {
	db    db.Store
	lock  *db.StageOf[Booking]
	begin *db.StageOf[Booking]
	book  *db.StageOf[Booking]
	full  fullBudgets
	soft  spending
	drift atomic.Int64

	mu    sync.Mutex
	moved map[id.Org]time.Time // whose budgets were booked in, or changed, since they were checked: until when to check again
}

// NewBudgets returns Budgets. Give its stages to db.Open, between those of threads that open, and the store to Use.
func NewBudgets() *Budgets {
	b := &Budgets{moved: map[id.Org]time.Time{}}
	b.lock = db.NewStage("metering.lock", lockPostgres, nothingSQLite)
	b.begin = db.NewStage("metering.begin", beginPostgres, nothingSQLite)
	b.book = db.NewStage("metering.book", bookPostgres, bookSQLite)
	return b
}

// Use gives Budgets the store it reads from.
func (b *Budgets) Use(store db.Store) { b.db = store }

// Stages look at the calls that a unit has opened and closed, and at the lines it has written.
func (b *Budgets) Stages() []db.Stage { return []db.Stage{b.lock, b.begin, b.book} }

const bookingSize = 128

// Hold adds to a unit that opens a call the reservation of the call's hold in each hard budget that it counts in. Where one
// of them has no room the call is taken back, and Over says so.
func (b *Budgets) Hold(u *db.Unit, k *Booking) {
	k.kind = holds
	b.begin.Put(u, k, 0)
	b.put(u, k)
}

// More adds to a unit of its own what an open call may cost more than it holds: to be made before the attempt that may.
// hold is the whole call's; less than it holds changes nothing.
func (b *Budgets) More(u *db.Unit, k *Booking, epoch int, hold PicoUSD) {
	k.kind, k.epoch, k.hold = raises, epoch, hold
	b.lock.Put(u, k, 0)
	b.put(u, k)
}

// Settle adds to a unit that writes lines of a call, and may close it, what that changes: what the lines say, instead of the
// hold. It is made in any case, whatever the limit.
func (b *Budgets) Settle(u *db.Unit, org id.Org, call id.Request, lines ...*Line) {
	if seedbug.On("failed-keeps-hold") && !slices.ContainsFunc(lines, func(l *Line) bool { return l.Charge.Cost != 0 }) {
		return
	}
	b.put(u, &Booking{Org: org, Call: call, kind: settles, lines: lines})
	b.full.forget(org)
}

func (b *Budgets) put(u *db.Unit, k *Booking) {
	b.book.Put(u, k, bookingSize)
	b.touch(k.Org, 0)
}

// touch has Check look at an org's budgets, and again until d is over.
func (b *Budgets) touch(org id.Org, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if until := time.Now().Add(d); until.After(b.moved[org]) {
		b.moved[org] = until
	}
}

func (k *Booking) reset() { k.Levels, k.Over, k.Again = nil, nil, false }

// counts is the condition that a call c counts in a budget b.
const counts = `b.org_id = c.org_id AND (b.scope = 'org' AND b.scope_id = c.org_id OR b.scope = 'team' AND b.scope_id = c.team_id
  OR b.scope = 'user' AND b.scope_id = c.user_id OR b.scope = 'key' AND b.scope_id = c.key_id OR b.scope = 'thread' AND b.scope_id = c.thread_id)`

// Full reports the hard budgets among list that had no room for hold less than a second ago, as far as none of their calls
// has ended here since. Postgres has the last word where it says none.
func (b *Budgets) Full(org id.Org, list []Budget, hold PicoUSD, now time.Time) []Level {
	return b.full.of(org, list, hold, now)
}

// Refused remembers a refusal for Full.
func (b *Budgets) Refused(org id.Org, over []Level, now time.Time) { b.full.add(org, over, now) }

// Forget is for when budgets of an org have changed: what was remembered of them is no more.
func (b *Budgets) Forget(org id.Org) {
	b.full.forget(org)
	b.soft.forget(org)
}

// fullFor is how long a refusal is remembered.
const fullFor = time.Second

// fullBudgets are those that had no room a moment ago. They save the store from what it would refuse again.
type fullBudgets struct {
	mu sync.Mutex
	at map[id.Org]map[id.Budget]full
}

type full struct {
	Level
	until time.Time
}

// maxFull bounds how many orgs are remembered; beyond that all are forgotten.
const maxFull = 4096

func (f *fullBudgets) add(org id.Org, over []Level, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at == nil || len(f.at) >= maxFull {
		f.at = map[id.Org]map[id.Budget]full{}
	}
	if f.at[org] == nil {
		f.at[org] = map[id.Budget]full{}
	}
	for _, l := range over {
		f.at[org][l.ID] = full{l, now.Add(fullFor)}
	}
}

func (f *fullBudgets) of(org id.Org, list []Budget, hold PicoUSD, now time.Time) (over []Level) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := f.at[org]
	if len(known) == 0 {
		return nil
	}
	for _, b := range list {
		k, ok := known[b.ID]
		if ok && b.Hard && now.Before(k.until) && b.Limit == k.Limit && k.Start.Equal(b.Period.Start(now)) && hold > k.Left() {
			k.Needs = hold
			over = append(over, k.Level)
		}
	}
	return over
}

func (f *fullBudgets) forget(org id.Org) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.at, org)
}

// scanLevel reads a level from the first columns of a row.
func scanLevel(r db.Row, l *Level, more ...any) error {
	var start db.Time
	var limit, needs int64
	err := r.Scan(append([]any{&l.ID, &l.Scope, &l.Of, &l.Period, &start, &limit, &l.Used, &needs}, more...)...)
	l.Start, l.Limit, l.Needs, l.Hard = start.Time, PicoUSD(limit), PicoUSD(needs), true
	return err
}
