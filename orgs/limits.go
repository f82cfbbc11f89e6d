package orgs

import (
	"context"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// LimitScope is whom a limit is for.
type LimitScope string

const (
	LimitOrg  LimitScope = "org"
	LimitUser LimitScope = "user"
	LimitKey  LimitScope = "key"
)

// Limit is how much an org, a user or an API key may ask for. Of the three numbers 0 is no limit.
type Limit struct {
	Scope    LimitScope
	ID       string // of the org, the user or the key
	Model    string // what it holds for, with its provider in front or without; "": all models together
	Requests int64  // per minute
	Tokens   int64  // per minute
	Streams  int64  // at a time
}

// LimitInfo is a limit with its dates.
type LimitInfo struct {
	Limit
	CreatedAt, UpdatedAt time.Time
}

const (
	maxLimit      = 1_000_000_000
	maxLimits     = 10_000 // of an org
	maxLimitModel = 256    // bytes
)

// columns to read a limit by, as those of table l.
const limitColumns = `l.scope, l.scope_id, l.model, COALESCE(l.requests_per_minute, 0), COALESCE(l.tokens_per_minute, 0), COALESCE(l.concurrent_streams, 0)`

func (l *Limit) fields() []any {
	return []any{&l.Scope, &l.ID, &l.Model, &l.Requests, &l.Tokens, &l.Streams}
}

const limitsSQL = `SELECT ` + limitColumns + `, l.created_at, l.updated_at FROM limits l WHERE l.org_id = $1`

func scanLimit(r db.Row) (l LimitInfo, err error) {
	var created, updated db.Time
	err = r.Scan(append(l.fields(), &created, &updated)...)
	l.CreatedAt, l.UpdatedAt = created.Time, updated.Time
	return l, err
}

// limitsOfKey finds the limits that an API key is under: the org's, its user's and its own.
func limitsOfKey(org id.Org, key id.Key, list *[]Limit) db.Query {
	return db.Query{
		SQL: `SELECT ` + limitColumns + ` FROM limits l JOIN api_keys k ON k.org_id = l.org_id AND k.key_id = $2
			WHERE l.org_id = $1 AND (l.scope = 'org' OR l.scope = 'user' AND l.scope_id = k.user_id OR l.scope = 'key' AND l.scope_id = k.key_id)
			ORDER BY l.scope, l.model`,
		Args: []any{string(org), string(key)},
		Each: func(r db.Row) error {
			var l Limit
			err := r.Scan(l.fields()...)
			*list = append(*list, l)
			return err
		},
	}
}

// Place names a limit in its org, for lists.
func (l Limit) Place() string { return string(l.Scope) + " " + l.ID + " " + l.Model }

// Limits returns up to limit of the org's limits, newest first.
func (s *Service) Limits(ctx context.Context, org id.Org, after Cursor, limit int) ([]LimitInfo, error) {
	return listed(ctx, s, org, after, limit, limitsSQL, `(l.scope || ' ' || l.scope_id || ' ' || l.model)`, nil, scanLimit)
}

// check reports, as fault.Invalid, a limit that cannot be.
func (l Limit) check() error {
	for name, n := range map[string]int64{"requests_per_minute": l.Requests, "tokens_per_minute": l.Tokens, "concurrent_streams": l.Streams} {
		if n < 0 || n > maxLimit {
			return fault.New(fault.Invalid, "%s is a number from 1 to %d, or null for no limit", name, maxLimit).WithCode("invalid_value").WithParam(name)
		}
	}
	if l.Requests == 0 && l.Tokens == 0 && l.Streams == 0 {
		return fault.New(fault.Invalid, "a limit needs requests_per_minute, tokens_per_minute or concurrent_streams; DELETE takes one away").
			WithCode("missing_required_parameter").WithParam("requests_per_minute")
	}
	if len(l.Model) > maxLimitModel {
		return invalidModel()
	}
	for i := range len(l.Model) {
		if l.Model[i] <= ' ' || l.Model[i] > '~' {
			return invalidModel()
		}
	}
	return nil
}

func invalidModel() error {
	return fault.New(fault.Invalid, "model is the name of one model, up to %d printable characters; none for all models together", maxLimitModel).
		WithCode("invalid_value").WithParam("model")
}

// checkLimited refuses a limit for somebody whom the org does not have.
func checkLimited(ctx context.Context, tx db.Tx, org id.Org, l Limit) (err error) {
	switch l.Scope {
	case LimitOrg:
		if l.ID != string(org) {
			err = noOrg()
		}
	case LimitUser:
		_, err = userIn(ctx, tx, org, id.User(l.ID))
	case LimitKey:
		_, err = keyIn(ctx, tx, org, id.Key(l.ID))
	default:
		err = fault.New(fault.Invalid, "scope is %q, %q or %q", LimitOrg, LimitUser, LimitKey).WithCode("invalid_value").WithParam("scope")
	}
	return err
}

// PutLimit sets a limit, in place of the one for the same scope and model if there is one. Errors: fault.Invalid;
// fault.NotFound, user_not_found, key_not_found or org_not_found.
func (s *Service) PutLimit(ctx context.Context, org id.Org, by Actor, l Limit) (LimitInfo, error) {
	if err := l.check(); err != nil {
		return LimitInfo{}, err
	}
	var now LimitInfo
	err := s.change(ctx, org, by, func(tx db.Tx) ([]Entry, error) {
		if err := checkLimited(ctx, tx, org, l); err != nil {
			return nil, err
		}
		was, others, err := limitIn(ctx, tx, org, l)
		if err != nil {
			return nil, err
		}
		if now = was; was.Limit == l {
			return nil, nil
		}
		if others >= maxLimits {
			return nil, fault.New(fault.Invalid, "an org has at most %d limits", maxLimits).WithCode("too_many_limits")
		}
		var created, updated db.Time
		err = tx.QueryRow(ctx, `INSERT INTO limits (org_id, scope, scope_id, model, requests_per_minute, tokens_per_minute, concurrent_streams)
			VALUES ($1, $2, $3, $4, NULLIF(CAST($5 AS bigint), 0), NULLIF(CAST($6 AS bigint), 0), NULLIF(CAST($7 AS bigint), 0))
			ON CONFLICT (org_id, scope, scope_id, model) DO UPDATE SET requests_per_minute = excluded.requests_per_minute,
				tokens_per_minute = excluded.tokens_per_minute, concurrent_streams = excluded.concurrent_streams, updated_at = now()
			RETURNING created_at, updated_at`,
			[]any{string(org), string(l.Scope), l.ID, l.Model, l.Requests, l.Tokens, l.Streams}, &created, &updated)
		now = LimitInfo{l, created.Time, updated.Time}
		return []Entry{{"limit.put", l.ID, l.detail()}}, err
	})
	s.tellLimit(ctx, org, l, err)
	return now, err
}

// detail is a limit as the audit log tells of it.
func (l Limit) detail() map[string]any {
	d := map[string]any{"scope": l.Scope}
	if l.Model != "" {
		d["model"] = l.Model
	}
	for name, n := range map[string]int64{"requests_per_minute": l.Requests, "tokens_per_minute": l.Tokens, "concurrent_streams": l.Streams} {
		if n > 0 {
			d[name] = n
		}
	}
	return d
}

// limitIn returns the limit that stands in the place of l, zero if none does, and how many others the org has.
func limitIn(ctx context.Context, tx db.Tx, org id.Org, l Limit) (was LimitInfo, others int, err error) {
	err = tx.Query(ctx, limitsSQL+` AND l.scope = $2 AND l.scope_id = $3 AND l.model = $4`, []any{string(org), string(l.Scope), l.ID, l.Model},
		func(r db.Row) (err error) {
			was, err = scanLimit(r)
			return err
		})
	if err == nil {
		err = tx.QueryRow(ctx, `SELECT count(*) FROM limits WHERE org_id = $1 AND NOT (scope = $2 AND scope_id = $3 AND model = $4)`,
			[]any{string(org), string(l.Scope), l.ID, l.Model}, &others)
	}
	return was, others, err
}

// DeleteLimit takes the limit for a scope and a model away. Errors: fault.NotFound, limit_not_found.
func (s *Service) DeleteLimit(ctx context.Context, org id.Org, by Actor, scope LimitScope, of, model string) error {
	l := Limit{Scope: scope, ID: of, Model: model}
	err := s.change(ctx, org, by, func(tx db.Tx) ([]Entry, error) {
		n, err := tx.Exec(ctx, `DELETE FROM limits WHERE org_id = $1 AND scope = $2 AND scope_id = $3 AND model = $4`,
			string(org), string(scope), of, model)
		if err == nil && n == 0 {
			err = NoLimit()
		}
		return []Entry{{"limit.delete", of, l.detail()}}, err
	})
	s.tellLimit(ctx, org, l, err)
	return err
}

// NoLimit is a limit that is not there, or not for the one who asks.
func NoLimit() *fault.Error {
	return fault.New(fault.NotFound, "there is no such limit").WithCode("limit_not_found")
}

// tellLimit makes the caches forget the callers that a limit is for, who carry it.
func (s *Service) tellLimit(ctx context.Context, org id.Org, l Limit, err error) {
	if l.Scope == LimitKey {
		s.tell(ctx, topicKeys, l.ID, err)
		return
	}
	s.tell(ctx, topicPeople, string(org), err)
}
