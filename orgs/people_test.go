package orgs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"threadhub/internal/bus"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
)

func ptr[T any](v T) *T { return &v }

func admin(t *testing.T, s *Service, org string) (Seeded, Actor) {
	t.Helper()
	k := seed(t, s, SeedSpec{Org: org, Email: "ann@example.com", Role: Admin})
	return k, Actor{k.User, k.Key}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestUsersComeAndGo(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		joined := bus.NewLocal()
		s, there := w.open(t, withBus(joined)), w.open(t, withBus(joined))
		k, by := admin(t, s, "acme")
		user := must[UserInfo](t)
		team := must[Team](t)(s.CreateTeam(t.Context(), k.Org, by, "ops"))

		bob := user(s.CreateUser(t.Context(), k.Org, by, UserSpec{Email: " Bob@Example.com", Name: "Bob", Team: team.ID}))
		if got := user(s.User(t.Context(), k.Org, bob.ID)); got != bob || bob.Email != "bob@example.com" || bob.Role != Member || bob.CreatedAt.IsZero() {
			t.Fatalf("made %+v, is %+v", bob, got)
		}
		_, err := s.CreateUser(t.Context(), k.Org, by, UserSpec{Email: "bob@example.com"})
		hasCode(t, err, fault.Conflict, "email_taken")
		key, _, err := s.CreateKey(t.Context(), k.Org, by, KeySpec{User: bob.ID})
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []*Service{s, there} {
			if c := callerOf(t, at, key); c.Team != team.ID || c.Role != Member {
				t.Fatalf("calls as %+v", c)
			}
		}

		bob = user(s.UpdateUser(t.Context(), k.Org, by, bob.ID, UserChange{Name: ptr("Robert"), Role: ptr(Viewer), Team: ptr(id.Team(""))}))
		for _, at := range []*Service{s, there} {
			if c := callerOf(t, at, key); c.Team != "" || c.Role != Viewer {
				t.Fatalf("after the change he calls as %+v", c)
			}
		}
		user(s.UpdateUser(t.Context(), k.Org, by, bob.ID, UserChange{Disabled: ptr(true)}))
		for _, at := range []*Service{s, there} {
			_, err := at.Authenticate(t.Context(), key.Reveal())
			refuses(t, "disabled", err)
		}
		user(s.UpdateUser(t.Context(), k.Org, by, bob.ID, UserChange{Disabled: ptr(false)}))
		callerOf(t, there, key)

		if err := s.DeleteUser(t.Context(), k.Org, by, bob.ID); err != nil {
			t.Fatal(err)
		}
		_, err = there.Authenticate(t.Context(), key.Reveal())
		refuses(t, "deleted", err)
		for _, gone := range []error{
			s.DeleteUser(t.Context(), k.Org, by, bob.ID),
			second(s.User(t.Context(), k.Org, bob.ID)),
			second(s.UpdateUser(t.Context(), k.Org, by, bob.ID, UserChange{Disabled: ptr(false)})),
			second(s.FindUser(t.Context(), k.Org, "bob@example.com")),
			second(s.FindUser(t.Context(), k.Org, string(bob.ID))),
			third(s.CreateKey(t.Context(), k.Org, by, KeySpec{User: bob.ID})),
		} {
			hasCode(t, gone, fault.NotFound, "user_not_found")
		}
		conn := w.burgle(t)
		if kept := w.everything(t, conn, k.Org); strings.Contains(kept, "bob@") || strings.Contains(kept, "Robert") {
			t.Errorf("what is left of him: %s", kept)
		}
		again := user(s.CreateUser(t.Context(), k.Org, by, UserSpec{Email: "bob@example.com"}))
		if again.ID == bob.ID {
			t.Error("he came back from the dead")
		}
		list := must[[]UserInfo](t)(s.Users(t.Context(), k.Org, Cursor{}, 10))
		if len(list) != 2 || list[0].ID != again.ID {
			t.Errorf("listed: %+v", list)
		}
	})
}

func second[T any](_ T, err error) error        { return err }
func third[T, U any](_ T, _ U, err error) error { return err }

