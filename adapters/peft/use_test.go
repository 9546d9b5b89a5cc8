package peft_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"weft/adapters/peft"
	"weft/adapters/peft/pefttest"
	"weft/runtime/device/ref"
	"weft/runtime/lora"
	"weft/runtime/model"
	"weft/runtime/tensor"
	"weft/runtime/weights"
)

// Use returns the bytes that Load copies; a file that is cut short while it is mapped is an error, and no memory of the
// device is lost.
func TestUse(t *testing.T) {
	base := pefttest.Shape{Cfg: &model.Config{Architecture: "llama", Hidden: 64, Layers: 4, Heads: 4, KVHeads: 2,
		HeadDim: 16, FFN: 96, Vocab: 100}}
	dir := filepath.Join(t.TempDir(), "adapter")
	if err := pefttest.Write(dir, base.Cfg, pefttest.Options{Rank: 16, DType: tensor.F16}); err != nil {
		t.Fatal(err)
	}
	want, err := peft.Load(dir, base)
	if err != nil {
		t.Fatal(err)
	}
	err = peft.Use(dir, base, func(got *lora.Adapter) error {
		if !reflect.DeepEqual(got, want) {
			t.Error("Use lends another adapter than Load returns")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	mine := errors.New("mine")
	if err := peft.Use(dir, base, func(*lora.Adapter) error { return mine }); !errors.Is(err, mine) {
		t.Errorf("the user's error came back as %v", err)
	}
	dev := ref.New(ref.Options{})
	err = peft.Use(dir, base, func(a *lora.Adapter) error {
		if err := os.Truncate(filepath.Join(dir, peft.WeightsFile), 4096); err != nil {
			return err
		}
		w, err := lora.Load(dev, a)
		if err == nil {
			w.Free()
		}
		return err
	})
	if !errors.Is(err, weights.ErrChanged) {
		t.Errorf("a file that was cut short: %v", err)
	}
	if err := dev.Close(); err != nil {
		t.Errorf("memory is left on the device: %v", err)
	}
}
