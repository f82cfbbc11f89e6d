package sdk

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/simulator"
	"threadhub/test/kills"
	"threadhub/test/rig"
)

// How many retries a run waits for, over both stores.
const (
	shortRetries = 400
	soakRetries  = 10_000
)

// Who asks. Each has threads of its own, in the ways there are to be known again: by thread, by key, by both.
const (
	goAskers   = 24
	nodeAskers = 8
	turnsEach  = 12 // in one thread
)

// The SDKs' own retries, of answers and requests that break on their way, leave each message and each ledger line there
// once.
func TestRetriesDoNothingTwice(t *testing.T) {
	t.Parallel()
	goal := shortRetries
	if os.Getenv("THREADHUB_SOAK") != "" {
		goal = soakRetries
	}
	node := startNode(t)
	t.Cleanup(func() {
		rig.CloseIdle()
		http.DefaultClient.CloseIdleConnections()
	})
	for _, store := range stores {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			if s := os.Getenv("THREADHUB_TEST_RETRIES_SEED"); s != "" {
				var err error
				if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("THREADHUB_TEST_RETRIES_SEED=%d", seed)
			newRetries(t, store, seed, goal/len(stores)).run(node)
		})
	}
}

// retries is a gateway behind a cutter, and those who ask.
type retries struct {
	t     *testing.T
	store string
	db    kills.Database
	sim   *simulator.Simulator
	cut   *cutter
	user  rig.Seeded
	seed  uint64

	mu    sync.Mutex
	asked []*broken
}

// broken is one thing that is asked, however often.
type broken struct {
	kills.Exchange // as the SDK told of it in the end

	key string
}

func newRetries(t *testing.T, store string, seed uint64, goal int) *retries {
	t.Helper()
	r := &retries{t: t, store: store, seed: seed, db: kills.Database{URL: rig.Stores[store](t)}}
	r.sim = rig.Simulator(t, simulator.Options{MaxLog: 1 << 20, MaxLogBytes: 1 << 30})
	env := rig.AskedOnce // it is the SDK that asks again
	if store == "postgres" {
		env = append([]string{"REDIS_URL=" + testkit.Redis(t)}, env...) // as teams have it
	}
	house := rig.NewHouse(t, rig.Options{Database: r.db.URL, Sim: r.sim, Env: env})
	r.user = house.Seed("sdk", "writer@example.com", "admin")
	gw := house.Serve()
	gw.ProviderKeys(t, r.user)
	r.cut = newCutter(t, strings.TrimPrefix(gw.URL, "http://"), seed, goal)
	t.Cleanup(func() {
		if err := gw.Stop(60 * time.Second); err != nil {
			t.Errorf("the gateway ended: %v", err)
		}
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", tail(house.Log.String(), 200))
		}
	})
	return r
}

// run asks until there have been enough retries, and judges what they left.
func (r *retries) run(node sdk) {
	var wg sync.WaitGroup
	for n := range goAskers + nodeAskers {
		wg.Go(func() {
			var s sdk = goSDK{}
			if n >= goAskers {
				s = node
			}
			r.asker(n, s)
		})
	}
	wg.Wait()
	r.judge()
}

// asker asks one thing after the other.
func (r *retries) asker(n int, s sdk) {
	chance := rand.New(rand.NewPCG(r.seed, 100+uint64(n)))
	models := []string{"openai/gpt-4.1-mini", "gemini/gemini-3.5-flash", "perplexity/sonar-pro", "openrouter/openai/gpt-4.1-mini"}
	for i := 0; !r.cut.done(); i++ {
		q := &broken{Exchange: kills.Exchange{Org: id.Org(r.user.Org), Model: models[chance.IntN(len(models))], Stream: chance.IntN(2) > 0, Try: 1}}
		name := fmt.Sprintf("%d.%d", n, i)
		if n%3 > 0 {
			q.key = "key-" + name
		}
		if n%3 < 2 {
			q.Thread = id.Thread(fmt.Sprintf("t.%d.%d", n, i/turnsEach))
		}
		how := fmt.Sprintf("head=%dms", chance.IntN(150))
		if q.Stream {
			how = fmt.Sprintf("chunks=%d delay=%dms", 3+chance.IntN(5), 4+chance.IntN(40))
			if q.key == "" { // or all of it is given away before its loss is noticed
				how = fmt.Sprintf("chunks=%d delay=%dms", 4+chance.IntN(4), 80+chance.IntN(40))
			}
		}
		q.Text = fmt.Sprintf("question %s [[sim text=%q %s]]", name, "answer to "+name+strings.Repeat(" and more", chance.IntN(20)), how)
		r.ask(q, s)
		r.mu.Lock()
		r.asked = append(r.asked, q)
		r.mu.Unlock()
	}
}

