package gateway

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/orgs"
)

// fields are the members of a body, read one by one. err is that of the first that is not what it must be; what is read
// after it is nil.
type fields struct {
	members map[string]json.RawMessage
	err     error
}

// fields reads the body of a request to /api, as members does. org_id may be in each of them, and must be the caller's
// own.
func (x *request) fields(names ...string) *fields {
	m, err := x.members(append(names, "org_id")...)
	f := &fields{m, err}
	if org := or(f.text("org_id")); org != "" {
		f.fail(x.ownOrg(org))
	}
	return f
}

func (f *fields) fail(err error) {
	if f.err == nil {
		f.err = err
	}
}

// read puts member name into v and reports whether it is there. null leaves v as it is.
func (f *fields) read(name string, v any, what string) bool {
	return f.decode(name, v, what, json.Unmarshal)
}

// strict is read for a member with members of its own, which may have no others than v has.
func (f *fields) strict(name string, v any, what string) {
	f.decode(name, v, what, func(raw []byte, v any) error {
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.DisallowUnknownFields()
		return dec.Decode(v)
	})
}

func (f *fields) decode(name string, v any, what string, decode func([]byte, any) error) bool {
	raw, ok := f.members[name]
	if !ok || f.err != nil {
		return false
	}
	if decode(raw, v) != nil {
		f.err = fault.New(fault.Invalid, "%s must be %s", name, what).WithCode("invalid_type").WithParam(name)
	}
	return f.err == nil
}

// given reports whether a member is there, and not null.
func (f *fields) given(name string) bool {
	raw, ok := f.members[name]
	return ok && string(raw) != "null"
}

// text returns a member that is a string; nil when it is not there, "" for null.
func (f *fields) text(name string) *string {
	var s string
	if !f.read(name, &s, "a string") {
		return nil
	}
	if strings.ContainsRune(s, 0) {
		f.err = fault.New(fault.Invalid, "%s must not hold a NUL character", name).WithCode("invalid_value").WithParam(name)
		return nil
	}
	return &s
}

// short returns a member that is a string of up to most bytes, as text does.
func (f *fields) short(name string, most int) *string {
	s := f.text(name)
	if len(or(s)) > most {
		f.fail(fault.New(fault.Invalid, "%s may have up to %d bytes", name, most).WithParam(name))
	}
	return s
}

// number returns a member that is a whole number; nil for null too.
func (f *fields) number(name string) *int {
	var n *int
	f.read(name, &n, "a whole number")
	return n
}

// flag returns a member that is true or false.
func (f *fields) flag(name string) *bool {
	var b *bool
	if f.read(name, &b, "true or false") && b == nil {
		f.err = fault.New(fault.Invalid, "%s must be true or false", name).WithCode("invalid_type").WithParam(name)
	}
	return b
}

// list returns a member that is a list of strings; an empty one for null.
func (f *fields) list(name string) *[]string {
	list := []string{}
	if !f.read(name, &list, "a list of strings") {
		return nil
	}
	return &list
}

// time returns a member that is a point in time; the zero time for null.
func (f *fields) time(name string) *time.Time {
	var t time.Time
	if !f.read(name, &t, "a time like 2027-01-31T12:00:00Z") {
		return nil
	}
	return &t
}

// or returns what p points at, or the zero value.
func or[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// foreignBody is Route.foreign where the body may name an org, and nothing else that could be foreign.
func (g *Gateway) foreignBody(x *request) error {
	if org := gjson.GetBytes(x.body(), "org_id"); org.Type == gjson.String && org.Str != "" {
		return x.ownOrg(org.Str)
	}
	return nil
}

// reply answers with v, or with err.
func (x *request) reply(status int, v any, err error) {
	if err != nil {
		x.fail(err)
		return
	}
	x.json(status, v)
}

// deleted answers that a thing is gone, or with err.
func (x *request) deleted(id string, err error) {
	x.reply(200, map[string]any{"id": id, "deleted": true}, err)
}

// listShape is a page of a list. Next is null on the last one.
type listShape[T any] struct {
	Data []T     `json:"data"`
	Next *string `json:"next_cursor"`
}

// listPage answers a list that is asked for with limit and cursor. list is asked for one thing more than is shown, so
// that the last page is known.
func listPage[T, S any](
	x *request, list func(after orgs.Cursor, limit int) ([]T, error), at func(T) orgs.Cursor, shape func(T) S,
) {
	limit, err := x.limit()
	if err != nil {
		x.fail(err)
		return
	}
	after, err := x.cursor()
	if err != nil {
		x.fail(err)
		return
	}
	things, err := list(after, limit+1)
	if err != nil {
		x.fail(err)
		return
	}
	page := listShape[S]{Data: []S{}}
	if len(things) > limit {
		things = things[:limit]
		next := cursorText(at(things[limit-1]))
		page.Next = &next
	}
	for _, thing := range things {
		page.Data = append(page.Data, shape(thing))
	}
	x.json(200, page)
}

const maxPage = 100 // things of one page

func (x *request) limit() (int, error) { return number(x, "limit", 20, 1, maxPage) }

// A cursor names the last thing shown. It is opaque to clients, and no capability: a list shows what the caller may see,
// wherever it begins.
func cursorText(c orgs.Cursor) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(c.CreatedAt.UnixNano(), 10) + " " + c.ID))
}

func (x *request) cursor() (orgs.Cursor, error) {
	s := x.query("cursor")
	if s == "" {
		return orgs.Cursor{}, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(s)
	at, name, ok := strings.Cut(string(raw), " ")
	nanos, bad := strconv.ParseInt(at, 10, 64)
	if err != nil || !ok || bad != nil || !printable([]byte(name)) {
		return orgs.Cursor{}, fault.New(fault.Invalid, "cursor is not one this list gave").WithParam("cursor")
	}
	return orgs.Cursor{CreatedAt: time.Unix(0, nanos), ID: name}, nil
}
