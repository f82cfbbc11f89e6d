//go:build !race

// What the race detector does to each access would drown what is measured here: make test runs these tests without it.

package orgs

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

const (
	timingSamples = 200_000 // of each kind of bad key
	timingTries   = 3       // on a machine that does other things too
	told          = 4.5     // the t beyond which two kinds of key are told apart by their time
)

// Somebody who guesses must not learn from the time a refusal takes whether a key's id exists, nor how near its secret
// was. What the store takes is left out: it answers from memory.
func TestTheTimeOfARefusalTellsNothing(t *testing.T) {
	var seen []float64
	for range timingTries {
		tt := tellApart(t, timingSamples, (*Service).lookUp)
		if tt < told {
			t.Logf("t = %.1f", tt)
			return
		}
		seen = append(seen, tt)
	}
	t.Errorf("unknown ids and wrong secrets are told apart, t = %.1f", seen)
}

// The same without the comparison that stands in for a row that is not there, and with none of the work: the test above
// would see it, in each of its tries.
func TestTheTimeOfAnEarlyReturnIsSeen(t *testing.T) {
	for name, owner := range map[string]func(s *Service, ctx context.Context, key APIKey) (id.Org, error){
		"nothing is compared": func(s *Service, ctx context.Context, key APIKey) (id.Org, error) {
			c := comparison{mac: key.mac(s.pepper)}
			err := s.store.Shown(ctx, key.ID, func(tx db.Tx) error {
				return tx.Query(ctx, "", nil, c.row)
			})
			return c.org, err
		},
		"the secret is hashed only where there is a row": func(s *Service, ctx context.Context, key APIKey) (id.Org, error) {
			var c comparison
			err := s.store.Shown(ctx, key.ID, func(tx db.Tx) error {
				return tx.Query(ctx, "", nil, func(r db.Row) error {
					c.mac = key.mac(s.pepper)
					return c.row(r)
				})
			})
			return c.org, err
		},
	} {
		// A tenth of the samples is enough to see it, each time.
		for range timingTries {
			tt := tellApart(t, timingSamples/10, func(s *Service, ctx context.Context, key APIKey) (known, error) {
				if org, err := owner(s, ctx, key); err != nil || org != "" {
					return known{}, errors.New("a bad key passed")
				}
				return known{}, refused()
			})
			if tt < told {
				t.Errorf("%s: not seen, t = %.1f", name, tt)
			}
		}
	}
}

// constant is a store that takes the same time for every key.
type constant struct {
	db.Store
	row *keyRow // what it has; nil: nothing
}

func (c *constant) Shown(_ context.Context, _ id.Key, f func(db.Tx) error) error {
	return f(constantTx{c: c})
}

type constantTx struct {
	db.Tx
	c *constant
}

func (t constantTx) Query(_ context.Context, _ string, _ []any, each func(db.Row) error) error {
	if t.c.row == nil {
		return nil
	}
	return each(t.c.row)
}

// tellApart has keys of unknown ids, and wrong secrets of which the hash differs in its first or in its last bit, looked
// up in random order, and returns how well the time tells two of these kinds apart: the largest of Welch's t.
func tellApart(t *testing.T, samples int, lookUp func(*Service, context.Context, APIKey) (known, error)) float64 {
	t.Helper()
	const warmUp = 3000
	store := &constant{}
	s := New(Options{Store: store})
	s.pepper = make([]byte, pepperLen)
	key := NewKey()
	first, last := key.mac(s.pepper), key.mac(s.pepper)
	first[0] ^= 1
	last[len(last)-1] ^= 1
	// As often a row as none, or the processor would guess which comes, and guess better.
	rows := [4]*keyRow{nil, {"org_of_somebody", first}, nil, {"org_of_somebody", last}}
	times := [4][]float64{}
	for i := range warmUp + len(rows)*samples {
		kind := rand.IntN(len(rows))
		store.row = rows[kind]
		start := time.Now()
		_, err := lookUp(s, t.Context(), key)
		took := time.Since(start)
		if !fault.Is(err, fault.Unauthorized) {
			t.Fatalf("a bad key: %v", err)
		}
		if i >= warmUp {
			times[kind] = append(times[kind], float64(took))
		}
	}
	crop(&times)
	return max(welch(times[0], times[1]), welch(times[2], times[3]), welch(times[1], times[3]))
}

// crop leaves out what took longer than nine in ten of all: interrupts, the collector, other processes.
func crop(times *[4][]float64) {
	all := slices.Sorted(slices.Values(slices.Concat(times[:]...)))
	limit := all[len(all)*9/10]
	for i := range times {
		times[i] = slices.DeleteFunc(times[i], func(v float64) bool { return v > limit })
	}
}

// welch is the absolute value of Welch's t of two samples.
func welch(a, b []float64) float64 {
	meanA, varA := moments(a)
	meanB, varB := moments(b)
	return math.Abs(meanA-meanB) / math.Sqrt(varA/float64(len(a))+varB/float64(len(b)))
}

func moments(v []float64) (mean, variance float64) {
	for _, x := range v {
		mean += x / float64(len(v))
	}
	for _, x := range v {
		variance += (x - mean) * (x - mean) / float64(len(v)-1)
	}
	return mean, variance
}
