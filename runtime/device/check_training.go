package device

import "fmt"

// CheckMatMul checks MatMulArgs. Out must be disjoint from A and B, which may be the same view.
func CheckMatMul(a MatMulArgs) error {
	const op = "matmul"
	if !isFinite(a.Alpha) {
		return shapeErr(op, "alpha %v is not a number", a.Alpha)
	}
	if a.Precision > BF16 {
		return shapeErr(op, "precision %d is unknown", a.Precision)
	}
	m, k := a.A.Rows, a.A.Cols
	if a.TransA {
		m, k = k, m
	}
	rows, cols := k, a.Out.Cols
	if a.TransB {
		rows, cols = cols, rows
	}
	if err := checkView(op, "a", a.A, a.A.Rows, a.A.Cols); err != nil {
		return err
	}
	if err := checkView(op, "b", a.B, rows, cols); err != nil {
		return err
	}
	if err := checkView(op, "out", a.Out, m, a.Out.Cols); err != nil {
		return err
	}
	if overlap(a.Out, a.A) || overlap(a.Out, a.B) {
		return shapeErr(op, "out overlaps a or b")
	}
	return nil
}

// CheckLinearGrad checks LinearGradArgs. DX must be disjoint from every DY.
func CheckLinearGrad(a LinearGradArgs) error {
	const op = "linear grad"
	if err := checkView(op, "dx", a.DX, a.DX.Rows, a.DX.Cols); err != nil {
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
		if (p.W == nil) == (p.Matrix.Buf == nil) {
			return shapeErr(op, "part %d has no weight, or both a weight and a matrix", i)
		}
		rows, cols := p.Matrix.Rows, p.Matrix.Cols
		if p.W != nil {
			rows, cols = p.W.Rows(), p.W.Cols()
		} else if err := checkView(op, "the matrix", p.Matrix, rows, cols); err != nil {
			return fmt.Errorf("part %d: %w", i, err)
		} else if overlap(p.Matrix, a.DX) {
			return shapeErr(op, "the matrix of part %d overlaps dx", i)
		}
		if cols != a.DX.Cols {
			return shapeErr(op, "dx has %d columns, the weight of part %d is [%d, %d]", a.DX.Cols, i, rows, cols)
		}
		if err := checkView(op, "dy", p.DY, a.DX.Rows, rows); err != nil {
			return fmt.Errorf("part %d: %w", i, err)
		}
		if overlap(p.DY, a.DX) {
			return shapeErr(op, "dy of part %d overlaps dx", i)
		}
	}
	return nil
}

// CheckRMSNormGrad checks RMSNormGradArgs. DX is DY or disjoint from it; X is disjoint from DX; DWeight is a separate
// buffer, as long as Weight.
func CheckRMSNormGrad(a RMSNormGradArgs) error {
	const op = "rmsnorm grad"
	if err := checkNorm(op, a.Weight, a.Parts, a.Eps, a.X.Cols); err != nil {
		return err
	}
	if a.DWeight != nil {
		if a.DWeight.Bytes() != a.Weight.Bytes() {
			return shapeErr(op, "the gradient of the weight has %d bytes, the weight %d", a.DWeight.Bytes(),
				a.Weight.Bytes())
		}
		if a.DWeight == a.Weight || a.DWeight == a.X.Buf || a.DWeight == a.DY.Buf || a.DWeight == a.DX.Buf {
			return shapeErr(op, "the gradient of the weight shares the buffer of another argument")
		}
	}
	for _, v := range []named{{"x", a.X}, {"dy", a.DY}, {"dx", a.DX}} {
		if err := checkView(op, v.name, v.v, a.X.Rows, a.X.Cols); err != nil {
			return err
		}
	}
	if overlap(a.DX, a.X) {
		return shapeErr(op, "dx overlaps x")
	}
	if !sameView(a.DX, a.DY) && overlap(a.DX, a.DY) {
		return shapeErr(op, "dx overlaps dy without being dy")
	}
	return nil
}

