package orgs

import (
	"errors"
	"slices"
	"testing"

	"threadhub/internal/db"
)

// What is kept for an org opens in its own place alone, and no longer than its data key is there.
func TestWhatIsKeptIsSealed(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		k, other := member(t, s, "acme"), member(t, s, "other")
		var sealed []byte
		_, err := s.CreateTeam(t.Context(), k.Org, Actor{}, "team", func(tx db.Tx, _ Team) (err error) {
			sealed, err = s.SealIn(t.Context(), tx, k.Org, "a", []byte("plain"))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.CreateTeam(t.Context(), other.Org, Actor{}, "team", func(tx db.Tx, _ Team) error {
			_, err := s.SealIn(t.Context(), tx, other.Org, "a", nil) // has a data key, too
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.OpenSealed(t.Context(), k.Org, "a", sealed); err != nil || string(got) != "plain" {
			t.Errorf("it opens as %q, %v", got, err)
		}
		if got, err := s.OpenSealed(t.Context(), k.Org, "b", sealed); err == nil {
			t.Errorf("in another place it opens as %q", got)
		}
		if got, err := s.OpenSealed(t.Context(), other.Org, "a", sealed); err == nil {
			t.Errorf("in another org it opens as %q", got)
		}
		if got, err := s.OpenSealed(t.Context(), k.Org, "a", sealed[:3]); err == nil {
			t.Errorf("cut off it opens as %q", got)
		}
		if _, err := s.Rotate(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if got, err := s.OpenSealed(t.Context(), k.Org, "a", sealed); got != nil || err != nil {
			t.Errorf("after a rotation it opens as %q, %v", got, err)
		}
	})
}

// A change and what is done after it are one: if that fails, nothing was made, and nothing is written down.
func TestWhatFollowsAChangeUndoesIt(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		k := seed(t, s, SeedSpec{Org: "acme", Email: "ann@acme.example", Role: Admin})
		before := actions(t, s, k.Org)
		no := errors.New("no")
		if _, err := s.CreateTeam(t.Context(), k.Org, Actor{}, "team", func(db.Tx, Team) error { return no }); !errors.Is(err, no) {
			t.Errorf("a team: %v", err)
		}
		if _, err := s.CreateUser(t.Context(), k.Org, Actor{}, UserSpec{Email: "b@acme.example"}, func(db.Tx, UserInfo) error { return no }); !errors.Is(err, no) {
			t.Errorf("a user: %v", err)
		}
		if _, _, err := s.CreateKey(t.Context(), k.Org, Actor{}, KeySpec{User: k.User}, func(db.Tx, MadeKey) error { return no }); !errors.Is(err, no) {
			t.Errorf("a key: %v", err)
		}
		teams, err := s.Teams(t.Context(), k.Org, Cursor{}, 10)
		if err != nil || len(teams) != 0 {
			t.Errorf("teams %v, %v", teams, err)
		}
		if users, err := s.Users(t.Context(), k.Org, Cursor{}, 10); err != nil || len(users) != 1 {
			t.Errorf("users %v, %v", users, err)
		}
		if keys, err := s.Keys(t.Context(), k.Org, "", Cursor{}, 10); err != nil || len(keys) != 1 {
			t.Errorf("keys %v, %v", keys, err)
		}
		if got := actions(t, s, k.Org); !slices.Equal(got, before) {
			t.Errorf("the log says %v", got)
		}
	})
}
