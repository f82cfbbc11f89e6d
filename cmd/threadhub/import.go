package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"threadhub/calls"
	"threadhub/config"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/threads"
)

// importFormats are the ways in which threads can be written.
var importFormats = map[string]func(io.Reader) ([]*threads.Transcript, []threads.BadLine, error){
	"jsonl":      threads.ReadJSONLines,
	"assistants": threads.ReadAssistants,
}

// importPatience is what one thread's transaction may take: it may be a long one.
const importPatience = 2 * time.Minute

// imported counts what became of an import.
type imported struct {
	Threads  int `json:"threads"`
	Messages int `json:"messages"`
	Skipped  int `json:"skipped"` // threads that were there
	Warnings int `json:"warnings"`
	Failed   int `json:"failed"` // threads that were not taken over
}

func importCommand(fs *flag.FlagSet) func(context.Context, *program, *config.Config) error {
	org := fs.String("org", "", "`id` of the org, as seed prints it")
	user := fs.String("user", "", "email address or `id` of the user whose threads they will be")
	file := fs.String("file", "", "`file` to read; - is the standard input")
	format := fs.String("format", "jsonl", "jsonl or assistants")
	visibility := fs.String("visibility", "org", "who sees the threads: org, or private for the user and admins")
	asJSON := fs.Bool("json", false, "print one line of JSON: threads, messages, skipped, warnings, failed")
	return func(ctx context.Context, p *program, cfg *config.Config) (err error) {
		read := importFormats[*format]
		switch {
		case *org == "":
			return usageError("--org is needed: the id of the org")
		case *user == "":
			return usageError("--user is needed: the email address or the id of the user")
		case *file == "":
			return usageError("--file is needed: what to read, or - for the standard input")
		case read == nil:
			return usageError("--format must be jsonl or assistants")
		case *visibility != "org" && *visibility != "private":
			return usageError("--visibility must be org or private")
		}
		cfg.Timeouts.Database = max(cfg.Timeouts.Database, importPatience/4)
		s, err := openStorage(ctx, cfg, p.log(cfg), false)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.Close()) }()
		owner, err := s.orgs.FindUser(ctx, id.Org(*org), *user)
		if err != nil {
			return err
		}
		list, bad, err := p.readImport(*file, read)
		if err != nil {
			return err
		}
		for _, b := range bad {
			fmt.Fprintf(p.stderr, "line %d %s\n", b.Line, b.Text)
		}
		done, err := s.importAll(ctx, p.stderr, threads.Input{Org: id.Org(*org), User: owner, Visibility: *visibility}, list)
		if *asJSON {
			err = errors.Join(err, p.printJSON(done))
		} else {
			_, printErr := fmt.Fprintf(p.stdout, "threads   %d\nmessages  %d\nskipped   %d (threads that were there)\nwarnings  %d (parts that became a note)\nfailed    %d (threads)\n",
				done.Threads, done.Messages, done.Skipped, done.Warnings, done.Failed)
			err = errors.Join(err, printErr)
		}
		if err == nil && done.Failed > 0 {
			err = errors.New("not every thread was imported; repeat it when the lines named above are mended")
		}
		return err
	}
}

func (p *program) readImport(file string, read func(io.Reader) ([]*threads.Transcript, []threads.BadLine, error)) ([]*threads.Transcript, []threads.BadLine, error) {
	if file == "-" {
		return read(p.stdin)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }()
	return read(f)
}

// importAll writes each transcript that is whole, as threads of as's org, user and visibility. The error is that of a
// store that went away.
func (s *storage) importAll(ctx context.Context, tell io.Writer, as threads.Input, list []*threads.Transcript) (done imported, err error) {
	for _, t := range list {
		if t.Bad {
			done.Failed++
			continue
		}
		made, err := s.importOne(ctx, as, t)
		switch {
		case fault.Is(err, fault.Unavailable):
			return done, err
		case err != nil:
			fmt.Fprintf(tell, "thread %s: %v\n", t.ID, err)
			done.Failed++
		case !made:
			done.Skipped++
		default:
			done.Threads++
			done.Messages += len(t.Messages)
			done.Warnings += t.Warnings
		}
	}
	return done, nil
}

// importOne writes a transcript in one transaction, as a call that is over at once, unless there is a thread of its name.
func (s *storage) importOne(ctx context.Context, as threads.Input, t *threads.Transcript) (made bool, err error) {
	taken, err := s.threads.Taken(ctx, as.Org, t.ID)
	if err != nil || taken {
		return false, err
	}
	opening := &calls.Opening{
		Org: as.Org, ID: id.NewRequest(), User: as.User, Thread: t.ID, Owner: id.NewOwner(), NIn: len(t.Messages), AtOnce: true,
		Facts: calls.Facts{Kind: "import"},
	}
	u := &db.Unit{Org: as.Org, Patience: importPatience}
	s.calls.Open(u, opening)
	as.Thread, as.Call, as.Create, as.Title, as.CreatedAt = t.ID, opening.ID, true, t.Title, t.Made
	as.PrevSeq, as.PrevChain, as.Messages = -1, []byte{}, t.Messages
	s.threads.Append(u, &as)
	if err := s.store.Commit(ctx, u); err != nil {
		return false, err
	}
	return opening.Result == calls.Won, nil // else somebody else has just made it
}
