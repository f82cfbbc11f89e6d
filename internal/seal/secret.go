package seal

import "log/slog"

// Secret is text that must not be seen. It prints, logs and marshals as [secret]; only Reveal gives the value. The zero
// Secret is empty.
type Secret struct{ value string }

const mask = "[secret]"

// NewSecret wraps value.
func NewSecret(value string) Secret { return Secret{value} }

// Reveal returns the value. Call it where the value is used, and keep the result no longer than that.
func (s Secret) Reveal() string { return s.value }

// Empty reports whether there is no value.
func (s Secret) Empty() bool { return s.value == "" }

func (s Secret) String() string               { return mask }
func (s Secret) GoString() string             { return mask }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(mask) }
func (s Secret) MarshalText() ([]byte, error) { return []byte(mask), nil }
