package orgs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

const (
	maxOrgName  = 200 // bytes
	maxSlug     = 40
	defaultTier = "trial"
	defaultSeat = 10
)

// OrgID returns the id of the org named name, the same each time: org_<name> when the name could be an id, else a
// readable part and a piece of the name's hash.
func OrgID(name string) id.Org {
	slug := slugOf(name)
	if name != "" && slug == name {
		return id.Org("org_" + name)
	}
	sum := sha256.Sum256([]byte(name))
	tail := hex.EncodeToString(sum[:4])
	if slug = strings.Trim(slug, "_"); slug == "" {
		return id.Org("org_" + tail)
	}
	return id.Org("org_" + slug + "_" + tail)
}

// slugOf keeps what may stand in an id, puts _ for each character that may not, and cuts.
func slugOf(name string) string {
	slug := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, strings.ToLower(name))
	return slug[:min(len(slug), maxSlug)]
}

// holdOrg lets one transaction at a time change what hangs together in an org: seats, data keys, provider keys. An
// update that changes nothing is a lock both stores know; it stops no insert of a call. Errors: fault.NotFound.
func holdOrg(ctx context.Context, tx db.Tx, org id.Org) error {
	n, err := tx.Exec(ctx, `UPDATE orgs SET name = name WHERE org_id = $1 AND deleted_at IS NULL`, string(org))
	if err == nil && n == 0 {
		return noOrg()
	}
	return err
}

// noOrg is an org that is not there, or not any more.
func noOrg() *fault.Error {
	return fault.New(fault.NotFound, "there is no such org").WithCode("org_not_found")
}
