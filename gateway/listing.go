package gateway

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"threadhub/internal/contain"
	"threadhub/internal/id"
	"threadhub/internal/seal"
	"threadhub/metering"
	"threadhub/orgs"
	routing "threadhub/router"
	"threadhub/upstreams"
)

// Listing lists the models a caller can name: those of the catalogue and those the providers list themselves, of the
// providers its org has keys for. Safe for concurrent use.
//
// A provider is asked with the org's key, and what it says is kept for that org and key alone: it may name models that are
// nobody else's. A provider that is down or slow holds nothing up for long: what it said last stands in, else the catalogue.
type Listing struct {
	o ListingOptions

	mu      sync.Mutex
	shelves map[shelfName]*shelf
	kept    int // models on all of them
}

// ListingKeys are the orgs' keys at the providers, as a listing needs them.
type ListingKeys interface {
	HasProviderKey(ctx context.Context, org id.Org) (map[string]bool, error)
	ProviderKey(ctx context.Context, org id.Org, provider string) (seal.Secret, error)
	// KeyInUse names the key that ProviderKey returns: another name once it is another key.
	KeyInUse(ctx context.Context, org id.Org, provider string) (string, error)
}

// ListingOptions are what a listing is made of, and its settings, which may be zero.
type ListingOptions struct {
	Router    *routing.Router
	Catalogue *metering.Catalogue
	Keys      ListingKeys
	Upstreams map[string]upstreams.Upstream
	Log       *slog.Logger
	Panics    *contain.Panics // nil: they are not told of

	Fresh    time.Duration    // 5 min: how long a list is good
	Again    time.Duration    // 30 s: when a provider that failed is asked again
	Patience time.Duration    // 3 s: how long a list is waited for
	Most     int              // 100,000: models kept, of all lists; beyond that the list goes that nobody has asked for longest
	Now      func() time.Time // time.Now
}

// maxShelves bounds the lists that are kept, if only to know that a provider failed.
const maxShelves = 4096

// shelfName is whose list it is.
type shelfName struct {
	org      id.Org
	provider string
}

// shelf is one provider's list for one org.
type shelf struct {
	key    string            // the name of the key it was asked for with
	models []upstreams.Model // what the provider said last; never changed
	until  time.Time         // it is not asked for again before that
	used   time.Time
	flight chan struct{} // closed when the asking under way has ended; nil if none is
}

// NewListing returns a listing that has asked nobody yet.
func NewListing(o ListingOptions) *Listing {
	o.Fresh = cmp.Or(o.Fresh, 5*time.Minute)
	o.Again = cmp.Or(o.Again, 30*time.Second)
	o.Patience = cmp.Or(o.Patience, 3*time.Second)
	o.Most = cmp.Or(o.Most, 100_000)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Listing{o: o, shelves: map[shelfName]*shelf{}}
}

// Models is Models'.
func (l *Listing) Models(ctx context.Context, caller orgs.Caller) ([]Model, error) {
	keys, err := l.o.Keys.HasProviderKey(ctx, caller.Org)
	if err != nil {
		return nil, err
	}
	names, about := map[string][]string{}, map[routing.Target]upstreams.Model{}
	for provider, list := range l.lists(ctx, caller, keys) {
		for _, m := range list {
			names[provider] = append(names[provider], m.ID)
			about[routing.Target{Provider: provider, Model: m.ID}] = m
		}
	}
	has := func(provider string) bool { return keys[provider] }
	var models []Model
	for _, m := range l.o.Router.Models(has, func(provider string) []string { return names[provider] }) {
		models = append(models, Model{ID: m.ID, OwnedBy: m.OwnedBy, Target: m.Target, About: l.known(m.Target, about[m.Target])})
	}
	return models, nil
}

// known is what the provider tells of a model and the catalogue knows. Of sizes the catalogue's count: by those the gateway
// cuts what does not fit.
func (l *Listing) known(t routing.Target, told upstreams.Model) upstreams.Model {
	m, _ := l.o.Catalogue.Lookup(t.Provider, t.Model)
	told.Window = cmp.Or(m.Window, told.Window)
	told.MaxOutput = cmp.Or(m.MaxOutput, told.MaxOutput)
	if told.Embeddings == nil && m.Embeds() {
		told.Embeddings = new(true)
	}
	return told
}

