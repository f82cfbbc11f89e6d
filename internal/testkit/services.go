package testkit

import (
	"cmp"
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

	// From is the folder of Postgres's data to begin with a copy of: Services.Data of others, whose Postgres has ended, or
	// Services.Fresh. "" begins with a fresh cluster.
	From string

	// OnDisk and WALOnDisk are folders, on other disks perhaps, for Postgres's data and for its write-ahead log. "": with
	// the rest.
	OnDisk, WALOnDisk string

	// Spare keeps a copy of the fresh cluster as Services.Fresh.
	Spare bool

	Postgres []string // more settings for Postgres: "max_wal_size=64MB"
	Redis    []string // more arguments for redis-server: "--maxmemory", "4mb"

	NoPostgres, NoRedis bool // leave one out
}

// Services are throw-away servers on free ports of 127.0.0.1, with their data in a temporary folder.
type Services struct {
	Postgres *Server // a fresh cluster; the user postgres is its superuser, without a password
	Redis    *Server // empty, keeps nothing on disk
	Data     string  // the folder of Postgres's data
	Fresh    string  // with Options.Spare: a cluster that no server has written to
	more     []*Server
	o        Options
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
	s := &Services{o: o, dir: dir}
	if !o.NoPostgres {
		err = s.startPostgres(ctx)
	}
	if err == nil && !o.NoRedis {
		s.Redis, err = startRedis(ctx, dir, o)
	}
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Stop ends all servers at once, without asking them to save anything, waits for them, and removes their data.
func (s *Services) Stop() error {
	for _, v := range append([]*Server{s.Postgres, s.Redis}, s.more...) {
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

func (s *Services) startPostgres(ctx context.Context) error {
	p, err := newPostgres(s.dir, "postgres")
	if err != nil {
		return err
	}
	s.Data = filepath.Join(p.home, "data")
	if s.o.OnDisk != "" {
		s.Data = filepath.Join(s.o.OnDisk, "data")
	}
	if from := cmp.Or(s.o.From, os.Getenv(EnvCluster)); from != "" {
		err = p.run(ctx, "cp", "-a", from, s.Data)
	} else {
		err = p.run(ctx, filepath.Join(p.bin, "initdb"), "-D", s.Data, "-U", "postgres", "--auth=trust", "--no-sync",
			"--no-instructions", "-E", "UTF8", "--locale=C.UTF-8")
	}
	if err == nil && s.o.Spare {
		s.Fresh = filepath.Join(p.home, "fresh")
		err = p.run(ctx, "cp", "-a", s.Data, s.Fresh)
	}
	if err == nil && s.o.OnDisk+s.o.WALOnDisk != "" { // apart, so that each can be full alone
		err = p.run(ctx, "sh", "-c", `mv "$0/pg_wal" "$1/wal" && ln -s "$1/wal" "$0/pg_wal"`, s.Data, cmp.Or(s.o.WALOnDisk, p.home))
	}
	if err != nil {
		return err
	}
	s.Postgres = p.server(s.Data, s.o)
	return s.Postgres.start(ctx)
}

// Standby starts a server that follows Postgres until it is promoted (pg_promote), and returns when it does. From then on
// Postgres acknowledges only what the standby has on its disk, too; so it must be a durable one.
func (s *Services) Standby(ctx context.Context) (*Server, error) {
	p, err := newPostgres(s.dir, fmt.Sprint("standby", len(s.more)))
	if err != nil {
		return nil, err
	}
	data := filepath.Join(p.home, "data")
	if err := p.run(ctx, filepath.Join(p.bin, "pg_basebackup"), "-d", s.Postgres.URL(), "-D", data, "-R", "-X", "stream", "-c", "fast", "--no-sync"); err != nil {
		return nil, err
	}
	standby := p.server(data, s.o)
	s.more = append(s.more, standby)
	if err := standby.start(ctx); err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, s.Postgres.URL())
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, set := range []string{"ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"} {
		if _, err := conn.Exec(ctx, set); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		var follows bool
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')").Scan(&follows); err != nil {
			return nil, err
		}
		if follows {
			return standby, nil
		}
		<-time.After(20 * time.Millisecond)
	}
}

// Run runs a shell script as the user that Postgres runs as, with Postgres's own programs at hand: what its operator does.
// env is NAME=value.
func (s *Services) Run(ctx context.Context, script string, env ...string) error {
	bin, err := postgresBinaries()
	if err != nil {
		return err
	}
	cred, err := unprivileged()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "sh", "-ec", script)
	cmd.Dir = filepath.Dir(s.Data)
	cmd.Env = append([]string{"PATH=" + bin + ":" + os.Getenv("PATH")}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return nil
}

// Adopt starts a server on data that somebody has made, and returns when it takes writes. It ends with the others.
func (s *Services) Adopt(ctx context.Context, data string) (*Server, error) {
	p, err := newPostgres(s.dir, fmt.Sprint("adopted", len(s.more)))
	if err != nil {
		return nil, err
	}
	adopted := p.server(data, Options{Durable: s.o.Durable})
	s.more = append(s.more, adopted)
	if err := adopted.start(ctx); err != nil {
		return nil, err
	}
	for {
		conn, err := pgx.Connect(ctx, adopted.URL()+"&target_session_attrs=read-write")
		if err == nil {
			return adopted, conn.Close(ctx)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// postgres is what Postgres servers are made with.
type postgres struct {
	bin, home string
	cred      *syscall.Credential
}

// newPostgres makes a home for a server in dir.
func newPostgres(dir, name string) (*postgres, error) {
	bin, err := postgresBinaries()
	if err != nil {
		return nil, err
	}
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	p := &postgres{bin: bin, home: filepath.Join(dir, name), cred: cred}
	if err := os.Mkdir(p.home, 0o700); err != nil {
		return nil, err
	}
	if cred != nil {
		// The folder above stays root's; it must let postgres through.
		if err := errors.Join(os.Chmod(dir, 0o711), os.Chown(p.home, int(cred.Uid), int(cred.Gid))); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// run runs a command to its end, as the user that the servers run as.
func (p *postgres) run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.cred}
	cmd.Dir = p.home
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, out)
	}
	return nil
}

// server is a server on data that does not run yet.
func (p *postgres) server(data string, o Options) *Server {
	durable := "off"
	if o.Durable {
		durable = "on"
	}
	settings := append([]string{
		"listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=" + strconv.Itoa(postgresConnections),
		"fsync=" + durable, "synchronous_commit=" + durable, "full_page_writes=" + durable,
	}, o.Postgres...)
	s := &Server{name: "postgres", log: filepath.Join(p.home, "log"), quit: syscall.SIGQUIT, cred: p.cred}
	s.command = func(port int) []string {
		args := []string{filepath.Join(p.bin, "postgres"), "-D", data, "-p", strconv.Itoa(port)}
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
	return s
}

// redisDatabases is many: each test that uses Redis has one.
const redisDatabases = 1000

func startRedis(ctx context.Context, dir string, o Options) (*Server, error) {
	bin, err := redisBinary()
	if err != nil {
		return nil, err
	}
	home := filepath.Join(dir, "redis")
	if err := os.Mkdir(home, 0o700); err != nil {
		return nil, err
	}
	s := redisServer(filepath.Join(home, "log"))
	s.command = func(port int) []string {
		return append([]string{
			bin, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", home,
			"--databases", strconv.Itoa(redisDatabases),
		}, o.Redis...)
	}
	return s, s.start(ctx)
}

func redisBinary() (string, error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return "", errors.New("redis-server is not on PATH: install it (Debian: apt-get install redis-server)")
	}
	return bin, nil
}

// redisServer is a server that has no command yet.
func redisServer(log string) *Server {
	s := &Server{name: "redis-server", log: log, quit: syscall.SIGKILL}
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
	return s
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
