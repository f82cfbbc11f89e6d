package seal

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// KeySize is the length of a key, in bytes.
const KeySize = 32

// Keyring holds the key-encryption keys: the first seals, all of them open. So keys are changed without downtime: give
// every process the new key behind the old one, then in front of it, rotate, and take the old one away. Safe for
// concurrent use. It prints as its key ids.
type Keyring struct {
	ids   []string // in the order given
	boxes map[string]*Box
}

// UnknownKeyError says that something was sealed by a key that is not in the keyring.
type UnknownKeyError struct{ ID string }

func (e *UnknownKeyError) Error() string {
	return fmt.Sprintf("seal: sealed by the key with the id %q, which is not among the keys given", e.ID)
}

// NewKey returns a fresh key in the form ParseKeyring reads: 32 random bytes in padded url-safe base64, as a Fernet key.
func NewKey() string {
	var key [KeySize]byte
	rand.Read(key[:]) // never fails (crypto/rand)
	return base64.URLEncoding.EncodeToString(key[:])
}

// ParseKeyring reads a comma-separated list of keys, each 32 bytes in url-safe base64 with or without padding; the first
// seals. The errors say which key of the list is wrong and how, and hold nothing of it.
func ParseKeyring(s string) (*Keyring, error) {
	if strings.TrimSpace(s) == "" {
		return nil, errors.New("seal: no key given: it must be 32 bytes in url-safe base64")
	}
	k := &Keyring{boxes: map[string]*Box{}}
	for i, field := range strings.Split(s, ",") {
		raw, err := decodeKey(field)
		if err != nil {
			return nil, fmt.Errorf("seal: key %d of the list %w", i+1, err)
		}
		sum := sha256.Sum256(raw[:])
		id := hex.EncodeToString(sum[:4])
		if k.boxes[id] != nil {
			return nil, fmt.Errorf("seal: key %d of the list is there twice", i+1)
		}
		k.ids = append(k.ids, id)
		k.boxes[id] = NewBox(raw)
	}
	return k, nil
}

// decodeKey reads one key. The decoder's own error is dropped: it would tell a character's place.
func decodeKey(field string) (key [KeySize]byte, err error) {
	field = strings.TrimRight(strings.TrimSpace(field), "=")
	switch {
	case field == "":
		return key, errors.New("is empty")
	case strings.ContainsAny(field, "+/"):
		return key, errors.New("is in plain base64: write - for + and _ for /")
	}
	raw, err := base64.RawURLEncoding.DecodeString(field)
	if err != nil {
		return key, errors.New("is not url-safe base64")
	}
	if len(raw) != KeySize {
		return key, fmt.Errorf("is %d bytes long, not %d", len(raw), KeySize)
	}
	copy(key[:], raw)
	return key, nil
}

// First returns the id of the key that seals.
func (k *Keyring) First() string { return k.ids[0] }

// IDs returns the ids of all keys, the sealing one first. An id is the first 8 hex digits of the key's SHA-256.
func (k *Keyring) IDs() []string { return append([]string(nil), k.ids...) }

func (k *Keyring) String() string   { return "keyring(" + strings.Join(k.ids, ",") + ")" }
func (k *Keyring) GoString() string { return k.String() }

// Wrap seals plain with the first key, bound to binding (see Box.Seal), and says which key that was.
func (k *Keyring) Wrap(plain []byte, binding string) (kekID string, sealed []byte, err error) {
	if k == nil || len(k.ids) == 0 {
		return "", nil, errors.New("seal: no key to seal with")
	}
	return k.ids[0], k.boxes[k.ids[0]].Seal(plain, binding), nil
}

// Unwrap opens what Wrap sealed. Errors: *UnknownKeyError when the key is not here; ErrOpen.
func (k *Keyring) Unwrap(kekID string, sealed []byte, binding string) ([]byte, error) {
	if k == nil || k.boxes[kekID] == nil {
		return nil, &UnknownKeyError{kekID}
	}
	return k.boxes[kekID].Open(sealed, binding)
}
