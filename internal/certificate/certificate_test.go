package certificate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// issue returns a self-signed certificate of a name, and its key, as PEM.
func issue(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// TestReplaced: a new pair is used as soon as both files are there; until then, and where they are no pair, the one
// before is.
func TestReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
		write := func(path string, text []byte) {
			t.Helper()
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		first, firstKey := issue(t, "first")
		second, secondKey := issue(t, "second")
		write(certFile, first)
		write(keyFile, firstKey)
		var text bytes.Buffer
		c, err := Config(certFile, keyFile, slog.New(slog.NewTextHandler(&text, nil)))
		if err != nil {
			t.Fatal(err)
		}
		wants := func(name, logged string) {
			t.Helper()
			time.Sleep(checkEvery)
			for range 3 {
				got, err := c.GetCertificate(&tls.ClientHelloInfo{})
				if err != nil || got.Leaf.Subject.CommonName != name {
					t.Errorf("%v, %v, want %s", got.Leaf.Subject, err, name)
				}
			}
			if n := strings.Count(text.String(), "\n"); !strings.Contains(text.String(), logged) || n > 1 {
				t.Errorf("logged %q, want %q", text.String(), logged)
			}
			text.Reset()
		}
		wants("first", "")
		write(certFile, second)
		wants("first", "the one before is used")
		wants("first", "")
		write(keyFile, secondKey)
		wants("second", "read again")
		write(certFile, []byte("none"))
		wants("second", "the one before is used")
		if err := os.Remove(certFile); err != nil {
			t.Fatal(err)
		}
		wants("second", "the one before is used")
		write(certFile, first)
		write(keyFile, firstKey)
		wants("first", "read again")
	})
}

func TestConfigRefuses(t *testing.T) {
	dir := t.TempDir()
	cert, _ := issue(t, "one")
	_, other := issue(t, "other")
	for name, text := range map[string][]byte{"cert": cert, "other": other} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	if _, err := Config(filepath.Join(dir, "cert"), filepath.Join(dir, "none"), log); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no key: %v", err)
	}
	_, err := Config(filepath.Join(dir, "cert"), filepath.Join(dir, "other"), log)
	if err == nil || !strings.Contains(err.Error(), "does not match") {
		t.Errorf("another's key: %v", err)
	}
}
