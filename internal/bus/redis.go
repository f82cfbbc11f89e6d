package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"threadhub/internal/chaos"
	"threadhub/internal/contain"
)

// Options of a Redis bus. The zero value works.
type Options struct {
	Channel string        // the Redis channel of this installation; "" means "threadhub:bus"
	Timeout time.Duration // the longest Publish takes; 0 means 30 ms
	Beat    time.Duration // how often a silent subscription is tried; after three it is given up; 0 means 1 s
	Log     *slog.Logger
	Panics  *contain.Panics // nil: of its own
}

const (
	defaultChannel = "threadhub:bus"
	defaultTimeout = 30 * time.Millisecond
	defaultBeat    = time.Second
	dialTimeout    = time.Second // never on a request's way: both goroutines dial for themselves
	backlog        = 64          // messages that wait to be sent; when Redis is frozen, more are refused
	maxPause       = time.Second
)

// Redis is a bus over one Redis channel, by PUBLISH and SUBSCRIBE. One goroutine sends and one listens, both on
// connections of their own with tight timeouts: go-redis waits 10 s on a frozen server whatever the caller's context
// says, and a request must never wait for that.
type Redis struct {
	hub
	o      Options
	self   string // so that our own messages, already told, are skipped
	client redis.UniversalClient
	outbox chan outgoing

	ctx  context.Context // of both goroutines; ended by Close
	stop context.CancelFunc
	wg   sync.WaitGroup

	standing atomic.Bool

	mu   sync.Mutex
	subs *redis.PubSub // the present subscription, closed by Close to wake the listener
}

var errClosed = errors.New("bus: closed")

type outgoing struct {
	text string
	done chan error // buffered: the sender never waits for a publisher that gave up
}

// NewRedis starts a bus on the server client talks to. It takes the address and the credentials from client and opens
// connections of its own; client stays the caller's. Close ends it.
func NewRedis(client redis.UniversalClient, o Options) *Redis {
	if o.Channel == "" {
		o.Channel = defaultChannel
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Beat == 0 {
		o.Beat = defaultBeat
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Panics == nil {
		o.Panics = contain.New(o.Log)
	}
	ctx, stop := context.WithCancel(context.Background())
	b := &Redis{o: o, self: rand.Text(), client: Own(client, Limits{Dial: dialTimeout, Timeout: o.Timeout, Connections: 2}), outbox: make(chan outgoing, backlog), ctx: ctx, stop: stop}
	b.wg.Go(func() { o.Panics.Keep(ctx, "bus", b.send) })
	b.wg.Go(func() { o.Panics.Keep(ctx, "bus", b.listen) })
	return b
}

// Publish tells this process at once, and the others through Redis. It waits no longer than the timeout, and ctx only
// makes that shorter; a message that is late is still sent.
func (b *Redis) Publish(ctx context.Context, topic, payload string) error {
	b.tell(topic, payload)
	m := outgoing{text: encode(b.self, topic, payload), done: make(chan error, 1)}
	if b.ctx.Err() != nil {
		return errClosed
	}
	select {
	case b.outbox <- m:
	default:
		return errors.New("bus: redis does not keep up: the message was dropped")
	}
	t := time.NewTimer(b.o.Timeout)
	defer t.Stop()
	select {
	case err := <-m.done:
		return err
	case <-t.C:
		return fmt.Errorf("bus: redis did not answer within %v", b.o.Timeout)
	case <-ctx.Done():
		return fmt.Errorf("bus: %w", context.Cause(ctx))
	case <-b.ctx.Done():
		return errClosed
	}
}

// Standing reports whether messages of others arrive at present: for health pages and metrics.
func (b *Redis) Standing() bool { return b.standing.Load() }

func (b *Redis) send() {
	for {
		select {
		case m := <-b.outbox:
			err := b.client.Publish(b.ctx, b.o.Channel, m.text).Err()
			if err != nil {
				err = fmt.Errorf("bus: %w", err)
			}
			m.done <- err
		case <-b.ctx.Done():
			return
		}
	}
}

// listen keeps a subscription. Each time one stands, messages may have been missed before it, also before the first.
// Losing one resets nothing: while Redis is away caches live by their own ends, and may be all there is.
func (b *Redis) listen() {
	for try := 0; b.ctx.Err() == nil; try++ {
		stood, err := b.follow()
		if b.ctx.Err() != nil {
			return
		}
		if stood {
			try = 0
		}
		b.o.Log.Warn("the bus lost its subscription", "error", err, "stood", stood)
		b.pause(try)
	}
}

// follow subscribes and hands on messages until the connection fails; stood says whether it was ever confirmed.
func (b *Redis) follow() (stood bool, err error) {
	subs := b.client.Subscribe(b.ctx) // no channel: this only builds it
	if !b.present(subs) {
		return false, context.Canceled
	}
	defer b.absent(subs)
	defer b.standing.Store(false)
	if err := subs.Subscribe(b.ctx, b.o.Channel); err != nil {
		return false, err
	}
	beating, stop := context.WithCancel(b.ctx)
	var beat sync.WaitGroup
	defer beat.Wait()
	defer stop()
	beat.Go(b.o.Panics.Wrap("bus", func() { b.beat(beating, subs) }))
	for {
		// A timeout ends the connection: a reply cut in two by it could not be read on. Beats are answered, so only a
		// frozen or vanished server is silent for so long.
		msg, err := subs.ReceiveTimeout(b.ctx, 3*b.o.Beat)
		if err != nil {
			return stood, err
		}
		switch msg := msg.(type) {
		case *redis.Subscription: // the first, or go-redis has silently connected anew
			stood = true
			b.o.Panics.Run("bus", b.reset)
			b.standing.Store(true)
		case *redis.Message:
			b.take(msg.Payload)
		}
	}
}

func (b *Redis) beat(ctx context.Context, subs *redis.PubSub) {
	t := time.NewTicker(b.o.Beat)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if subs.Ping(ctx) != nil {
				return // the listener sees the same connection fail, or hears nothing
			}
		case <-ctx.Done():
			return
		}
	}
}

