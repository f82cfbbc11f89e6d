package testkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

// Options of Start. The zero value works.
type Options struct {
	// Durable makes Postgres keep its promises when it is killed (fsync and all that belongs to it). Without it tests
	// are faster.
	Durable bool

	// From is the folder of Postgres's data to begin with a copy of: Services.Data of others, whose Postgres has ended.
	// "" begins with a fresh cluster.
	From string

	Postgres []string // more settings for Postgres: "max_wal_size=64MB"
	Redis    []string // more arguments for redis-server: "--maxmemory", "4mb"

	NoPostgres, NoRedis bool // leave one out
}

// Services are throw-away servers on free ports of 127.0.0.1, with their data in a temporary folder.
type Services struct {
	Postgres *Server // a fresh cluster; the user postgres is its superuser, without a password
	Redis    *Server // empty, keeps nothing on disk
	Data     string  // the folder of Postgres's data
	dir      string
}

// postgresConnections is enough for the test binaries of all packages at once, each with small pools.
const postgresConnections = 200

// Start starts Postgres and Redis and returns when both answer. It needs the binaries of Debian's packages
// postgresql and redis-server, or their like on PATH, and says in one sentence which is missing. As root, Postgres runs
// as the user postgres, because it refuses root. Stop the services also after a failed test.
func Start(ctx context.Context, o Options) (*Services, error) {
	dir, err := os.MkdirTemp("", "threadhub-services-")
	if err != nil {
		return nil, err
	}
	s := &Services{dir: dir}
	if !o.NoPostgres {
		s.Data = filepath.Join(dir, "postgres", "data")
		s.Postgres, err = startPostgres(ctx, dir, o)
	}
	if err == nil && !o.NoRedis {
		s.Redis, err = startRedis(ctx, dir, o)
	}
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Stop ends both servers at once, without asking them to save anything, waits for them, and removes their data.
func (s *Services) Stop() error {
	for _, v := range []*Server{s.Postgres, s.Redis} {
		if v != nil {
			v.end()
		}
	}
	// The orphans of a Postgres that was killed may still be writing their last file.
	var err error
	for range 100 {
		if err = os.RemoveAll(s.dir); err == nil {
			return nil
		}
		<-time.After(20 * time.Millisecond)
	}
	return err
}

// StartFor is Start for one test, with its end at the test's end. Where no servers are called for (see the package), it
// skips the test.
func StartFor(t testing.TB, o Options) *Services {
	t.Helper()
	service(t, EnvPostgres, "servers of its own")
	s, err := Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("stopping the servers: %v", err)
		}
	})
	return s
}

func startPostgres(ctx context.Context, dir string, o Options) (*Server, error) {
	bin, err := postgresBinaries()
	if err != nil {
		return nil, err
	}
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	home := filepath.Join(dir, "postgres")
	if err := os.Mkdir(home, 0o700); err != nil {
		return nil, err
	}
	if cred != nil {
		// The folder above stays root's; it must let postgres through.
		if err := errors.Join(os.Chmod(dir, 0o711), os.Chown(home, int(cred.Uid), int(cred.Gid))); err != nil {
			return nil, err
		}
	}
	data := filepath.Join(home, "data")
	fill := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "--auth=trust", "--no-sync",
		"--no-instructions", "-E", "UTF8", "--locale=C.UTF-8")
	fill.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if o.From != "" {
		fill = exec.CommandContext(ctx, "cp", "-a", o.From, data)
	}
	fill.Dir = home
	if out, err := fill.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(fill.Path), err, out)
	}
	durable := "off"
	if o.Durable {
		durable = "on"
	}
	settings := append([]string{
		"listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=" + strconv.Itoa(postgresConnections),
		"fsync=" + durable, "synchronous_commit=" + durable, "full_page_writes=" + durable,
	}, o.Postgres...)
	s := &Server{name: "postgres", log: filepath.Join(home, "log"), quit: syscall.SIGQUIT, cred: cred}
	s.command = func(port int) []string {
		args := []string{filepath.Join(bin, "postgres"), "-D", data, "-p", strconv.Itoa(port)}
		for _, set := range settings {
			args = append(args, "-c", set)
		}
		return args
	}
	s.url = func(port int) string {
		return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", port)
	}
	s.ping = func(ctx context.Context, url string) error {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	}
	return s, s.start(ctx)
}

// redisDatabases is many: each test that uses Redis has one.
const redisDatabases = 1000

func startRedis(ctx context.Context, dir string, o Options) (*Server, error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errors.New("redis-server is not on PATH: install it (Debian: apt-get install redis-server)")
	}
	home := filepath.Join(dir, "redis")
	if err := os.Mkdir(home, 0o700); err != nil {
		return nil, err
	}
	s := &Server{name: "redis-server", log: filepath.Join(home, "log"), quit: syscall.SIGKILL}
	s.command = func(port int) []string {
		return append([]string{
			bin, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", home,
			"--databases", strconv.Itoa(redisDatabases),
		}, o.Redis...)
	}
	s.url = func(port int) string { return fmt.Sprintf("redis://127.0.0.1:%d", port) }
	s.ping = func(ctx context.Context, url string) error {
		opt, err := redis.ParseURL(url)
		if err != nil {
			return err
		}
		opt.MaxRetries = -1
		c := redis.NewClient(opt)
		defer func() { _ = c.Close() }()
		return c.Ping(ctx).Err()
	}
	return s, s.start(ctx)
}

// postgresBinaries finds the folder of initdb and postgres: on PATH, else the newest where Debian puts them.
func postgresBinaries() (string, error) {
	if p, err := exec.LookPath("initdb"); err == nil {
		if p, err = filepath.EvalSymlinks(p); err == nil {
			return filepath.Dir(p), nil
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", errors.New("initdb is neither on PATH nor in /usr/lib/postgresql: install Postgres (Debian: apt-get install postgresql)")
	}
	version := func(p string) int {
		v, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(p))))
		return v
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
}

// unprivileged returns the user that Postgres runs as when we are root, nil when we are not.
func unprivileged() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return nil, errors.New("postgres refuses to run as root, and there is neither a user postgres nor nobody")
		}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}
