package orgs

import (
	"testing"

	"threadhub/internal/fault"
	"threadhub/internal/seal"
)

// Ids are an org's own affair: the same user and the same key's id in two orgs are two users and two keys, neither is in
// the other's way, and nothing tells one org what the other has.
func TestNamesakesInTwoOrgs(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		a := member(t, s, "acme")
		b := seed(t, s, SeedSpec{Org: "globex", Email: "admin@globex.example", Role: Admin})
		twin := NewKey()
		body := keyPrefix + string(a.Key) + twin.text[secretAt-1:sumAt-1]
		twin.ID, twin.text = a.Key, body+"_"+checksum(body) // a's id with another secret
		w.exec(t, b.Org, `INSERT INTO users (org_id, user_id, email, role) VALUES ($1, $2, 'm@example.com', 'viewer')`, string(b.Org), string(a.User))
		w.exec(t, b.Org, `INSERT INTO api_keys (org_id, key_id, user_id, name, hash) VALUES ($1, $2, $3, '', $4)`,
			string(b.Org), string(twin.ID), string(a.User), twin.mac(s.pepper))

		ofA, ofB := callerOf(t, s, a.APIKey), callerOf(t, s, twin.Secret())
		if ofA.Org != a.Org || ofA.Role != Member || ofB.Org != b.Org || ofB.Role != Viewer || ofA.Key != ofB.Key || ofA.User != ofB.User {
			t.Fatalf("the keys are of %+v and %+v", ofA, ofB)
		}
		third := keyPrefix + string(a.Key) + NewKey().text[secretAt-1:sumAt-1]
		_, err := s.Authenticate(t.Context(), third+"_"+checksum(third))
		refuses(t, "neither's secret", err)

		for _, org := range []Seeded{a, b} {
			if _, err := s.PutProviderKey(t.Context(), org.Org, Actor{}, ProviderKeySpec{Provider: "openai", Key: seal.NewSecret("sk-of-" + string(org.Org))}); err != nil {
				t.Errorf("a provider key for %s: %v", org.Org, err)
			}
			if u, err := s.FindUser(t.Context(), org.Org, "m@example.com"); err != nil || u != a.User {
				t.Errorf("the user of %s: %v, %v", org.Org, u, err)
			}
			if _, _, err := s.CreateKey(t.Context(), org.Org, Actor{}, KeySpec{User: a.User, Name: "more"}); err != nil {
				t.Errorf("a key for the user of %s: %v", org.Org, err)
			}
		}

		// What ends in one goes on in the other.
		if err := s.RevokeKey(t.Context(), b.Org, Actor{}, a.Key); err != nil {
			t.Fatal(err)
		}
		_, err = s.Authenticate(t.Context(), twin.text)
		refuses(t, "revoked", err)
		callerOf(t, s, a.APIKey)
		if err := s.DeleteProviderKey(t.Context(), b.Org, Actor{}, "openai", ""); err != nil {
			t.Fatal(err)
		}
		_, err = s.ProviderKey(t.Context(), b.Org, "openai")
		hasCode(t, err, fault.Invalid, "provider_key_missing")
		if key, err := s.ProviderKey(t.Context(), a.Org, "openai"); err != nil || key.Reveal() != "sk-of-org_acme" {
			t.Errorf("the other's provider key: %v", err)
		}
	})
}
