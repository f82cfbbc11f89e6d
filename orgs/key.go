package orgs

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"hash/crc32"
	"math/big"

	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
)

// An API key is th_<id>_<secret>_<checksum>, all base62: 12 characters of id, by which it is looked up and shown; 43 of
// secret, which are 32 random bytes; 6 of checksum, the CRC-32 of all before its underscore, so that junk is told from a
// key without asking the store, and secret scanners find true keys only.
const (
	keyPrefix = "th_"
	keyID     = 12
	keySecret = 43
	keySum    = 6

	secretAt = len(keyPrefix) + keyID + 1
	sumAt    = secretAt + keySecret + 1
	keyLen   = sumAt + keySum
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// APIKey is a well-formed key; whether it is anybody's is another question. It prints as its id.
type APIKey struct {
	ID   id.Key
	text string
}

// NewKey makes a key from fresh randomness.
func NewKey() APIKey {
	var secret [32]byte
	rand.Read(secret[:])
	body := keyPrefix + randomID() + "_" + digits(new(big.Int).SetBytes(secret[:]), keySecret)
	text := body + "_" + checksum(body)
	return APIKey{ID: id.Key(text[len(keyPrefix) : secretAt-1]), text: text}
}

// ParseKey reads a key as a caller shows it. It asks nothing of the store. Errors: fault.Unauthorized, the same as for a
// key that is not known.
func ParseKey(text string) (APIKey, error) {
	if len(text) != keyLen || text[:len(keyPrefix)] != keyPrefix || text[secretAt-1] != '_' || text[sumAt-1] != '_' ||
		!isBase62(text[len(keyPrefix):secretAt-1]) || !isBase62(text[secretAt:sumAt-1]) ||
		text[sumAt:] != checksum(text[:sumAt-1]) {
		return APIKey{}, refused()
	}
	return APIKey{ID: id.Key(text[len(keyPrefix) : secretAt-1]), text: text}, nil
}

// Secret returns the whole key, to be shown to its owner once.
func (k APIKey) Secret() seal.Secret { return seal.NewSecret(k.text) }

func (k APIKey) String() string   { return keyPrefix + string(k.ID) + "_…" }
func (k APIKey) GoString() string { return k.String() }

// sum is what caches know the key by: they never hold the key.
func (k APIKey) sum() [sha256.Size]byte {
	var b [keyLen]byte // on the stack: this runs for every request
	copy(b[:], k.text)
	return sha256.Sum256(b[:])
}

// mac is what the store knows the key by. The pepper is not in the store, so a stolen copy of it cannot be searched.
func (k APIKey) mac(pepper []byte) []byte {
	h := hmac.New(sha256.New, pepper)
	h.Write([]byte(k.ID))
	h.Write([]byte(k.text[secretAt : sumAt-1]))
	return h.Sum(nil)
}

// refused is the one answer to a key that is malformed, unknown, revoked, expired or its owner's no more: which of them
// it was is nobody's business but the owner's.
func refused() *fault.Error {
	return fault.New(fault.Unauthorized, "this API key is not valid: check that it is complete, or ask an admin of your organisation for a new one").
		WithCode("invalid_api_key").NoRetry()
}

func randomID() string {
	out := make([]byte, 0, keyID)
	for len(out) < keyID {
		var b [keyID]byte
		rand.Read(b[:])
		for _, c := range b {
			if c < 4*62 && len(out) < keyID { // beyond a multiple of 62 the first digits would be likelier
				out = append(out, base62[c%62])
			}
		}
	}
	return string(out)
}

// digits writes n in base62, width digits wide. n must fit.
func digits(n *big.Int, width int) string {
	out := make([]byte, width)
	base, rest := big.NewInt(62), new(big.Int)
	for i := width - 1; i >= 0; i-- {
		n.DivMod(n, base, rest)
		out[i] = base62[rest.Int64()]
	}
	return string(out)
}

func checksum(body string) string {
	sum := crc32.ChecksumIEEE([]byte(body))
	var out [keySum]byte
	for i := keySum - 1; i >= 0; i-- {
		out[i] = base62[sum%62]
		sum /= 62
	}
	return string(out[:])
}

func isBase62(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z') {
			return false
		}
	}
	return true
}
