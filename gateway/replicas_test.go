package gateway

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/tidwall/gjson"

	"threadhub/calls"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/orgs"
)

// replica is a second process on the same store, with the same providers and its own tapes; nil: which it shares with
// nobody.
func (h *house) replica(tapes calls.Tapes) *house {
	h.t.Helper()
	return h.replicaWith(func(o *Options) { o.Tapes = tapes })
}

// replicaWith is replica with other options.
func (h *house) replicaWith(change func(*Options)) *house {
	h.t.Helper()
	o := h.opts
	o.Registry, o.Tapes = nil, nil
	change(&o)
	lease, err := h.calls.TakeLease(h.t.Context(), calls.LeaseOptions{Log: o.Log})
	if err != nil {
		h.t.Fatal(err)
	}
	o.Owner = lease.Owner()
	other := New(o)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- other.Serve(ln, nil) }()
	h.t.Cleanup(func() {
		houseClient.CloseIdleConnections()
		if err := other.Shutdown(context.Background()); err != nil {
			h.t.Error(err)
		}
		if err := <-served; err != nil {
			h.t.Error(err)
		}
		if err := lease.Close(context.Background()); err != nil {
			h.t.Error(err)
		}
	})
	there := *h
	there.Gateway, there.lease, there.url = other, lease, "http://"+ln.Addr().String()
	return &there
}

// sharing makes tapes that are shared through a Redis. It is patient: that the machine is busy is not what is tested.
func sharing(t *testing.T, url string, timeout time.Duration) func() calls.Tapes {
	o, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled} // or it logs by itself
	o.DialerRetries, o.MaxRetries = 1, -1
	client := redis.NewClient(o)
	t.Cleanup(func() { _ = client.Close() })
	return func() calls.Tapes {
		r := calls.NewRedisTapes(client, calls.RedisTapesOptions{Timeout: timeout, Every: 100 * time.Millisecond, Poll: 20 * time.Millisecond})
		t.Cleanup(func() { _ = r.Close() }) // once more, of one that died
		return r
	}
}

// replicas are two processes of one installation, on Postgres and Redis.
func replicas(t *testing.T, o Options) (here, there *house) {
	t.Helper()
	return replicasOn(t, o, sharing(t, testkit.Redis(t), 2*time.Second))
}

func replicasOn(t *testing.T, o Options, tapes func() calls.Tapes) (here, there *house) {
	t.Helper()
	o.Tapes = tapes()
	if o.Heartbeat == 0 {
		o.Heartbeat = 100 * time.Millisecond
	}
	here = newHouse(t, testkit.Postgres(t), o)
	return here, here.replica(tapes())
}

func ofCall(seen string) string {
	_, rest, _ := strings.Cut(seen, "\r\nX-Request-Id: ")
	call, _, _ := strings.Cut(rest, "\r\n")
	return call
}

// dataOf is a stream's bytes without its signs of life.
func dataOf(body []byte) []byte { return bytes.ReplaceAll(body, []byte(": ping\n\n"), nil) }

// Whatever a client saw of a stream, the rest is the same at every replica, byte for byte, also while it is made.
func TestAStreamIsResumedAtAnyReplica(t *testing.T) {
	here, there := replicas(t, Options{})
	for name, header := range map[string][]string{"thread": nil, "": {key, "k"}} {
		seen := here.leaving(name, "[[sim delay=30ms chunks=60 size=2000]] go on", `,"stream":true`, "id: 5\n", header...)
		call := ofCall(seen)
		type rest struct {
			n    int
			body []byte
		}
		const many = 12
		live := make(chan rest, many)
		for i := range many {
			at := []*house{here, there}[i%2]
			n := rand.IntN(70)
			go func() {
				time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
				r := at.do("GET", fmt.Sprintf("/v1/requests/%s/stream?starting_after=%d", call, n), "")
				if r.status != 200 {
					t.Errorf("after %d: %d %s", n, r.status, r.body)
				}
				live <- rest{n, dataOf(r.body)}
			}()
		}
		var got []rest
		for range many {
			got = append(got, <-live)
		}
		all := here.do("GET", "/v1/requests/"+call+"/stream", "").want(t, 200).body
		list := bytes.SplitAfter(all, []byte("\n\n"))
		list = list[:len(list)-1]
		if len(list) < 60 || !bytes.HasSuffix(all, []byte("data: [DONE]\n\n")) {
			t.Fatalf("%d events: %s", len(list), all)
		}
		for n := range len(list) + 1 {
			got = append(got, rest{n, dataOf(there.do("GET", "/v1/requests/"+call+"/stream", "", "Last-Event-ID", fmt.Sprint(n)).want(t, 200).body)})
		}
		for _, r := range got {
			if want := bytes.Join(list[min(r.n, len(list)):], nil); r.n <= len(list) && !bytes.Equal(r.body, want) {
				t.Errorf("after %d: %d bytes, not %d", r.n, len(r.body), len(want))
			}
		}
		if r := there.do("GET", "/v1/requests/"+call+"/stream", ""); r.header.Get("X-Request-Id") != call || r.header.Get("Content-Type") != "text/event-stream; charset=utf-8" {
			t.Errorf("the header is %v", r.header)
		}
	}
	if n := len(here.attempts()); n != 2 {
		t.Errorf("the provider was asked %d times for two answers", n)
	}
}

