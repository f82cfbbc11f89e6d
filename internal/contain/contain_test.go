package contain_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	. "threadhub/internal/contain"
	"threadhub/internal/testkit"
)

func TestPanicsEndThere(t *testing.T) {
	log := &testkit.Log{}
	p := New(slog.New(slog.NewJSONHandler(log, nil)))
	var wg sync.WaitGroup
	for _, work := range []func(){
		func() { panic("th_secretsecret") }, func() { panic(errors.New("th_secretsecret")) }, func() { panic(nil) },
		func() { _ = []int{}[len(log.String()):][3] }, func() {},
	} {
		wg.Go(p.Wrap("a test", work))
	}
	wg.Wait()
	if p.Caught() != 4 {
		t.Errorf("%d were caught", p.Caught())
	}
	if s := log.String(); strings.Contains(s, "secret") || strings.Count(s, `"msg":"panic","where":"a test"`) != 4 || !strings.Contains(s, "out of range") {
		t.Errorf("the log: %s", s)
	}
	var none *Panics
	none.Run("nowhere", func() { panic(1) })
	none.Keep(t.Context(), "nowhere", func() {})
	if none.Caught() != 0 {
		t.Error("nil counts")
	}
	loud := New(slog.New(broken{slog.DiscardHandler}))
	loud.Run("a broken log", func() { panic(1) })
	if loud.Caught() != 1 {
		t.Error("a panic was not counted, as the log is broken")
	}
}

// broken is a log whose handler panics.
type broken struct{ slog.Handler }

func (broken) Enabled(context.Context, slog.Level) bool  { return true }
func (broken) Handle(context.Context, slog.Record) error { panic("broken") }

func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		n := 0
		p.Keep(t.Context(), "a loop", func() {
			if n++; n < 4 {
				panic(n)
			}
		})
		if n != 4 || p.Caught() != 3 {
			t.Errorf("it began %d times, and %d panics were caught", n, p.Caught())
		}
		ctx, cancel := context.WithCancel(t.Context())
		p.Keep(ctx, "a loop", func() { cancel(); panic("once") })
		if p.Caught() != 4 {
			t.Error("it goes on after its context")
		}
	})
}
