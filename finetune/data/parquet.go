package data

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"

	"weft/internal/durable"
)

// parquetMagic begins a Parquet file.
const parquetMagic = "PAR1"

// Limits of what a Parquet file may make its reader take; files that other programs write stay far below them.
const (
	maxPageBytes  = 256 << 20 // of a page, compressed or not
	maxPageValues = 1 << 24
	maxRowValues  = 1 << 18 // of a column in one row
	maxLeaves     = 4096    // columns, those in columns included
)

// isParquet reports whether a regular file of the given size, 0 for none, is a Parquet file.
func isParquet(f *os.File, size int64) bool {
	var mark [len(parquetMagic)]byte
	if size == 0 {
		return false
	}
	n, err := f.ReadAt(mark[:], 0)
	return err == nil && string(mark[:n]) == parquetMagic
}

// spooled copies src into a file without a name, which the system removes when it is closed, also by a kill.
func spooled(src io.Reader) (*os.File, int64, error) {
	f, err := durable.Scratch(os.TempDir())
	if err != nil {
		return nil, 0, err
	}
	n, err := io.Copy(f, src)
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, n, nil
}

// column is a column of a Parquet file, or a field of one.
type column struct {
	*parquet.Column
	fields []*column
	leaf   int // number of its first leaf among those that are read
	leaves int
}

// leafReader reads the values of one leaf, of one group of rows after another.
type leafReader struct {
	index  int // of the leaf in the file
	pages  parquet.Pages
	values parquet.ValueReader
	buf    []parquet.Value
	pos    int
	row    []parquet.Value // of the current row
}

// parquetReader reads the rows of a file as records.
type parquetReader struct {
	o      *Options
	file   *parquet.File
	top    []*column
	leaves []leafReader
	out    []byte
	large  bool // the row has more than a record may have
}

// readParquet yields the rows of a Parquet file as records; the line of a record is the number of its row. Only columns
// that say what to train on, or to which conversation a row belongs, are read. Fields without a value are left out, so
// that those which a row has only because another has them do not appear in its messages.
func readParquet(src io.ReaderAt, size int64, o *Options, take func(raw) bool) (err error) {
	p := &parquetReader{o: o}
	if err := p.open(src, size); err != nil {
		return fmt.Errorf("%w: Parquet: %w", ErrBad, err)
	}
	line := 0
	for _, group := range p.file.RowGroups() {
		if err := p.begin(group); err != nil {
			return fmt.Errorf("%w: Parquet: behind row %d: %w", ErrBad, line, err)
		}
		for range group.NumRows() {
			line++
			text, err := p.row()
			if err != nil {
				return fmt.Errorf("%w: Parquet: row %d: %w", ErrBad, line, err)
			}
			r := raw{text: text, size: len(text), line: line}
			if p.large {
				r.text, r.size = nil, max(r.size, o.MaxSampleBytes+1)
			}
			if !take(r) {
				return errEnough
			}
		}
	}
	if line == 0 {
		return fmt.Errorf("%w: the file has no rows", ErrBad)
	}
	return nil
}

// caught turns a panic of the library, which hostile files cause, into an error.
func caught(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("the file is damaged: %v", r)
	}
}

func (p *parquetReader) open(src io.ReaderAt, size int64) (err error) {
	defer caught(&err)
	var end [8]byte // the length of the footer, which the library would reserve whatever it is, and the mark
	if _, err := src.ReadAt(end[:], max(0, size-int64(len(end)))); err != nil {
		return err
	}
	if n := binary.LittleEndian.Uint32(end[:]); string(end[4:]) != parquetMagic || int64(n) > size-12 {
		return errors.New("the file is cut off: it does not end as a Parquet file does")
	}
	p.file, err = parquet.OpenFile(src, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return err
	}
	var names []string
	for _, c := range p.file.Root().Columns() {
		names = append(names, strconv.Quote(c.Name()))
		if p.o.wants(c.Name()) {
			p.top = append(p.top, p.add(c))
		}
	}
	switch {
	case len(p.leaves) > maxLeaves:
		return fmt.Errorf("%d columns in columns, more than %d", len(p.leaves), maxLeaves)
	case len(p.top) == 0:
		return fmt.Errorf("no column says what to train on; the columns are %s%s", strings.Join(names, ", "),
			p.o.hint())
	}
	for _, group := range p.file.Metadata().RowGroups {
		for _, l := range p.leaves {
			if l.index >= len(group.Columns) {
				return errors.New("a group of rows lacks a column")
			}
			if err := checkPages(&group.Columns[l.index].MetaData, src); err != nil {
				return fmt.Errorf("column %s: %w", strings.Join(p.file.Schema().Columns()[l.index], "."), err)
			}
		}
	}
	return nil
}

