package adapters

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"os"
	"path"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// BucketConfig says where an S3-compatible bucket is.
type BucketConfig struct {
	Endpoint  string // host[:port]
	Insecure  bool   // http instead of https
	Region    string // "": the server is asked
	Bucket    string // must exist
	Prefix    string // of every object's key; each database needs its own prefix
	AccessKey string
	SecretKey string
}

// BucketBlobs keeps blobs as objects PREFIX/ab/abcdef… of an S3-compatible bucket.
type BucketBlobs struct {
	client *minio.Client
	cfg    BucketConfig
}

// NewBucketBlobs connects to a bucket and checks that it exists.
func NewBucketBlobs(ctx context.Context, cfg BucketConfig) (*BucketBlobs, error) {
	client, err := minio.New(cfg.Endpoint, &minio.Options{
		Creds:  credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, ""),
		Secure: !cfg.Insecure,
		Region: cfg.Region,
	})
	if err != nil {
		return nil, fmt.Errorf("bucket %s at %s: %w", cfg.Bucket, cfg.Endpoint, err)
	}
	ok, err := client.BucketExists(ctx, cfg.Bucket)
	if err == nil && !ok {
		err = fmt.Errorf("the bucket does not exist: create it first: %w", fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("bucket %s at %s: %w", cfg.Bucket, cfg.Endpoint, err)
	}
	return &BucketBlobs{client, cfg}, nil
}

func (b *BucketBlobs) key(digest string) string { return path.Join(b.cfg.Prefix, digest[:2], digest) }

// absent reports whether the server answered that there is no such object.
func absent(err error) bool {
	var answer minio.ErrorResponse
	return errors.As(err, &answer) && (answer.StatusCode == http.StatusNotFound || answer.Code == "NoSuchKey")
}

// Put uploads the file at path unless there is an object of the same size.
func (b *BucketBlobs) Put(ctx context.Context, digest, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	have, err := b.client.StatObject(ctx, b.cfg.Bucket, b.key(digest), minio.StatObjectOptions{})
	if err == nil && have.Size == info.Size() {
		return nil
	}
	if err != nil && !absent(err) {
		return err
	}
	_, err = b.client.FPutObject(ctx, b.cfg.Bucket, b.key(digest), path,
		minio.PutObjectOptions{ContentType: "application/octet-stream"})
	return err
}

// Open downloads a blob.
func (b *BucketBlobs) Open(ctx context.Context, digest string) (io.ReadCloser, error) {
	obj, err := b.client.GetObject(ctx, b.cfg.Bucket, b.key(digest), minio.GetObjectOptions{})
	if err != nil {
		return nil, err
	}
	if _, err := obj.Stat(); err != nil {
		obj.Close()
		if absent(err) {
			return nil, fmt.Errorf("blob %s: %w", digest, fs.ErrNotExist)
		}
		return nil, err
	}
	return obj, nil
}

// Delete removes an object.
func (b *BucketBlobs) Delete(ctx context.Context, digest string) error {
	err := b.client.RemoveObject(ctx, b.cfg.Bucket, b.key(digest), minio.RemoveObjectOptions{})
	if absent(err) {
		return nil
	}
	return err
}

// All lists the objects below the prefix; those that are not blobs are skipped.
func (b *BucketBlobs) All(ctx context.Context) iter.Seq2[Blob, error] {
	return func(yield func(Blob, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		prefix := strings.Trim(b.cfg.Prefix, "/")
		if prefix != "" {
			prefix += "/"
		}
		for obj := range b.client.ListObjects(ctx, b.cfg.Bucket,
			minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
			if obj.Err != nil {
				yield(Blob{}, fmt.Errorf("list blobs: %w", obj.Err))
				return
			}
			digest := path.Base(obj.Key)
			if len(digest) == 64 && isDigestPrefix(digest) && !yield(Blob{Digest: digest, Bytes: obj.Size}, nil) {
				return
			}
		}
	}
}

// Owner reads the object PREFIX/weft-database.
func (b *BucketBlobs) Owner(ctx context.Context) (string, error) {
	obj, err := b.client.GetObject(ctx, b.cfg.Bucket, path.Join(b.cfg.Prefix, ownerName), minio.GetObjectOptions{})
	if err != nil {
		return "", err
	}
	defer obj.Close()
	text, err := io.ReadAll(io.LimitReader(obj, maxOwner))
	if absent(err) {
		return "", nil
	}
	return strings.TrimSpace(string(text)), err
}

// SetOwner writes the object PREFIX/weft-database.
func (b *BucketBlobs) SetOwner(ctx context.Context, identity string) error {
	text := identity + "\n"
	_, err := b.client.PutObject(ctx, b.cfg.Bucket, path.Join(b.cfg.Prefix, ownerName), strings.NewReader(text),
		int64(len(text)), minio.PutObjectOptions{ContentType: "text/plain"})
	return err
}
