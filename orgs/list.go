package orgs

import (
	"context"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// Cursor is where a list goes on: behind the thing with this id, made at that time. The zero Cursor is the beginning.
type Cursor struct {
	CreatedAt time.Time
	ID        string
}

// listed runs sql, a SELECT whose $1 is org and whose next parameters are args, for up to limit things behind after, the
// newest first. name is the column of their ids.
func listed[T any](
	ctx context.Context, s *Service, org id.Org, after Cursor, limit int, sql, name string, args []any, scan func(db.Row) (T, error),
) ([]T, error) {
	args = append([]any{string(org)}, args...)
	param := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	if after.ID != "" {
		sql += ` AND (created_at, ` + name + `) < (` + param(db.At(s.store.Dialect(), after.CreatedAt)) + `, ` + param(after.ID) + `)`
	}
	sql += ` ORDER BY created_at DESC, ` + name + ` DESC LIMIT ` + param(limit)
	var list []T
	err := s.store.Query(ctx, org, db.Query{SQL: sql, Args: args, Each: func(r db.Row) error {
		thing, err := scan(r)
		list = append(list, thing)
		return err
	}})
	return list, err
}

// single runs sql, whose $1 is org and $2 name, for one thing; absent is the error when it is not there.
func single[T any](ctx context.Context, s *Service, org id.Org, absent error, sql, name string, scan func(db.Row) (T, error)) (T, error) {
	var thing T
	err := s.store.Read(ctx, org, func(tx db.Tx) (err error) {
		thing, err = singleIn(ctx, tx, org, absent, sql, name, scan)
		return err
	})
	return thing, err
}

func singleIn[T any](ctx context.Context, tx db.Tx, org id.Org, absent error, sql, name string, scan func(db.Row) (T, error)) (T, error) {
	var thing T
	found := false
	err := tx.Query(ctx, sql, []any{string(org), name}, func(r db.Row) (err error) {
		found = true
		thing, err = scan(r)
		return err
	})
	if err == nil && !found {
		err = absent
	}
	return thing, err
}

// maxName is the longest name of a user, a team or an API key, in bytes.
const maxName = 200

func checkName(name string) error {
	if len(name) > maxName || !utf8.ValidString(name) || strings.ContainsRune(name, 0) {
		return fault.New(fault.Invalid, "a name is at most %d bytes of UTF-8", maxName).WithCode("invalid_name").WithParam("name")
	}
	return nil
}

// checkedName is checkName for what must have a name. It returns it trimmed.
func checkedName(name string) (string, error) {
	name = strings.TrimSpace(name)
	if name == "" {
		return "", fault.New(fault.Invalid, "a name is needed").WithCode("invalid_name").WithParam("name")
	}
	return name, checkName(name)
}