// present makes subs the subscription Close will close; false if the bus is closed already.
func (b *Redis) present(subs *redis.PubSub) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ctx.Err() != nil {
		_ = subs.Close()
		return false
	}
	b.subs = subs
	return true
}

func (b *Redis) absent(subs *redis.PubSub) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs = nil
	_ = subs.Close() // a second time is an error that says so
}

// pause waits before the next try, longer each time, with jitter, so that replicas do not come back in step.
func (b *Redis) pause(try int) {
	d := min(20*time.Millisecond<<min(try, 10), maxPause)
	t := time.NewTimer(d/2 + mrand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
	case <-b.ctx.Done():
	}
}

// take tells the subscribers of a message from another process.
func (b *Redis) take(text string) {
	from, topic, payload, ok := decode(text)
	if !ok || from == b.self {
		return
	}
	b.o.Panics.Run("bus", func() { // or the subscription would be lost for one subscriber's panic
		chaos.Point("bus")
		b.tell(topic, payload)
	})
}

// A message on the wire is the sender, a newline, the topic, a newline, the payload.
func encode(from, topic, payload string) string { return from + "\n" + topic + "\n" + payload }

func decode(text string) (from, topic, payload string, ok bool) {
	parts := strings.SplitN(text, "\n", 3)
	if len(parts) != 3 {
		return "", "", "", false
	}
	return parts[0], parts[1], parts[2], true
}

// Close ends the bus and waits for its goroutines: at most for a dial in progress. Messages not yet sent are dropped.
func (b *Redis) Close() error {
	b.mu.Lock()
	b.stop()
	subs := b.subs
	b.mu.Unlock()
	if subs != nil {
		_ = subs.Close()
	}
	b.wg.Wait()
	return b.client.Close()
}
