// Threadhub is an OpenAI-compatible gateway whose conversations the whole team can continue, on any provider.
//
// This program builds the parts from what the operator wrote, joins them, and starts and stops them in order. main.go
// has the commands, wire.go is the only file that sees every part, and demo.go is the only one that knows the simulator.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"threadhub/config"
)

// version is set by the linker (see the Makefile).
var version = "dev"

func main() {
	p := &program{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: os.Environ(), signals: make(chan os.Signal, 4)}
	signal.Notify(p.signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	os.Exit(p.run(context.Background(), os.Args[1:]))
}

// program is one run of threadhub, with all it takes from the system.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string
	signals        chan os.Signal
	load           func() (*config.Config, error) // reads the settings, also again
}

// command is what follows the program's name.
type command struct {
	name  string // "keys create"
	about string
	more  string // told by its own --help
	flags func(*flag.FlagSet) func(ctx context.Context, p *program, cfg *config.Config) error
	demo  bool // sample secrets are accepted
}

func commands() []command {
	return []command{
		{name: "serve", about: "run the gateway", flags: serveCommand},
		{
			name: "demo", about: "run it with embedded parts, a demo org, and simulated providers where there is no key", flags: demoCommand, demo: true,
			more: "It keeps its data in data/demo and listens on 127.0.0.1, unless told otherwise. DATABASE_URL, REDIS_URL and QDRANT_URL\n" +
				"are not used. Providers whose key is in the environment are asked for real, and cost real money.",
		},
		{name: "migrate up", about: "bring the database to this version's schema", flags: migrateUpCommand},
		{name: "migrate down", about: "take back the newest migration, with the data in its tables", flags: migrateDownCommand},
		{name: "migrate status", about: "tell which migrations are in the database", flags: migrateStatusCommand},
		{
			name: "seed", about: "make an org with a user and an API key; what is there already is used", flags: seedCommand,
			more: "It works beside a running server.",
		},
		{
			name: "import", about: "take over threads from elsewhere; those that are there already are left alone", flags: importCommand,
			more: "It works beside a running server, and may be repeated. Formats:\n\n" +
				"  jsonl       a message a line: {\"thread_id\",\"role\",\"content\",…}, also with \"title\" and \"created_at\"; what\n" +
				"              GET /api/threads/{id}/export gives. Lines without a thread_id are one thread.\n" +
				"  assistants  threads of OpenAI's Assistants API: lists of messages as it answers them, a message a line, or\n" +
				"              {\"thread\":…,\"messages\":…}. Files and what else cannot be carried become a note in the text.\n\n" +
				"Each thread is imported whole or not at all: one with a bad line is left out, and the line is named. The file is read\n" +
				"as a whole before the first thread is written.",
		},
		{name: "keys create", about: "make an API key for a user", flags: keysCreateCommand},
		{
			name: "keys rotate", about: "seal what is stored with the first key of ENCRYPTION_KEY", flags: keysRotateCommand,
			more: "To change the key without downtime: give every process the new key behind the old one (ENCRYPTION_KEY=old,new), then in\n" +
				"front of it (new,old), run this, and take the old one away.",
		},
		{
			name: "audit verify", about: "check that the orgs' audit logs are as they were written", flags: auditVerifyCommand,
			more: "Exit status 1 tells that one is not. What it prints is worth keeping elsewhere: compared with it, a log that was put\n" +
				"back to an older state as a whole is found out too.",
		},
		{name: "version", about: "print the version", flags: versionCommand},
	}
}

const (
	exitOK    = 0
	exitError = 1 // it did not work
	exitUsage = 2 // it was not understood
)

// run is main without the process around it. It returns the exit status.
func (p *program) run(ctx context.Context, args []string) int {
	if len(args) == 0 {
		p.help(p.stderr)
		return exitUsage
	}
	switch args[0] {
	case "help", "--help", "-help", "-h":
		p.help(p.stdout)
		return exitOK
	case "--version", "-version":
		args = []string{"version"}
	}
	c, rest, ok := find(args)
	if !ok {
		return p.unknown(args)
	}
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	do := c.flags(fs)
	own := map[string]bool{}
	fs.VisitAll(func(f *flag.Flag) { own[f.Name] = true })
	settings := config.Register(fs)
	err := fs.Parse(rest)
	switch {
	case errors.Is(err, flag.ErrHelp):
		p.commandHelp(c, fs, own)
		return exitOK
	case err == nil && fs.NArg() > 0:
		err = fmt.Errorf("%q is one word too many", fs.Arg(0))
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "threadhub %s: %v. See threadhub %s --help\n", c.name, err, c.name)
		return exitUsage
	}
	p.load = func() (*config.Config, error) {
		return config.Load(config.Options{File: settings.File(), Env: p.environ, Flags: settings, Samples: c.demo})
	}
	cfg, err := p.load()
	if err == nil {
		err = do(ctx, p, cfg)
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "threadhub %s: %v\n", c.name, err)
		if errors.As(err, new(usageError)) {
			return exitUsage
		}
		return exitError
	}
	return exitOK
}

