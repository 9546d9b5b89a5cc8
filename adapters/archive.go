package adapters

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"weft/internal/durable"
	"weft/internal/names"
)

// Limits of an uploaded archive.
const (
	maxArchiveEntries = 1000
	maxArchiveName    = 512                     // bytes of an entry's name
	maxArchiveBytes   = MaxAdapterBytes * 9 / 8 // of the archive, and of all of its files
	maxArchiveRatio   = 100                     // unpacked bytes per byte of the archive,
	freeArchiveBytes  = 16 << 20                // beyond this many
)

// AddArchive is Add for a zip, tar or tar.gz of a PEFT folder, whose files lie at the top level or together in one
// folder. Every entry is checked before anything is added. An archive with links, devices, absolute paths, "..",
// backslashes, duplicate names, more than a thousand entries, or of more than a hundred times its size when unpacked,
// is ErrInvalid.
func (r *Registry) AddArchive(ctx context.Context, tenant, name string, archive io.Reader, opt AddOptions) (Version,
	error) {
	return r.add(ctx, tenant, name, opt, func(work string) ([]File, error) { return unpack(ctx, archive, work) })
}

// unpack reads an archive of any of the three kinds and writes the adapter's files into the folder work.
func unpack(ctx context.Context, archive io.Reader, work string) ([]File, error) {
	in := &countingReader{r: durable.Reader(ctx, archive), limit: maxArchiveBytes}
	buf := bufio.NewReader(in)
	head, err := buf.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	u := &unpacker{in: in, work: work, seen: map[string]bool{}}
	switch {
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		err = u.zip(ctx, buf)
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		err = u.gzip(ctx, buf)
	case len(head) >= 262 && string(head[257:262]) == "ustar":
		err = u.tar(ctx, buf)
	default:
		err = fmt.Errorf("%w: the upload is neither a zip nor a tar nor a tar.gz", ErrInvalid)
	}
	if err != nil {
		return nil, err
	}
	return u.files, complete(u.files, func(name string) bool { return u.beside[name] })
}

// countingReader counts the bytes read and returns an error beyond its limit.
type countingReader struct {
	r        io.Reader
	n, limit int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.n > c.limit {
		return n, fmt.Errorf("%w: the upload is longer than %d bytes", ErrInvalid, c.limit)
	}
	return n, err
}

// unpacker reads the entries of an archive one by one.
type unpacker struct {
	in       *countingReader // the archive as it was sent
	work     string
	unpacked int64
	entries  int
	folder   string          // that contains the adapter's files, "." for the top level
	seen     map[string]bool // clean names in lower case
	beside   map[string]bool // files that do not belong to the adapter
	files    []File
}

// refuse returns an ErrInvalid about an entry.
func refuse(entry, why string) error {
	return fmt.Errorf("%w: archive entry %s: %s", ErrInvalid, names.Quote(entry), why)
}

// name checks the name of a file or folder entry and returns it cleaned; a duplicate is refused.
func (u *unpacker) name(entry string) (string, error) {
	if u.entries++; u.entries > maxArchiveEntries {
		return "", fmt.Errorf("%w: the archive has more than %d entries", ErrInvalid, maxArchiveEntries)
	}
	switch {
	case entry == "" || len(entry) > maxArchiveName:
		return "", refuse(entry, fmt.Sprintf("its name must have 1 to %d bytes", maxArchiveName))
	case strings.ContainsAny(entry, "\\\x00"):
		return "", refuse(entry, "the name contains a backslash or a NUL")
	case strings.HasPrefix(entry, "/") || len(entry) > 1 && entry[1] == ':':
		return "", refuse(entry, "the path is absolute")
	}
	for part := range strings.SplitSeq(entry, "/") {
		if part == ".." {
			return "", refuse(entry, "the path leaves the archive")
		}
	}
	clean := path.Clean(entry)
	if key := strings.ToLower(clean); clean != "." {
		if u.seen[key] {
			return "", refuse(entry, "the name occurs twice in the archive")
		}
		u.seen[key] = true
	}
	return clean, nil
}

