package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/migrations"
	"threadhub/simulator"
	"threadhub/test/kills"
	"threadhub/test/rig"
)

// The gateway's clocks, scaled down. Those that a row waits for are short; a busy machine must not reach the others.
const (
	connectTime   = 500 * time.Millisecond
	headersTime   = 2 * time.Second
	idleTime      = 1500 * time.Millisecond
	streamTime    = 6 * time.Second
	writeTime     = 2 * time.Second
	heartbeatTime = 300 * time.Millisecond
	databaseTime  = time.Second
	redisTime     = 30 * time.Millisecond
	leaseTime     = 2 * time.Second
	drainTime     = 3 * time.Second
	acceptTime    = 300 * time.Millisecond
	turnTime      = 3 * time.Second
	longestLine   = 64 << 10

	slack = 3 * time.Second // what a busy machine may add to any of them
)

func clocks() []string {
	var env []string
	for name, d := range map[string]time.Duration{
		"TIMEOUTS__CONNECT": connectTime, "TIMEOUTS__HEADERS": headersTime, "TIMEOUTS__WHOLE": headersTime, "TIMEOUTS__IDLE": idleTime,
		"TIMEOUTS__STREAM": streamTime, "TIMEOUTS__WRITE": writeTime, "TIMEOUTS__HEARTBEAT": heartbeatTime,
		"TIMEOUTS__DATABASE": databaseTime, "TIMEOUTS__REDIS": redisTime, "TIMEOUTS__LEASE": leaseTime,
		"TIMEOUTS__DRAIN": drainTime, "TIMEOUTS__DRAIN_ACCEPT": acceptTime, "THREADS__TURN_WAIT": turnTime, "STREAMS__RESUME_GRACE": 0,
	} {
		env = append(env, "THREADHUB_"+name+"="+d.String())
	}
	return append(env, fmt.Sprintf("THREADHUB_STREAMS__MAX_LINE_BYTES=%d", longestLine))
}

// longStreams are settings for streams that take as long as they need.
func longStreams() []string { return []string{"THREADHUB_TIMEOUTS__STREAM=60s"} }

// patientStore are settings for a row that is about what comes after a wait for Postgres, not how long it may be.
func patientStore() []string { return []string{"THREADHUB_TIMEOUTS__DATABASE=4s"} }

// setup is what a row is played on.
type setup struct {
	apart    bool     // an installation of its own; all below imply it
	own      bool     // a Postgres of its own, durable
	standby  bool     // and another one that follows it, and is named second
	archive  bool     // and its log is kept in a folder
	redis    bool     // a Redis of its own
	cluster  bool     // a Redis Cluster of its own
	disk     disk     // of Postgres's, or of the gateways', a small one
	between  bool     // proxies stand between the gateway and Postgres, Redis and the providers
	replicas int      // gateways; 0: one
	sqlite   bool     // the embedded store
	tags     []string // of the gateway's build
	env      []string // more settings
	bug      string   // of internal/seedbug; "": none
}

func (s setup) shared() bool {
	return !s.apart && !s.own && !s.standby && !s.archive && !s.redis && !s.cluster && s.disk == noDisk && !s.between && s.replicas < 2 && !s.sqlite && len(s.tags)+len(s.env)+len(s.bug) == 0
}

// disk is what is kept on a small disk.
type disk int

const (
	noDisk   disk = iota
	dataDisk      // what Postgres keeps, but for its log
	walDisk       // Postgres's write-ahead log
	homeDisk      // the gateways' folder
)

// Sizes that leave each of them room, and not much.
var diskSizes = map[disk]int64{dataDisk: 96 << 20, walDisk: 64 << 20, homeDisk: 4 << 20}

// sites are the installations of one run of the suite: one that rows share which break nothing but their own requests,
// and what others are made from.
type sites struct {
	shared   func() (*site, []string)
	template func() (string, error)
	stop     []func() error

	mu    sync.Mutex
	lacks map[string]lack // by row
}

// lack is what this machine does not let a row show: a part of it, or all.
type lack struct {
	what string
	all  bool
}

// lacking is what r could not show when it was played last.
func (s *sites) lacking(r row) lack {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lacks[r.id]
}

func newSites(t testing.TB) *sites {
	s := &sites{lacks: map[string]lack{}}
	t.Cleanup(func() { s.close(t) })
	s.shared = sync.OnceValues(func() (made *site, wrong []string) {
		wrong = judged(t, func(v *verdict) { made = s.open(v, setup{}) })
		return made, wrong
	})
	s.template = sync.OnceValues(s.makeTemplate)
	return s
}

