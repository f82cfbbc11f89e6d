package gateway

import (
	"context"
	"slices"
	"sync"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/fetch"
	"threadhub/internal/id"
	"threadhub/upstreams"
)

// Fetcher gets the files that requests point to, for providers that take none by their address.
type Fetcher interface {
	Get(ctx context.Context, address string, types []string, budget *fetch.Budget) (fetch.File, error)
}

// What the files of one request may take, and those of all.
const (
	maxFiles      = 32
	maxFileBytes  = 15 << 20 // together: in base64 they are the 20 MiB that a provider takes
	filesAtOnce   = 4
	filesPatience = 20 * time.Second
	fetchingOrg   = 4 // requests of an org that fetch at a time
	fetchingAll   = 16
)

// fetch gets the files that the translation asks for, before anything is recorded: where one of what is asked now cannot
// be had, the client has named the wrong one. What was said before goes without.
func (g *Gateway) fetch(e *exchange) error {
	links := slices.DeleteFunc(slices.Clone(e.ask.Links), func(l upstreams.Link) bool {
		_, known := e.files[l.URL] // from a turn that was not to be had
		return known
	})
	if len(links) == 0 || g.opts.Fetcher == nil {
		return nil
	}
	client, stop := e.attend()
	defer stop()
	ctx, cancel := context.WithTimeoutCause(client, filesPatience, fault.New(fault.Invalid, "the files at the request's addresses took too long").
		WithCode("download_failed").WithParam(links[len(links)-1].Param))
	defer cancel()
	if !g.fetching.enter(ctx, e.caller.Org) {
		if client.Err() != nil {
			return context.Cause(client)
		}
		return fault.New(fault.Unavailable, "the gateway is fetching as many files as it can; try again in a moment").WithCode("busy").After(time.Second)
	}
	defer g.fetching.leave(e.caller.Org)

	now, past := newestFirst(links)
	if len(now) > maxFiles {
		return fault.New(fault.Invalid, "a request may point to %d files at most; send others inside it", maxFiles).WithCode("too_many_files").WithParam(now[maxFiles].Param)
	}
	b := &batch{g: g, budget: fetch.NewBudget(maxFileBytes), files: map[string]fetch.File{}}
	if err := b.get(ctx, now, true); err != nil {
		return err
	}
	_ = b.get(ctx, past[:min(len(past), maxFiles-len(now))], false)
	if client.Err() != nil {
		return context.Cause(client)
	}
	for _, l := range past {
		if _, had := b.files[l.URL]; !had {
			b.files[l.URL] = fetch.File{}
		}
	}
	for url, file := range e.files {
		b.files[url] = file
	}
	e.files = b.files
	return nil
}

// newestFirst are the links to what is asked now and to what was said before, each file once, the newest in front.
func newestFirst(links []upstreams.Link) (now, past []upstreams.Link) {
	seen := map[string]bool{}
	for _, l := range slices.Backward(links) {
		switch {
		case seen[l.URL]:
			continue
		case l.Past:
			past = append(past, l)
		default:
			now = append(now, l)
		}
		seen[l.URL] = true
	}
	return now, past
}

// batch is some files that are fetched at once.
type batch struct {
	g      *Gateway
	budget *fetch.Budget

	mu    sync.Mutex
	files map[string]fetch.File
}

// get fetches files. If all of them must be had, the first that cannot be ends it.
func (b *batch) get(ctx context.Context, links []upstreams.Link, must bool) error {
	part, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	room := make(chan struct{}, filesAtOnce)
	var wg sync.WaitGroup
	for _, l := range links {
		wg.Go(b.g.opts.Panics.Wrap("fetch", func() {
			select {
			case room <- struct{}{}:
				defer func() { <-room }()
			case <-part.Done():
				return
			}
			file, err := b.one(part, l)
			if err != nil && must {
				cancel(err)
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			b.files[l.URL] = file
		}))
	}
	wg.Wait()
	return context.Cause(part)
}

func (b *batch) one(ctx context.Context, l upstreams.Link) (file fetch.File, err error) {
	defer func() {
		if v := recover(); v != nil {
			b.g.opts.Panics.Tell("fetch", v)
			err = errPanicked
		}
	}()
	file, err = b.g.opts.Fetcher.Get(ctx, l.URL, l.Types, b.budget)
	if ctx.Err() == nil && err != nil {
		err = fault.From(err).WithParam(l.Param)
	}
	return file, err
}

// gate lets in so many requests at once, and not too many of one org.
type gate struct {
	mu      sync.Mutex
	all     int
	of      map[id.Org]int
	changed chan struct{} // closed when somebody leaves
}

func newGate() *gate { return &gate{of: map[id.Org]int{}, changed: make(chan struct{})} }

// enter waits for a place; false if ctx ended first.
func (t *gate) enter(ctx context.Context, org id.Org) bool {
	for {
		t.mu.Lock()
		if t.all < fetchingAll && t.of[org] < fetchingOrg {
			t.all++
			t.of[org]++
			t.mu.Unlock()
			return true
		}
		changed := t.changed
		t.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

func (t *gate) leave(org id.Org) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all--
	if t.of[org]--; t.of[org] == 0 {
		delete(t.of, org)
	}
	close(t.changed)
	t.changed = make(chan struct{})
}