// lists are those of the providers that can be asked and that the caller's key is good for, all at once.
func (l *Listing) lists(ctx context.Context, caller orgs.Caller, keys map[string]bool) map[string][]upstreams.Model {
	lists := map[string][]upstreams.Model{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for provider, up := range l.o.Upstreams {
		lister, ok := up.(upstreams.Lister)
		if !ok || !keys[provider] || !mayUse(caller, provider) {
			continue
		}
		wg.Go(l.o.Panics.Wrap("listing", func() {
			list := l.list(ctx, shelfName{caller.Org, provider}, lister)
			mu.Lock()
			defer mu.Unlock()
			lists[provider] = list
		}))
	}
	wg.Wait()
	return lists
}

// list is one provider's list for one org: the one on the shelf while it is good, else what the provider says, once for all
// who ask at the time.
func (l *Listing) list(ctx context.Context, name shelfName, up upstreams.Lister) []upstreams.Model {
	key, err := l.o.Keys.KeyInUse(ctx, name.org, name.provider)
	if err != nil {
		return nil
	}
	now := l.o.Now()
	l.mu.Lock()
	s := l.shelves[name]
	if s == nil || s.key != key { // another key may see other models
		l.clear(name)
		s = &shelf{key: key}
		l.shelves[name] = s
	}
	s.used = now
	models, flight := s.models, s.flight
	if now.Before(s.until) {
		l.mu.Unlock()
		return models
	}
	if flight == nil {
		s.flight = make(chan struct{})
		l.mu.Unlock()
		return l.ask(ctx, name, s, up)
	}
	l.mu.Unlock()
	select {
	case <-flight:
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.models
}

// ask fills a shelf, or leaves it as it is. It does not end with the request that began it, as others wait for the same.
func (l *Listing) ask(ctx context.Context, name shelfName, s *shelf, up upstreams.Lister) (models []upstreams.Model) {
	var err error
	defer func() {
		if v := recover(); v != nil {
			l.o.Panics.Tell("listing", v)
			err = errPanicked
		}
		models = l.landed(name, s, models, err)
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.o.Patience)
	defer cancel()
	var key seal.Secret
	if key, err = l.o.Keys.ProviderKey(ctx, name.org, name.provider); err != nil {
		return nil
	}
	models, err = up.List(ctx, key)
	return models
}

// landed ends an asking. It returns what is on the shelf then.
func (l *Listing) landed(name shelfName, s *shelf, models []upstreams.Model, err error) []upstreams.Model {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(s.flight)
	s.flight = nil
	if err != nil {
		s.until = l.o.Now().Add(l.o.Again)
		l.o.Log.Warn("a provider's list of models could not be had", "provider", name.provider, "org", name.org, "error", err)
		return s.models
	}
	s.until = l.o.Now().Add(l.o.Fresh)
	if l.shelves[name] == s {
		l.kept += len(models) - len(s.models)
	}
	s.models = models
	l.trim(name)
	return models
}

// trim takes away the shelves that nobody has looked at for longest, until the rest is no more than may be kept. The one by
// that name stays. The lock is held.
func (l *Listing) trim(but shelfName) {
	for l.kept > l.o.Most || len(l.shelves) > maxShelves {
		var oldest shelfName
		for name, s := range l.shelves {
			if name != but && (oldest == shelfName{} || s.used.Before(l.shelves[oldest].used)) {
				oldest = name
			}
		}
		if (oldest == shelfName{}) {
			return
		}
		l.clear(oldest)
	}
}

// clear takes away a shelf. Whoever waits for it gets what comes; it is not kept. The lock is held.
func (l *Listing) clear(name shelfName) {
	if s := l.shelves[name]; s != nil {
		l.kept -= len(s.models)
		delete(l.shelves, name)
	}
}