// A stream is heard at another replica by its own key only.
func TestAStreamIsOfOneKeyAtAnyReplica(t *testing.T) {
	here, there := replicas(t, Options{})
	call := here.chat("hello", `,"stream":true`, "X-Thread-Id", "mine").want(t, 200).header.Get("X-Request-Id")
	there.do("GET", "/v1/requests/"+call+"/stream", "").want(t, 200)
	colleague, stranger := here.seed("house", "b@house.test", orgs.Member), here.seed("other", "c@other.test", orgs.Admin)
	for name, s := range map[string]orgs.Seeded{"a colleague's": colleague, "another org's": stranger} {
		r := there.do("GET", "/v1/requests/"+call+"/stream", "", "Authorization", "Bearer "+s.APIKey.Reveal())
		if r.status != 404 || bytes.Contains(r.body, []byte("data:")) {
			t.Errorf("%s key: %d %s", name, r.status, r.body)
		}
	}
}

// Repeats in flight are one call at all replicas, whatever form they have. Those of a stream are given it as it comes.
func TestRepeatsInFlightAtAnyReplica(t *testing.T) {
	here, there := replicas(t, Options{})
	for _, more := range []string{"", `,"stream":true`} {
		for _, thread := range []string{"", "at-once"} {
			before := len(here.attempts())
			header := []string{key, "k" + more + thread}
			if thread != "" {
				header = append(header, "X-Thread-Id", thread)
			}
			const many = 8
			got := make(chan heard, many)
			for i := range many {
				at := []*house{here, there}[i%2]
				go func() { got <- at.chat("[[sim first=300ms delay=30ms chunks=30 size=400]] hello", more, header...) }()
			}
			firsts := 0
			var all []heard
			for range many {
				r := <-got
				r.body = dataOf(r.body)
				all = append(all, r)
				if r.header.Get("Idempotent-Replayed") == "" {
					firsts++
				}
			}
			for _, r := range all {
				if r.status != 200 || !bytes.Equal(r.body, all[0].body) || r.header.Get("X-Request-Id") != all[0].header.Get("X-Request-Id") {
					t.Fatalf("%d %s, another got %s", r.status, r.body, all[0].body)
				}
			}
			if n := len(here.attempts()) - before; n != 1 || firsts != 1 {
				t.Errorf("the provider was asked %d times, %d answers are first ones", n, firsts)
			}
		}
	}
	// What has begun is heard before it has ended.
	text := "[[sim delay=100ms chunks=30 size=400]] hello"
	here.leaving("", text, `,"stream":true`, "id: 2\n", key, "live")
	if seen := there.leaving("", text, `,"stream":true`, "id: 2\n", key, "live"); strings.Contains(seen, "DONE") {
		t.Error("nothing was heard before the end")
	}
}

