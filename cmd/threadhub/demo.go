package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"threadhub/calls"
	"threadhub/config"
	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/internal/seal"
	"threadhub/orgs"
	"threadhub/simulator"
	"threadhub/threads"
)

// What the demo makes. Its org's id is org_demo.
const (
	demoOrg    = "demo"
	demoAdmin  = "admin@example.com"
	demoTier   = "trial"
	demoSeats  = 10
	demoThread = id.Thread("welcome")

	simulatedKey  = "sk-simulated"
	simulatedNote = "(This answer is simulated.)"
)

// demo is one run of the demo command.
type demo struct {
	p         *program
	cfg       *config.Config
	simulated []string // providers
	real      []string
	seeded    orgs.Seeded
}

func demoCommand(fs *flag.FlagSet) func(context.Context, *program, *config.Config) error {
	asJSON := fs.Bool("json", false, "print one line of JSON when ready: base_url, api_key, operator_url, org_id, thread_id")
	return func(ctx context.Context, p *program, cfg *config.Config) (err error) {
		d := &demo{p: p, cfg: embedded(cfg)}
		stop, err := d.simulate()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
		show := d.banner
		if *asJSON {
			show = d.line
		}
		return p.serve(ctx, d.cfg, occasions{opened: d.furnish, ready: show})
	}
}

// embedded returns cfg for a demo: parts within the process, data of its own, the loopback, and a log that leaves the
// terminal to what the demo has to say.
func embedded(cfg *config.Config) *config.Config {
	usual, c := config.Default(), *cfg
	c.DatabaseURL, c.MigrateDatabaseURL, c.RedisURL, c.QdrantURL = seal.Secret{}, seal.Secret{}, seal.Secret{}, seal.Secret{}
	if c.DataDir == usual.DataDir {
		c.DataDir = filepath.Join(usual.DataDir, "demo")
	}
	if c.Listen == usual.Listen {
		c.Listen = "127.0.0.1" + usual.Listen
	}
	if c.Log == usual.Log {
		c.Log = config.Log{Level: "warn", Format: "text"}
	}
	if c.Timeouts.DrainAccept == usual.Timeouts.DrainAccept {
		c.Timeouts.DrainAccept = 0 // no load balancer to wait for
	}
	return &c
}

// simulate starts the simulator for the providers without a real key.
func (d *demo) simulate() (stop func() error, err error) {
	s := simulator.New(simulator.Options{Note: simulatedNote})
	if err := s.Start(); err != nil {
		return nil, err
	}
	usual := config.Default()
	for _, name := range config.Providers() {
		if adapters[name] == nil {
			continue
		}
		u := d.cfg.Upstreams[name]
		if !u.APIKey.Empty() {
			d.real = append(d.real, name)
			continue
		}
		u.APIKey = seal.NewSecret(simulatedKey)
		d.simulated = append(d.simulated, name)
		if u.BaseURL == usual.Upstreams[name].BaseURL { // else the operator has a double of its own
			u.BaseURL = s.URL(name)
		}
	}
	return s.Close, nil
}

// furnish makes the demo's org, its admin with a fresh key, its provider keys and its first thread.
func (d *demo) furnish(ctx context.Context, s *server) (err error) {
	o := s.storage.orgs
	d.seeded, err = o.Seed(ctx, orgs.SeedSpec{Org: demoOrg, Email: demoAdmin, Role: orgs.Admin, Tier: demoTier, Seats: demoSeats})
	if err != nil {
		return err
	}
	for _, name := range slices.Concat(d.real, d.simulated) {
		if _, err := o.PutProviderKey(ctx, d.seeded.Org, orgs.Actor{}, orgs.ProviderKeySpec{Provider: name, Key: d.cfg.Upstreams[name].APIKey}); err != nil {
			return fmt.Errorf("the key for %s: %w", name, err)
		}
	}
	return d.welcome(ctx, s)
}

