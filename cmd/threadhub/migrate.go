package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"

	"threadhub/config"
	"threadhub/internal/db"
	"threadhub/migrations"
)

// migrate brings the schema to this version. With a migrator of its own, the login that serves is let into the app's
// roles by it.
func migrate(ctx context.Context, cfg *config.Config, o migrations.Options) error {
	o.Member = member(cfg)
	return migrations.Up(ctx, cfg.Migrator().Reveal(), o)
}

// member is the user of DATABASE_URL where the migrations have a URL of their own; "" otherwise.
func member(cfg *config.Config) string {
	if cfg.MigrateDatabaseURL.Empty() {
		return ""
	}
	u, err := url.Parse(cfg.Database().Reveal())
	if err != nil || u.User == nil {
		return ""
	}
	return u.User.Username()
}

func migrateUpCommand(fs *flag.FlagSet) func(context.Context, *program, *config.Config) error {
	asJSON := fs.Bool("json", false, "print the state as one line of JSON")
	return func(ctx context.Context, p *program, cfg *config.Config) error {
		if err := migrate(ctx, cfg, migrations.Options{}); err != nil {
			return err
		}
		return p.printState(ctx, cfg, *asJSON)
	}
}

func migrateDownCommand(fs *flag.FlagSet) func(context.Context, *program, *config.Config) error {
	asJSON := fs.Bool("json", false, "print the state as one line of JSON")
	steps := fs.Int("steps", 1, "how many migrations to take back")
	return func(ctx context.Context, p *program, cfg *config.Config) error {
		if *steps < 1 {
			return usageError("--steps must be 1 or more")
		}
		if err := migrateDown(ctx, cfg, *steps); err != nil {
			return err
		}
		return p.printState(ctx, cfg, *asJSON)
	}
}

// migrateDown takes back migrations, but never below a server that works with a SQLite file: its tables would be gone
// under it. Nobody can tell that of Postgres.
func migrateDown(ctx context.Context, cfg *config.Config, steps int) (err error) {
	if file, embedded := cfg.SQLiteFile(); embedded {
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return nil // nothing to take back, and nothing to make for it
		}
		store, err := db.Open(ctx, db.Options{URL: cfg.Database().Reveal(), Exclusive: true})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, store.Close()) }()
	}
	return migrations.Down(ctx, cfg.Migrator().Reveal(), steps)
}

func migrateStatusCommand(fs *flag.FlagSet) func(context.Context, *program, *config.Config) error {
	asJSON := fs.Bool("json", false, "print the state as one line of JSON")
	return func(ctx context.Context, p *program, cfg *config.Config) error {
		return p.printState(ctx, cfg, *asJSON)
	}
}

func (p *program) printState(ctx context.Context, cfg *config.Config, asJSON bool) error {
	s, err := migrations.Status(ctx, cfg.Migrator().Reveal())
	if err != nil {
		return err
	}
	if asJSON {
		return p.printJSON(map[string]any{
			"version": s.Version, "latest": s.Latest, "dirty": s.Dirty, "current": s.Current(),
			"applied": append([]string{}, s.Applied...), "pending": append([]string{}, s.Pending...),
		})
	}
	text := fmt.Sprintf("the schema is at version %d of %d", s.Version, s.Latest)
	if s.Dirty {
		text += "; a migration began and did not end: run threadhub migrate up"
	}
	if len(s.Pending) > 0 {
		text += "; to come: " + strings.Join(s.Pending, ", ")
	}
	_, err = fmt.Fprintln(p.stdout, text)
	return err
}
