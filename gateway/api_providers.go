package gateway

import (
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/seal"
	"threadhub/orgs"
)

// providers are those an org may keep a key for, in the order they are shown.
var providers = []string{"perplexity", "openai", "gemini", "openrouter"}

// maxProviderKey is more than any provider's key has, in bytes.
const maxProviderKey = 4 << 10

// providerShape is what is shown of a provider key: never the key.
type providerShape struct {
	Provider   string     `json:"provider"`
	Configured bool       `json:"configured"`
	MaskedKey  *string    `json:"masked_key"`
	CreatedAt  *time.Time `json:"created_at"`
	LastUsed   *time.Time `json:"last_used"`
}

func shapeOf(s orgs.ProviderKeyStatus) providerShape {
	return providerShape{
		Provider: s.Provider, Configured: true, MaskedKey: &s.Masked,
		CreatedAt: timeOrNull(s.CreatedAt), LastUsed: timeOrNull(s.LastUsedAt),
	}
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// providerOf checks the org and the provider that the path names, and the org_id of the body. What is foreign and what
// does not exist look alike.
func (g *Gateway) providerOf(x *request, orgID string) (string, error) {
	if err := x.ownOrg(x.param("org")); err != nil {
		return "", err
	}
	if orgID != "" {
		if err := x.ownOrg(orgID); err != nil {
			return "", err
		}
	}
	if g.opts.ProviderKeys == nil {
		return "", fault.New(fault.Unavailable, "there is no place for provider keys")
	}
	p := x.param("provider")
	for _, known := range providers {
		if p == known {
			return p, nil
		}
	}
	return "", notFound()
}

// putProvider answers PUT /api/orgs/{org}/providers/{provider} with {"api_key": "…"}.
func (g *Gateway) putProvider(x *request) {
	status, err := g.setProvider(x)
	if err != nil {
		x.fail(err)
		return
	}
	x.json(200, shapeOf(status))
}

func (g *Gateway) setProvider(x *request) (orgs.ProviderKeyStatus, error) {
	var none orgs.ProviderKeyStatus
	// The path is judged before the body, so that a foreign org's 404 does not depend on what was sent to it.
	provider, err := g.providerOf(x, "")
	if err != nil {
		return none, err
	}
	m, err := x.members("api_key", "org_id")
	if err != nil {
		return none, err
	}
	orgID, err := text(m, "org_id")
	if err != nil {
		return none, err
	}
	if _, err := g.providerOf(x, orgID); err != nil {
		return none, err
	}
	key, err := text(m, "api_key")
	if err != nil {
		return none, err
	}
	if err := plausibleKey(key); err != nil {
		return none, err
	}
	return g.opts.ProviderKeys.PutProviderKey(x.ctx, x.caller.Org, x.actor(), provider, seal.NewSecret(key))
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

// deleteProvider answers DELETE /api/orgs/{org}/providers/{provider}.
func (g *Gateway) deleteProvider(x *request) {
	provider, err := g.providerOf(x, "")
	if err == nil {
		err = g.opts.ProviderKeys.DeleteProviderKey(x.ctx, x.caller.Org, x.actor(), provider)
	}
	if err != nil {
		x.fail(err)
		return
	}
	x.json(200, map[string]any{"provider": provider, "deleted": true})
}

// providerStatus answers GET /api/orgs/{org}/providers/status: all providers, with or without a key.
func (g *Gateway) providerStatus(x *request) {
	if err := x.ownOrg(x.param("org")); err != nil {
		x.fail(err)
		return
	}
	if g.opts.ProviderKeys == nil {
		x.fail(fault.New(fault.Unavailable, "there is no place for provider keys"))
		return
	}
	keys, err := g.opts.ProviderKeys.ProviderKeys(x.ctx, x.caller.Org)
	if err != nil {
		x.fail(err)
		return
	}
	data := make([]providerShape, 0, len(providers))
	for _, p := range providers {
		shape := providerShape{Provider: p}
		for _, k := range keys {
			if k.Provider == p {
				shape = shapeOf(k)
			}
		}
		data = append(data, shape)
	}
	x.json(200, map[string]any{"data": data})
}
