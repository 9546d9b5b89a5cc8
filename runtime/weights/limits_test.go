package weights

import (
	"fmt"
	"strings"
	"testing"

	"weft/quant"
)

// Files with as many small elements as fit, which are refused only at the end, allocate in proportion to their size.
func TestAllocationFollowsFileSize(t *testing.T) {
	const n = 20_000
	const noType = 99 // a value type that does not exist
	keys := newGGUF(3, 0, n+1)
	for i := range n {
		keys.meta(fmt.Sprintf("%x", i), ggufBool, true)
	}
	keys.meta("end", noType)
	empties := newGGUF(3, 0, 2).str("k").u32(ggufArray).u32(ggufArray).u64(n)
	for range n {
		empties.u32(ggufUint8).u64(0)
	}
	empties.meta("end", noType)
	texts := newGGUF(3, 0, 2).str("k").u32(ggufArray).u32(ggufString).u64(n)
	for range n {
		texts.u64(0)
	}
	texts.meta("end", noType)
	tensors := newGGUF(3, n, 0)
	for i := range n {
		tensors.tensor(fmt.Sprintf("%x", i), quant.GGMLF32, 0, 1)
	}
	var header strings.Builder
	for i := range n {
		fmt.Fprintf(&header, `"%x":{"dtype":"U8","shape":[],"data_offsets":[0,1]},`, i)
	}
	for name, data := range map[string][]byte{
		"keys": keys.data(1, 0), "empty arrays": empties.data(1, 0), "empty strings": texts.data(1, 0),
		"tensors":     tensors.data(32, 4),
		"safetensors": st("{"+strings.TrimSuffix(header.String(), ",")+"}", 1),
		"brackets":    st(`{"__metadata__":{},"a":{"shape":[`+strings.Repeat("1,", n)+"1]}}", 0),
	} {
		t.Run(name, func(t *testing.T) { mustRefuse(t, data, "") })
	}
}

// After Close a read is an error, and many readers at once are fine before it.
func TestReadsAtOnceAndAfterClose(t *testing.T) {
	s, err := Open(writeFile(t, t.TempDir(), "x", layerFile()))
	if err != nil {
		t.Fatal(err)
	}
	const name = "model.layers.1.self_attn.q_proj.weight"
	errs := make(chan error)
	for range 8 {
		go func() {
			_, err := s.Matrix(name)
			errs <- err
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if _, err := s.Matrix(name); err == nil {
		t.Error("read after Close")
	}
}
