package testkit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Server is a server process that tests may kill, freeze and start again: on the same port, with the data it had. Safe
// for concurrent use.
type Server struct {
	name    string
	log     string         // the file with its output, of all its lives
	quit    syscall.Signal // ends it at once
	cred    *syscall.Credential
	command func(port int) []string
	url     func(port int) string
	ping    func(ctx context.Context, url string) error

	mu   sync.Mutex
	port int
	life *life // nil: not running
}

// life is one run of a server's process.
type life struct {
	pid  int
	over chan struct{} // closed when the process has been waited for
	err  error         // how it ended; read it after over
}

// startTimeout is how long a start may take, with the recovery of a killed database.
const startTimeout = time.Minute

// URL is where the server listens.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url(s.port)
}

// PID is the process (Postgres: the postmaster); 0 when it does not run.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life == nil {
		return 0
	}
	select {
	case <-s.life.over:
		return 0 // the number may be another process's by now
	default:
		return s.life.pid
	}
}

// Signal sends sig to the process: SIGTERM, SIGINT and SIGQUIT are Postgres's smart, fast and immediate shutdown. It
// does not wait; see Wait.
func (s *Server) Signal(sig syscall.Signal) error {
	pid := s.PID()
	if pid == 0 {
		return fmt.Errorf("%s does not run", s.name)
	}
	return syscall.Kill(pid, sig)
}

// Kill is kill -9 and returns when the process is gone, and its children too: Postgres's notice by themselves; frozen ones
// are let go for that.
func (s *Server) Kill() error {
	orphans := children(s.PID())
	if err := s.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	for _, pid := range orphans {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	if err := s.Wait(context.Background()); err != nil {
		return err
	}
	for _, pid := range orphans {
		for range 500 {
			if !alive(pid) {
				break
			}
			<-time.After(10 * time.Millisecond)
		}
	}
	return nil
}

// Wait returns when the process has ended. How it ended is no error.
func (s *Server) Wait(ctx context.Context) error {
	s.mu.Lock()
	l := s.life
	s.mu.Unlock()
	if l == nil {
		return nil
	}
	select {
	case <-l.over:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life == l {
		s.life = nil
	}
	return nil
}

// Freeze stops the process and all its children where they are (SIGSTOP): connections stay open and nobody answers.
func (s *Server) Freeze() error { return s.family(syscall.SIGSTOP) }

// Thaw lets them go on.
func (s *Server) Thaw() error { return s.family(syscall.SIGCONT) }

func (s *Server) family(sig syscall.Signal) error {
	if err := s.Signal(sig); err != nil { // first the parent, so that no child is born meanwhile
		return err
	}
	for _, pid := range children(s.PID()) {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

// Restart starts the server again after it has ended, and returns when it answers.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.Wait(ctx); err != nil {
		return err
	}
	return s.start(ctx)
}

// end ends the process, whatever its state, and waits for it.
func (s *Server) end() {
	_ = s.family(s.quit)
	_ = s.Thaw()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if s.Wait(ctx) == nil {
		return
	}
	_ = s.Kill()
}

// start runs the process until it answers. The first time it takes a free port; another process may take the same one
// in between, so it tries a few. A killed Postgres refuses to start until its orphans are gone, so a later start is
// repeated until startTimeout.
func (s *Server) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	again := s.port != 0
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for try := 1; ; try++ {
		if !again {
			port, err := freePort()
			if err != nil {
				return err
			}
			s.port = port
		}
		l, err := s.run()
		if err != nil {
			return err
		}
		if err = s.answers(ctx, l, tick); err == nil {
			s.life = l
			return nil
		}
		_ = syscall.Kill(l.pid, s.quit)
		<-l.over
		if ctx.Err() != nil || !again && try == 3 {
			return fmt.Errorf("%s did not start: %w; it said: %s", s.name, err, s.lastWords())
		}
		<-tick.C
	}
}

// answers waits until l's server answers; an error when it ended first.
func (s *Server) answers(ctx context.Context, l *life, tick *time.Ticker) error {
	for {
		ping, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := s.ping(ping, s.url(s.port))
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-l.over:
			return fmt.Errorf("it ended: %w", l.err)
		case <-ctx.Done():
			return err
		}
	}
}

// run starts the process in a process group of its own, so that a Ctrl-C meant for the tests does not reach it.
func (s *Server) run() (*life, error) {
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	args := s.command(s.port)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = attributes(s.cred, s.quit)
	l := &life{over: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel ends the server when the thread that started it ends, so the thread must live as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer func() { _ = log.Close() }()
		err := cmd.Start()
		if err == nil {
			l.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			l.err = cmd.Wait()
			close(l.over)
		}
	}()
	return l, <-started
}

func (s *Server) lastWords() string {
	log := s.Log()
	return strings.TrimSpace(log[max(0, len(log)-2000):])
}

// Log is what the server wrote to its log, in all its lives, or why that cannot be read.
func (s *Server) Log() string {
	b, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}
