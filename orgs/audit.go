package orgs

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/id"
)

// The audit log of an org is a chain: each line's hash is over the hash before it and the line. The hashes are keyed
// with what the pepper gives, so whoever has the store alone cannot make a line, nor a chain that leaves one out. The
// head of the chain stands in the org's row with a mark of its own, so a line taken off the end is missed, and the hash
// of an older line cannot pass for the head. Somebody who can put back an older state of both, line by line, is found
// out only by comparing with a head that was printed before (threadhub audit verify --json).
//
// Lines name people by id and never by name or address: what the log holds, it holds for good.

// Actor is who makes an administrative change: the user and the API key of the request. The zero Actor is the operator,
// who works on the store itself.
type Actor struct {
	User id.User
	Key  id.Key
}

// Entry is what one change adds to the audit log.
type Entry struct {
	Action string // what was done, to what kind of thing: "key.create"
	Target string // the id of the thing
	Detail any    // what of it, as JSON; no secrets, no names or addresses of people. nil: {}
}

// AuditLine is one line of the log.
type AuditLine struct {
	Seq    int64 // from 1, gapless
	At     time.Time
	User   id.User // "" with Key: the operator
	Key    id.Key
	Action string
	Target string
	Detail json.RawMessage
}

// change is the only way to an administrative change. In one transaction bound to the org it holds the org, runs f and
// writes its entries down: without a line there is no change. An f that returns no entry has changed nothing, and what
// it did is rolled back. f may run more than once. Errors: fault.NotFound, org_not_found; what f returns; those of the
// store.
func (s *Service) change(ctx context.Context, org id.Org, by Actor, f func(tx db.Tx) ([]Entry, error)) error {
	return s.found(ctx, org, by, func(db.Tx) error { return nil }, f)
}

// found is change for an org that insert may have to make first.
func (s *Service) found(ctx context.Context, org id.Org, by Actor, insert func(db.Tx) error, f func(tx db.Tx) ([]Entry, error)) error {
	if len(s.pepper) == 0 {
		return errNotOpen
	}
	at := s.now()
	err := s.store.Write(ctx, org, func(tx db.Tx) error {
		if err := insert(tx); err != nil {
			return err
		}
		if err := holdOrg(ctx, tx, org); err != nil {
			return err
		}
		entries, err := f(tx)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return errUnchanged
		}
		return s.writeDown(ctx, tx, org, by, at, entries)
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}

// errUnchanged rolls back a change without an entry.
var errUnchanged = errors.New("orgs: nothing was changed")

// writeDown appends entries to the log of an org that is held.
func (s *Service) writeDown(ctx context.Context, tx db.Tx, org id.Org, by Actor, at time.Time, entries []Entry) error {
	var head auditHead
	err := tx.QueryRow(ctx, `SELECT audit_seq, audit_head FROM orgs WHERE org_id = $1`, []any{string(org)}, &head.seq, &head.stored)
	if err != nil {
		return err
	}
	last, genuine := s.open(org, head)
	if !genuine {
		s.log.Error("the head of an audit log is not as it was written: see threadhub audit verify", "org", org)
	}
	at = at.UTC().Truncate(time.Microsecond) // what both stores give back as they got it
	seq := head.seq
	for _, e := range entries {
		seq++
		detail := []byte("{}")
		if e.Detail != nil {
			if detail, err = json.Marshal(e.Detail); err != nil {
				return fmt.Errorf("orgs: the detail of %s: %w", e.Action, err)
			}
		}
		line := AuditLine{Seq: seq, At: at, User: by.User, Key: by.Key, Action: e.Action, Target: e.Target, Detail: detail}
		last = s.hash(org, last, line)
		_, err := tx.Exec(ctx, `INSERT INTO audit (org_id, seq, at, user_id, key_id, action, target, detail, hash)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			string(org), seq, db.At(tx.Dialect(), at), string(by.User), string(by.Key), e.Action, e.Target, string(detail), last)
		if err != nil {
			return err
		}
	}
	mark := s.mark(org, seq, last)
	if !genuine {
		clear(mark) // what was tampered with stays so: a new line must not make it good
	}
	_, err = tx.Exec(ctx, `UPDATE orgs SET audit_seq = $2, audit_head = $3 WHERE org_id = $1`, string(org), seq, append(last, mark...))
	return err
}

// auditHead is what an org's row says of its log: how many lines, and the last one's hash with our mark behind it.
type auditHead struct {
	seq    int64
	stored []byte
}

// open returns the last line's hash, and whether the head is as writeDown left it.
func (s *Service) open(org id.Org, h auditHead) (last []byte, genuine bool) {
	if h.seq == 0 && len(h.stored) == 0 {
		return nil, true // nothing was written down yet
	}
	if len(h.stored) != 2*sha256.Size {
		return nil, false
	}
	last, mark := bytes.Clone(h.stored[:sha256.Size]), h.stored[sha256.Size:]
	return last, hmac.Equal(mark, s.mark(org, h.seq, last))
}

// hash is that of a line, over the hash before it. Each part goes with its length in front: no two lines read alike.
func (s *Service) hash(org id.Org, previous []byte, l AuditLine) []byte {
	return s.audited("line", previous, []byte(org), number(l.Seq), number(l.At.UnixMicro()),
		[]byte(l.User), []byte(l.Key), []byte(l.Action), []byte(l.Target), l.Detail)
}

func (s *Service) mark(org id.Org, seq int64, last []byte) []byte {
	return s.audited("head", []byte(org), number(seq), last)
}

func (s *Service) audited(kind string, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, s.auditKey)
	for _, p := range append([][]byte{[]byte(kind)}, parts...) {
		h.Write(number(int64(len(p))))
		h.Write(p)
	}
	return h.Sum(nil)
}

func number(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

const auditColumns = `seq, at, user_id, key_id, action, target, detail`

func scanAudit(r db.Row, more ...any) (AuditLine, error) {
	var l AuditLine
	var at db.Time
	var detail string
	err := r.Scan(append([]any{&l.Seq, &at, &l.User, &l.Key, &l.Action, &l.Target, &detail}, more...)...)
	l.At, l.Detail = at.Time, json.RawMessage(detail)
	return l, err
}

// Audit returns up to limit lines of the org's log, the newest first, of those before line before; 0: from the end.
func (s *Service) Audit(ctx context.Context, org id.Org, before int64, limit int) ([]AuditLine, error) {
	if before <= 0 {
		before = math.MaxInt64
	}
	var lines []AuditLine
	err := s.store.Query(ctx, org, db.Query{
		SQL:  `SELECT ` + auditColumns + ` FROM audit WHERE org_id = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3`,
		Args: []any{string(org), before, limit},
		Each: func(r db.Row) error {
			l, err := scanAudit(r)
			lines = append(lines, l)
			return err
		},
	})
	return lines, err
}

// AuditReport is what VerifyAudit found.
type AuditReport struct {
	Org   id.Org
	Lines int64  // that are as they were written, from the first on
	Head  []byte // the hash of the last line, empty before the first
	Why   string // what is wrong with line Bad; "": all is as it was written
	Bad   int64  // the first line that is not as it was written, or not there
}

// OK reports whether the log is as it was written.
func (r AuditReport) OK() bool { return r.Why == "" }

// auditPage is how many lines VerifyAudit holds at a time.
const auditPage = 200

// VerifyAudit walks the org's log from its first line to its head. It holds one page of it at a time, and nobody up:
// what is added meanwhile is not looked at. A log that is not as it was written is a report, not an error. Errors:
// fault.NotFound, org_not_found; those of the store.
func (s *Service) VerifyAudit(ctx context.Context, org id.Org) (AuditReport, error) {
	if len(s.pepper) == 0 {
		return AuditReport{}, errNotOpen
	}
	head, beyond, err := s.auditHead(ctx, org)
	if err != nil {
		return AuditReport{}, err
	}
	w := auditWalk{report: AuditReport{Org: org}, next: math.MinInt64}
	for w.report.OK() {
		n, err := s.walkAudit(ctx, &w, head.seq)
		if err != nil {
			return AuditReport{}, err
		}
		if n < auditPage {
			break
		}
	}
	last, genuine := s.open(org, head)
	switch {
	case !w.report.OK():
	case w.report.Lines < head.seq:
		w.bad(w.report.Lines+1, "it is missing, with all that followed")
	case beyond:
		w.bad(head.seq+1, "it is beyond the head")
	case !genuine || !hmac.Equal(last, w.report.Head):
		w.bad(max(1, head.seq), "the head is not as it was written")
	}
	return w.report, nil
}

// auditHead reads the head, and whether there are lines beyond it, as of one moment.
func (s *Service) auditHead(ctx context.Context, org id.Org) (head auditHead, beyond bool, err error) {
	found := false
	err = s.store.Query(ctx, org, db.Query{
		SQL: `SELECT o.audit_seq, o.audit_head, EXISTS (SELECT 1 FROM audit a WHERE a.org_id = o.org_id AND a.seq > o.audit_seq)
			FROM orgs o WHERE o.org_id = $1`,
		Args: []any{string(org)},
		Each: func(r db.Row) error {
			found = true
			return r.Scan(&head.seq, &head.stored, &beyond)
		},
	})
	if err == nil && !found {
		err = noOrg()
	}
	return head, beyond, err
}

// auditWalk is how far VerifyAudit has come.
type auditWalk struct {
	report AuditReport
	next   int64 // the lowest sequence not yet looked at
}

func (w *auditWalk) bad(seq int64, why string) { w.report.Bad, w.report.Why = seq, why }

// walkAudit looks at one page, up to the line end, and returns how many lines it had.
func (s *Service) walkAudit(ctx context.Context, w *auditWalk, end int64) (n int, err error) {
	err = s.store.Query(ctx, w.report.Org, db.Query{
		SQL:  `SELECT ` + auditColumns + `, hash FROM audit WHERE org_id = $1 AND seq >= $2 AND seq <= $3 ORDER BY seq LIMIT $4`,
		Args: []any{string(w.report.Org), w.next, end, auditPage},
		Each: func(r db.Row) error {
			var hash []byte
			l, err := scanAudit(r, &hash)
			n++
			if err != nil || !w.report.OK() {
				return err
			}
			want := s.hash(w.report.Org, w.report.Head, l)
			switch expected := w.report.Lines + 1; {
			case l.Seq > expected:
				w.bad(expected, "it is missing")
			case l.Seq < expected || !hmac.Equal(hash, want):
				w.bad(l.Seq, "it is not as it was written")
			default:
				w.report.Lines, w.report.Head, w.next = l.Seq, want, l.Seq+1
			}
			return nil
		},
	})
	return n, err
}
