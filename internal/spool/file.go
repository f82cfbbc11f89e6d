package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
)

// A record's file: the magic, which ends in the version; the CRC of all that follows it; the id of the key that seals,
// with its length before it; and the box. The box would show damage by itself, but not tell it from a wrong key.
const (
	magic   = "thspool\x01"
	headLen = len(magic) + 4 + 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	// ErrDamaged is a record that is not what was written.
	ErrDamaged = errors.New("spool: the record is damaged")
	// ErrForeign is a record of another version, or sealed with a key that this process was not given.
	ErrForeign = errors.New("spool: the record cannot be read by this process")
)

// binding is what a record's box is bound to: moved under another name it stays shut.
func binding(name string) string { return "spool/" + name }

func (s *Spool) seal(name string, record []byte) ([]byte, error) {
	id, box, err := s.keys.Wrap(record, binding(name))
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, headLen+len(id)+len(box))
	b = append(b, magic...)
	b = append(b, 0, 0, 0, 0, byte(len(id)))
	b = append(b, id...)
	b = append(b, box...)
	binary.BigEndian.PutUint32(b[len(magic):], crc32.Checksum(b[len(magic)+4:], castagnoli))
	return b, nil
}

func (s *Spool) open(name string, text []byte) ([]byte, error) {
	id, box, err := split(text)
	if err != nil {
		return nil, err
	}
	if !s.has(id) {
		return nil, fmt.Errorf("%w: it is sealed with the key %q", ErrForeign, id)
	}
	record, err := s.keys.Unwrap(id, box, binding(name))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return record, nil
}

func (s *Spool) has(key string) bool { return slices.Contains(s.keys.IDs(), key) }

// split takes a file apart.
func split(text []byte) (key string, box []byte, err error) {
	switch {
	case len(text) < headLen || string(text[:len(magic)-1]) != magic[:len(magic)-1]:
		return "", nil, ErrDamaged
	case text[len(magic)-1] != magic[len(magic)-1]:
		return "", nil, fmt.Errorf("%w: it is of version %d", ErrForeign, text[len(magic)-1])
	}
	sum, rest := binary.BigEndian.Uint32(text[len(magic):]), text[len(magic)+4:]
	n := int(rest[0])
	if crc32.Checksum(rest, castagnoli) != sum || len(rest) < 1+n {
		return "", nil, ErrDamaged
	}
	return string(rest[1 : 1+n]), rest[1+n:], nil
}
