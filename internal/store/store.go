// Package store opens the database that holds what outlives a process: adapter versions, tenants, keys. SQLite in a
// file by default, Postgres where several servers share one registry. Both speak the same portable SQL; queries are
// written with ? for parameters.
package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	_ "github.com/jackc/pgx/v5/stdlib" // driver pgx
	_ "modernc.org/sqlite"             // driver sqlite: pure Go, so that CGO_ENABLED=0 serves too
)

// ErrNewer says that the database was written by a later weft.
var ErrNewer = errors.New("the database was written by a newer version of weft")

//go:embed migrations/*.sql
var migrations embed.FS

// DB is an opened, migrated database. Safe for concurrent use, by several processes too.
type DB struct {
	db       *sql.DB
	postgres bool
}

// Open opens dsn: a URL that begins with postgres:// or postgresql://, or the path of a SQLite file, which is made
// together with its folder.
func Open(ctx context.Context, dsn string) (*DB, error) {
	if !isPostgres(dsn) {
		if err := os.MkdirAll(filepath.Dir(dsn), 0o700); err != nil {
			return nil, fmt.Errorf("open database: %w", err)
		}
	}
	return openAt(ctx, dsn, newest)
}

// newest means the version of the last migration.
const newest = math.MaxInt64

// openAt opens dsn and applies the migrations up to a version.
func openAt(ctx context.Context, dsn string, version int64) (*DB, error) {
	d, err := connect(dsn)
	if err != nil {
		return nil, err
	}
	if err := d.migrate(ctx, version); err != nil {
		d.db.Close()
		return nil, fmt.Errorf("open database %s: %w", Redact(dsn), err)
	}
	return d, nil
}

func isPostgres(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
}

// connect prepares connections; SQLite's file is made with the first of them.
func connect(dsn string) (*DB, error) {
	d := &DB{postgres: isPostgres(dsn)}
	var err error
	if d.postgres {
		d.db, err = sql.Open("pgx", dsn)
	} else {
		// Writers queue for 10 s; a transaction takes the write lock when it begins, so that it never fails half way.
		q := url.Values{"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"},
			"_txlock": {"immediate"}}
		d.db, err = sql.Open("sqlite", "file:"+(&url.URL{Path: dsn}).EscapedPath()+"?"+q.Encode())
	}
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if !d.postgres {
		d.db.SetMaxOpenConns(4)
	}
	return d, nil
}

// Redact hides the password of a database's URL.
func Redact(dsn string) string {
	if u, err := url.Parse(dsn); err == nil && u.Scheme != "" {
		return u.Redacted()
	}
	return dsn
}

// Close closes the database.
func (d *DB) Close() error { return d.db.Close() }

// Postgres reports whether the database is Postgres, not SQLite.
func (d *DB) Postgres() bool { return d.postgres }

// migrationLock is the key of the advisory lock under which Postgres is migrated.
const migrationLock = 0x77656674

