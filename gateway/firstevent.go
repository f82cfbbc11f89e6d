package gateway

import (
	"errors"
	"time"

	"threadhub/internal/chaos"
	"threadhub/internal/seedbug"
	"threadhub/upstreams"
)

// waitFirst waits until the answer has begun: of a stream, until its first event has come. What goes wrong before is a failure
// of the attempt, and others may do better. The client is not left without a sign of life for longer than a heartbeat is:
// then its head goes out, and the relay waits on. See docs/decisions/0019-what-is-asked-again.md.
//
// Nothing else can end a wait for the provider and leave the stream as it is, so it is another goroutine's. Whoever takes
// its word from e.late has ended it; whoever closes the stream does not wait long for that.
func (g *Gateway) waitFirst(e *exchange) error {
	s, ok := e.answer.Stream.(interface{ Begin() error })
	if !ok || seedbug.On("head-at-once") {
		return nil
	}
	first := make(chan error, 1)
	go g.opts.Panics.Run("first event", func() {
		err := errPanicked
		defer func() { first <- err }()
		chaos.Point("first event")
		err = s.Begin()
	})
	timer := time.NewTimer(g.opts.Heartbeat)
	defer timer.Stop()
	select {
	case err := <-first:
		if err == nil {
			return nil
		}
		_ = e.answer.Stream.Close()
		if err == errPanicked { //nolint:errorlint // only itself says so
			return errors.Join(err, &upstreams.Failure{Status: e.answer.Status, Sent: true})
		}
		return err
	case <-timer.C:
		e.late = first
		return nil
	}
}

// waitFirst waits for the first event of a stream whose head went out before it. Its error is told by Next, but for a panic.
func (r *relay) waitFirst() {
	if r.e.late == nil {
		return
	}
	switch err := <-r.e.late; err { //nolint:errorlint // only itself says so
	case nil:
		r.e.began = time.Now()
	case errPanicked:
		r.over = err
	}
	r.e.late = nil
}