func TestTheLastAdminIsKept(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		k, by := admin(t, s, "acme")
		other := must[UserInfo](t)(s.CreateUser(t.Context(), k.Org, by, UserSpec{Email: "bob@example.com", Role: Admin}))
		must[UserInfo](t)(s.UpdateUser(t.Context(), k.Org, by, other.ID, UserChange{Disabled: ptr(true)})) // a disabled one does not count
		kept := func() {
			t.Helper()
			for what, err := range map[string]error{
				"demoted":  second(s.UpdateUser(t.Context(), k.Org, by, k.User, UserChange{Role: ptr(Member)})),
				"disabled": second(s.UpdateUser(t.Context(), k.Org, by, k.User, UserChange{Disabled: ptr(true)})),
				"deleted":  s.DeleteUser(t.Context(), k.Org, by, k.User),
			} {
				if !fault.HasCode(err, "last_admin") {
					t.Errorf("%s: %v", what, err)
				}
			}
		}
		kept()
		must[UserInfo](t)(s.UpdateUser(t.Context(), k.Org, by, k.User, UserChange{Name: ptr("Ann"), Role: ptr(Admin)})) // changes no role
		must[UserInfo](t)(s.UpdateUser(t.Context(), k.Org, by, other.ID, UserChange{Disabled: ptr(false)}))
		must[UserInfo](t)(s.UpdateUser(t.Context(), k.Org, by, other.ID, UserChange{Role: ptr(Viewer)}))
		kept()
		if r := verify(t, s, k.Org); !r.OK() {
			t.Errorf("%+v", r)
		}
	})
}

// Two admins who demote each other at once: one of them stays.
func TestAdminsCannotLeaveTogether(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		k, by := admin(t, s, "acme")
		other := must[UserInfo](t)(s.CreateUser(t.Context(), k.Org, by, UserSpec{Email: "bob@example.com", Role: Admin}))
		errs := make(chan error, 2)
		for _, u := range []id.User{k.User, other.ID} {
			go func() { errs <- second(s.UpdateUser(t.Context(), k.Org, by, u, UserChange{Role: ptr(Member)})) }()
		}
		a, b := <-errs, <-errs
		if (a == nil) == (b == nil) || !fault.HasCode(cmp.Or(a, b), "last_admin") {
			t.Fatalf("%v, %v", a, b)
		}
	})
}

func TestSeats(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		k := seed(t, s, SeedSpec{Org: "acme", Email: "ann@example.com", Role: Admin, Seats: 2})
		by := Actor{k.User, k.Key}
		create := func(email string) (UserInfo, error) {
			return s.CreateUser(t.Context(), k.Org, by, UserSpec{Email: email})
		}
		bob := must[UserInfo](t)(create("bob@example.com"))
		hasCode(t, second(create("cleo@example.com")), fault.Conflict, "seats_full")
		must[UserInfo](t)(s.UpdateUser(t.Context(), k.Org, by, bob.ID, UserChange{Disabled: ptr(true)}))
		cleo := must[UserInfo](t)(create("cleo@example.com"))
		back := func() error {
			return second(s.UpdateUser(t.Context(), k.Org, by, bob.ID, UserChange{Disabled: ptr(false)}))
		}
		hasCode(t, back(), fault.Conflict, "seats_full")
		if err := s.DeleteUser(t.Context(), k.Org, by, cleo.ID); err != nil {
			t.Fatal(err)
		}
		if err := back(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestTeamsComeAndGo(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		k, by := admin(t, s, "acme")
		team := must[Team](t)
		ops := team(s.CreateTeam(t.Context(), k.Org, by, " ops "))
		if got := team(s.Team(t.Context(), k.Org, ops.ID)); got != ops || ops.Name != "ops" {
			t.Fatalf("made %+v, is %+v", ops, got)
		}
		dev := team(s.CreateTeam(t.Context(), k.Org, by, "dev"))
		hasCode(t, second(s.CreateTeam(t.Context(), k.Org, by, "ops")), fault.Conflict, "team_name_taken")
		hasCode(t, second(s.RenameTeam(t.Context(), k.Org, by, dev.ID, "ops")), fault.Conflict, "team_name_taken")
		hasCode(t, second(s.CreateTeam(t.Context(), k.Org, by, " ")), fault.Invalid, "invalid_name")
		team(s.RenameTeam(t.Context(), k.Org, by, dev.ID, "dev")) // as it is
		if got := team(s.RenameTeam(t.Context(), k.Org, by, dev.ID, "web")); got.Name != "web" {
			t.Errorf("renamed to %+v", got)
		}
		must[UserInfo](t)(s.UpdateUser(t.Context(), k.Org, by, k.User, UserChange{Team: &ops.ID}))
		if c := callerOf(t, s, k.APIKey); c.Team != ops.ID {
			t.Fatalf("calls as %+v", c)
		}
		hasCode(t, second(s.UpdateUser(t.Context(), k.Org, by, k.User, UserChange{Team: ptr(id.Team("team_x"))})), fault.NotFound, "team_not_found")
		if err := s.DeleteTeam(t.Context(), k.Org, by, ops.ID); err != nil {
			t.Fatal(err)
		}
		if c := callerOf(t, s, k.APIKey); c.Team != "" {
			t.Fatalf("without the team she calls as %+v", c)
		}
		hasCode(t, s.DeleteTeam(t.Context(), k.Org, by, ops.ID), fault.NotFound, "team_not_found")
		if list := must[[]Team](t)(s.Teams(t.Context(), k.Org, Cursor{}, 10)); len(list) != 1 || list[0].ID != dev.ID {
			t.Errorf("listed: %+v", list)
		}
	})
}

func TestKeysAreChanged(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		joined := bus.NewLocal()
		s, there := w.open(t, withBus(joined)), w.open(t, withBus(joined))
		k, by := admin(t, s, "acme")
		ends := w.now().Add(time.Hour)
		spec := KeySpec{User: k.User, Name: "ci", Expires: ends, ReadOnly: true, Models: []string{"openai/*", "gpt-5*"}, Providers: []string{"openai"}, OnUnsupported: "reject"}
		token, made, err := s.CreateKey(t.Context(), k.Org, by, spec)
		if err != nil {
			t.Fatal(err)
		}
		got := must[KeyInfo](t)(s.Key(t.Context(), k.Org, made.ID))
		if got.Name != "ci" || !got.ReadOnly || !slices.Equal(got.Models, spec.Models) || !slices.Equal(got.Providers, spec.Providers) ||
			!got.ExpiresAt.Equal(ends.Truncate(time.Microsecond)) || got.OnUnsupported != "reject" {
			t.Fatalf("made as %+v", got)
		}
		for _, at := range []*Service{s, there} {
			if c := callerOf(t, at, token); !c.ReadOnly || !slices.Equal(c.Models, spec.Models) || !slices.Equal(c.Providers, spec.Providers) || !c.Restricted() || !c.Expiring || c.OnUnsupported != "reject" {
				t.Fatalf("calls as %+v", c)
			}
		}
		change := func(c KeyChange) KeyInfo {
			t.Helper()
			return must[KeyInfo](t)(s.UpdateKey(t.Context(), k.Org, by, made.ID, c))
		}
		change(KeyChange{Name: ptr("build"), Expires: &time.Time{}, ReadOnly: ptr(false), Models: &[]string{}, Providers: &[]string{}, OnUnsupported: ptr("drop")})
		if c := callerOf(t, there, token); c.Restricted() || c.OnUnsupported != "drop" {
			t.Fatalf("freed, it calls as %+v", c)
		}
		lines := verify(t, s, k.Org).Lines
		change(KeyChange{Name: ptr("build")})
		if n := verify(t, s, k.Org).Lines; n != lines {
			t.Error("what changed nothing was written down")
		}
		change(KeyChange{Disabled: ptr(true)})
		for _, at := range []*Service{s, there} {
			_, err := at.Authenticate(t.Context(), token.Reveal())
			refuses(t, "disabled", err)
		}
		change(KeyChange{Disabled: ptr(false)})
		callerOf(t, s, token)
		callerOf(t, there, token)
		change(KeyChange{Expires: ptr(w.now().Add(time.Minute))})
		w.advance(time.Minute)
		_, err = s.Authenticate(t.Context(), token.Reveal())
		refuses(t, "expired", err)

		for code, c := range map[string]KeyChange{
			"invalid_name":      {Name: ptr(strings.Repeat("a", 201))},
			"invalid_expiry":    {Expires: ptr(w.now())},
			"invalid_models":    {Models: &[]string{"gpt 5"}},
			"invalid_providers": {Providers: &[]string{"Open AI"}},
			"invalid_value":     {OnUnsupported: ptr("ignore")},
		} {
			hasCode(t, second(s.UpdateKey(t.Context(), k.Org, by, made.ID, c)), fault.Invalid, code)
		}
		hasCode(t, second(s.UpdateKey(t.Context(), k.Org, by, NewKey().ID, KeyChange{Name: ptr("x")})), fault.NotFound, "key_not_found")
		if err := s.RevokeKey(t.Context(), k.Org, by, made.ID); err != nil {
			t.Fatal(err)
		}
		hasCode(t, second(s.UpdateKey(t.Context(), k.Org, by, made.ID, KeyChange{Disabled: ptr(false)})), fault.Conflict, "key_revoked")
	})
}