func (p *parquetReader) add(c *parquet.Column) *column {
	out := &column{Column: c, leaf: len(p.leaves)}
	if c.Leaf() {
		p.leaves = append(p.leaves, leafReader{index: c.Index()})
	}
	for _, f := range c.Columns() {
		out.fields = append(out.fields, p.add(f))
	}
	out.leaves = len(p.leaves) - out.leaf
	return out
}

// checkPages reads the headers of a column's pages and refuses pages that are, or become, larger than programs write
// them, before the library reserves memory for them.
func checkPages(m *format.ColumnMetaData, src io.ReaderAt) error {
	begin := m.DataPageOffset
	if m.DictionaryPageOffset != 0 {
		begin = m.DictionaryPageOffset
	}
	if begin < 0 || m.TotalCompressedSize < 0 {
		return errors.New("its place in the file is negative")
	}
	in := bufio.NewReader(io.NewSectionReader(src, begin, m.TotalCompressedSize))
	var protocol thrift.CompactProtocol
	headers := thrift.NewDecoder(protocol.NewReader(in))
	for page := 0; ; page++ {
		if _, err := in.Peek(1); errors.Is(err, io.EOF) {
			return nil
		}
		var h format.PageHeader
		if err := headers.Decode(&h); err != nil {
			return fmt.Errorf("the header of page %d: %w", page, err)
		}
		size, values := h.UncompressedPageSize, max(h.DataPageHeader.V.NumValues, h.DataPageHeaderV2.V.NumValues,
			h.DictionaryPageHeader.V.NumValues)
		switch {
		case h.CompressedPageSize < 0 || size < 0:
			return fmt.Errorf("page %d has a negative size", page)
		case h.CompressedPageSize > maxPageBytes || size > maxPageBytes || values > maxPageValues:
			return fmt.Errorf("page %d has %d values in %d bytes: pages of more than %d values or %d MiB are not read",
				page, values, size, maxPageValues, maxPageBytes>>20)
		}
		levels := h.DataPageHeaderV2.V.DefinitionLevelsByteLength + h.DataPageHeaderV2.V.RepetitionLevelsByteLength
		if levels < 0 || levels > h.CompressedPageSize {
			return fmt.Errorf("page %d has levels beyond its end", page)
		}
		body := io.LimitReader(in, int64(h.CompressedPageSize-levels))
		if _, err := in.Discard(int(levels)); err != nil {
			return fmt.Errorf("page %d: %w", page, err)
		}
		packed := !h.DataPageHeaderV2.Valid || !h.DataPageHeaderV2.V.IsCompressed.Valid ||
			h.DataPageHeaderV2.V.IsCompressed.V
		if err := checkSize(m.Codec, packed, bufio.NewReaderSize(body, 64), int64(size)); err != nil {
			return fmt.Errorf("page %d: %w", page, err)
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			return fmt.Errorf("page %d: %w", page, err)
		}
	}
}

