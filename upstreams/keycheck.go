package upstreams

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/seal"
)

const (
	testTime = 10 * time.Second
	testBody = 8 << 20 // bytes of a list of models; the longest has a tenth of them
)

// KeyCheck is how a provider tells whether a key is good. Its answers hold what is asked for in a member.
type KeyCheck struct {
	Path   string // what only a good key gets: the list of models, or an object that tells of the key
	Models string // the list, to be counted: Path itself, or one that anybody gets
	Member string // of the answers; "" is data
	Narrow bool   // keys may be kept from Path and be good for models: 403 is for a key that the provider knows

	// Unfit says of the data at Path why no model can be asked with a key that is good for something else; "" if one can.
	Unfit func(data json.RawMessage) (why string) // nil: there are no such keys
}

// Test is Tester's.
func (c *Client) Test(ctx context.Context, key seal.Secret) (Proof, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, testTime, errExpired)
	defer cancel()
	check := c.dialect.Check
	begin := byte('{')
	if check.Models == check.Path {
		begin = '['
	}
	k, data, err := c.look(ctx, check.Path, key, begin)
	proof := Proof{Status: k.Status, Models: -1}
	switch {
	case err != nil && check.Narrow && k.narrow():
		proof.Narrow = true
		return proof, nil
	case err != nil && (k.Status == http.StatusUnauthorized || k.Status == http.StatusForbidden || k.said.rejected || k.said.placed):
		return Proof{}, k.failed(c.keyUnfit("was refused"))
	case err != nil:
		return Proof{}, k.failed(err)
	}
	if check.Unfit != nil {
		if why := check.Unfit(data); why != "" {
			return Proof{}, k.failed(c.keyUnfit(why))
		}
	}
	if check.Models != check.Path {
		// The key is proved: what becomes of the list is no reason to say otherwise.
		if _, data, err = c.look(ctx, check.Models, key, '['); err == nil {
			proof.Models = countModels(data)
		}
		return proof, nil
	}
	if proof.Models = countModels(data); proof.Models < 0 {
		return Proof{}, k.failed(c.fault(fault.Upstream, nil, "upstream_protocol", "answered with something that is no list of models"))
	}
	return proof, nil
}

// keyUnfit is keyRejected for a key that may not be the org's yet.
func (c *Client) keyUnfit(why string) error {
	return fault.New(fault.Upstream, "%s: the key %s", c.dialect.Provider, why).WithCode("upstream_auth").NoRetry()
}

// narrow reports whether the provider refused a key that it knows: it says so itself, and not an edge in front of it, and
// it is not the place that it refuses.
func (k *call) narrow() bool {
	return k.Status == http.StatusForbidden && k.said.message != "" && !k.said.placed
}

// look returns the data of what stands at path for whoever has the key, whose first byte must be begin.
func (c *Client) look(ctx context.Context, path string, key seal.Secret, begin byte) (*call, json.RawMessage, error) {
	k, answer, err := c.get(ctx, path, key)
	if err != nil {
		return k, nil, err
	}
	var body map[string]json.RawMessage
	err = json.Unmarshal(answer, &body)
	data := body[cmp.Or(c.dialect.Check.Member, "data")]
	if err != nil || len(data) == 0 || data[0] != begin {
		return k, nil, c.fault(fault.Upstream, nil, "upstream_protocol", "answered with something that is not what it was asked for")
	}
	return k, data, nil
}

// countModels counts the models in a list; -1 if it is none.
func countModels(data json.RawMessage) int {
	var list []struct {
		ID   string `json:"id"`
		Name string `json:"name"` // Google's
	}
	if json.Unmarshal(data, &list) != nil {
		return -1
	}
	n := 0
	for _, m := range list {
		if m.ID != "" || m.Name != "" {
			n++
		}
	}
	return n
}