// ask has an SDK ask, and whoever has a key repeats what the SDK gave up.
func (r *retries) ask(q *broken, s sdk) {
	retries := 6
	if s != sdk(goSDK{}) {
		retries = 2 // its pauses grow
	}
	j := job{
		Do: doChat, BaseURL: "http://" + r.cut.addr + "/v1", Key: r.user.Key, Model: q.Model, Messages: []message{{"user", q.Text}},
		Header: map[string]string{}, MaxRetries: &retries, RetryDelayMS: 100,
	}
	if q.Stream {
		j.Do = doStream
	}
	if q.Thread != "" {
		j.Header["X-Thread-Id"] = string(q.Thread)
	}
	if q.key != "" {
		j.Header["Idempotency-Key"] = q.key
	}
	for try := 0; try == 0 || q.key != "" && try < 40; try++ {
		answer, err := s.do(j)
		if err != nil {
			r.t.Error(err)
			return
		}
		if answer.Err == nil {
			q.Head, q.Done, q.Status = true, true, 200
			q.Request, q.Seen = id.Request(answer.RequestID), answer.Text
			q.Seq, _ = strconv.Atoi(answer.Header["x-threadhub-thread-seq"])
			return
		}
		if answer.Err.Status >= 400 && answer.Err.Status < 500 {
			r.t.Errorf("%.60q was refused: %+v", q.Text, *answer.Err)
			return
		}
	}
}

// judge counts what is there, by the store, the provider's log and what the SDKs told.
func (r *retries) judge() {
	r.t.Helper()
	e := kills.Evidence{Embedded: r.store == "sqlite"}
	for _, q := range r.asked {
		e.Asked = append(e.Asked, &q.Exchange)
	}
	for deadline := time.Now().Add(2 * time.Minute); ; { // what runs on without its client ends by itself
		open, err := r.db.Orphans(r.t.Context(), time.Now(), id.Org(r.user.Org))
		if err != nil {
			r.t.Fatal(err)
		}
		if open == 0 {
			break
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%d calls stay open", open)
		}
		<-time.After(200 * time.Millisecond)
	}
	e.Seen = r.sim.Log()
	var err error
	if e.Orgs, err = r.db.Read(r.t.Context(), id.Org(r.user.Org)); err != nil {
		r.t.Fatal(err)
	}
	shown := map[kills.Rule]int{}
	for _, v := range kills.Check(e) {
		if shown[v.Rule]++; shown[v.Rule] <= 5 {
			r.t.Error(v)
		}
	}
	r.once(e)
}

// once holds that each question has one message, one complete answer and one line of what answered it.
func (r *retries) once(e kills.Evidence) {
	rows := e.Orgs[0]
	outcome, lines, of := map[id.Request]string{}, map[string]int{}, map[string][]string{}
	for _, c := range rows.Calls {
		outcome[c.ID] = c.Outcome
	}
	for _, l := range rows.Lines {
		lines[fmt.Sprintf("%s-%d", l.Call, l.N)]++
	}
	for _, a := range e.Seen { // the newest question is what the provider is asked
		if _, text, ok := strings.Cut(string(a.Body[max(0, strings.LastIndex(string(a.Body), "question ")):]), "question "); ok {
			name, _, _ := strings.Cut(text, " ")
			of[name] = append(of[name], a.Name)
		}
	}
	doneTwice, linesTwice, again, done := 0, 0, 0, 0
	for name, attempts := range of {
		complete := 0
		for _, a := range attempts {
			call, _, _ := strings.Cut(a, "-")
			if outcome[id.Request(call)] == "complete" {
				complete++
			}
			if lines[a] != 1 {
				linesTwice++
				r.t.Errorf("%s has %d lines in the ledger", a, lines[a])
			}
		}
		if complete > 1 {
			doneTwice++
			r.t.Errorf("question %s was answered by %d calls: %v", name, complete, attempts)
			for _, q := range r.asked {
				if strings.HasPrefix(q.Text, "question "+name+" ") {
					r.t.Logf("it was sent with key %q, stream %v", q.key, q.Stream)
				}
			}
		}
		again += len(attempts) - 1
	}
	for _, q := range r.asked {
		if q.Done {
			done++
		} else if q.key != "" {
			r.t.Errorf("%.60q never got its answer", q.Text)
		}
	}
	r.t.Logf("%d questions, %d answered, %s: %d answered twice, %d lines too many or too few; of broken calls the provider was asked again %d times",
		len(r.asked), done, r.cut, doneTwice, linesTwice, again)
}
