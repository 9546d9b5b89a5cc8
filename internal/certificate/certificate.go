// Package certificate serves TLS with a certificate whose files may be replaced while the program runs.
package certificate

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// checkEvery is how often the files are read again, at most, and only when a client connects.
const checkEvery = time.Second

// pair is a certificate with the files that it was read from.
type pair struct {
	certFile, keyFile string
	log               *slog.Logger

	mu        sync.Mutex
	checked   time.Time
	cert, key []byte // the files' contents when they were last read, whether or not they were usable
	current   *tls.Certificate
}

// Config returns a configuration for HTTP/1.1 over TLS with the certificate (with its chain) and the key of two PEM
// files. Connections made after the files have changed get the new certificate; files that are no pair, as in the
// middle of a replacement, are logged, and the certificate before is used on. An error says that the files are no pair
// now.
func Config(certFile, keyFile string, log *slog.Logger) (*tls.Config, error) {
	p := &pair{certFile: certFile, keyFile: keyFile, log: log}
	if err := p.read(); err != nil {
		return nil, err
	}
	p.checked = time.Now()
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.get(), nil }}, nil
}

// get returns the certificate, after a look at the files where the last one was long ago.
func (p *pair) get() *tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.checked) >= checkEvery {
		p.checked = time.Now()
		if err := p.read(); err != nil {
			p.log.Warn("the TLS certificate was not read again; the one before is used", "error", err)
		}
	}
	return p.current
}

// read makes the files' certificate the current one. Contents that were read before are not looked at again.
func (p *pair) read() error {
	cert, err := os.ReadFile(p.certFile)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	key, err := os.ReadFile(p.keyFile)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	if bytes.Equal(cert, p.cert) && bytes.Equal(key, p.key) {
		return nil
	}
	again := p.current != nil
	p.cert, p.key = cert, key
	c, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("%s and %s: %w", p.certFile, p.keyFile, err)
	}
	if p.current = &c; again {
		p.log.Info("TLS certificate read again", "not_after", c.Leaf.NotAfter)
	}
	return nil
}
