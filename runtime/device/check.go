package device

import (
	"fmt"
	"math"

	"weft/quant"
	"weft/runtime/tensor"
)

// The Check functions are the argument checks of the devices with F32 activations, so that all devices refuse the same
// arguments with the same messages. Every error wraps ErrShape and names the operation, the argument and its values.
// They allocate only when they fail. Each device itself checks that a buffer, weight or cache belongs to it and is not
// freed.

func shapeErr(op, format string, args ...any) error {
	return fmt.Errorf("%s: %w: %s", op, ErrShape, fmt.Sprintf(format, args...))
}

// CheckAlloc checks the arguments of Device.Alloc.
func CheckAlloc(p Purpose, bytes int64) error {
	if p >= NumPurposes || bytes < 0 {
		return shapeErr("alloc", "%d bytes for purpose %d; want 0 or more bytes for a purpose below %d", bytes, p,
			NumPurposes)
	}
	return nil
}

// CheckRange checks a Buffer.Read or Write (named by op) of n bytes at offset off of a buffer of size bytes.
func CheckRange(op string, off int64, n int, size int64) error {
	if off < 0 || off > size || int64(n) > size-off {
		return shapeErr(op, "%d bytes at offset %d do not lie in a buffer of %d bytes", n, off, size)
	}
	return nil
}

// CheckMatrix checks the arguments of Device.LoadMatrix.
func CheckMatrix(p Purpose, m *quant.Matrix) error {
	if p >= NumPurposes {
		return shapeErr("load matrix", "purpose %d; want one below %d", p, NumPurposes)
	}
	if m == nil {
		return shapeErr("load matrix", "no matrix")
	}
	if err := m.Validate(); err != nil {
		return fmt.Errorf("load matrix: %w: %w", ErrShape, err)
	}
	return nil
}

// CheckKVConfig checks the argument of Device.NewKVCache: positive dimensions, a page length that is a multiple of 16,
// a float type, a total that fits in 2^62 bytes, slots that fit in int32.
func CheckKVConfig(c KVConfig) error {
	const op = "new kv cache"
	if c.Layers <= 0 || c.KVHeads <= 0 || c.HeadDim <= 0 || c.NumPages <= 0 {
		return shapeErr(op, "%d layers, %d heads of %d, %d pages; all must be positive", c.Layers, c.KVHeads, c.HeadDim,
			c.NumPages)
	}
	if c.PageLen <= 0 || c.PageLen%16 != 0 {
		return shapeErr(op, "page length %d is not a positive multiple of 16", c.PageLen)
	}
	if c.DType != tensor.F32 && c.DType != tensor.F16 && c.DType != tensor.BF16 {
		return shapeErr(op, "element type %v; want F32, F16 or BF16", c.DType)
	}
	if int64(c.NumPages) > math.MaxInt32/int64(c.PageLen) {
		return shapeErr(op, "%d pages of %d positions: slots are numbered by int32", c.NumPages, c.PageLen)
	}
	total := int64(2 * c.DType.Size())
	for _, n := range [...]int{c.Layers, c.KVHeads, c.HeadDim, c.PageLen, c.NumPages} {
		if total > (1<<62)/int64(n) {
			return shapeErr(op, "%d layers of %d heads of %d for %d pages of %d need more than 2^62 bytes", c.Layers,
				c.KVHeads, c.HeadDim, c.NumPages, c.PageLen)
		}
		total *= int64(n)
	}
	return nil
}

// CheckCopyPages checks the arguments of Device.CopyPages. Copies happen in order, so a page may be both copied to and,
// later, from.
func CheckCopyPages(c KVConfig, dst, src []int32) error {
	if len(dst) != len(src) {
		return shapeErr("copy pages", "%d pages to %d pages", len(src), len(dst))
	}
	for i := range dst {
		if !inRange(dst[i], c.NumPages) || !inRange(src[i], c.NumPages) {
			return shapeErr("copy pages", "page %d to page %d, there are pages 0..%d", src[i], dst[i], c.NumPages-1)
		}
	}
	return nil
}

// CheckEmbed checks EmbedArgs.
func CheckEmbed(a EmbedArgs) error {
	const op = "embed"
	if a.Table == nil {
		return shapeErr(op, "no table")
	}
	if err := checkView(op, "out", a.Out, len(a.IDs), a.Table.Cols()); err != nil {
		return err
	}
	for i, id := range a.IDs {
		if !inRange(id, a.Table.Rows()) {
			return shapeErr(op, "id %d of token %d is outside the table's %d rows", id, i, a.Table.Rows())
		}
	}
	return nil
}