// checkSize refuses a page that becomes larger than its header says: the library would keep all of it.
func checkSize(codec format.CompressionCodec, packed bool, body *bufio.Reader, size int64) error {
	var unpack io.Reader
	var err error
	switch {
	case !packed:
		return nil
	case codec == format.Snappy:
		head, _ := body.Peek(10)
		if n, _ := binary.Uvarint(head); n > uint64(size) {
			return fmt.Errorf("it becomes %d bytes, its header says %d", n, size)
		}
		return nil
	case codec == format.Uncompressed:
		return nil
	case codec == format.Gzip:
		unpack, err = gzip.NewReader(body)
	case codec == format.Zstd:
		var dec *zstd.Decoder
		dec, err = zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err == nil {
			defer dec.Close()
		}
		unpack = dec
	case codec == format.Brotli:
		unpack = brotli.NewReader(body)
	default: // the library reads LZ4 wrongly, and takes endless memory for a damaged page
		return fmt.Errorf("it is compressed with %s, which is not read: write the file anew with: python -c 'import "+
			"pyarrow.parquet as p; p.write_table(p.read_table(\"IN.parquet\"), \"OUT.parquet\", "+
			"compression=\"zstd\")'", codec)
	}
	if err == nil {
		var n int64
		if n, err = io.Copy(io.Discard, io.LimitReader(unpack, size+1)); n > size {
			return fmt.Errorf("it becomes more than the %d bytes that its header says", size)
		}
	}
	return err
}

// begin begins to read a group of rows.
func (p *parquetReader) begin(group parquet.RowGroup) (err error) {
	defer caught(&err)
	chunks := group.ColumnChunks()
	for i := range p.leaves {
		l := &p.leaves[i]
		if l.pages != nil {
			err = errors.Join(err, l.pages.Close())
		}
		l.pages, l.values, l.buf, l.pos = chunks[l.index].Pages(), nil, l.buf[:0], 0
	}
	return err
}

