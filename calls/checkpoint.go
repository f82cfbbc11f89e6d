package calls

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"threadhub/internal/id"
)

// Checkpoints keep what unfinished streams have brought, in a folder of this machine, until their calls are recorded.
// What a client was given is written here before: so that even after kill -9 what it saw is a prefix of what the thread
// holds. Nothing is synced to the disk: the kernel keeps what a killed process has written, and a power cut also ends the
// connection on which it was to be seen.
//
// They are for a store that only one process serves. A nil *Checkpoints keeps nothing.
type Checkpoints struct{ dir string }

// OpenCheckpoints makes dir if it is missing.
func OpenCheckpoints(dir string) (*Checkpoints, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("calls: %w", err)
	}
	return &Checkpoints{dir}, nil
}

// Checkpoint is what one stream has brought. Not safe for concurrent use. A nil *Checkpoint keeps nothing.
type Checkpoint struct{ f *os.File }

// Begin starts the checkpoint of a call.
func (c *Checkpoints) Begin(call id.Request) (*Checkpoint, error) {
	if c == nil {
		return nil, nil
	}
	f, err := os.OpenFile(c.path(call), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("calls: %w", err)
	}
	return &Checkpoint{f}, nil
}

// Add appends p, whole events of the stream.
func (k *Checkpoint) Add(p []byte) error {
	if k == nil {
		return nil
	}
	_, err := k.f.Write(p)
	return err
}

// Done forgets the checkpoint: its call has been recorded.
func (k *Checkpoint) Done() error {
	if k == nil {
		return nil
	}
	return errors.Join(os.Remove(k.f.Name()), k.f.Close())
}

// Keep closes the checkpoint and leaves it to be found: its call has not been recorded.
func (k *Checkpoint) Keep() error {
	if k == nil {
		return nil
	}
	return k.f.Close()
}

// Read returns what the call had brought; nil if nothing is kept of it. Its last event may be cut short.
func (c *Checkpoints) Read(call id.Request) ([]byte, error) {
	if c == nil {
		return nil, nil
	}
	b, err := os.ReadFile(c.path(call))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// Clear forgets all of them: every call of the past is closed.
func (c *Checkpoints) Clear() error {
	if c == nil {
		return nil
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		err = errors.Join(err, os.Remove(filepath.Join(c.dir, e.Name())))
	}
	return err
}

func (c *Checkpoints) path(call id.Request) string { return filepath.Join(c.dir, string(call)) }