// makeTemplate returns the data of a Postgres with all migrations, for copies.
func (s *sites) makeTemplate() (string, error) {
	services, err := testkit.Start(context.Background(), testkit.Options{NoRedis: true})
	if err != nil {
		return "", err
	}
	s.stop = append(s.stop, services.Stop)
	if err := migrations.Up(context.Background(), services.Postgres.URL(), migrations.Options{}); err != nil {
		return "", err
	}
	if err := services.Postgres.Signal(syscall.SIGINT); err != nil {
		return "", err
	}
	return services.Data, services.Postgres.Wait(context.Background())
}

func (s *sites) close(t testing.TB) {
	for _, stop := range s.stop {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
	rig.CloseIdle()
}

// site is an installation: a store, providers, gateways, and what is between them.
type site struct {
	setup
	house     *rig.House
	sim       *simulator.Simulator
	db        kills.Database    // as the judge sees it
	services  *testkit.Services // of its own
	pg, redis *testkit.Server
	follower  *testkit.Server // of pg
	cluster   *testkit.Cluster
	small     string            // where the small disk is; "": there is none
	noDisk    string            // why
	wire      map[string]*Proxy // "postgres", "redis" and the providers
	g         []*rig.Gateway
	stranger  rig.Seeded // an org that has a secret in a thread
	secret    string
}

func (s *sites) open(t testing.TB, with setup) *site {
	with.own = with.own || with.standby || with.archive || with.disk == dataDisk || with.disk == walDisk
	x := &site{setup: with, wire: map[string]*Proxy{}, sim: rig.Simulator(t, simulator.Options{})}
	env := append(clocks(), with.env...)
	if with.disk != noDisk {
		var err error
		if x.small, err = testkit.SmallDisk(t, diskSizes[with.disk]); err != nil {
			x.noDisk = err.Error()
		}
	}
	if with.disk == homeDisk && x.small != "" {
		env = append(env, "THREADHUB_DATA_DIR="+x.small)
	}
	if with.own || with.redis {
		o := testkit.Options{Durable: true, NoPostgres: !with.own, NoRedis: !with.redis}
		if with.own {
			var err error
			if o.From, err = s.template(); err != nil {
				t.Fatal(err)
			}
			switch with.disk {
			case dataDisk:
				o.OnDisk = x.small
			case walDisk:
				o.WALOnDisk = x.small
			}
		}
		if with.archive { // it runs where the data is
			o.Postgres = []string{"archive_mode=on", "archive_command=mkdir -p ../wal && test ! -f ../wal/%f && cp %p ../wal/%f"}
		}
		services := testkit.StartFor(t, o)
		x.services, x.pg, x.redis = services, services.Postgres, services.Redis
		if with.standby {
			var err error
			if x.follower, err = services.Standby(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	}
	switch {
	case with.sqlite:
		x.db.URL = testkit.SQLite(t)
	case with.own:
		x.db.URL = x.pg.URL()
	default:
		x.db.URL = testkit.Postgres(t)
	}
	database := x.db.URL
	if with.standby {
		database = bothHosts(t, x.pg.URL(), x.follower.URL())
	}
	if with.between {
		if !with.sqlite {
			database = x.through(t, "postgres", database)
		}
		for _, p := range rig.Providers {
			env = append(env, "THREADHUB_UPSTREAMS__"+strings.ToUpper(p)+"__BASE_URL="+x.through(t, p, x.sim.URL(p)))
		}
	}
	if with.redis {
		to := x.redis.URL()
		if with.between {
			to = x.through(t, "redis", to)
		}
		env = append(env, "REDIS_URL="+to)
	}
	if with.cluster {
		x.cluster = testkit.StartClusterFor(t, nodeTime)
		env = append(env, "REDIS_URL="+x.cluster.URL())
	}
	if with.bug != "" {
		with.tags = []string{"chaos", "seedbug"}
		env = append(env, "THREADHUB_TEST_SEEDBUG="+with.bug)
	}
	x.house = rig.NewHouse(t, rig.Options{Bin: rig.Binary(t, with.tags...), Database: database, Sim: x.sim, Env: env})
	for range max(1, with.replicas) {
		x.g = append(x.g, x.house.Serve())
	}
	x.stranger = x.tenant(t, "stranger")
	x.secret = fmt.Sprintf("canary-%x", rand.Uint64())
	var thread struct {
		ID string `json:"thread_id"`
	}
	if err := x.g[0].Must(t, 201, "POST", "/api/threads/", x.stranger.Key, map[string]string{"title": "a secret"}).JSON(&thread); err != nil {
		t.Fatal(err)
	}
	x.g[0].Must(t, 201, "POST", "/api/threads/"+thread.ID+"/messages", x.stranger.Key, map[string]string{"role": "user", "content": x.secret})
	return x
}

// bothHosts is the URL of one of two servers.
func bothHosts(t testing.TB, first, second string) string {
	a, err := url.Parse(first)
	if err != nil {
		t.Fatal(err)
	}
	b, err := url.Parse(second)
	if err != nil {
		t.Fatal(err)
	}
	a.Host += "," + b.Host
	return a.String()
}

// through puts a proxy before the server of a URL and returns the URL that leads through it.
func (x *site) through(t testing.TB, name, to string) string {
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewProxy(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	x.wire[name] = p
	u.Host = p.Addr()
	return u.String()
}

var tenants atomic.Int64

// tenant makes an org with a key, with keys at all providers, and with a hard budget that binds all its calls.
func (x *site) tenant(t testing.TB, name string) rig.Seeded {
	name = fmt.Sprint(name, "-", tenants.Add(1))
	s := x.house.Seed(name, "ann@"+name+".example", "admin")
	x.g[0].ProviderKeys(t, s)
	x.g[0].Must(t, 200, "PUT", "/api/budgets", s.Key, map[string]string{"scope": "org", "period": "total", "limit_usd": "100000", "mode": "hard"})
	return s
}

// world is a row at play.
type world struct {
	*verdict
	*site
	sites  *sites
	row    row
	seed   uint64
	rand   *rand.Rand
	who    rig.Seeded
	before map[string]float64 // metrics

	also    []*simulator.Simulator // more providers
	excused map[kills.Rule]string  // what the judge lets pass, and why
	undone  span                   // of time, in which what happened was taken back

	mu      sync.Mutex
	asked   []*kills.Exchange
	reads   []kills.Read
	clients []*kills.Client
	texts   int
}

// play plays r once and returns what was wrong.
func (s *sites) play(t testing.TB, r row, seed uint64) []string {
	return judged(t, func(v *verdict) {
		var x *site
		if r.shared() {
			var wrong []string
			if x, wrong = s.shared(); len(wrong) > 0 {
				v.Fatalf("the shared installation did not start: %v", wrong)
			}
		} else {
			x = s.open(v, r.setup)
		}
		w := &world{
			verdict: v, site: x, sites: s, row: r, seed: seed, rand: rand.New(rand.NewPCG(seed, 0)), who: x.tenant(v, strings.ToLower(r.id)),
			excused: map[kills.Rule]string{},
		}
		w.before = w.metrics(w.g[0])
		defer w.hangUp()
		r.play(w)
		w.hangUp()
		w.judge()
	})
}

// cannot notes what of the row this machine does not let it show.
func (w *world) cannot(what string) {
	w.sites.mu.Lock()
	defer w.sites.mu.Unlock()
	w.sites.lacks[w.row.id] = lack{what: what}
}

// cannotPlay notes that nothing of the row can be shown here.
func (w *world) cannotPlay(why string) {
	w.sites.mu.Lock()
	defer w.sites.mu.Unlock()
	w.sites.lacks[w.row.id] = lack{why, true}
}

// provider is the one that this seed asks, and model what it is asked for.
func (w *world) provider() string { return rig.Providers[w.seed%uint64(len(rig.Providers))] }

var models = map[string]string{
	"openai": "openai/gpt-4.1-mini", "gemini": "gemini/gemini-3.5-flash", "perplexity": "perplexity/sonar-pro", "openrouter": "openrouter/openai/gpt-4.1-mini",
}

func (w *world) model() string { return models[w.provider()] }

// An option changes a question.
type option func(*kills.Exchange)

func whole(e *kills.Exchange) { e.Stream = false }
func plain(e *kills.Exchange) { e.Thread = "" }

func in(thread id.Thread) option { return func(e *kills.Exchange) { e.Thread = thread } }

func header(name, value string) option {
	return func(e *kills.Exchange) { e.Header = append(e.Header, [2]string{name, value}) }
}

func keyed(key string) option { return header("Idempotency-Key", key) }

func field(name string, value any) option {
	return func(e *kills.Exchange) {
		if e.Fields == nil {
			e.Fields = map[string]any{}
		}
		e.Fields[name] = value
	}
}

// ask is a streamed question in a thread of its own that nobody has asked before. do is a directive for the simulator.
func (w *world) question(do string, options ...option) *kills.Exchange {
	w.mu.Lock()
	w.texts++
	n := w.texts
	w.mu.Unlock()
	e := &kills.Exchange{Org: id.Org(w.who.Org), Stream: true, Model: w.model(), Thread: id.Thread(fmt.Sprintf("%s.%d", w.row.id, n))}
	e.Text = fmt.Sprintf("question %d of %s, %s [[sim %s]]", n, w.row.id, w.who.Org, do)
	for _, o := range options {
		o(e)
	}
	return e
}

// again is the same question, asked once more.
func again(e *kills.Exchange) *kills.Exchange {
	return &kills.Exchange{
		Org: e.Org, Thread: e.Thread, Text: e.Text, Model: e.Model, Stream: e.Stream, Fields: e.Fields, Header: e.Header, Try: e.Try + 1,
	}
}

// said is an answer of so many pieces with a pause between them, for directives.
func said(n int, pause time.Duration) string {
	return fmt.Sprintf("text=%q chunks=%d delay=%s", strings.Repeat("word ", 2*n)+"end", n, pause)
}

func (w *world) hangUp() {
	for _, c := range w.clients {
		c.Close()
	}
}

// client is a new one of a gateway.
func (w *world) client(g *rig.Gateway) *kills.Client {
	c := &kills.Client{Addr: g.Host(), Key: w.who.Key}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clients = append(w.clients, c)
	return c
}

// send asks e over a connection of its own, and notes it.
func (w *world) send(g *rig.Gateway, e *kills.Exchange) *kills.Exchange {
	c := w.client(g)
	c.Ask(e)
	c.Close()
	w.note(e)
	return e
}

func (w *world) note(e *kills.Exchange) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, e)
}

// ask asks the first gateway.
func (w *world) ask(do string, options ...option) (e *kills.Exchange) {
	for range 10 { // on a machine that is too busy a gateway may be, too, and says so
		e = w.send(w.g[0], w.question(do, options...))
		if e.Status != 503 || e.Code != "busy" {
			break
		}
		w.sleep(time.Second)
	}
	return e
}

// live is an exchange under way.
type live struct {
	*kills.Exchange
	begun chan struct{} // closed when some of the answer's text is there, or the exchange is over
	over  chan struct{}
}

// start sends e and returns at once.
func (w *world) start(g *rig.Gateway, e *kills.Exchange) *live {
	l := &live{Exchange: e, begun: make(chan struct{}), over: make(chan struct{})}
	var once sync.Once
	begun := func() { once.Do(func() { close(l.begun) }) }
	watch := e.Watch
	e.Watch = func(seen string) error {
		if seen != "" {
			begun()
		}
		if watch != nil {
			return watch(seen)
		}
		return nil
	}
	go func() {
		defer close(l.over)
		defer begun()
		w.send(g, e)
	}()
	return l
}

// streaming starts e and returns when its answer has begun.
func (w *world) streaming(g *rig.Gateway, e *kills.Exchange) *live {
	l := w.start(g, e)
	<-l.begun
	return l
}

func (l *live) wait() *kills.Exchange {
	<-l.over
	return l.Exchange
}

// many asks n questions, some at a time, and returns them in the order in which they were asked.
func (w *world) many(n, atOnce int, ask func(i int) *kills.Exchange) []*kills.Exchange {
	all := make([]*kills.Exchange, n)
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			all[i] = ask(i)
		})
	}
	wg.Wait()
	return all
}

