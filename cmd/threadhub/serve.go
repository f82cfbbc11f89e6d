package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"syscall"

	"threadhub/config"
)

func serveCommand(fs *flag.FlagSet) func(context.Context, *program, *config.Config) error {
	asJSON := fs.Bool("json", false, "print one line of JSON when ready: base_url, operator_url")
	return func(ctx context.Context, p *program, cfg *config.Config) error {
		var at occasions
		if *asJSON {
			at.ready = func(u urls) error {
				return p.printJSON(map[string]string{"base_url": u.base, "operator_url": u.operator})
			}
		}
		return p.serve(ctx, cfg, at)
	}
}

// occasions are where a command has something of its own to do.
type occasions struct {
	opened func(context.Context, *server) error // every part is there, and nobody is served yet
	ready  func(urls) error                     // requests are answered
}

// urls is where a running gateway is, for clients on this machine.
type urls struct{ root, base, operator string }

// serve runs the gateway until a signal ends it: the first gently, the second at once.
func (p *program) serve(ctx context.Context, cfg *config.Config, at occasions) (err error) {
	noCoreDump()
	s, err := openServer(ctx, cfg, p.stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if at.opened != nil {
		if err := at.opened(ctx, s); err != nil {
			return err
		}
	}
	public, err := listen("listen", cfg.Listen)
	if err != nil {
		return err
	}
	operator, err := listen("operator-listen", cfg.OperatorListen)
	if err != nil {
		return errors.Join(err, public.Close())
	}
	ended := make(chan error, 1)
	go func() { ended <- s.gateway.Serve(public, operator) }()
	s.log.Info("ready", "listen", public.Addr().String(), "operator_listen", operator.Addr().String(), "version", version)
	if at.ready != nil {
		u := urls{root: localURL(public.Addr()), operator: localURL(operator.Addr())}
		u.base = u.root + "/v1"
		if err := at.ready(u); err != nil {
			return errors.Join(err, s.cut(), <-ended)
		}
	}
	return p.until(ctx, s, ended)
}

// until waits for a signal, or for a listener to fail, and ends the gateway.
func (p *program) until(ctx context.Context, s *server, ended <-chan error) error {
	for {
		select {
		case err := <-ended:
			return errors.Join(err, s.cut())
		case signal := <-p.signals:
			if signal == syscall.SIGHUP {
				p.reload(s)
				continue
			}
			s.log.Info("shutting down", "signal", signal.String())
			return p.drain(ctx, s, ended)
		}
	}
}

// drain ends the gateway gently, and at once when another signal says so.
func (p *program) drain(ctx context.Context, s *server, ended <-chan error) error {
	ctx, atOnce := context.WithCancel(ctx)
	defer atOnce()
	stopped := make(chan error, 1)
	go func() { stopped <- s.gateway.Shutdown(ctx) }()
	for {
		select {
		case err := <-stopped:
			return errors.Join(err, <-ended)
		case signal := <-p.signals:
			if signal != syscall.SIGHUP {
				s.log.Info("shutting down at once", "signal", signal.String())
				atOnce()
			}
		}
	}
}

// cut ends the gateway without waiting for anybody.
func (s *server) cut() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return s.gateway.Shutdown(ctx)
}

// listen opens a listener. The error names the setting.
func listen(setting, address string) (net.Listener, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w; choose another address with --%s", err, setting)
	}
	return ln, nil
}

// localURL is where a client on this machine finds a listener.
func localURL(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return "http://" + a.String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// noCoreDump keeps the memory of a crash, and the keys in it, off the disk. Where it is not possible nothing is lost.
func noCoreDump() { _ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }
