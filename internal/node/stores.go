package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"weft/adapters"
	"weft/adapters/backup"
	"weft/adapters/peft"
	"weft/finetune/capture"
	"weft/internal/modelref"
	"weft/internal/store"
	"weft/server/tenant"
)

// StoreConfig says where tenants, keys and adapters are kept: in a data directory, or in a Postgres database and a
// bucket that several servers share. The bucket's keys are read from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
type StoreConfig struct {
	Data           string // directory; "": weft in $XDG_DATA_HOME or ~/.local/share
	Database       string // postgres://…; "": a file in the data directory
	Bucket         string // s3://BUCKET[/PREFIX] for the adapters' files; "": a folder of the data directory
	BucketEndpoint string // URL of the S3-compatible server
	BucketRegion   string // "": the server is asked
	// CaptureKey is the file of the master key of stored completions; "": capture-key in the folder weft of
	// $XDG_CONFIG_HOME or ~/.config.
	CaptureKey string
}

// DefaultBucketEndpoint is the server of buckets that name none.
const DefaultBucketEndpoint = "https://s3.amazonaws.com"

// Directory returns the data directory; it need not exist.
func (c *StoreConfig) Directory() (string, error) {
	if c.Data != "" {
		return c.Data, nil
	}
	base := os.Getenv("XDG_DATA_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", refusef("data: %v", err)
		}
		base = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(base, "weft"), nil
}

// mayHoldKeys reports whether there may be keys and tenants that cannot be read. Then a data directory that
// cannot be opened is an error.
func (c *StoreConfig) mayHoldKeys() bool {
	dir, err := c.Directory()
	if err != nil {
		return false
	}
	_, err = os.Stat(dir)
	return !errors.Is(err, fs.ErrNotExist)
}

func unwritable(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrNotExist)
}

// Stores are the opened stores of tenants, keys and adapters; Close closes their database.
type Stores struct {
	DB       *store.DB
	Tenants  *tenant.Store
	Registry *adapters.Registry // nil after OpenTenants
}

// Close closes the database.
func (s *Stores) Close() error { return s.DB.Close() }

// List returns the versions of a tenant's adapters, or of all where owner is ""; tenant.ErrNotFound where it does not
// exist.
func (s *Stores) List(ctx context.Context, owner string) ([]adapters.Version, error) {
	list, err := s.Registry.List(ctx, owner)
	if err == nil && len(list) == 0 && owner != "" {
		_, err = s.Tenants.Get(ctx, owner)
	}
	return list, err
}

// AddOptions returns the tenant's limits for adapters; tenant.ErrNotFound where it does not exist.
func (s *Stores) AddOptions(ctx context.Context, owner string) (adapters.AddOptions, error) {
	t, err := s.Tenants.Get(ctx, owner)
	return adapters.AddOptions{MaxCount: t.Settings.AdapterCount, MaxBytes: t.Settings.AdapterBytes}, err
}

// OpenTenants opens only tenants and keys.
func OpenTenants(ctx context.Context, c StoreConfig) (*Stores, error) {
	dsn, err := c.dsn()
	if err != nil {
		return nil, err
	}
	dir, err := c.Directory()
	if err == nil {
		err = c.checkFile(dir)
	} else if c.Database != "" {
		dir, err = "", nil // a Postgres needs no data directory
	}
	if err != nil {
		return nil, err
	}
	db, err := store.Open(ctx, dsn)
	if err != nil {
		return nil, err
	}
	tenants, err := tenant.NewStore(ctx, db, adapters.CountNames)
	if err == nil {
		tenants.OnDelete(capture.DropTenant)
		err = c.checkKeys(ctx, dir, db, tenants)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Stores{DB: db, Tenants: tenants}, nil
}

// OpenStores opens tenants, keys and the registry of adapters. check checks adapters that are added; it may be nil
// where none is.
func OpenStores(ctx context.Context, c StoreConfig, check adapters.Checker) (*Stores, error) {
	dir, err := c.Directory()
	if err != nil {
		return nil, err
	}
	blobs, err := c.blobs(ctx, dir)
	if err != nil {
		return nil, err
	}
	s, err := OpenTenants(ctx, c)
	if err != nil {
		return nil, err
	}
	s.Registry, err = adapters.NewRegistry(adapters.RegistryConfig{DB: s.DB, Blobs: blobs, Dir: dir, Check: check})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// MustExist returns an error where the data directory has no database yet: a command that only reads would create an
// empty one. A database that is given by its address is not looked at.
func (c *StoreConfig) MustExist() error {
	if c.Database != "" {
		return nil
	}
	dir, err := c.Directory()
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "weft.db")); err != nil {
		return fmt.Errorf("%s is not a data directory of weft: %w", dir, err)
	}
	return nil
}