// Who has an org made is found in the log of its own, also when nothing came of it.
func TestAnOrgAskedForIsWrittenDown(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		k, by := admin(t, s, "acme")
		before := verify(t, s, k.Org).Lines
		create := func() (Founded, error) {
			return s.CreateOrg(t.Context(), k.Org, by, OrgSpec{Name: "globex", Email: "zoe@example.com"})
		}
		f := must[Founded](t)(create())
		conn := w.burgle(t)
		for i, sql := range []string{refuseInserts(w.store.Dialect(), "users"), allowInserts(w.store.Dialect(), "users")} {
			if _, err := conn.ExecContext(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
			if _, err := create(); (err == nil) != (i == 1) {
				t.Fatalf("after %s: %v", sql, err)
			}
		}
		lines := must[[]AuditLine](t)(s.Audit(t.Context(), k.Org, 0, 10))
		if r := verify(t, s, k.Org); !r.OK() || r.Lines != before+3 {
			t.Fatalf("the log: %+v, of %d lines before", r, before)
		}
		for i, l := range lines[:3] {
			made := second(s.Org(t.Context(), id.Org(l.Target))) == nil
			if l.Action != "org.create" || l.User != by.User || l.Key != by.Key || made == (i == 1) || (l.Target == string(f.Org.ID)) != (i == 2) {
				t.Errorf("line %d, of an org that is there (%v): %+v", l.Seq, made, l)
			}
		}
		hasCode(t, second(s.CreateOrg(t.Context(), "org_nobody", by, OrgSpec{Name: "x", Email: "zoe@example.com"})), fault.NotFound, "org_not_found")
	})
}

