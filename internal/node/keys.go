package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"weft/internal/bounded"
	"weft/internal/durable"
	"weft/internal/store"
	"weft/server/tenant"
)

// keyMark is the file of a data directory that names the databases which have had keys while they were used with it.
// A database that has lost its keys, because its file was removed, emptied or replaced, is not opened: the server would
// need no key any more.
const keyMark = "had-keys"

// maxKeyMark limits the file.
const maxKeyMark = 1 << 16

// databaseName is the database's name in keyMark: the name of a file in the directory, or host and name of a Postgres
// database.
func (c *StoreConfig) databaseName() string {
	u, err := url.Parse(c.Database)
	if c.Database == "" || err != nil {
		return "weft.db"
	}
	return u.Host + u.Path
}

// hadKeys reports whether the database has had keys.
func (c *StoreConfig) hadKeys(dir string) (bool, error) {
	text, err := bounded.ReadFileNoLink(filepath.Join(dir, keyMark), maxKeyMark)
	if dir == "" || errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return slices.Contains(strings.Split(string(text), "\n"), c.databaseName()), err
}

// markKeys records that the database has keys. A Postgres that is changed from a machine without a data directory is
// not recorded there.
func (c *StoreConfig) markKeys(dir string) error {
	if c.Database != "" {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	had, err := c.hadKeys(dir)
	if had || err != nil {
		return err
	}
	path := filepath.Join(dir, keyMark)
	old, err := bounded.ReadFileNoLink(path, maxKeyMark)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.Replace(path, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s%s\n", old, c.databaseName())
		return err
	})
}

// checkFile refuses a database file that is missing or empty although it has had keys, before an empty one is made.
func (c *StoreConfig) checkFile(dir string) error {
	had, err := c.hadKeys(dir)
	if !had || err != nil || c.Database != "" {
		return err
	}
	st, err := os.Stat(filepath.Join(dir, "weft.db"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && st.Size() == 0 {
		return c.lostKeys(dir, "To start anew without the keys, tenants and adapters, delete %s and the folder blobs")
	}
	return err
}

// CheckRestore refuses to restore a backup without keys, not even revoked ones, into a store that has had keys: nothing
// would open it.
func (c *StoreConfig) CheckRestore(keys bool) error {
	dir, err := c.Directory()
	if err != nil {
		return err
	}
	had, err := c.hadKeys(dir)
	if had && !keys {
		return fmt.Errorf("the backup has no API keys, and the database %s has had some: a server would answer "+
			"without a key. Give another --data, or, if that is meant, delete %s first", c.databaseName(),
			filepath.Join(dir, keyMark))
	}
	return err
}

// checkKeys refuses a database that has had keys and has none, not even revoked ones; one that has keys is recorded,
// now and when a key is added.
func (c *StoreConfig) checkKeys(ctx context.Context, dir string, db *store.DB, tenants *tenant.Store) error {
	var keys int64
	if err := db.QueryRow(ctx, "SELECT COUNT(*) FROM tenant_keys").Scan(&keys); err != nil {
		return err
	}
	if keys > 0 {
		return c.markKeys(dir)
	}
	had, err := c.hadKeys(dir)
	if err != nil {
		return err
	}
	if had {
		return c.lostKeys(dir, "To use without keys what the database has, delete %s")
	}
	tenants.OnKey(func() error { return c.markKeys(dir) })
	return nil
}

// lostKeys is the error for a database that has lost its keys; anew says how it can be opened without them, with the
// path of the mark.
func (c *StoreConfig) lostKeys(dir, anew string) error {
	return fmt.Errorf("the database %s has had API keys and has lost them: it was removed, emptied or replaced, and a "+
		"server would answer without a key. Put it back, or run `weft restore`. "+anew, c.databaseName(),
		filepath.Join(dir, keyMark))
}
