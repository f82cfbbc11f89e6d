// Command services runs a command, usually tests, with a Postgres and a Redis of its own:
//
//	go run ./internal/testkit/cmd/services -- go test ./...
//
// It prints where they are as shell exports, sets the same in the command's environment, and says there that tests which
// need them may not be skipped. Signals go on to the command. When it ends, however it ends, the servers end too, and
// its exit code is ours. Without a command it waits for Ctrl-C, for use from another terminal.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"threadhub/internal/testkit"
)

func main() {
	durable := flag.Bool("durable", false, "Postgres with fsync on, for tests that kill it")
	flag.Parse()
	code, err := run(testkit.Options{Durable: *durable, Spare: true}, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "services:", err)
	}
	os.Exit(code)
}

// run returns the exit code: the command's own, 128 and the signal if one ended it, 1 for our own failures.
func run(o testkit.Options, command []string) (code int, err error) {
	// Before the servers start: from here on a signal must not end us without ending them.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)

	s, err := testkit.Start(context.Background(), o)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	env := []string{
		testkit.EnvPostgres + "=" + s.Postgres.URL(),
		testkit.EnvRedis + "=" + s.Redis.URL(),
		testkit.EnvServices + "=required",
		testkit.EnvCluster + "=" + s.Fresh,
	}
	for _, e := range env {
		fmt.Println("export", e)
	}
	if len(command) == 0 {
		<-signals
		return 0, nil
	}
	return follow(command, env, signals)
}

// follow runs the command in a process group of its own, so that each signal reaches all of it, once. The third one is a
// kill.
func follow(command, env []string, signals <-chan os.Signal) (int, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for received := 0; ; {
		select {
		case sig := <-signals:
			if received++; received >= 3 {
				sig = syscall.SIGKILL
			}
			_ = syscall.Kill(-cmd.Process.Pid, sig.(syscall.Signal))
		case err := <-ended:
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				return 1, err
			}
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left behind
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if status.Signaled() {
				return 128 + int(status.Signal()), nil
			}
			return status.ExitStatus(), nil
		}
	}
}
