package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"
)

// closers are parts to be closed, the last one first: what was opened later stands on what was opened before.
type closers struct{ parts []io.Closer }

// closeTimeout is what a part has that waits for others (the store, a log that blocks).
const closeTimeout = 5 * time.Second

func (c *closers) add(part io.Closer) { c.parts = append(c.parts, part) }

// addContext adds a part whose end takes a context.
func (c *closers) addContext(end func(context.Context) error) {
	c.add(closerFunc(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		return end(ctx)
	}))
}

// Close closes every part and returns all that went wrong.
func (c *closers) Close() error {
	var errs []error
	for _, part := range slices.Backward(c.parts) {
		errs = append(errs, part.Close())
	}
	c.parts = nil
	return errors.Join(errs...)
}

type closerFunc func() error

func (f closerFunc) Close() error { return f() }