// must fails the row at once if err is one.
func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// sleep lets time pass that is the row's subject, as a frozen part's is.
func (w *world) sleep(d time.Duration) { <-time.After(d) }

// eventually waits until ok.
func (w *world) eventually(d time.Duration, ok func() bool, what string, args ...any) {
	w.Helper()
	testkit.Eventually(w.verdict, d, ok, append([]any{what}, args...)...)
}

// sql runs statements as the superuser, past all proxies.
func (w *world) sql(statements ...string) {
	w.Helper()
	conn := w.connect()
	defer func() { _ = conn.Close(context.Background()) }()
	for _, s := range statements {
		if _, err := conn.Exec(context.Background(), s); err != nil {
			w.Fatalf("%s: %v", s, err)
		}
	}
}

func (w *world) connect() *pgx.Conn {
	w.Helper()
	conn, err := pgx.Connect(context.Background(), w.db.URL)
	w.must(err)
	return conn
}

// freeze stops a process and all of its children; thaw lets them go on.
func (w *world) freeze(g *rig.Gateway) { w.must(syscall.Kill(g.PID(), syscall.SIGSTOP)) }
func (w *world) thaw(g *rig.Gateway)   { w.must(syscall.Kill(g.PID(), syscall.SIGCONT)) }

// status asks a health page of a gateway.
func (w *world) status(url string) int {
	r, err := pages.Get(url)
	if err != nil {
		return 0
	}
	_ = r.Body.Close()
	return r.StatusCode
}

// files are how many a process has open.
func files(pid int) int {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return -1
	}
	return len(list)
}

// pick is one of a list, by the seed.
func pick[T any](w *world, list ...T) T {
	w.mu.Lock()
	defer w.mu.Unlock()
	return list[w.rand.IntN(len(list))]
}

// took is how long an exchange took.
func took(e *kills.Exchange) time.Duration { return e.Ended.Sub(e.Began) }
