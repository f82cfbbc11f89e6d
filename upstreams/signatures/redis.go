package signatures

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"threadhub/internal/id"
	"threadhub/internal/seal"
)

const (
	prefix      = "threadhub:signature:"
	waiting     = 256     // jobs for the sender; when Redis is slower than they come, more are let go
	waitingMost = 8 << 20 // bytes of values in them, likewise
	together    = 64      // jobs sent in one go
	failures    = 5       // in a row, after which nobody waits for Redis until it answers again
)

// Redis remembers for all processes of an installation, and within this one as well: what this process has seen itself
// is found without asking, and while Redis is away it is all there is. One goroutine asks Redis, for all who wait
// together.
//
// A signature stands under a name that is a keyed hash of whose it is, in a box that opens only for that name: what
// another place's answer is mistaken for does not open.
type Redis struct {
	near   *Local
	o      Options
	client redis.UniversalClient
	jobs   chan *job
	queued atomic.Int64 // bytes of values in jobs
	away   atomic.Bool  // Redis does not answer: nobody waits for it
	failed int          // in a row; the sender's

	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// job is what the sender has to do: to set values, or, where there are none, to get them.
type job struct {
	names  []string
	values [][]byte
	size   int64         // of values
	got    chan []string // buffered: the sender waits for nobody. "" is what was not found
}

// NewRedis starts a store on the server client talks to. client stays the caller's, and should be one that gives up soon
// and repeats nothing: for as long as it tries, what others ask for waits. Close ends the store.
func NewRedis(client redis.UniversalClient, o Options) (*Redis, error) {
	o = o.withDefaults()
	if len(o.Secret) < seal.KeySize {
		return nil, errors.New("signatures: a secret is needed to seal what Redis is given")
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &Redis{near: NewLocal(o), o: o, client: client, jobs: make(chan *job, waiting), ctx: ctx, stop: stop}
	r.wg.Go(func() { o.Panics.Keep(ctx, "signatures", r.send) })
	return r, nil
}

// Keep is Store's. The other processes may know a little later.
func (r *Redis) Keep(org id.Org, maker string, signed map[string]string) {
	r.near.Keep(org, maker, signed)
	j := &job{}
	for id, s := range signed {
		if fits(id, s) {
			name, box := r.place(call{org, maker, id})
			j.names, j.values = append(j.names, name), append(j.values, box.Seal([]byte(s), name))
			j.size += int64(len(s))
		}
	}
	if len(j.names) > 0 {
		r.hand(j)
	}
}

// hand gives the sender a job; false if there are too many.
func (r *Redis) hand(j *job) bool {
	if r.queued.Add(j.size) <= waitingMost {
		select {
		case r.jobs <- j:
			return true
		default:
		}
	}
	r.queued.Add(-j.size)
	return false
}

// Find is Store's. It waits no longer than the timeout, and not at all for what this process knows itself.
func (r *Redis) Find(ctx context.Context, org id.Org, maker string, ids []string) map[string]string {
	found := r.near.Find(ctx, org, maker, ids)
	if len(found) == len(ids) {
		return found
	}
	j := &job{got: make(chan []string, 1)}
	var asked []string
	var boxes []*seal.Box
	for _, id := range ids {
		if _, known := found[id]; !known && id != "" && len(id) <= maxID {
			name, box := r.place(call{org, maker, id})
			asked, boxes, j.names = append(asked, id), append(boxes, box), append(j.names, name)
		}
	}
	if len(asked) == 0 || !r.hand(j) || r.away.Load() { // what was handed on finds out whether it is back
		return found
	}
	timer := time.NewTimer(r.o.Timeout)
	defer timer.Stop()
	var got []string
	select {
	case got = <-j.got:
	case <-timer.C:
	case <-ctx.Done():
	case <-r.ctx.Done():
	}
	fresh := map[string]string{}
	for i, sealed := range got {
		if s, err := boxes[i].Open([]byte(sealed), j.names[i]); err == nil {
			fresh[asked[i]] = string(s)
		}
	}
	r.near.Keep(org, maker, fresh)
	maps.Copy(found, fresh)
	return found
}

// place is where in Redis the signature of a call stands, and the box that is for that place alone. Each call has a key of
// its own, so none seals more than a few boxes.
func (r *Redis) place(c call) (name string, box *seal.Box) {
	mac := func(use string) []byte {
		h := hmac.New(sha256.New, r.o.Secret)
		for _, s := range []string{use, string(c.org), c.maker, c.id} {
			fmt.Fprintf(h, "%d:%s", len(s), s) // so that no two calls are the same bytes
		}
		return h.Sum(nil)
	}
	return prefix + base64.RawURLEncoding.EncodeToString(mac("name")), seal.NewBox([seal.KeySize]byte(mac("box")))
}

// send does what waits, all of it together, and waits for more.
func (r *Redis) send() {
	for {
		select {
		case j := <-r.jobs:
			jobs := []*job{j}
			for len(jobs) < together && len(r.jobs) > 0 {
				jobs = append(jobs, <-r.jobs)
			}
			r.do(jobs)
		case <-r.ctx.Done():
			return
		}
	}
}

func (r *Redis) do(jobs []*job) {
	answers := make([][]*redis.StringCmd, len(jobs))
	pipe := r.client.Pipeline()
	for i, j := range jobs {
		for k, name := range j.names {
			if j.got == nil {
				pipe.Set(r.ctx, name, j.values[k], r.o.TTL)
			} else {
				answers[i] = append(answers[i], pipe.GetEx(r.ctx, name, r.o.TTL))
			}
		}
	}
	_, err := pipe.Exec(r.ctx)
	if errors.Is(err, redis.Nil) { // the first that is not there
		err = nil
	}
	r.note(err)
	for i, j := range jobs {
		r.queued.Add(-j.size)
		if j.got == nil {
			continue
		}
		got := make([]string, len(answers[i]))
		for k, answer := range answers[i] {
			got[k] = answer.Val() // "" where there is none, or an error
		}
		j.got <- got
	}
}

// note counts failures. After some of them in a row Redis is away.
func (r *Redis) note(err error) {
	if err == nil {
		r.failed = 0
		r.away.Store(false)
		return
	}
	if r.failed++; r.failed < failures {
		return
	}
	if !r.away.Swap(true) {
		r.o.Log.Warn("signatures are remembered by this process alone: Redis does not answer", "error", err)
	}
}

// Close ends the store and waits for its goroutine: at most for as long as the client tries.
func (r *Redis) Close() error {
	r.stop()
	r.wg.Wait()
	return nil
}
