// Package orgs knows who may call: orgs, their users and roles, the API keys we give out, and the provider keys an org
// entrusts to us.
//
// It promises that a caller is named only by a key whose owner is there and not disabled; that the store holds no key
// that could be used (ours as a keyed hash, the providers' sealed to their row, an answer with a new one of ours sealed to
// its call); that a revoked key is refused at once in
// the process that revoked it, within a second in those the bus reaches, and within 30 seconds in all, and what runs on it
// is told so as soon; that a store that is away is never mistaken for a bad key; that an org keeps an active admin, whatever its own people do; and
// that no administrative change is made that is not written down. Where a key was carried, limits on guessing, and what a
// role may touch are the gateway's.
package orgs

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"log/slog"
	"sync"
	"time"

	"threadhub/internal/bus"
	"threadhub/internal/contain"
	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/internal/seal"
	"threadhub/internal/seedbug"
)

// The topics of the bus this room speaks on.
const (
	topicKeys      = "keys"      // payload: the id of an API key that changed
	topicPeople    = "people"    // payload: an org whose users, or itself, changed
	topicProviders = "providers" // payload: an org whose provider keys changed
	topicRules     = "rules"     // payload: an org whose router rules changed
	topicBudgets   = "budgets"   // payload: an org whose budgets changed
)

const (
	defaultKeyTTL   = 30 * time.Second
	defaultPatience = 2 * time.Second
	refusedTTL      = 5 * time.Second // a refusal is worth remembering only against a hammering client
	maxCallers      = 32 << 10
	maxRefused      = 8 << 10
	maxProviders    = 8 << 10
	maxRules        = 4 << 10
	maxBudgeted     = 8 << 10     // orgs whose budgets, or that they have none, are known
	usesEvery       = time.Minute // how often last_used_at is written
)

// Options of a Service. Store and Keyring are needed.
type Options struct {
	Store   db.Store
	Keyring *seal.Keyring
	Bus     bus.Bus         // nil: this process is alone
	Log     *slog.Logger    // nil: nowhere
	Panics  *contain.Panics // nil: of its own
	KeyTTL  time.Duration   // the longest an answer of the store is trusted; 0: 30 s
	// Patience is how long one look-up, which many requests may be waiting for, may take in all; 0: 2 s.
	Patience time.Duration
	Now      func() time.Time // of tests: the clock of this process, and of the store; nil: each has its own
}

// Service is the room. Safe for concurrent use once it is open.
type Service struct {
	o       Options
	store   db.Store
	keyring *seal.Keyring
	bus     bus.Bus
	log     *slog.Logger
	now     func() time.Time
	pepper  []byte // set by Open

	oneClock bool // now is the store's, too

	auditKey []byte // set by Open: keys the hashes of the audit log

	callers   *cache[keyHash, known]
	refused   *cache[keyHash, struct{}]
	vouched   *cache[keyHash, struct{}] // keys that were good when the store was last asked; what changes does not clear it
	providers *cache[id.Org, providerKeys]
	rules     *cache[id.Org, RouterRules]
	budgets   *cache[id.Org, []Budget]
	hits      hits
	uses      uses
	watches   watches

	cancels []func()
	stop    context.CancelFunc
	wg      sync.WaitGroup
}

