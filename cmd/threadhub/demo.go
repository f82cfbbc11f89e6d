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
	longThread = id.Thread("twelve")

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

// furnish makes the demo's org, its admin with a fresh key, its provider keys and its first threads.
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
	return errors.Join(
		d.write(ctx, s, demoThread, "Welcome", "What is a thread?",
			"A conversation that everybody in your org can continue, from any tool and on any provider. Send "+
				"X-Thread-Id: "+string(demoThread)+" with a chat request, and only your new message: I know the rest."),
		d.write(ctx, s, longThread, "Twelve messages",
			"We shall plant a garden.", "Where does it lie?", "Behind the house, to the south.", "Then it has sun enough. How large is it?",
			"Ten steps by twenty.", "That is room for four beds.", "Beans in the first.", "With poles, along the wall.",
			"Tomatoes in the second.", "Under a roof: they dislike rain.", "Herbs in the third.", "The fourth is still free."),
	)
}

// write makes a thread, once, in which user and assistant take turns. No model is called.
func (d *demo) write(ctx context.Context, s *server, thread id.Thread, title string, said ...string) error {
	head, err := s.storage.threads.Head(ctx, d.seeded.Org, thread)
	if err != nil || head != nil {
		return err
	}
	var messages []threads.Message
	for i, content := range said {
		role := []string{"user", "assistant"}[i%2]
		raw, err := json.Marshal(struct {
			Role    string `json:"role"`
			Content string `json:"content"`
		}{role, content})
		if err != nil {
			return err
		}
		next := threads.Message{Role: role, Raw: raw, Status: threads.Complete}
		next.After(head)
		messages = append(messages, next)
		head = &messages[len(messages)-1]
	}
	call := id.NewRequest()
	opening := &calls.Opening{
		Org: d.seeded.Org, ID: call, Key: d.seeded.Key, User: d.seeded.User, Thread: thread, Owner: s.lease.Owner(),
		NIn: len(messages), AtOnce: true, Facts: calls.Facts{Kind: "message"},
	}
	u := &db.Unit{Org: d.seeded.Org}
	s.storage.calls.Open(u, opening)
	s.storage.threads.Append(u, &threads.Input{
		Org: d.seeded.Org, Thread: thread, Call: call, User: d.seeded.User, Title: title, Create: true,
		PrevSeq: -1, PrevChain: []byte{}, Messages: messages,
	})
	if err := s.storage.store.Commit(ctx, u); err != nil {
		return err
	}
	if opening.Result != calls.Won {
		s.log.Warn("a thread of the demo was not written", slog.String("thread", string(thread)), slog.Any("result", opening.Result))
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

Let rules choose the provider, and see in X-Threadhub-Provider and X-Threadhub-Route whom they chose and by which rule:

  auto() { curl -i %[1]s/chat/completions -H "Authorization: Bearer $THREADHUB_API_KEY" -H "Content-Type: application/json" "$@"; }
  auto -d '{"model":"auto","messages":[{"role":"user","content":"What is the latest news about solar power?"}]}'
  auto -d '{"model":"auto","messages":[{"role":"user","content":"Give me three colours as JSON."}]}'
  auto -d '{"model":"auto","messages":[{"role":"user","content":"Lettuce, then."}]}' -H "X-Thread-Id: %[11]s"

Read the thread:

  curl %[10]s/api/threads/%[4]s -H "Authorization: Bearer $THREADHUB_API_KEY"

Ctrl-C ends it.
`, u.base, d.seeded.APIKey.Reveal(), d.seeded.Org, demoThread, who, u.operator, d.cfg.DataDir, provider, d.cfg.Upstreams[provider].DefaultModel, u.root, longThread)
	return err
}
