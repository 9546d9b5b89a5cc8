package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// OpenExisting opens a database as it is: it is neither made nor migrated. fs.ErrNotExist where there is none,
// ErrNewer.
func OpenExisting(ctx context.Context, dsn string) (*DB, error) {
	if !isPostgres(dsn) {
		if _, err := os.Stat(dsn); err != nil {
			return nil, fmt.Errorf("open database: %w", err)
		}
	}
	d, err := connect(dsn)
	if err != nil {
		return nil, err
	}
	have, err := d.Version(ctx)
	known, _ := fs.Glob(migrations, "migrations/*.sql")
	if err == nil && have > int64(len(known)) {
		err = newer(have, len(known))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", Redact(dsn), err), d.Close())
	}
	return d, nil
}

// Version returns the number of the last migration that the database has. fs.ErrNotExist where it was never one of
// weft's.
func (d *DB) Version(ctx context.Context) (int64, error) {
	query := "SELECT COUNT(*) FROM sqlite_schema WHERE name = 'schema_version'"
	if d.postgres {
		query = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = current_schema() AND " +
			"table_name = 'schema_version'"
	}
	var tables int64
	if err := d.QueryRow(ctx, query).Scan(&tables); err != nil {
		return 0, err
	}
	if tables == 0 {
		return 0, fmt.Errorf("it contains no tables of weft: %w", fs.ErrNotExist)
	}
	var have sql.NullInt64
	err := d.QueryRow(ctx, "SELECT MAX(version) FROM schema_version").Scan(&have)
	return have.Int64, err
}

// CopyTo writes the rows of all tables but those left out, as they are at one moment, into a new SQLite database at
// path, of the same version. Writers of d do not wait.
func (d *DB) CopyTo(ctx context.Context, path string, leaveOut ...string) (err error) {
	version, err := d.Version(ctx)
	if err != nil {
		return err
	}
	out, err := openAt(ctx, path, version)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	opt := &sql.TxOptions{ReadOnly: true}
	if d.postgres {
		opt.Isolation = sql.LevelRepeatableRead
	}
	from, err := d.db.BeginTx(ctx, opt)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ignoreDone(from.Rollback())) }()
	return out.Tx(ctx, func(to *Tx) error { return copyRows(ctx, &Tx{from, d}, to, out, leaveOut) })
}

// Replace puts the rows of from, a SQLite database of the same version, in the place of all rows of d but those of the
// tables left out, in one transaction that calls f first and excludes other changes of d.
func (d *DB) Replace(ctx context.Context, from *DB, f func(*Tx) error, leaveOut ...string) error {
	return d.Tx(ctx, func(to *Tx) error {
		if d.postgres {
			tables, err := from.tables(ctx)
			if err != nil {
				return err
			}
			if _, err := to.Exec(ctx, "LOCK TABLE "+strings.Join(tables, ", ")+" IN EXCLUSIVE MODE"); err != nil {
				return err
			}
		}
		if err := f(to); err != nil {
			return err
		}
		tx, err := from.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			return err
		}
		err = copyRows(ctx, &Tx{tx, from}, to, from, leaveOut)
		return errors.Join(err, ignoreDone(tx.Rollback()))
	})
}

// copyRows copies the rows of the tables of schema, a SQLite database, which replace those that are there.
func copyRows(ctx context.Context, from, to *Tx, schema *DB, leaveOut []string) error {
	// the schema's own transaction, so that its only connection is not waited for
	tx := from
	if schema == to.db {
		tx = to
	}
	tables, err := texts(ctx, tx, tableNames)
	if err != nil {
		return err
	}
	for _, table := range tables {
		if slices.Contains(leaveOut, table) {
			continue
		}
		columns, err := texts(ctx, tx, "SELECT name FROM pragma_table_info('"+table+"')")
		if err != nil {
			return err
		}
		if _, err := to.Exec(ctx, "DELETE FROM "+table); err != nil {
			return err
		}
		if err := copyTable(ctx, from, to, table, columns); err != nil {
			return fmt.Errorf("copy table %s: %w", table, err)
		}
	}
	return nil
}

func copyTable(ctx context.Context, from, to *Tx, table string, columns []string) (err error) {
	list := strings.Join(columns, ", ")
	rows, err := from.Query(ctx, "SELECT "+list+" FROM "+table)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	insert := to.db.bind("INSERT INTO " + table + " (" + list + ") VALUES (" +
		strings.TrimSuffix(strings.Repeat("?, ", len(columns)), ", ") + ")")
	add, err := to.tx.PrepareContext(ctx, insert)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, add.Close()) }()
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		if _, err := add.ExecContext(ctx, values...); err != nil {
			return err
		}
	}
	return rows.Err()
}

const tableNames = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"

// tables lists the tables of a SQLite database.
func (d *DB) tables(ctx context.Context) (names []string, err error) {
	err = d.Tx(ctx, func(tx *Tx) error { names, err = texts(ctx, tx, tableNames); return err })
	return names, err
}

func texts(ctx context.Context, tx *Tx, query string) (out []string, err error) {
	rows, err := tx.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}