// welcome writes the first thread, once: two messages, no model called.
func (d *demo) welcome(ctx context.Context, s *server) error {
	head, err := s.storage.threads.Head(ctx, d.seeded.Org, demoThread)
	if err != nil || head != nil {
		return err
	}
	var messages []threads.Message
	for _, m := range []struct{ role, content string }{
		{"user", "What is a thread?"},
		{"assistant", "A conversation that everybody in your org can continue, from any tool and on any provider. Send " +
			"X-Thread-Id: " + string(demoThread) + " with a chat request, and only your new message: I know the rest."},
	} {
		raw, err := json.Marshal(struct {
			Role    string `json:"role"`
			Content string `json:"content"`
		}{m.role, m.content})
		if err != nil {
			return err
		}
		next := threads.Message{Role: m.role, Raw: raw, Status: threads.Complete}
		next.After(head)
		messages = append(messages, next)
		head = &messages[len(messages)-1]
	}
	call := id.NewRequest()
	opening := &calls.Opening{
		Org: d.seeded.Org, ID: call, Key: d.seeded.Key, User: d.seeded.User, Thread: demoThread, Owner: s.lease.Owner(),
		NIn: len(messages), AtOnce: true, Facts: calls.Facts{Kind: "message"},
	}
	u := &db.Unit{Org: d.seeded.Org}
	s.storage.calls.Open(u, opening)
	s.storage.threads.Append(u, &threads.Input{
		Org: d.seeded.Org, Thread: demoThread, Call: call, User: d.seeded.User, Title: "Welcome", Create: true,
		PrevSeq: -1, PrevChain: []byte{}, Messages: messages,
	})
	if err := s.storage.store.Commit(ctx, u); err != nil {
		return err
	}
	if opening.Result != calls.Won {
		s.log.Warn("the welcome thread was not written", slog.Any("result", opening.Result))
	}
	return nil
}

// line is what scripts read.
func (d *demo) line(u urls) error {
	return d.p.printJSON(struct {
		Base     string    `json:"base_url"`
		Key      string    `json:"api_key"`
		Operator string    `json:"operator_url"`
		Org      id.Org    `json:"org_id"`
		Thread   id.Thread `json:"thread_id"`
	}{u.base, d.seeded.APIKey.Reveal(), u.operator, d.seeded.Org, demoThread})
}

// banner is what people read. The key is shown here and never again.
func (d *demo) banner(u urls) error {
	provider := slices.Concat(d.real, d.simulated)[0]
	var keys []string
	for _, name := range d.simulated {
		keys = append(keys, strings.ToUpper(name)+"_API_KEY")
	}
	who := "all answers are simulated; set " + strings.Join(keys, " or ") + " for real ones"
	if len(d.real) > 0 {
		who = "real: " + strings.Join(d.real, ", ")
		if len(d.simulated) > 0 {
			who += "; simulated: " + strings.Join(d.simulated, ", ")
		}
	}
	_, err := fmt.Fprintf(d.p.stdout, `Threadhub demo

  base URL   %[1]s
  API key    %[2]s   (shown this once)
  org        %[3]s, thread %[4]s
  providers  %[5]s
  operator   %[6]s/metrics
  data       %[7]s

Continue the thread:

  export THREADHUB_API_KEY=%[2]s
  curl %[1]s/chat/completions \
    -H "Authorization: Bearer $THREADHUB_API_KEY" -H "X-Thread-Id: %[4]s" -H "Content-Type: application/json" \
    -d '{"model":"%[8]s/%[9]s","messages":[{"role":"user","content":"Who can continue this?"}]}'

Read it:

  curl %[10]s/api/threads/%[4]s -H "Authorization: Bearer $THREADHUB_API_KEY"

Ctrl-C ends it.
`, u.base, d.seeded.APIKey.Reveal(), d.seeded.Org, demoThread, who, u.operator, d.cfg.DataDir, provider, d.cfg.Upstreams[provider].DefaultModel, u.root)
	return err
}