// dsn returns the data source name for package store.
func (c *StoreConfig) dsn() (string, error) {
	if c.Database != "" {
		return c.Database, nil
	}
	dir, err := c.Directory()
	return filepath.Join(dir, "weft.db"), err
}

// WithBackupStore opens database and blobs for one operation without reading them. open is store.Open, or
// store.OpenExisting, which returns fs.ErrNotExist where there is no database.
func WithBackupStore(ctx context.Context, c StoreConfig, open func(ctx context.Context, dsn string) (*store.DB, error),
	do func(backup.Store) error) (err error) {
	dir, err := c.Directory()
	if err != nil {
		return err
	}
	blobs, err := c.blobs(ctx, dir)
	if err != nil {
		return err
	}
	dsn, err := c.dsn()
	if err != nil {
		return err
	}
	db, err := open(ctx, dsn)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is empty: %w", dir, err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return do(backup.Store{DB: db, Blobs: blobs, Dir: dir})
}

// blobs returns the bucket, or the data directory's folder.
func (c *StoreConfig) blobs(ctx context.Context, dir string) (adapters.Blobs, error) {
	if c.Bucket == "" {
		if c.Database != "" {
			return nil, refusef("database needs --bucket: servers that share a database must share the adapters' " +
				"files too: give --bucket s3://BUCKET/PREFIX")
		}
		return adapters.NewFolderBlobs(filepath.Join(dir, "blobs")), nil
	}
	cfg, err := c.bucket()
	if err != nil {
		return nil, err
	}
	return adapters.NewBucketBlobs(ctx, cfg)
}

// bucket reads the settings, and the keys from the environment.
func (c *StoreConfig) bucket() (cfg adapters.BucketConfig, err error) {
	path, ok := strings.CutPrefix(c.Bucket, "s3://")
	cfg.Bucket, cfg.Prefix, _ = strings.Cut(path, "/")
	if !ok || cfg.Bucket == "" {
		return cfg, refusef("bucket %q: write s3://BUCKET or s3://BUCKET/PREFIX", c.Bucket)
	}
	endpoint := c.BucketEndpoint
	if endpoint == "" {
		endpoint = DefaultBucketEndpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
		return cfg, refusef("bucket-endpoint %q: write https://HOST or http://HOST:PORT", endpoint)
	}
	cfg.Endpoint, cfg.Insecure, cfg.Region = u.Host, u.Scheme == "http", c.BucketRegion
	for _, secret := range []struct {
		name string
		to   *string
	}{{"AWS_ACCESS_KEY_ID", &cfg.AccessKey}, {"AWS_SECRET_ACCESS_KEY", &cfg.SecretKey}} {
		if *secret.to = os.Getenv(secret.name); *secret.to == "" {
			return cfg, fmt.Errorf("--bucket: set %s in the environment", secret.name)
		}
	}
	return cfg, nil
}

// AdapterChecker checks adapters against the model REF, or by themselves where it is "". done closes the model.
func AdapterChecker(ref string) (check adapters.Checker, done func(), err error) {
	if ref == "" {
		return adapters.CheckPEFT(nil, ""), func() {}, nil
	}
	path, name, err := modelref.Resolve(ref)
	if err != nil {
		return nil, nil, err
	}
	base, err := peft.OpenModel(path, name)
	if err != nil {
		return nil, nil, err
	}
	return adapters.CheckPEFT(base, name), func() { base.Close() }, nil
}