// An SDK's retry gets the turn that it repeats at whichever replica, and one of them does.
func TestAnSDKsRetryAtAnyReplica(t *testing.T) {
	here, there := replicas(t, Options{})
	retry := []string{"X-Stainless-Retry-Count", "1"}
	for _, more := range []string{"", `,"stream":true`} {
		for _, late := range []bool{false, true} { // before the end, and after it
			thread := fmt.Sprintf("turn-%d-%v", len(more), late)
			text := "[[sim first=400ms delay=10ms chunks=20 size=400]] hello"
			body := `{"model":"openai/gpt-5-mini"` + more + `,"messages":[{"role":"user","content":"` + text + `"}]}` // the bytes of leaving
			before := len(here.attempts())
			here.leaving(thread, text, more, "")
			testkit.Eventually(t, 5*time.Second, func() bool { return len(here.sim.Log()) == before+1 })
			if late {
				here.attempts()
				testkit.Eventually(t, 5*time.Second, func() bool {
					m := here.messages(id.Thread(thread))
					return strings.HasSuffix(m[len(m)-1], ":complete") && strings.HasPrefix(m[len(m)-1], "assistant")
				})
			}
			got := there.do("POST", "/v1/chat/completions", body, append(retry, "X-Thread-Id", thread)...).want(t, 200)
			if got.header.Get("Idempotent-Replayed") != "true" || len(here.attempts()) != before+1 {
				t.Errorf("%s: the retry got %v, and the provider was asked %d times", thread, got.header, len(here.attempts())-before)
			}
			if m := here.messages(id.Thread(thread)); len(m) != 2 {
				t.Errorf("the thread reads %q", m)
			}
			at := []*house{here, there}[rand.IntN(2)]
			if r := at.do("POST", "/v1/chat/completions", body, append(retry, "X-Thread-Id", thread)...).want(t, 200); r.header.Get("Idempotent-Replayed") != "" {
				t.Errorf("%s: the same turn was given to a second repeat", thread)
			}
		}
	}
	// One that is known to have had its answer means a new turn.
	had := here.chat("hello", `,"stream":true`, "X-Thread-Id", "had").want(t, 200)
	testkit.Eventually(t, 10*time.Second, func() bool {
		far, err := there.tapes.Follow(t.Context(), id.Request(had.header.Get("X-Request-Id")), calls.Listener{Org: here.admin.Org, Key: here.admin.Key}, true)
		if err != nil {
			return false
		}
		defer far.Follow(-1)
		return !far.Repeatable()
	}, "the other replica to be told that it has arrived")
	if r := there.chat("hello", `,"stream":true`, append(retry, "X-Thread-Id", "had")...).want(t, 200); r.header.Get("Idempotent-Replayed") != "" {
		t.Error("what its client has was given to a repeat")
	}
}

// Of a process that died, what it told is heard, then that it is lost, in the place of what would have come next, whatever
// of it the client has seen. The thread holds what was told.
func TestAStreamOfADeadReplica(t *testing.T) {
	here, there := replicas(t, Options{})
	seen := here.leaving("lost", "[[sim delay=100ms chunks=60 size=4000]] go on", `,"stream":true`, "id: 8\n")
	call := id.Request(ofCall(seen))
	dead(t, here.tapes)
	// Its process tells no more, and its call is taken away from it.
	settler := &Settler{
		Store: here.store, Calls: here.calls, Threads: here.threads, Ledger: here.opts.Ledger, Catalogue: here.opts.Catalogue, Lease: there.lease,
		Tapes: there.tapes, Log: slog.New(slog.DiscardHandler),
	}
	type ended struct {
		n    int
		body []byte
	}
	const many = 4
	live := make(chan ended, many)
	for i := range many {
		n := []int{0, 3, 8, 30}[i] // 30: more than was told
		go func() {
			live <- ended{n, dataOf(there.do("GET", fmt.Sprintf("/v1/requests/%s/stream?starting_after=%d", call, n), "").body)}
		}()
	}
	time.Sleep(300 * time.Millisecond)
	if settled, err := settler.settleOne(t.Context(), calls.Orphan{Org: here.admin.Org, ID: call}); !settled || err != nil {
		t.Fatal(settled, err)
	}
	var list [][]byte
	check := func(e ended) {
		t.Helper()
		got := bytes.SplitAfter(e.body, []byte("\n\n"))
		got = got[:len(got)-1]
		last := max(e.n, len(list)) + 1
		if len(got) == 0 || !bytes.HasPrefix(got[len(got)-1], fmt.Appendf(nil, "id: %d\ndata: {\"error\":", last)) || !bytes.Contains(got[len(got)-1], []byte(`"gateway_lost"`)) {
			t.Fatalf("after %d of %d: %s", e.n, len(list), e.body)
		}
		if want := bytes.Join(list[min(e.n, len(list)):], nil); !bytes.Equal(bytes.Join(got[:len(got)-1], nil), want) {
			t.Errorf("after %d: %s", e.n, e.body)
		}
	}
	all := there.do("GET", "/v1/requests/"+string(call)+"/stream", "").want(t, 200)
	list = bytes.SplitAfter(dataOf(all.body), []byte("\n\n"))
	list = list[:len(list)-2]
	if len(list) < 8 {
		t.Fatalf("told: %s", all.body)
	}
	check(ended{0, dataOf(all.body)})
	for range many {
		check(<-live)
	}
	m := there.messages("lost")
	var text strings.Builder
	text.WriteString("assistant:")
	for _, e := range list {
		text.WriteString(contentOf(t, e))
	}
	if len(m) != 2 || m[1] != text.String()+":incomplete:gateway_lost" || !strings.Contains(m[1], contentOf(t, list[7])) {
		t.Errorf("the thread reads %q, told was %q", m, text.String())
	}
}

