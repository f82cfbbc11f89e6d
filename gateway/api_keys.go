package gateway

import (
	"slices"
	"time"

	"github.com/tidwall/gjson"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/orgs"
)

// keyShape is an API key as the API shows it: never the key.
type keyShape struct {
	ID        id.Key     `json:"id"`
	Org       id.Org     `json:"org_id"`
	User      id.User    `json:"user_id"`
	Name      string     `json:"name"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at"`
	Disabled  bool       `json:"disabled"`
	Revoked   bool       `json:"revoked"`
	ReadOnly  bool       `json:"read_only"`
	Models    []string   `json:"models"`
	Providers []string   `json:"providers"`

	OnUnsupported *string `json:"on_unsupported"`
}

func shapeOfKey(org id.Org, k orgs.KeyInfo) keyShape {
	return keyShape{
		ID: k.ID, Org: org, User: k.User, Name: k.Name, CreatedAt: k.CreatedAt.UTC(), ExpiresAt: timeOrNull(k.ExpiresAt),
		Disabled: !k.DisabledAt.IsZero(), Revoked: !k.RevokedAt.IsZero(), ReadOnly: k.ReadOnly,
		Models: append([]string{}, k.Models...), Providers: append([]string{}, k.Providers...), OnUnsupported: orNull(k.OnUnsupported),
	}
}

// madeKeyShape is a new key, with the key itself, which is shown this once.
type madeKeyShape struct {
	keyShape
	APIKey string `json:"api_key"`
}

// createKey answers POST /api/keys with {name?, user_id?, expires_at?, read_only?, models?, providers?, on_unsupported?}.
// Without a user_id it is the caller's own; others' keys are the admins' to make.
func (g *Gateway) createKey(x *request) {
	spec, err := x.newKey()
	if err != nil {
		x.fail(err)
		return
	}
	g.makeOnce(x, func(keep keeper) error {
		_, _, err := g.opts.People.CreateKey(x.ctx, x.caller.Org, x.actor(), spec, func(tx db.Tx, k orgs.MadeKey) error {
			return keep(tx, madeKeyShape{shapeOfKey(x.caller.Org, k.KeyInfo), k.Secret.Reveal()})
		})
		return err
	})
}

func (x *request) newKey() (orgs.KeySpec, error) {
	f := x.fields("name", "user_id", "expires_at", "read_only", "models", "providers", "on_unsupported")
	spec := orgs.KeySpec{
		User: id.User(or(f.text("user_id"))), Name: or(f.text("name")), Expires: or(f.time("expires_at")), ReadOnly: or(f.flag("read_only")),
		Models: or(f.list("models")), Providers: or(f.list("providers")), OnUnsupported: or(f.text("on_unsupported")),
	}
	if spec.User == "" {
		spec.User = x.caller.User
	}
	switch {
	case f.err != nil:
		return spec, f.err
	case !x.keysOf(spec.User):
		return spec, orgs.NoUser()
	}
	if err := x.unrestricted(); err != nil {
		return spec, err
	}
	return spec, knownProviders(spec.Providers)
}

// keysOf reports whether a user's keys are there for the caller: its own are, an admin's are all.
func (x *request) keysOf(user id.User) bool {
	return x.caller.Role == orgs.Admin || user == x.caller.User
}

func knownProviders(names []string) error {
	for _, name := range names {
		if !slices.Contains(providers, name) {
			return fault.New(fault.Invalid, "providers may be %q", providers).WithCode("invalid_providers").WithParam("providers")
		}
	}
	return nil
}

// foreignNewKey is Route.foreign where the body may name the user a key is for.
func (g *Gateway) foreignNewKey(x *request) error {
	if err := g.foreignBody(x); err != nil {
		return err
	}
	if user := gjson.GetBytes(x.body(), "user_id"); user.Type == gjson.String && !x.keysOf(id.User(user.Str)) {
		return orgs.NoUser()
	}
	return nil
}

// listKeys answers GET /api/keys?limit=&cursor=: to admins all, to others their own.
func (g *Gateway) listKeys(x *request) {
	user := x.caller.User
	if x.caller.Role == orgs.Admin {
		user = ""
	}
	listPage(x,
		func(after orgs.Cursor, limit int) ([]orgs.KeyInfo, error) {
			return g.opts.People.Keys(x.ctx, x.caller.Org, user, after, limit)
		},
		func(k orgs.KeyInfo) orgs.Cursor { return orgs.Cursor{CreatedAt: k.CreatedAt, ID: string(k.ID)} },
		func(k orgs.KeyInfo) keyShape { return shapeOfKey(x.caller.Org, k) })
}

// key returns the key that the path names, if it is there for the caller.
func (g *Gateway) key(x *request) (orgs.KeyInfo, error) {
	k, err := g.opts.People.Key(x.ctx, x.caller.Org, id.Key(x.param("id")))
	if err == nil && !x.keysOf(k.User) {
		return orgs.KeyInfo{}, orgs.NoKey()
	}
	return k, err
}

// getKey answers GET /api/keys/{id}.
func (g *Gateway) getKey(x *request) {
	k, err := g.key(x)
	x.reply(200, shapeOfKey(x.caller.Org, k), err)
}

// changeKey answers PATCH /api/keys/{id} with {name?, expires_at?, disabled?, read_only?, models?, providers?,
// on_unsupported?}; an expires_at of null is never.
func (g *Gateway) changeKey(x *request) {
	f := x.fields("name", "expires_at", "disabled", "read_only", "models", "providers", "on_unsupported")
	c := orgs.KeyChange{
		Name: f.text("name"), Expires: f.time("expires_at"), Disabled: f.flag("disabled"), ReadOnly: f.flag("read_only"),
		Models: f.list("models"), Providers: f.list("providers"), OnUnsupported: f.text("on_unsupported"),
	}
	f.fail(x.unrestricted())
	f.fail(knownProviders(or(c.Providers)))
	if f.err != nil {
		x.fail(f.err)
		return
	}
	k, err := g.opts.People.UpdateKey(x.ctx, x.caller.Org, x.actor(), id.Key(x.param("id")), c)
	x.reply(200, shapeOfKey(x.caller.Org, k), err)
}

// deleteKey answers DELETE /api/keys/{id}: the key is revoked for good, and stays to be seen. A key that is good for less
// than everything can end itself, and no other.
func (g *Gateway) deleteKey(x *request) {
	k, err := g.key(x)
	if err == nil && k.ID != x.caller.Key {
		err = broad(x.caller)
	}
	if err == nil {
		err = g.opts.People.RevokeKey(x.ctx, x.caller.Org, x.actor(), k.ID)
	}
	x.deleted(string(k.ID), err)
}

// foreignKey is Route.foreign where the path names an API key.
func (g *Gateway) foreignKey(x *request) error {
	if err := g.foreignBody(x); err != nil {
		return err
	}
	_, err := g.key(x)
	return err
}