// New builds a Service; Open makes it ready.
func New(o Options) *Service {
	if o.Bus == nil {
		o.Bus = bus.NewLocal()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Panics == nil {
		o.Panics = contain.New(o.Log)
	}
	if o.KeyTTL == 0 {
		o.KeyTTL = defaultKeyTTL
	}
	if o.Patience == 0 {
		o.Patience = defaultPatience
	}
	oneClock := o.Now != nil
	if !oneClock {
		o.Now = time.Now
	}
	s := &Service{
		o: o, oneClock: oneClock, store: o.Store, keyring: o.Keyring, bus: o.Bus, log: o.Log, now: o.Now,
		callers:   newCache[keyHash, known](o.KeyTTL, o.Patience, maxCallers, o.Now),
		refused:   newCache[keyHash, struct{}](min(refusedTTL, o.KeyTTL), o.Patience, maxRefused, o.Now),
		vouched:   newCache[keyHash, struct{}](o.KeyTTL, o.Patience, 2*maxCallers, o.Now),
		providers: newCache[id.Org, providerKeys](o.KeyTTL, o.Patience, maxProviders, o.Now),
		rules:     newCache[id.Org, RouterRules](o.KeyTTL, o.Patience, maxRules, o.Now),
		budgets:   newCache[id.Org, []Budget](o.KeyTTL, o.Patience, maxBudgeted, o.Now),
		hits:      hits{seen: map[id.Org]map[string]int64{}},
		uses:      uses{last: map[use]time.Time{}},
		watches:   watches{keys: map[watchedKey]*watchedCalls{}, alarm: make(chan struct{}, 1)},
	}
	line := make(chan struct{}, lookUpsAtOnce)
	s.callers.line, s.providers.line, s.rules.line, s.budgets.line = line, line, line, line
	return s
}

// Secret returns 32 bytes for one use, the same in every process of the installation and at every start, that tell nothing
// of those for another use. The Service must be open.
func (s *Service) Secret(use string) ([]byte, error) {
	if len(s.pepper) == 0 {
		return nil, errNotOpen
	}
	return hkdf.Key(sha256.New, s.pepper, nil, "threadhub "+use, sha256.Size)
}

// Open reads the pepper, or makes it in a new store, joins the bus and starts writing down uses. Errors name the
// key-encryption key that is missing, if that is what is wrong.
func (s *Service) Open(ctx context.Context) error {
	if s.store == nil || s.keyring == nil {
		return errors.New("orgs: a store and a keyring are needed")
	}
	pepper, err := s.openPepper(ctx)
	if err != nil {
		return err
	}
	s.pepper = pepper
	if s.auditKey, err = s.Secret("audit"); err != nil {
		return err
	}
	s.cancels = []func(){
		s.bus.Subscribe(topicKeys, func(key string) {
			s.callers.drop(func(_ keyHash, k known) bool { return string(k.Key) == key })
			s.refused.clear() // it may be back
			s.watches.named(func(k watchedKey) bool { return string(k.key) == key })
		}),
		s.bus.Subscribe(topicPeople, func(org string) {
			s.callers.drop(func(_ keyHash, k known) bool { return string(k.Org) == org })
			s.refused.clear() // somebody may be back
			s.watches.named(func(k watchedKey) bool { return string(k.org) == org })
		}),
		s.bus.Subscribe(topicProviders, func(org string) { s.providers.forget(id.Org(org)) }),
		s.bus.Subscribe(topicRules, func(org string) { s.rules.forget(id.Org(org)) }),
		s.bus.Subscribe(topicBudgets, func(org string) { s.budgets.forget(id.Org(org)) }),
		s.bus.OnReset(func() {
			s.callers.clear()
			s.refused.clear()
			s.providers.clear()
			s.rules.clear()
			s.budgets.clear()
			s.watches.named(func(watchedKey) bool { return true })
		}),
	}
	run, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.wg.Go(func() { s.o.Panics.Keep(run, "orgs", func() { s.writeUsesEvery(run, usesEvery) }) })
	s.wg.Go(func() { s.o.Panics.Keep(run, "orgs", func() { s.watchCalls(run) }) })
	return nil
}

// Close leaves the bus, writes the last uses down and waits. The store must still be open.
func (s *Service) Close() error {
	for _, cancel := range s.cancels {
		cancel()
	}
	s.cancels = nil
	if s.stop != nil {
		s.stop()
		s.wg.Wait()
	}
	return nil
}

// tell says that something changed, here at once, elsewhere by the bus, unless err says that it did not. When the store
// failed it may have changed all the same, and a message only ever makes a cache forget.
func (s *Service) tell(ctx context.Context, topic, payload string, err error) {
	if err != nil && !storeTrouble(err) {
		return // a stranger's id must not make caches forget its owner's
	}
	if err := s.bus.Publish(ctx, topic, payload); err != nil {
		if seedbug.On("needs-redis") {
			panic(err)
		}
		s.log.Warn("other processes may use what they cached until it ends", "topic", topic, "within", s.o.KeyTTL, "error", err)
	}
}
