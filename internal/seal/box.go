package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
)

// ErrOpen is returned when a box does not open: another key, another binding, or changed bytes. Which of them it was
// cannot be told, and nothing of the content is in it.
var ErrOpen = errors.New("seal: the box does not open with this key and binding")

// A box is one byte of version, a random 96-bit nonce, the ciphertext, and a 128-bit tag. The version has no say in how
// a box of another version would be read, so it need not be authenticated: any other value is refused.
const boxV1 = 1

// Box seals with one data key: AES-256-GCM. Safe for concurrent use. A key may seal 2^32 boxes before two random nonces
// are likely enough to meet (NIST SP 800-38D, 8.3).
type Box struct{ aead cipher.AEAD }

// NewBox returns a Box for key. It keeps no copy of the key but the expanded one inside the cipher.
func NewBox(key [32]byte) *Box {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // a key of 32 bytes is always taken
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // AES has the block size GCM asks for
	}
	return &Box{aead}
}

// Seal returns plain in a box that opens only with the same binding. The binding is not kept in the box: it names the
// place the box belongs to, so that a box moved elsewhere stays shut.
func (b *Box) Seal(plain []byte, binding string) []byte {
	out := make([]byte, 1, 1+len(plain)+b.aead.Overhead())
	out[0] = boxV1
	return b.aead.Seal(out, nil, plain, []byte(binding))
}

// Open returns what is in a box. Errors: ErrOpen.
func (b *Box) Open(sealed []byte, binding string) ([]byte, error) {
	if len(sealed) < 1+b.aead.Overhead() || sealed[0] != boxV1 {
		return nil, ErrOpen
	}
	plain, err := b.aead.Open(nil, nil, sealed[1:], []byte(binding))
	if err != nil {
		return nil, ErrOpen
	}
	return plain, nil
}