// usageError is a command that was given too little, or what makes no sense.
type usageError string

func (e usageError) Error() string { return string(e) }

// find returns the command that args begin with, and what follows it.
func find(args []string) (command, []string, bool) {
	for _, c := range commands() {
		words := strings.Fields(c.name)
		if len(args) >= len(words) && strings.Join(args[:len(words)], " ") == c.name {
			return c, args[len(words):], true
		}
	}
	return command{}, nil, false
}

func (p *program) unknown(args []string) int {
	for _, c := range commands() {
		group, _, grouped := strings.Cut(c.name, " ")
		if !grouped || group != args[0] {
			continue
		}
		asked := len(args) > 1 && (args[1] == "--help" || args[1] == "-h")
		out, status := p.stderr, exitUsage
		if asked {
			out, status = p.stdout, exitOK
		}
		p.list(out, group)
		return status
	}
	fmt.Fprintf(p.stderr, "threadhub: there is no command %q. See threadhub --help\n", args[0])
	return exitUsage
}

func (p *program) help(out io.Writer) {
	fmt.Fprint(out, "Threadhub is an OpenAI-compatible gateway with threads.\n\n")
	p.list(out, "")
	fmt.Fprint(out, `
Each command has --help. Settings come from a YAML file (--config), the environment and flags, each overriding the one
before; config/example.yaml lists them all. For a first look: threadhub demo
`)
}

// list prints the commands of a group, or all.
func (p *program) list(out io.Writer, group string) {
	fmt.Fprint(out, "usage: threadhub <command> [flags]\n\n")
	for _, c := range commands() {
		if group == "" || strings.HasPrefix(c.name, group+" ") {
			fmt.Fprintf(out, "  %-16s %s\n", c.name, c.about)
		}
	}
}

// commandHelp prints a command's own flags, then the settings.
func (p *program) commandHelp(c command, fs *flag.FlagSet, own map[string]bool) {
	fmt.Fprintf(p.stdout, "usage: threadhub %s [flags]\n\n%s%s\n", c.name, strings.ToUpper(c.about[:1]), c.about[1:])
	print := func(f *flag.Flag) {
		arg, about := flag.UnquoteUsage(f)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" {
			about += " (" + f.DefValue + ")"
		}
		if arg == "value" {
			arg = ""
		}
		fmt.Fprintf(p.stdout, "  --%-34s %s\n", strings.TrimSpace(f.Name+" "+arg), about)
	}
	if c.more != "" {
		fmt.Fprintf(p.stdout, "\n%s\n", c.more)
	}
	if len(own) > 0 {
		fmt.Fprint(p.stdout, "\nflags:\n")
		fs.VisitAll(func(f *flag.Flag) {
			if own[f.Name] {
				print(f)
			}
		})
	}
	fmt.Fprint(p.stdout, "\nsettings:\n")
	fs.VisitAll(func(f *flag.Flag) {
		if !own[f.Name] {
			print(f)
		}
	})
	fmt.Fprint(p.stdout, `
Secrets have no flags; set them in the environment or the file: DATABASE_URL, REDIS_URL, QDRANT_URL, ENCRYPTION_KEY,
SECRET_KEY, OPENAI_API_KEY, GEMINI_API_KEY, PERPLEXITY_API_KEY, OPENROUTER_API_KEY, THREADHUB_MIGRATE_DATABASE_URL.
`)
}

// printJSON prints v as one line.
func (p *program) printJSON(v any) error {
	enc := json.NewEncoder(p.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func versionCommand(fs *flag.FlagSet) func(context.Context, *program, *config.Config) error {
	asJSON := fs.Bool("json", false, "print one line of JSON: version")
	return func(_ context.Context, p *program, _ *config.Config) error {
		if *asJSON {
			return p.printJSON(map[string]string{"version": version})
		}
		_, err := fmt.Fprintln(p.stdout, "threadhub", version)
		return err
	}
}