// file reads the entry of a regular file: files of the adapter are written, others skipped; the bytes of both are
// counted.
func (u *unpacker) file(ctx context.Context, entry string, in io.Reader) error {
	clean, err := u.name(entry)
	if err != nil {
		return err
	}
	bounded := &bombReader{u, in}
	folder, base := path.Split(clean)
	folder = path.Clean(folder) // "." for the top level
	if strings.Contains(folder, "/") {
		_, err := io.Copy(io.Discard, bounded)
		return err
	}
	if _, wanted := maxFileBytes[base]; !wanted {
		if u.beside == nil {
			u.beside = map[string]bool{}
		}
		u.beside[base] = true
		_, err := io.Copy(io.Discard, bounded)
		return err
	}
	if u.folder != "" && u.folder != folder {
		return refuse(entry,
			fmt.Sprintf("%s also contains files of an adapter: one adapter is expected, at the top level or in one "+
				"folder", names.Quote(u.folder)))
	}
	u.folder = folder
	f, err := writeFile(ctx, bounded, u.work, base)
	if err != nil {
		return err
	}
	u.files = append(u.files, f)
	return nil
}

// bombReader limits the unpacked size of an archive, absolutely and relative to the archive's length.
type bombReader struct {
	u *unpacker
	r io.Reader
}

func (b *bombReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.u.unpacked += int64(n)
	if t := b.u.unpacked; t > maxArchiveBytes || t > freeArchiveBytes && t/maxArchiveRatio > b.u.in.n {
		return n,
			fmt.Errorf("%w: the archive unpacks to more than %d bytes or %d times its size", ErrInvalid,
				int64(maxArchiveBytes), maxArchiveRatio)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = broken(err)
	}
	return n, err
}

// broken makes an error of the archive's format an ErrInvalid; errors of the connection and the limits stay.
func broken(err error) error {
	if errors.Is(err, ErrInvalid) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: broken archive: %w", ErrInvalid, err)
}

func (u *unpacker) gzip(ctx context.Context, in io.Reader) error {
	z, err := gzip.NewReader(in)
	if err != nil {
		return broken(err)
	}
	return u.tar(ctx, &bombReader{u: &unpacker{in: u.in}, r: z})
}

func (u *unpacker) tar(ctx context.Context, in io.Reader) error {
	t := tar.NewReader(in)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return broken(err)
		}
		switch h.Typeflag {
		case tar.TypeReg:
			err = u.file(ctx, h.Name, t)
		case tar.TypeDir:
			_, err = u.name(h.Name)
		case tar.TypeXGlobalHeader:
		default:
			err = refuse(h.Name, "not a regular file: links and devices are refused")
		}
		if err != nil {
			return err
		}
	}
}

// zip writes the archive to a file beside the adapter's, since a zip's directory is at its end.
func (u *unpacker) zip(ctx context.Context, in io.Reader) error {
	spool, err := os.Create(filepath.Join(u.work, "upload.zip"))
	if err != nil {
		return err
	}
	defer func() { spool.Close(); os.Remove(spool.Name()) }()
	n, err := io.Copy(spool, in)
	if err != nil {
		return fmt.Errorf("read archive: %w", err)
	}
	if err := checkZipDirectory(spool, n); err != nil {
		return err
	}
	z, err := zip.NewReader(spool, n)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // such names are refused below, one by one
		return broken(err)
	}
	for _, f := range z.File {
		if err := u.zipEntry(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// maxZipDirectory limits the directory of a zip, which is read into memory as a whole.
const maxZipDirectory = 1 << 20

// checkZipDirectory finds the end record of a zip of n bytes and refuses a directory that is too long or needs a zip64
// record.
func checkZipDirectory(in io.ReaderAt, n int64) error {
	tail := make([]byte, min(n, 22+1<<16))
	if _, err := in.ReadAt(tail, n-int64(len(tail))); err != nil {
		return fmt.Errorf("read archive: %w", err)
	}
	at := bytes.LastIndex(tail, []byte("PK\x05\x06"))
	if at < 0 || len(tail)-at < 22 {
		return fmt.Errorf("%w: broken archive: the zip has no end record", ErrInvalid)
	}
	size, offset := int64(binary.LittleEndian.Uint32(tail[at+12:])), int64(binary.LittleEndian.Uint32(tail[at+16:]))
	if size > maxZipDirectory || offset > n || n-offset > maxZipDirectory+1<<16 {
		return fmt.Errorf("%w: the zip's directory is longer than %d bytes, or lies beyond 4 GiB: send a tar",
			ErrInvalid, maxZipDirectory)
	}
	return nil
}

func (u *unpacker) zipEntry(ctx context.Context, f *zip.File) error {
	const encrypted = 1
	mode := f.Mode()
	switch {
	case mode.IsDir():
		_, err := u.name(f.Name)
		return err
	case !mode.IsRegular():
		return refuse(f.Name, "not a regular file: links and devices are refused")
	case f.Flags&encrypted != 0:
		return refuse(f.Name, "encrypted")
	}
	in, err := f.Open()
	if err != nil {
		return broken(err)
	}
	defer in.Close()
	return u.file(ctx, f.Name, in)
}
