package migrations

import (
	"context"
	"database/sql"
	"strconv"
	"time"

	"github.com/golang-migrate/migrate/v4/database"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"threadhub/internal/fault"
)

// schema is where all tables are.
const schema = "public"

const connectTimeout = 5 * time.Second

func postgresConfig(url string) (*pgx.ConnConfig, error) {
	c, err := pgx.ParseConfig(url)
	if err != nil {
		// pgx's own text may quote the password.
		return nil, fault.New(fault.Invalid, "the database URL is not a valid postgres:// URL").WithCode("database_url")
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout
	}
	if c.ValidateConnect == nil { // of several servers the one that takes writes
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	c.RuntimeParams["application_name"] = "threadhub-migrate"
	return c, nil
}

// openPostgres connects and takes golang-migrate's own advisory lock, on the very connection the migrations run on: the
// lock then lasts as long as a statement runs, even one whose client was killed. golang-migrate takes it again, which
// the same session may. A pooler that gives each transaction another session cannot be migrated through.
func openPostgres(ctx context.Context, url string, o Options) (_ database.Driver, ran func() (int, error), release func(), err error) {
	c, err := postgresConfig(url)
	if err != nil {
		return nil, nil, nil, err
	}
	db := stdlib.OpenDB(*c)
	db.SetMaxOpenConns(1) // one session: what is locked and set here holds for golang-migrate
	release = func() { _ = db.Close() }
	name, err := lockPostgres(ctx, db, o)
	if err != nil {
		release()
		return nil, nil, nil, err
	}
	conf := &migratepgx.Config{MigrationsTable: table, DatabaseName: name, SchemaName: schema}
	if d, ok := ctx.Deadline(); ok {
		conf.StatementTimeout = time.Until(d)
	}
	driver, err := migratepgx.WithInstance(db, conf)
	if err != nil {
		release()
		return nil, nil, nil, failed(cause(err))
	}
	return driver, nil, release, nil
}

func lockPostgres(ctx context.Context, db *sql.DB, o Options) (name string, err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return "", unavailable(err)
	}
	defer func() { _ = conn.Close() }() // back to its pool of one
	if err := conn.QueryRowContext(ctx, "SELECT current_database(), set_config('search_path', $1, false), set_config('lock_timeout', $2, false)",
		schema, millis(o.Wait)).Scan(&name, new(string), new(string)); err != nil {
		return "", unavailable(err)
	}
	id, err := database.GenerateAdvisoryLockId(name, schema, table)
	if err != nil {
		return "", failed(err)
	}
	if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", id); err != nil {
		return "", locked(err)
	}
	if _, err := conn.ExecContext(ctx, "SELECT set_config('lock_timeout', $1, false)", millis(o.LockWait)); err != nil {
		return "", unavailable(err)
	}
	return name, nil
}

// millis writes d as Postgres settings want it; never 0, which would mean no limit.
func millis(d time.Duration) string { return strconv.FormatInt(max(d.Milliseconds(), 1), 10) }

func postgresVersion(ctx context.Context, url string) (version int, dirty bool, err error) {
	c, err := postgresConfig(url)
	if err != nil {
		return 0, false, err
	}
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return 0, false, unavailable(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var there bool
	if err := conn.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", schema+"."+table).Scan(&there); err != nil {
		return 0, false, unavailable(err)
	}
	if !there {
		return database.NilVersion, false, nil
	}
	err = conn.QueryRow(ctx, "SELECT coalesce(max(version), -1), coalesce(bool_or(dirty), false) FROM "+schema+"."+table).Scan(&version, &dirty)
	if sqlState(err) == "42501" {
		return 0, false, fault.Wrap(fault.Invalid, err, "the database user may not see which migrations have run: let the owner run them first (THREADHUB_MIGRATE_DATABASE_URL)").
			WithCode("database_roles")
	}
	if err != nil {
		return 0, false, unavailable(err)
	}
	return version, dirty, nil
}