// dead ends the telling of tapes: from then on their process is dead to all others.
func dead(t *testing.T, tapes calls.Tapes) {
	t.Helper()
	if err := tapes.Close(); err != nil {
		t.Fatal(err)
	}
}

func contentOf(t *testing.T, event []byte) string {
	t.Helper()
	list := events(event)
	if len(list) != 1 {
		t.Fatalf("no event: %q", event)
	}
	return gjson.Get(list[0], "choices.0.delta.content").Str
}

// A call whose client has left goes on while somebody hears it at another replica.
func TestACallIsHeardOnElsewhere(t *testing.T) {
	here, there := replicas(t, Options{ResumeGrace: 2 * time.Second})
	seen := here.leaving("on", "[[sim delay=200ms chunks=40 size=400]] go on", `,"stream":true`, "id: 2\n")
	r := there.do("GET", "/v1/requests/"+ofCall(seen)+"/stream", "").want(t, 200)
	if !bytes.HasSuffix(r.body, []byte("data: [DONE]\n\n")) {
		t.Errorf("it ended in %s", r.body[max(0, len(r.body)-200):])
	}
}

// Where Redis is away nothing that can be answered waits, and what cannot is told so.
func TestReplicasWithoutRedis(t *testing.T) {
	server := testkit.StartFor(t, testkit.Options{NoPostgres: true}).Redis
	here, there := replicasOn(t, Options{}, sharing(t, server.URL(), 30*time.Millisecond))
	here.chat("warm", "").want(t, 200)
	if err := server.Freeze(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Thaw() }()
	for _, more := range []string{"", `,"stream":true`} {
		text := "[[sim first=1s delay=50ms chunks=20 size=400]] hello"
		header := []string{"X-Thread-Id", fmt.Sprint("frozen", len(more)), key, "k" + more}
		before := len(here.attempts())
		first := make(chan heard)
		go func() { first <- here.chat(text, more, header...) }()
		testkit.Eventually(t, 5*time.Second, func() bool { return len(here.sim.Log()) == before+1 })
		again := there.chat(text, more, header...)
		switch {
		case more == "":
			same(t, <-first, again) // the store has it
			continue
		case again.status != 409 || again.code() != "idempotency_in_flight" || again.header.Get("Retry-After") != "1":
			t.Errorf("a repeat in flight: %d %s, %v", again.status, again.body, again.header)
		}
		whole := (<-first).want(t, 200)
		whole.body = dataOf(whole.body)
		same(t, whole, there.chat(text, more, header...))
	}
	for _, run := range []bool{true, false} {
		seen := here.leaving(fmt.Sprint("resumed", run), "[[sim delay=50ms chunks=20 size=400]] hello", `,"stream":true`, "id: 2\n")
		want, code := 503, "streams_unavailable"
		if !run {
			here.attempts()
		}
		if r := there.do("GET", "/v1/requests/"+ofCall(seen)+"/stream", ""); r.status != want || r.code() != code || r.header.Get("Retry-After") != "1" {
			t.Errorf("resumed while it runs %v: %d %s", run, r.status, r.body)
		}
		if run {
			here.do("GET", "/v1/requests/"+ofCall(seen)+"/stream", "").want(t, 200)
		}
	}
	// An SDK's retry is a new turn.
	here.leaving("retried", "hello", "", "HTTP/1.1 200")
	here.attempts()
	body := `{"model":"openai/gpt-5-mini","messages":[{"role":"user","content":"hello"}]}`
	if r := there.do("POST", "/v1/chat/completions", body, "X-Thread-Id", "retried", "X-Stainless-Retry-Count", "1").want(t, 200); r.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("the retry got %v", r.header)
	}
}

