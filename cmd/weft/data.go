package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"weft/adapters"
	"weft/internal/store"
)

// dataFlags say where tenants, keys and adapters are kept: in a data directory, or in a Postgres database and a bucket
// that several servers share.
type dataFlags struct {
	Data           string
	Database       databaseURL
	Bucket         string
	BucketEndpoint string
	BucketRegion   string
}

func (f *dataFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.Data, "data", "", "data `directory` (default: weft in $XDG_DATA_HOME or ~/.local/share)")
	fs.Var(&f.Database, "database",
		"postgres://… in the place of the data directory's own; give the password in PGPASSWORD, or all of it in "+
			"WEFT_DATABASE")
	fs.StringVar(&f.Bucket, "bucket", "",
		"s3://BUCKET[/PREFIX] for the adapters' files; keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	fs.StringVar(&f.BucketEndpoint, "bucket-endpoint", "https://s3.amazonaws.com", "`URL` of the S3-compatible server")
	fs.StringVar(&f.BucketRegion, "bucket-region", "", "region of the bucket (default: ask the server)")
}

// databaseURL is a flag value whose password is not shown.
type databaseURL string

func (u *databaseURL) Set(s string) error {
	if s != "" && !strings.HasPrefix(s, "postgres://") && !strings.HasPrefix(s, "postgresql://") {
		return errors.New("postgres://USER@HOST/DATABASE is expected")
	}
	*u = databaseURL(s)
	return nil
}

func (u *databaseURL) String() string { return store.Redact(string(*u)) }

// Type names the value in help texts.
func (u *databaseURL) Type() string { return "url" }

// directory returns the data directory.
func (f *dataFlags) directory() (string, error) {
	if f.Data != "" {
		return f.Data, nil
	}
	base := os.Getenv("XDG_DATA_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", usagef("--data: %v", err)
		}
		base = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(base, "weft"), nil
}

// openDB opens the database of tenants, keys and adapters; the caller closes it.
func (f *dataFlags) openDB(ctx context.Context) (*store.DB, error) {
	if f.Database != "" {
		return store.Open(ctx, string(f.Database))
	}
	dir, err := f.directory()
	if err != nil {
		return nil, err
	}
	return store.Open(ctx, filepath.Join(dir, "weft.db"))
}

// state is the opened data directory: Close closes it.
type state struct {
	DB       *store.DB
	Registry *adapters.Registry
}

// open opens database, blobs and registry; check may be nil where nothing is added.
func (f *dataFlags) open(ctx context.Context, check adapters.Checker) (*state, error) {
	dir, err := f.directory()
	if err != nil {
		return nil, err
	}
	blobs, err := f.blobs(ctx, dir)
	if err != nil {
		return nil, err
	}
	db, err := f.openDB(ctx)
	if err != nil {
		return nil, err
	}
	registry, err := adapters.NewRegistry(adapters.RegistryConfig{DB: db, Blobs: blobs, Dir: dir, Check: check})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &state{db, registry}, nil
}

// Close closes the database.
func (d *state) Close() error { return d.DB.Close() }

// blobs returns the bucket, or the data directory's folder.
func (f *dataFlags) blobs(ctx context.Context, dir string) (adapters.Blobs, error) {
	if f.Bucket == "" {
		if f.Database != "" {
			return nil,
				usagef("--database without --bucket: servers that share a database share the files of adapters too: " +
					"give --bucket s3://BUCKET/PREFIX")
		}
		return adapters.NewFolderBlobs(filepath.Join(dir, "blobs")), nil
	}
	cfg, err := f.bucketConfig()
	if err != nil {
		return nil, err
	}
	return adapters.NewBucketBlobs(ctx, cfg)
}

// bucketConfig reads the flags and the keys from the environment.
func (f *dataFlags) bucketConfig() (cfg adapters.BucketConfig, err error) {
	path, ok := strings.CutPrefix(f.Bucket, "s3://")
	cfg.Bucket, cfg.Prefix, _ = strings.Cut(path, "/")
	if !ok || cfg.Bucket == "" {
		return cfg, usagef("--bucket %q: s3://BUCKET or s3://BUCKET/PREFIX is expected", f.Bucket)
	}
	u, err := url.Parse(f.BucketEndpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
		return cfg, usagef("--bucket-endpoint %q: https://HOST or http://HOST:PORT is expected", f.BucketEndpoint)
	}
	cfg.Endpoint, cfg.Insecure, cfg.Region = u.Host, u.Scheme == "http", f.BucketRegion
	for _, secret := range []struct {
		name string
		to   *string
	}{{"AWS_ACCESS_KEY_ID", &cfg.AccessKey}, {"AWS_SECRET_ACCESS_KEY", &cfg.SecretKey}} {
		if *secret.to = os.Getenv(secret.name); *secret.to == "" {
			return cfg, fmt.Errorf("--bucket: the environment has no %s", secret.name)
		}
	}
	return cfg, nil
}