func TestOrgsComeAndGo(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		joined := bus.NewLocal()
		s, there := w.open(t, withBus(joined)), w.open(t, withBus(joined))
		k, by := admin(t, s, "acme")
		f := must[Founded](t)(s.CreateOrg(t.Context(), k.Org, by, OrgSpec{Name: "acme", Email: "zoe@example.com"}))
		if c := callerOf(t, s, f.APIKey); c.Org != f.Org.ID || c.Role != Admin || c.User != f.User.ID || c.Org == k.Org {
			t.Fatalf("the new org's admin calls as %+v", c)
		}
		if got := actions(t, s, f.Org.ID); !slices.Equal(got, []string{"org.create", "user.create", "key.create"}) {
			t.Errorf("written down: %v", got)
		}
		if o := must[OrgInfo](t)(s.Org(t.Context(), f.Org.ID)); o != f.Org || o.WindowPolicy != WindowCut || o.Tier != "trial" || o.Seats != 10 {
			t.Errorf("made as %+v, is %+v", f.Org, o)
		}
		change := func(c OrgChange) (OrgInfo, error) { return s.UpdateOrg(t.Context(), f.Org.ID, by, c) }
		if o := must[OrgInfo](t)(change(OrgChange{Name: ptr("globex"), WindowPolicy: ptr(WindowRefuse)})); o.Name != "globex" || o.WindowPolicy != WindowRefuse {
			t.Errorf("changed to %+v", o)
		}
		if c := callerOf(t, there, f.APIKey); c.WindowPolicy != WindowRefuse {
			t.Errorf("callers see the old policy: %+v", c)
		}
		hasCode(t, second(change(OrgChange{Name: ptr("")})), fault.Invalid, "invalid_name")
		hasCode(t, second(change(OrgChange{WindowPolicy: ptr("ask")})), fault.Invalid, "invalid_window_policy")

		put(t, s, f.Org.ID, "openai", "sk-of-globex")
		put(t, s, k.Org, "openai", "sk-of-acme")
		revealed(t, there, f.Org.ID, "openai")
		callerOf(t, there, f.APIKey)
		if err := s.DeleteOrg(t.Context(), f.Org.ID, by); err != nil {
			t.Fatal(err)
		}
		for _, at := range []*Service{s, there} {
			_, err := at.Authenticate(t.Context(), f.APIKey.Reveal())
			refuses(t, "of a deleted org", err)
			_, err = at.ProviderKey(t.Context(), f.Org.ID, "openai")
			hasCode(t, err, fault.Invalid, "provider_key_missing")
			revealed(t, at, k.Org, "openai")
		}
		conn := w.burgle(t)
		if kept := w.everything(t, conn, f.Org.ID); strings.Count(kept, "sealed ") != 1 || strings.Count(kept, "deks ") != 1 {
			t.Errorf("kept:\n%s", kept)
		}
		for _, gone := range []error{
			second(s.Org(t.Context(), f.Org.ID)),
			second(change(OrgChange{Name: ptr("x")})),
			s.DeleteOrg(t.Context(), f.Org.ID, by),
			second(s.PutProviderKey(t.Context(), f.Org.ID, by, ProviderKeySpec{Provider: "openai", Key: seal.NewSecret("sk-late")})),
			third(s.CreateKey(t.Context(), f.Org.ID, by, KeySpec{User: f.User.ID})),
			second(s.CreateUser(t.Context(), f.Org.ID, by, UserSpec{Email: "late@example.com"})),
			second(s.CreateTeam(t.Context(), f.Org.ID, by, "late")),
		} {
			hasCode(t, gone, fault.NotFound, "org_not_found")
		}
		if r := verify(t, s, f.Org.ID); !r.OK() || r.Lines != 6 {
			t.Errorf("its log: %+v", r)
		}
		if r, err := s.Rotate(t.Context(), nil); err != nil || r.Orgs != 1 {
			t.Errorf("rotating past it: %+v, %v", r, err)
		}

		if err := s.DeleteOrg(t.Context(), k.Org, by); err != nil {
			t.Fatal(err)
		}
		hasCode(t, second(s.Seed(t.Context(), SeedSpec{Org: "acme", Email: "ann@example.com"})), fault.Conflict, "org_deleted")
	})
}

func TestListsGoOnWhereTheyStopped(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		k, by := admin(t, s, "acme")
		_, other := admin(t, s, "globex")
		var want []id.Team
		for i := range 7 {
			team := must[Team](t)(s.CreateTeam(t.Context(), k.Org, by, fmt.Sprint("team ", i)))
			must[Team](t)(s.CreateTeam(t.Context(), "org_globex", other, fmt.Sprint("team ", i)))
			want = append([]id.Team{team.ID}, want...)
		}
		// Three of one moment: their ids tell them apart.
		w.exec(t, k.Org, `UPDATE teams SET created_at = (SELECT created_at FROM teams WHERE org_id = $1 AND name = 'team 3')
			WHERE org_id = $1 AND name IN ('team 2', 'team 4')`, string(k.Org))
		var got []id.Team
		for after := (Cursor{}); ; {
			page := must[[]Team](t)(s.Teams(t.Context(), k.Org, after, 2))
			if len(page) == 0 {
				break
			}
			for _, team := range page {
				got = append(got, team.ID)
				after = Cursor{team.CreatedAt, string(team.ID)}
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("listed %v\nwant %v", got, want)
		}
		first, _, err := s.CreateKey(t.Context(), k.Org, by, KeySpec{User: k.User})
		if err != nil {
			t.Fatal(err)
		}
		bob := must[UserInfo](t)(s.CreateUser(t.Context(), k.Org, by, UserSpec{Email: "bob@example.com"}))
		if _, _, err := s.CreateKey(t.Context(), k.Org, by, KeySpec{User: bob.ID}); err != nil {
			t.Fatal(err)
		}
		own := must[[]KeyInfo](t)(s.Keys(t.Context(), k.Org, k.User, Cursor{}, 10))
		if len(own) != 2 || own[0].ID != callerOf(t, s, first).Key {
			t.Errorf("her keys: %+v", own)
		}
		if all := must[[]KeyInfo](t)(s.Keys(t.Context(), k.Org, "", Cursor{}, 10)); len(all) != 3 {
			t.Errorf("all keys: %+v", all)
		}
	})
}
