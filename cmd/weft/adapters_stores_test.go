//go:build stores

package main

import (
	"os"
	"testing"
)

func TestStoresAdaptersCommands(t *testing.T) {
	testAdaptersCommands(t, "--data", t.TempDir(), "--database", os.Getenv("WEFT_TEST_POSTGRES"), "--bucket",
		os.Getenv("WEFT_TEST_BUCKET")+"/commands",
		"--bucket-endpoint", os.Getenv("WEFT_TEST_BUCKET_ENDPOINT"))
}
