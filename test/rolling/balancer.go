package rolling

import (
	"context"
	"net/http"
	"sync"
	"time"

	"threadhub/test/rig"
)

// balancer sends requests to the replicas that say they are ready, one after the other, as a load balancer does: it asks
// each for its readiness every look, and goes by the last answer.
type balancer struct {
	mu    sync.Mutex
	slots []*slot
	next  int
	probe *http.Client
}

type slot struct {
	g     *rig.Gateway
	ready bool
}

const look = 50 * time.Millisecond

func newBalancer() *balancer {
	return &balancer{probe: &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
}

// put makes g the replica in a slot. It is asked for its readiness before it gets a request.
func (b *balancer) put(n int, g *rig.Gateway) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.slots) <= n {
		b.slots = append(b.slots, &slot{})
	}
	b.slots[n] = &slot{g: g}
}

// pick is the next replica that is ready; nil if none is.
func (b *balancer) pick() *rig.Gateway {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range b.slots {
		b.next++
		if s := b.slots[b.next%len(b.slots)]; s.ready {
			return s.g
		}
	}
	return nil
}

// run asks until ctx ends.
func (b *balancer) run(ctx context.Context) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		b.mu.Lock()
		slots := append([]*slot(nil), b.slots...)
		b.mu.Unlock()
		for _, s := range slots {
			ready := b.ready(ctx, s.g)
			b.mu.Lock()
			s.ready = ready
			b.mu.Unlock()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (b *balancer) ready(ctx context.Context, g *rig.Gateway) bool {
	return statusOf(ctx, b.probe, g.Operator+"/health/ready") == 200
}

// statusOf is how a URL answers; 0: not at all.
func statusOf(ctx context.Context, c *http.Client, url string) int {
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return 0
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}