// checkNorm checks the arguments that a norm over rows of cols columns and its gradient have in common.
func checkNorm(op string, weight Buffer, parts int, eps float32, cols int) error {
	if weight == nil || weight.Bytes()%4 != 0 || weight.Bytes() == 0 {
		return shapeErr(op, "the weight must be a buffer of at least one float32")
	}
	if parts < 0 {
		return shapeErr(op, "%d parts", parts)
	}
	if !(eps >= 0) || isInf(eps) {
		return shapeErr(op, "eps %v is not a number >= 0", eps)
	}
	d, parts := weight.Bytes()/4, max(parts, 1)
	if int64(cols)%int64(parts) != 0 || int64(cols)/int64(parts) != d {
		return shapeErr(op, "x has %d columns, the weight %d values for each of %d parts", cols, d, parts)
	}
	return nil
}

// CheckRMSNorm checks RMSNormArgs. Out is X itself (Rows nil), Add itself, or disjoint from both; X and Add are
// disjoint.
func CheckRMSNorm(a RMSNormArgs) error {
	const op = "rmsnorm"
	if err := checkNorm(op, a.Weight, a.Parts, a.Eps, a.X.Cols); err != nil {
		return err
	}
	if err := checkView(op, "x", a.X, a.X.Rows, a.X.Cols); err != nil {
		return err
	}
	rows := a.X.Rows
	if a.Rows != nil {
		rows = len(a.Rows)
		for i, r := range a.Rows {
			if !inRange(r, a.X.Rows) {
				return shapeErr(op, "rows[%d] is %d, x has %d rows", i, r, a.X.Rows)
			}
		}
	}
	if err := checkView(op, "out", a.Out, rows, a.X.Cols); err != nil {
		return err
	}
	if !(a.Rows == nil && sameView(a.Out, a.X)) && overlap(a.Out, a.X) {
		return shapeErr(op, "out overlaps x without being x (and rows nil)")
	}
	if a.Add.Buf == nil {
		return nil
	}
	if a.Rows != nil {
		return shapeErr(op, "add and rows are both set")
	}
	if err := checkView(op, "add", a.Add, a.X.Rows, a.X.Cols); err != nil {
		return err
	}
	if overlap(a.Add, a.X) {
		return shapeErr(op, "add overlaps x")
	}
	if !sameView(a.Out, a.Add) && overlap(a.Out, a.Add) {
		return shapeErr(op, "out overlaps add without being add")
	}
	return nil
}

// CheckLinear checks LinearArgs. The outputs must be disjoint from X and from one another.
func CheckLinear(a LinearArgs) error {
	const op = "linear"
	if err := checkView(op, "x", a.X, a.X.Rows, a.X.Cols); err != nil {
		return err
	}
	if len(a.Parts) == 0 {
		return shapeErr(op, "no parts")
	}
	if a.Precision > BF16 {
		return shapeErr(op, "precision %d is unknown", a.Precision)
	}
	for i := range a.Parts {
		p := &a.Parts[i]
		if p.W == nil {
			return shapeErr(op, "part %d has no weight", i)
		}
		if p.W.Cols() != a.X.Cols {
			return shapeErr(op, "x has %d columns, the weight of part %d is [%d, %d]", a.X.Cols, i, p.W.Rows(),
				p.W.Cols())
		}
		if err := checkView(op, "out", p.Out, a.X.Rows, p.W.Rows()); err != nil {
			return fmt.Errorf("part %d: %w", i, err)
		}
		if p.Bias != nil && p.Bias.Bytes() != 4*int64(p.W.Rows()) {
			return shapeErr(op, "the bias of part %d has %d bytes, the weight %d rows", i, p.Bias.Bytes(), p.W.Rows())
		}
		if overlap(p.Out, a.X) {
			return shapeErr(op, "out of part %d overlaps x", i)
		}
		for j := range i {
			if overlap(p.Out, a.Parts[j].Out) {
				return shapeErr(op, "the outs of parts %d and %d overlap", j, i)
			}
		}
	}
	return nil
}