// CheckRotate checks RotateArgs. Table and TableRows may be empty where Rot is 0.
func CheckRotate(a RotateArgs) error {
	const op = "rotate"
	if a.HeadDim <= 0 || a.X.Cols%a.HeadDim != 0 {
		return shapeErr(op, "x has %d columns, not a multiple of the head width %d", a.X.Cols, a.HeadDim)
	}
	if a.Rot < 0 || a.Rot%2 != 0 || a.Rot > a.HeadDim {
		return shapeErr(op, "rotated width %d is not an even number in 0..%d", a.Rot, a.HeadDim)
	}
	if err := checkView(op, "x", a.X, a.X.Rows, a.X.Cols); err != nil {
		return err
	}
	if a.Rot == 0 {
		return nil
	}
	if a.Table == nil || len(a.TableRows) != a.X.Rows {
		return shapeErr(op, "no table, or %d table rows for %d tokens", len(a.TableRows), a.X.Rows)
	}
	rows := a.Table.Bytes() / 4 / int64(a.Rot)
	for i, r := range a.TableRows {
		if r < -1 || int64(r) >= rows {
			return shapeErr(op, "table row %d of token %d; the table has %d rows of %d", r, i, rows, a.Rot)
		}
	}
	return nil
}

// CheckSelfAttention checks SelfAttentionArgs. Out and LSE are disjoint from all other views.
func CheckSelfAttention(a SelfAttentionArgs) error {
	return checkSelfAttention("self attention", a, true)
}

func checkSelfAttention(op string, a SelfAttentionArgs, forward bool) error {
	if a.HeadDim <= 0 || a.Q.Cols <= 0 || a.K.Cols <= 0 || a.K.Cols%a.HeadDim != 0 || a.Q.Cols%a.K.Cols != 0 {
		return shapeErr(op,
			"q has %d columns and k %d: want a multiple of k's, which are a multiple of the head width %d", a.Q.Cols,
			a.K.Cols, a.HeadDim)
	}
	tokens := a.Q.Rows
	views := []named{{"q", a.Q}, {"k", a.K}, {"v", a.V}, {"out", a.Out}, {"lse", a.LSE}}
	for i, cols := range []int{a.Q.Cols, a.K.Cols, a.K.Cols, a.Q.Cols, a.Q.Cols / a.HeadDim} {
		if err := checkView(op, views[i].name, views[i].v, tokens, cols); err != nil {
			return err
		}
	}
	if forward {
		if err := disjoint(op, views[3:], views); err != nil {
			return err
		}
	}
	if a.Window < 0 || !(a.Softcap >= 0) || isInf(a.Softcap) || !isFinite(a.Scale) {
		return shapeErr(op, "window %d, softcap %v, scale %v; want >= 0, >= 0, a number", a.Window, a.Softcap, a.Scale)
	}
	if len(a.Indptr) == 0 || a.Indptr[0] != 0 || int64(a.Indptr[len(a.Indptr)-1]) != int64(tokens) {
		return shapeErr(op, "indptr %v for %d tokens; want it to go from 0 to the tokens", a.Indptr, tokens)
	}
	for d := range len(a.Indptr) - 1 {
		if a.Indptr[d] > a.Indptr[d+1] {
			return shapeErr(op, "indptr goes from %d to %d at sample %d", a.Indptr[d], a.Indptr[d+1], d)
		}
	}
	if a.Prefix != nil && len(a.Prefix) != len(a.Indptr)-1 {
		return shapeErr(op, "%d prefixes for %d samples", len(a.Prefix), len(a.Indptr)-1)
	}
	for d, p := range a.Prefix {
		if int(p) >= d || p >= 0 && a.Prefix[p] >= 0 {
			return shapeErr(op, "sample %d continues %d; want an earlier one that continues nothing, or -1", d, p)
		}
	}
	return nil
}

