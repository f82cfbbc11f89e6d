package orgs

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// book is what an org should look like, by the rules alone.
type book struct {
	seats int
	users map[id.User]*page
	lines int64
}

type page struct {
	email             string
	role              Role
	disabled, deleted bool
	key               string // of whom it is
	revoked           bool
}

func (b *book) count(of func(*page) bool) (n int) {
	for _, p := range b.users {
		if of(p) {
			n++
		}
	}
	return n
}

func active(p *page) bool      { return !p.disabled && !p.deleted }
func activeAdmin(p *page) bool { return active(p) && p.role == Admin }

// verdict is the code a change must be refused with, "" if it must not.
func (b *book) verdict(p *page, becomes page) string {
	switch {
	case p.deleted:
		return "user_not_found"
	case !active(p) && active(&becomes) && b.count(active) >= b.seats:
		return "seats_full"
	case activeAdmin(p) && !activeAdmin(&becomes) && b.count(activeAdmin) == 1:
		return "last_admin"
	}
	return ""
}

// games are how many orgs are played, of some thirty changes each.
const games = 15

// Whatever admins do, in whichever order: the org keeps an active admin and its seats, every key is as good as its owner,
// each change leaves one line, and what is refused leaves none.
func TestRolesAdminsAndSeatsByTheModel(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		run, failed := 0, false
		rapid.Check(t, func(rt *rapid.T) {
			if run++; run > games && !failed {
				return
			}
			whole := false
			defer func() { failed = failed || !whole }() // then rapid looks for a shorter one
			seats := rapid.IntRange(1, 4).Draw(rt, "seats")
			first, err := s.Seed(t.Context(), SeedSpec{Org: fmt.Sprint("org ", run), Email: "u0@example.com", Role: Admin, Seats: seats})
			if err != nil {
				rt.Fatal(err)
			}
			b := &book{seats: seats, users: map[id.User]*page{
				first.User: {email: "u0@example.com", role: Admin, key: first.APIKey.Reveal()},
			}, lines: 3}
			g := game{t, rt, s, first.Org, Actor{first.User, first.Key}, b}
			rt.Repeat(map[string]func(*rapid.T){
				"create":  g.create,
				"role":    func(rt *rapid.T) { g.update(rt, UserChange{Role: ptr(g.role(rt))}) },
				"disable": func(rt *rapid.T) { g.update(rt, UserChange{Disabled: ptr(rapid.Bool().Draw(rt, "disabled"))}) },
				"both": func(rt *rapid.T) {
					g.update(rt, UserChange{Role: ptr(g.role(rt)), Disabled: ptr(rapid.Bool().Draw(rt, "disabled"))})
				},
				"delete": g.remove,
				"":       g.check,
			})
			whole = true
		})
	})
}

type game struct {
	t   *testing.T
	rt  *rapid.T
	s   *Service
	org id.Org
	by  Actor
	b   *book
}

func (g game) role(rt *rapid.T) Role {
	return rapid.SampledFrom([]Role{Admin, Member, Viewer}).Draw(rt, "role")
}

func (g game) somebody(rt *rapid.T) (id.User, *page) {
	all := make([]id.User, 0, len(g.b.users))
	for u := range g.b.users {
		all = append(all, u)
	}
	slices.Sort(all) // ids sort by the time they were made: a failing run can be repeated
	u := all[rapid.IntRange(0, len(all)-1).Draw(rt, "user")]
	return u, g.b.users[u]
}

func (g game) told(rt *rapid.T, what string, err error, want string) (ok bool) {
	switch {
	case err == nil && want == "":
		return true
	case err == nil || want == "" || fault.From(err).Code != want:
		rt.Fatalf("%s: %v, want %q", what, err, want)
	}
	return false
}

func (g game) create(rt *rapid.T) {
	email := fmt.Sprintf("u%d@example.com", rapid.IntRange(0, 5).Draw(rt, "email"))
	role := g.role(rt)
	want := ""
	switch {
	case g.b.count(func(p *page) bool { return p.email == email && !p.deleted }) > 0:
		want = "email_taken"
	case g.b.count(active) >= g.b.seats:
		want = "seats_full"
	}
	u, err := g.s.CreateUser(g.t.Context(), g.org, g.by, UserSpec{Email: email, Role: role})
	if !g.told(rt, "create "+email, err, want) {
		return
	}
	key, _, err := g.s.CreateKey(g.t.Context(), g.org, g.by, KeySpec{User: u.ID})
	if err != nil {
		rt.Fatal(err)
	}
	g.b.users[u.ID] = &page{email: email, role: role, key: key.Reveal()}
	g.b.lines += 2
}

func (g game) update(rt *rapid.T, c UserChange) {
	u, p := g.somebody(rt)
	becomes := *p
	if c.Role != nil {
		becomes.role = *c.Role
	}
	if c.Disabled != nil {
		becomes.disabled = *c.Disabled
	}
	_, err := g.s.UpdateUser(g.t.Context(), g.org, g.by, u, c)
	if g.told(rt, "update", err, g.b.verdict(p, becomes)) && becomes != *p {
		*p = becomes
		g.b.lines++
	}
}

func (g game) remove(rt *rapid.T) {
	u, p := g.somebody(rt)
	becomes := *p
	becomes.deleted, becomes.revoked = true, true
	if g.told(rt, "delete", g.s.DeleteUser(g.t.Context(), g.org, g.by, u), g.b.verdict(p, becomes)) {
		*p = becomes
		g.b.lines++
	}
}

// check holds the org against the book.
func (g game) check(rt *rapid.T) {
	ctx := g.t.Context()
	list, err := g.s.Users(ctx, g.org, Cursor{}, 1000)
	if err != nil {
		rt.Fatal(err)
	}
	if n := g.b.count(func(p *page) bool { return !p.deleted }); len(list) != n {
		rt.Fatalf("%d users, want %d", len(list), n)
	}
	for _, u := range list {
		p := g.b.users[u.ID]
		if p == nil || p.deleted || u.Role != p.role || u.active() == p.disabled || u.Email != p.email {
			rt.Fatalf("%+v, want %+v", u, p)
		}
	}
	if g.b.count(activeAdmin) == 0 || g.b.count(active) > g.b.seats {
		rt.Fatalf("%d admins, %d users for %d seats", g.b.count(activeAdmin), g.b.count(active), g.b.seats)
	}
	for _, p := range g.b.users {
		c, err := g.s.Authenticate(ctx, p.key)
		if good := err == nil; good != active(p) || good && c.Role != p.role {
			rt.Fatalf("the key of %+v: %+v, %v", p, c, err)
		}
	}
	r, err := g.s.VerifyAudit(ctx, g.org)
	if err != nil || !r.OK() || r.Lines != g.b.lines {
		rt.Fatalf("the log: %+v, %v, want %d lines", r, err, g.b.lines)
	}
}
