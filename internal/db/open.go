package db

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"threadhub/internal/contain"
)

// DefaultPatience is how long Commit repeats a unit whose outcome is unknown while the store is away.
const DefaultPatience = 5 * time.Second

// Options open a store. Only URL is needed.
type Options struct {
	URL string // sqlite://path, or postgres://…

	// Stages of every group, in the order they run. A stage belongs to one store.
	Stages []Stage

	// Exclusive takes the lock of SQLite's file, so that this process is the only one that serves from it. Commands
	// that only add to it (seed, keys) work beside it. Postgres needs none.
	Exclusive bool

	// Bound is asked of a connection to Postgres before anything else is; its error ends Open. It is where whoever knows the
	// schema looks whether row-level security binds us.
	Bound func(ctx context.Context, conn *pgx.Conn) error

	// Watch is asked of a connection to Postgres now and then whether row-level security still stands. While it says
	// tenant_context, nothing is stored or shown. nil: it is not asked.
	Watch      func(ctx context.Context, conn *pgx.Conn) error
	WatchEvery time.Duration // 0: 10 s

	Timeout  time.Duration // of one group or one read; 0: 1 s
	MaxConns int           // reads and the side lane; 0: 16. Postgres has three more: groups, Common, and the background
	Log      *slog.Logger
	Panics   *contain.Panics // nil: of its own
}

// Open opens the store url names. It does not migrate. Errors name the store but never its password.
func Open(ctx context.Context, o Options) (Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Panics == nil {
		o.Panics = contain.New(o.Log)
	}
	if o.Timeout == 0 {
		o.Timeout = time.Second
	}
	if o.MaxConns == 0 {
		o.MaxConns = 16
	}
	if o.WatchEvery == 0 {
		o.WatchEvery = guardEach
	}
	Order(o.Stages)
	switch {
	case strings.HasPrefix(o.URL, "sqlite://"):
		return openSQLite(ctx, o)
	case strings.HasPrefix(o.URL, "postgres://"), strings.HasPrefix(o.URL, "postgresql://"):
		return openPostgres(ctx, o)
	}
	return nil, fmt.Errorf("db: the database URL must begin with sqlite:// or postgres://")
}
