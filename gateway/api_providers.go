package gateway

import (
	"slices"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/seal"
	"threadhub/orgs"
)

// providers are those an org may keep a key for, in the order they are shown.
var providers = []string{"perplexity", "openai", "gemini", "openrouter"}

// maxProviderKey is more than any provider's key has, in bytes.
const maxProviderKey = 4 << 10

// slotShape is what is shown of a provider key: never the key.
type slotShape struct {
	Name      string     `json:"name"`
	Priority  int        `json:"priority"`
	MaskedKey string     `json:"masked_key"`
	CreatedAt *time.Time `json:"created_at"`
	LastUsed  *time.Time `json:"last_used"`
}

func shapeOf(s orgs.ProviderKeyStatus) slotShape {
	return slotShape{s.Name, s.Priority, s.Masked, timeOrNull(s.CreatedAt), timeOrNull(s.LastUsedAt)}
}

// providerShape is a provider with the org's keys for it, the one to be used first in front. Its own members are those of
// that one.
type providerShape struct {
	Provider   string      `json:"provider"`
	Configured bool        `json:"configured"`
	MaskedKey  *string     `json:"masked_key"`
	CreatedAt  *time.Time  `json:"created_at"`
	LastUsed   *time.Time  `json:"last_used"`
	Keys       []slotShape `json:"keys"`
}

func (p *providerShape) add(k slotShape) {
	if p.Keys = append(p.Keys, k); len(p.Keys) == 1 {
		p.Configured, p.MaskedKey, p.CreatedAt, p.LastUsed = true, &k.MaskedKey, k.CreatedAt, k.LastUsed
	}
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// providerKeys checks the org that the path names. What is foreign and what does not exist look alike.
func (g *Gateway) providerKeys(x *request) (ProviderKeys, error) {
	if err := x.ownOrg(x.param("org")); err != nil {
		return nil, err
	}
	if g.opts.ProviderKeys == nil {
		return nil, fault.New(fault.Unavailable, "there is no place for provider keys")
	}
	return g.opts.ProviderKeys, nil
}

// provider is the one that the path names.
func (x *request) provider() (string, error) {
	p := x.param("provider")
	if !slices.Contains(providers, p) {
		return "", notFound()
	}
	return p, nil
}

// putProvider answers PUT /api/orgs/{org}/providers/{provider} with {"api_key"?, "name"?, "priority"?}: a key, or another
// priority for the key of that name.
func (g *Gateway) putProvider(x *request) {
	status, err := g.setProvider(x)
	if err != nil {
		x.fail(err)
		return
	}
	x.json(200, struct {
		Provider   string `json:"provider"`
		Configured bool   `json:"configured"`
		slotShape
	}{status.Provider, true, shapeOf(status)})
}

func (g *Gateway) setProvider(x *request) (orgs.ProviderKeyStatus, error) {
	var none orgs.ProviderKeyStatus
	// The path is judged before the body, so that a foreign org's 404 does not depend on what was sent to it.
	keys, err := g.providerKeys(x)
	if err != nil {
		return none, err
	}
	provider, err := x.provider()
	if err != nil {
		return none, err
	}
	f := x.fields("api_key", "name", "priority")
	spec := orgs.ProviderKeySpec{Provider: provider, Name: f.keyName(), Priority: f.number("priority")}
	if spec.Priority == nil || f.given("api_key") {
		spec.Key = f.key()
	}
	if f.err != nil {
		return none, f.err
	}
	return keys.PutProviderKey(x.ctx, x.caller.Org, x.actor(), spec)
}

// keyName returns the name of a provider key, "" if there is none.
func (f *fields) keyName() string {
	name := or(f.text("name"))
	if name == "" && f.given("name") {
		f.fail(noName())
	}
	return name
}

// noName refuses a name that is there and empty: it is somebody's slip, and must not stand for another key, or for all.
func noName() error {
	return fault.New(fault.Invalid, "name is empty").WithCode("invalid_key_name").WithParam("name")
}

// key returns a provider key.
func (f *fields) key() seal.Secret {
	key := or(f.text("api_key"))
	f.fail(plausibleKey(key))
	return seal.NewSecret(key)
}

// plausibleKey refuses what cannot be a key and must not get into a header.
func plausibleKey(key string) error {
	bad := func(why string) error {
		return fault.New(fault.Invalid, "api_key %s", why).WithCode("invalid_api_key_value").WithParam("api_key")
	}
	if key == "" {
		return bad("is missing")
	}
	if len(key) > maxProviderKey {
		return bad("is too long")
	}
	for i := range len(key) {
		if key[i] <= 0x20 || key[i] >= 0x7f {
			return bad("holds a byte that no key has")
		}
	}
	return nil
}

// deleteProvider answers DELETE /api/orgs/{org}/providers/{provider}?name=: without a name all keys for the provider go.
func (g *Gateway) deleteProvider(x *request) {
	provider, name, err := g.removeProvider(x)
	if err != nil {
		x.fail(err)
		return
	}
	shape := map[string]any{"provider": provider, "deleted": true}
	if name != "" {
		shape["name"] = name
	}
	x.json(200, shape)
}

func (g *Gateway) removeProvider(x *request) (provider, name string, err error) {
	keys, err := g.providerKeys(x)
	if err != nil {
		return "", "", err
	}
	if provider, err = x.provider(); err != nil {
		return "", "", err
	}
	if name, err = x.queryName(); err != nil {
		return "", "", err
	}
	return provider, name, keys.DeleteProviderKey(x.ctx, x.caller.Org, x.actor(), provider, name)
}

// queryName reads the one parameter that says which key is meant. Another spelling of it is refused: it would mean all.
func (x *request) queryName() (name string, err error) {
	found := false
	for k, v := range x.rc.QueryArgs().All() {
		switch {
		case string(k) == "org_id":
		case string(k) != "name":
			return "", fault.New(fault.Invalid, "the URL has a parameter that is not known here").WithCode("unknown_parameter").
				WithParam(shown(string(k)))
		case found:
			return "", fault.New(fault.Invalid, "the URL has the parameter name twice").WithCode("duplicate_parameter").WithParam("name")
		case len(v) == 0:
			return "", noName()
		default:
			name, found = string(v), true
		}
	}
	return name, nil
}

// providerStatus answers GET /api/orgs/{org}/providers/status: all providers, with or without keys.
func (g *Gateway) providerStatus(x *request) {
	keys, err := g.providerKeys(x)
	if err != nil {
		x.fail(err)
		return
	}
	list, err := keys.ProviderKeys(x.ctx, x.caller.Org)
	if err != nil {
		x.fail(err)
		return
	}
	data := make([]providerShape, 0, len(providers))
	for _, p := range providers {
		shape := providerShape{Provider: p, Keys: []slotShape{}}
		for _, k := range list {
			if k.Provider == p {
				shape.add(shapeOf(k))
			}
		}
		data = append(data, shape)
	}
	x.json(200, listShape[providerShape]{Data: data})
}