// A Redis that freezes holds no stream up.
func TestAFrozenRedisHoldsNobodyUp(t *testing.T) {
	server := testkit.StartFor(t, testkit.Options{NoPostgres: true}).Redis
	here, _ := replicasOn(t, Options{}, sharing(t, server.URL(), 30*time.Millisecond))
	// took is what three in four take: a busy machine makes any one slow.
	took := func() time.Duration {
		all := make([]time.Duration, 40)
		for i := range all {
			start := time.Now()
			here.chat("[[sim chunks=20 size=2000]] hello", `,"stream":true`, "X-Thread-Id", fmt.Sprint("t", i%4)).want(t, 200)
			all[i] = time.Since(start)
		}
		slices.Sort(all)
		return all[len(all)*3/4]
	}
	took()
	frozen := func() time.Duration {
		if err := server.Freeze(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = server.Thaw() }()
		return took()
	}
	var seen []time.Duration
	for range 4 { // and any one try: a Redis that is waited for slows all of them
		before, after := took(), frozen()
		if after <= 2*before+35*time.Millisecond {
			return
		}
		seen = append(seen, before, after)
	}
	t.Errorf("with a Redis, and with a frozen one, the streams took %v", seen)
}

// A repeat does not join a process that is known to be dead: it waits until its call is settled, and is asked anew.
func TestARepeatDoesNotJoinADeadReplica(t *testing.T) {
	here, there := replicas(t, Options{})
	text := "[[sim delay=100ms chunks=30 size=400]] go on"
	call := id.Request(ofCall(here.leaving("claimed", text, `,"stream":true`, "id: 4\n", key, "k")))
	dead(t, here.tapes)
	if err := here.lease.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	body := `{"model":"openai/gpt-5-mini","stream":true,"messages":[{"role":"user","content":"` + text + `"}]}` // the bytes of leaving
	again := make(chan heard, 1)
	go func() { again <- there.do("POST", "/v1/chat/completions", body, "X-Thread-Id", "claimed", key, "k") }()
	time.Sleep(300 * time.Millisecond)
	settler := &Settler{
		Store: here.store, Calls: here.calls, Threads: here.threads, Ledger: here.opts.Ledger, Catalogue: here.opts.Catalogue, Lease: there.lease,
		Tapes: there.tapes, Log: slog.New(slog.DiscardHandler),
	}
	if settled, err := settler.settleOne(t.Context(), calls.Orphan{Org: here.admin.Org, ID: call}); !settled || err != nil {
		t.Fatal(settled, err)
	}
	r := (<-again).want(t, 200)
	if r.header.Get("Idempotent-Replayed") != "" || !bytes.HasSuffix(r.body, []byte("data: [DONE]\n\n")) {
		t.Errorf("the repeat got %v %s", r.header, r.body)
	}
	if m := there.messages("claimed"); len(m) != 3 || !strings.HasSuffix(m[1], ":incomplete:gateway_lost") || !strings.HasSuffix(m[2], ":complete") {
		t.Errorf("the thread reads %q", m)
	}
}

// A process that died between the record and the telling of it has an answer that nobody can be given whole: an SDK's
// retry is asked anew rather than given a part.
func TestARetryIsNotGivenAPart(t *testing.T) {
	here, there := replicas(t, Options{})
	text := "[[sim delay=100ms chunks=40 size=400]] go on" // long enough for its process to die before its end
	here.leaving("part", text, `,"stream":true`, "id: 8\n")
	dead(t, here.tapes)
	here.attempts()
	testkit.Eventually(t, 5*time.Second, func() bool {
		m := here.messages("part")
		return len(m) == 2 && strings.HasSuffix(m[1], ":complete")
	})
	body := `{"model":"openai/gpt-5-mini","stream":true,"messages":[{"role":"user","content":"` + text + `"}]}` // the bytes of leaving
	r := there.do("POST", "/v1/chat/completions", body, "X-Thread-Id", "part", "X-Stainless-Retry-Count", "1").want(t, 200)
	if r.header.Get("Idempotent-Replayed") != "" || !bytes.HasSuffix(r.body, []byte("data: [DONE]\n\n")) {
		t.Errorf("the retry got %v %s", r.header, r.body)
	}
}