// CheckSelfAttentionGrad checks SelfAttentionGradArgs. DQ, DK and DV are disjoint from all other views.
func CheckSelfAttentionGrad(a SelfAttentionGradArgs) error {
	const op = "self attention grad"
	if err := checkSelfAttention(op, a.SelfAttentionArgs, false); err != nil {
		return err
	}
	views := []named{{"dout", a.DOut}, {"dq", a.DQ}, {"dk", a.DK}, {"dv", a.DV}, {"q", a.Q}, {"k", a.K}, {"v", a.V},
		{"out", a.Out}, {"lse", a.LSE}}
	for i, cols := range []int{a.Q.Cols, a.Q.Cols, a.K.Cols, a.K.Cols} {
		if err := checkView(op, views[i].name, views[i].v, a.Q.Rows, cols); err != nil {
			return err
		}
	}
	return disjoint(op, views[1:4], views)
}

// CheckGLUGrad checks GLUGradArgs. DGate and DUp are each Gate, Up or DOut, or disjoint from them; they are disjoint
// from one another.
func CheckGLUGrad(a GLUGradArgs) error {
	const op = "glu grad"
	if a.Act > GELUErf {
		return shapeErr(op, "activation %d is unknown", a.Act)
	}
	all := [...]named{{"gate", a.Gate}, {"up", a.Up}, {"dout", a.DOut}, {"dgate", a.DGate}, {"dup", a.DUp}}
	in, out := all[:3], all[3:]
	for _, v := range all {
		if err := checkView(op, v.name, v.v, a.Gate.Rows, a.Gate.Cols); err != nil {
			return err
		}
	}
	for _, o := range out {
		for _, i := range in {
			if !sameView(o.v, i.v) && overlap(o.v, i.v) {
				return shapeErr(op, "%s overlaps %s without being it", o.name, i.name)
			}
		}
	}
	return disjoint(op, out[:1], out)
}

// CheckCrossEntropy checks CrossEntropyArgs. Labels below 0 are ignored rows.
func CheckCrossEntropy(a CrossEntropyArgs) error {
	const op = "cross entropy"
	if err := checkView(op, "logits", a.Logits, len(a.Labels), a.Logits.Cols); err != nil {
		return err
	}
	if err := checkView(op, "loss", a.Loss, len(a.Labels), 1); err != nil {
		return err
	}
	if overlap(a.Logits, a.Loss) {
		return shapeErr(op, "loss overlaps logits")
	}
	if !isFinite(a.Scale) || !(a.Softcap >= 0) || isInf(a.Softcap) {
		return shapeErr(op, "scale %v, softcap %v; want a number, a number >= 0", a.Scale, a.Softcap)
	}
	for i, l := range a.Labels {
		if int64(l) >= int64(a.Logits.Cols) {
			return shapeErr(op, "label %d of row %d; there are %d logits", l, i, a.Logits.Cols)
		}
	}
	return nil
}

// CheckEmbedGrad checks EmbedGradArgs. DY and DTable are disjoint.
func CheckEmbedGrad(a EmbedGradArgs) error {
	const op = "embed grad"
	if err := checkView(op, "dy", a.DY, len(a.IDs), a.DTable.Cols); err != nil {
		return err
	}
	if err := checkView(op, "dtable", a.DTable, a.DTable.Rows, a.DTable.Cols); err != nil {
		return err
	}
	if overlap(a.DY, a.DTable) {
		return shapeErr(op, "dtable overlaps dy")
	}
	if !isFinite(a.Scale) {
		return shapeErr(op, "scale %v is not a number", a.Scale)
	}
	for i, id := range a.IDs {
		if !inRange(id, a.DTable.Rows) {
			return shapeErr(op, "id %d of token %d is outside the table's %d rows", id, i, a.DTable.Rows)
		}
	}
	return nil
}

type named struct {
	name string
	v    View
}

// disjoint checks that none of the outs shares an element with another of the views, the outs among them.
func disjoint(op string, outs, views []named) error {
	for _, o := range outs {
		for _, v := range views {
			if v.name != o.name && overlap(o.v, v.v) {
				return shapeErr(op, "%s overlaps %s", o.name, v.name)
			}
		}
	}
	return nil
}
