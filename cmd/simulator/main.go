// Command simulator plays the providers on a loopback port, for tests, benchmarks and trying things by hand. When it is
// ready it prints one line of JSON with the base URLs; it stops on SIGTERM or SIGINT. See simulator/README.md for the
// scripts it understands.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"threadhub/simulator"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "simulator:", err)
		}
		os.Exit(1)
	}
}

// run plays until ctx ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	flags := flag.NewFlagSet("simulator", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:9800", "address to listen on")
	file := flags.String("log", "", "file that gets a JSON line for each attempt as it ends")
	note := flags.String("note", "", "sentence at the end of each answer")
	sizes := flags.Bool("sizes-only", false, "keep no bodies and no sent bytes, for long load tests")
	noSonar := flags.Bool("no-sonar", false, "Perplexity refuses its older chat completions")
	keep := flags.Int("keep", 0, "attempts kept in memory (0: the default)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	opt := simulator.Options{
		Addr: *listen, Note: *note, SizesOnly: *sizes, MaxLog: *keep, NoSonar: *noSonar, Log: slog.New(slog.NewTextHandler(stderr, nil)),
	}
	if *file != "" {
		l, failed := openLines(*file)
		if failed != nil {
			return failed
		}
		defer func() { err = errors.Join(err, l.close()) }()
		opt.Finished = l.write
	}
	s := simulator.New(opt)
	if err := s.Start(); err != nil {
		return err
	}
	ready := map[string]string{"control": s.URL("control")}
	for _, name := range s.Providers() {
		ready[name] = s.URL(name)
	}
	if err := json.NewEncoder(stdout).Encode(ready); err != nil {
		return errors.Join(err, s.Close())
	}
	<-ctx.Done()
	return s.Close()
}

// lines is the log file.
type lines struct {
	mu   sync.Mutex
	file *os.File
	buf  *bufio.Writer
	enc  *json.Encoder
	err  error // the first that happened
}

func openLines(name string) (*lines, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	buf := bufio.NewWriterSize(f, 64<<10)
	return &lines{file: f, buf: buf, enc: json.NewEncoder(buf)}, nil
}

// write adds a line, and flushes: a reader may be waiting for it.
func (l *lines) write(a simulator.Attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = errors.Join(l.enc.Encode(a), l.buf.Flush())
	}
}

func (l *lines) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.err, l.file.Close())
}