// CheckRoPE checks RoPEArgs. Q, K and V must be disjoint. Q may be absent, and Table and TableRows empty, where Rot is
// 0.
func CheckRoPE(a RoPEArgs) error {
	const op = "rope"
	c, err := cacheConfig(op, a.Cache, a.Layer, a.HeadDim)
	if err != nil {
		return err
	}
	tokens := len(a.Slots)
	if err := checkView(op, "k", a.K, tokens, c.KVHeads*a.HeadDim); err != nil {
		return err
	}
	if err := checkView(op, "v", a.V, tokens, c.KVHeads*a.HeadDim); err != nil {
		return err
	}
	if overlap(a.K, a.V) {
		return shapeErr(op, "k and v overlap")
	}
	slots := int64(c.NumPages) * int64(c.PageLen)
	for i, s := range a.Slots {
		if s < 0 || int64(s) >= slots {
			return shapeErr(op, "slot %d of token %d is outside the cache's %d pages of %d", s, i, c.NumPages,
				c.PageLen)
		}
	}
	if a.Rot < 0 || a.Rot%2 != 0 || a.Rot > a.HeadDim {
		return shapeErr(op, "rotated width %d is not an even number in 0..%d", a.Rot, a.HeadDim)
	}
	if a.Rot == 0 && a.Q.Buf == nil {
		return nil
	}
	if a.Q.Cols%a.HeadDim != 0 {
		return shapeErr(op, "q has %d columns, not a multiple of the head width %d", a.Q.Cols, a.HeadDim)
	}
	if err := checkView(op, "q", a.Q, tokens, a.Q.Cols); err != nil {
		return err
	}
	if overlap(a.Q, a.K) || overlap(a.Q, a.V) {
		return shapeErr(op, "q overlaps k or v")
	}
	if a.Rot == 0 {
		return nil
	}
	if a.Table == nil || len(a.TableRows) != tokens {
		return shapeErr(op, "no table, or %d table rows for %d tokens", len(a.TableRows), tokens)
	}
	rows := a.Table.Bytes() / 4 / int64(a.Rot)
	for i, r := range a.TableRows {
		if r < -1 || int64(r) >= rows {
			return shapeErr(op, "table row %d of token %d; the table has %d rows of %d", r, i, rows, a.Rot)
		}
	}
	return nil
}

// CheckAttention checks AttentionArgs. Of the page tables it checks the entries that hold visible positions: pages
// before the window may be anything. Q and Out must be disjoint.
func CheckAttention(a AttentionArgs) error {
	const op = "attention"
	c, err := cacheConfig(op, a.Cache, a.Layer, a.HeadDim)
	if err != nil {
		return err
	}
	tokens := len(a.Positions)
	if a.Q.Cols%(a.HeadDim*c.KVHeads) != 0 || a.Q.Cols == 0 {
		return shapeErr(op, "q has %d columns, not a multiple of %d kv heads of %d", a.Q.Cols, c.KVHeads, a.HeadDim)
	}
	if err := checkView(op, "q", a.Q, tokens, a.Q.Cols); err != nil {
		return err
	}
	if err := checkView(op, "out", a.Out, tokens, a.Q.Cols); err != nil {
		return err
	}
	if overlap(a.Q, a.Out) {
		return shapeErr(op, "out overlaps q")
	}
	if a.Window < 0 || !(a.Softcap >= 0) || isInf(a.Softcap) || !isFinite(a.Scale) {
		return shapeErr(op, "window %d, softcap %v, scale %v; want >= 0, >= 0, a number", a.Window, a.Softcap, a.Scale)
	}
	if len(a.Indptr) != len(a.PageTables)+1 || a.Indptr[0] != 0 || int(a.Indptr[len(a.Indptr)-1]) != tokens {
		return shapeErr(op,
			"indptr %v for %d page tables and %d tokens; want one more entry than tables, from 0 to the tokens",
			a.Indptr, len(a.PageTables), tokens)
	}
	for s, table := range a.PageTables {
		b, e := a.Indptr[s], a.Indptr[s+1]
		if b > e || int(e) > tokens {
			return shapeErr(op, "indptr goes from %d to %d at sequence %d", b, e, s)
		}
		if b == e {
			continue
		}
		first, last := a.Positions[b], a.Positions[e-1]
		for i := b; i < e; i++ {
			if a.Positions[i] < 0 || a.Positions[i] != first+(i-b) {
				return shapeErr(op,
					"position %d of row %d: sequence %d starts at position %d and its positions are consecutive",
					a.Positions[i], i, s, first)
			}
		}
		end := int(last)/c.PageLen + 1
		if len(table) < end {
			return shapeErr(op, "sequence %d reaches position %d and needs %d pages of %d, its page table has %d", s,
				last, end, c.PageLen, len(table))
		}
		begin := 0
		if a.Window > 0 {
			begin = max(0, int(first)-a.Window+1) / c.PageLen
		}
		for i := begin; i < end; i++ {
			if !inRange(table[i], c.NumPages) {
				return shapeErr(op, "page %d of sequence %d is %d, the cache has %d pages", i, s, table[i], c.NumPages)
			}
		}
	}
	return nil
}