// fill makes sure that a value is at l.buf[l.pos]; io.EOF behind the last one of the group.
func (l *leafReader) fill() error {
	for l.pos == len(l.buf) {
		if l.values == nil {
			page, err := l.pages.ReadPage()
			if err != nil {
				return err
			}
			l.values = page.Values()
		}
		if cap(l.buf) == 0 {
			l.buf = make([]parquet.Value, 256)
		}
		n, err := l.values.ReadValues(l.buf[:cap(l.buf)])
		l.buf, l.pos = l.buf[:n], 0
		if errors.Is(err, io.EOF) || err == nil && n == 0 {
			l.values, err = nil, nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// next reads the values of the next row into l.row; large reports that there are more than are kept.
func (l *leafReader) next() (large bool, err error) {
	l.row = l.row[:0]
	for {
		err := l.fill()
		switch {
		case errors.Is(err, io.EOF) && len(l.row) > 0:
			return large, nil
		case errors.Is(err, io.EOF):
			return false, errors.New("a column has fewer values than the file has rows")
		case err != nil:
			return false, err
		}
		v := l.buf[l.pos]
		if len(l.row) > 0 && v.RepetitionLevel() == 0 {
			return large, nil
		}
		l.pos++
		if len(l.row) < maxRowValues {
			l.row = append(l.row, v)
		} else {
			large = true
		}
	}
}

// row reads the next row and returns it as JSON; the text is valid until the next call.
func (p *parquetReader) row() (text []byte, err error) {
	defer caught(&err)
	p.large = false
	for i := range p.leaves {
		large, err := p.leaves[i].next()
		if err != nil {
			return nil, err
		}
		p.large = p.large || large
	}
	p.out = p.out[:0]
	if p.large {
		return nil, nil
	}
	values := make([][]parquet.Value, len(p.leaves))
	for i := range p.leaves {
		values[i] = p.leaves[i].row
	}
	p.object(p.top, values, 0)
	if p.large {
		return nil, nil
	}
	return p.out, nil
}

// object appends the fields that have a value; values[0] is that of the leaf with the number first.
func (p *parquetReader) object(fields []*column, values [][]parquet.Value, first int) {
	p.out = append(p.out, '{')
	for _, c := range fields {
		of := values[c.leaf-first : c.leaf-first+c.leaves]
		if !c.has(of) {
			continue
		}
		if p.out[len(p.out)-1] != '{' {
			p.out = append(p.out, ',')
		}
		p.out = append(appendText(p.out, c.Name()), ':')
		p.value(c, of)
	}
	p.out = append(p.out, '}')
}

// has reports whether a column has a value in a row, or in an element of a list.
func (c *column) has(values [][]parquet.Value) bool {
	if c.Repeated() || len(values) == 0 {
		return len(values) > 0
	}
	v := values[0][0]
	switch {
	case v.DefinitionLevel() < c.MaxDefinitionLevel():
		return false
	case c.Leaf() && v.Kind() == parquet.Double:
		return !math.IsNaN(v.Double()) && !math.IsInf(v.Double(), 0)
	case c.Leaf() && v.Kind() == parquet.Float:
		return !math.IsNaN(float64(v.Float())) && !math.IsInf(float64(v.Float()), 0)
	case c.Leaf():
		return v.Kind() == parquet.Boolean || v.Kind() == parquet.Int32 || v.Kind() == parquet.Int64 ||
			v.Kind() == parquet.ByteArray
	}
	return true
}

// value appends a value: null where it has none.
func (p *parquetReader) value(c *column, values [][]parquet.Value) {
	switch {
	case p.large:
	case len(p.out) > p.o.MaxSampleBytes:
		p.large = true
	case c.Repeated():
		p.list(c, values)
	case !c.has(values):
		p.out = append(p.out, "null"...)
	default:
		p.element(c, values)
	}
}

// list appends the elements of a repeated column.
func (p *parquetReader) list(c *column, values [][]parquet.Value) {
	pairs := isMap(c)
	opening, closing := byte('['), byte(']')
	if pairs {
		opening, closing = '{', '}'
	}
	p.out = append(p.out, opening)
	rest := slices.Clone(values)
	for len(rest) > 0 && len(rest[0]) > 0 && rest[0][0].DefinitionLevel() >= c.MaxDefinitionLevel() && !p.large {
		one := make([][]parquet.Value, len(rest))
		for i, list := range rest {
			end := 1
			for end < len(list) && list[end].RepetitionLevel() > c.MaxRepetitionLevel() {
				end++
			}
			one[i], rest[i] = list[:min(end, len(list))], list[min(end, len(list)):]
		}
		if last := p.out[len(p.out)-1]; last != opening {
			p.out = append(p.out, ',')
		}
		switch {
		case pairs:
			key, value := c.fields[0], c.fields[1]
			p.out = append(appendText(p.out, string(one[0][0].ByteArray())), ':')
			p.value(value, one[key.leaves:])
		case wraps(c):
			p.value(c.fields[0], one)
		default:
			p.element(c, one)
		}
	}
	p.out = append(p.out, closing)
}

// isMap reports whether a repeated column is the pairs of a map with texts as keys.
func isMap(c *column) bool {
	return len(c.fields) == 2 && c.fields[0].Name() == "key" && c.fields[1].Name() == "value" && c.fields[0].Leaf() &&
		c.fields[0].Type().Kind() == parquet.ByteArray
}

// wraps reports whether a repeated group is the middle level of a list, whose one field is the element.
func wraps(c *column) bool {
	return len(c.fields) == 1 && slices.Contains([]string{"list", "bag", "array"}, c.Name())
}

// element appends a value that is there.
func (p *parquetReader) element(c *column, values [][]parquet.Value) {
	if len(c.fields) == 1 && c.fields[0].Repeated() { // a list or a map
		p.value(c.fields[0], values)
		return
	}
	if !c.Leaf() {
		p.object(c.fields, values, c.leaf)
		return
	}
	switch v := values[0][0]; v.Kind() {
	case parquet.Boolean:
		p.out = strconv.AppendBool(p.out, v.Boolean())
	case parquet.Int32:
		p.out = strconv.AppendInt(p.out, int64(v.Int32()), 10)
	case parquet.Int64:
		p.out = strconv.AppendInt(p.out, v.Int64(), 10)
	case parquet.Float:
		p.out = strconv.AppendFloat(p.out, float64(v.Float()), 'g', -1, 32)
	case parquet.Double:
		p.out = strconv.AppendFloat(p.out, v.Double(), 'g', -1, 64)
	case parquet.ByteArray:
		if len(v.ByteArray()) > p.o.MaxSampleBytes {
			p.large = true
			return
		}
		p.out = appendText(p.out, string(v.ByteArray()))
	default:
		p.out = append(p.out, "null"...)
	}
}