// migrate applies the numbered files that the database lacks up to a version, in one transaction.
func (d *DB) migrate(ctx context.Context, version int64) error {
	files, err := fs.Glob(migrations, "migrations/*.sql") // sorted
	if err != nil {
		return err
	}
	// The lock is the session's, not the transaction's: a serializable transaction sees what was there at its first
	// query, which would be the one that waits.
	unlock, err := d.lockMigrations(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return d.Tx(ctx, func(tx *Tx) error {
		if _, err := tx.Exec(ctx, "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)"); err != nil {
			return err
		}
		var have sql.NullInt64
		if err := tx.QueryRow(ctx, "SELECT MAX(version) FROM schema_version").Scan(&have); err != nil {
			return err
		}
		for _, f := range files {
			name := filepath.Base(f)
			number, err := strconv.ParseInt(strings.SplitN(name, "_", 2)[0], 10, 64)
			if err != nil {
				return fmt.Errorf("migration %s has no number", name)
			}
			if number <= have.Int64 || number > version {
				continue
			}
			text, err := migrations.ReadFile(f)
			if err != nil {
				return err
			}
			for _, statement := range strings.Split(string(text), ";\n") {
				if strings.TrimSpace(statement) == "" {
					continue
				}
				if _, err := tx.Exec(ctx, statement); err != nil {
					return fmt.Errorf("migration %s: %w", name, err)
				}
			}
			if _, err := tx.Exec(ctx, "INSERT INTO schema_version (version) VALUES (?)", number); err != nil {
				return err
			}
		}
		if int(have.Int64) > len(files) {
			return newer(have.Int64, len(files))
		}
		return nil
	})
}

func newer(have int64, known int) error {
	return fmt.Errorf("%w: its schema is %d, this program knows schemas up to %d: use the version of weft that wrote "+
		"it, or a later one", ErrNewer, have, known)
}

// lockMigrations keeps other processes from migrating a Postgres at the same time. SQLite's transactions do that
// themselves.
func (d *DB) lockMigrations(ctx context.Context) (unlock func(), err error) {
	if !d.postgres {
		return func() {}, nil
	}
	conn, err := d.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", migrationLock); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return func() {
		if _, err := conn.ExecContext(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)",
			migrationLock); err != nil {
			//nolint:errcheck // the error is the one returned here: it ends the session, and the lock with it
			conn.Raw(func(any) error { return driver.ErrBadConn })
		}
		conn.Close()
	}, nil
}

// bind writes a query's ? as the database wants them. No query holds a ? that is not a parameter.
func (d *DB) bind(query string) string {
	if !d.postgres {
		return query
	}
	var b strings.Builder
	n := 0
	for _, r := range query {
		if r == '?' {
			n++
			b.WriteString("$" + strconv.Itoa(n))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// Exec runs a statement outside any transaction.
func (d *DB) Exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return d.db.ExecContext(ctx, d.bind(query), args...)
}

// Query runs a query outside any transaction.
func (d *DB) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return d.db.QueryContext(ctx, d.bind(query), args...)
}

// QueryRow runs a query of one row outside any transaction.
func (d *DB) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	return d.db.QueryRowContext(ctx, d.bind(query), args...)
}

// Tx is a transaction.
type Tx struct {
	tx *sql.Tx
	db *DB
}

// Tx runs f in a transaction, which is committed where f returns nil. Postgres runs it serializable and again where
// another transaction was in the way: f must have no effect beside the transaction's.
func (d *DB) Tx(ctx context.Context, f func(*Tx) error) error {
	const attempts = 8
	for i := 1; ; i++ {
		err := d.once(ctx, f)
		if !d.postgres || i == attempts || !conflict(err) {
			return err
		}
	}
}

func (d *DB) once(ctx context.Context, f func(*Tx) error) error {
	var opt *sql.TxOptions
	if d.postgres {
		opt = &sql.TxOptions{Isolation: sql.LevelSerializable}
	}
	tx, err := d.db.BeginTx(ctx, opt)
	if err != nil {
		return err
	}
	if err := f(&Tx{tx, d}); err != nil {
		return errors.Join(err, ignoreDone(tx.Rollback()))
	}
	return tx.Commit()
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// conflict reports whether err is a serialization failure or a deadlock (SQLSTATE 40001, 40P01).
func conflict(err error) bool {
	var state interface{ SQLState() string }
	return errors.As(err, &state) && (state.SQLState() == "40001" || state.SQLState() == "40P01")
}

// Exec runs a statement.
func (t *Tx) Exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return t.tx.ExecContext(ctx, t.db.bind(query), args...)
}

// Query runs a query; its rows are closed before the transaction's next statement.
func (t *Tx) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return t.tx.QueryContext(ctx, t.db.bind(query), args...)
}

// QueryRow runs a query of one row.
func (t *Tx) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	return t.tx.QueryRowContext(ctx, t.db.bind(query), args...)
}
