package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// freePort returns a port on which no program listens now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// TestMonitor: --metrics-listen answers probes and metrics without a key, and nothing else; pprof only where the
// address is loopback or with --pprof.
func TestMonitor(t *testing.T) {
	keys := writeFile(t, "keys", "secret-key-of-sixteen\n")
	for _, c := range []struct {
		host     string
		more     []string
		profiles int
	}{{"127.0.0.1", nil, 200}, {"0.0.0.0", nil, 404}, {"0.0.0.0", []string{"--pprof"}, 200}} {
		t.Run(c.host+strings.Join(c.more, ""), func(t *testing.T) {
			port := freePort(t)
			p := startServer(t, append([]string{"--model", stories(t), "--api-key-file", keys, "--metrics-listen",
				c.host + ":" + port}, c.more...)...)
			ask := func(url, path string) (int, string) { return read(t, url+path) }
			monitor := "http://127.0.0.1:" + port
			if status, _ := ask(p.url, "/metrics"); status != 401 {
				t.Errorf("/metrics of the API without a key: %d", status)
			}
			for path, want := range map[string]string{"/metrics": "vllm:num_requests_running{", "/live": "ok",
				"/ready": "ready", "/health": "ok", "/health/": "ok", "/v1/health": "ok", "/ping": "ok",
				"/load": `{"server_load":0}`} {
				if status, body := ask(monitor, path); status != 200 || !strings.Contains(body, want) {
					t.Errorf("%s: %d %.200s", path, status, body)
				}
			}
			for _, path := range []string{"/v1/models", "/version", "/openapi.json", "/admin/v1/status",
				"/debug/pprof/cmdline", "/debug/vars"} {
				if status, body := ask(monitor, path); status != 404 {
					t.Errorf("%s: %d %.200s", path, status, body)
				}
			}
			for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1",
				"/debug/pprof/profile?seconds=1"} {
				if status, body := ask(monitor, path); status != c.profiles || len(body) < 50 {
					t.Errorf("%s: %d, want %d, %.200s", path, status, c.profiles, body)
				}
			}
		})
	}
}

// read returns the status and the body of an answer.
func read(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestListenSettings: settings of the listeners that cannot be right end the start.
func TestListenSettings(t *testing.T) {
	file := writeFile(t, "none.pem", "no certificate")
	for args, says := range map[string]string{
		"--metrics-listen nowhere":                  `--metrics-listen "nowhere": write HOST:PORT`,
		"--allowed-host http://x.ex":                `--allowed-host: "http://x.ex": write the name`,
		"--allowed-host x.ex --allowed-host *.x.ex": `--allowed-host: "*.x.ex": write the name`,
		"--pprof":            "--pprof needs the address of --metrics-listen",
		"--tls-cert " + file: "--tls-cert needs --tls-key too",
		"--tls-key " + file:  "--tls-key needs --tls-cert too",
		"--tls-cert " + file + " --tls-key " + file:      "--tls-cert: ",
		"--tls-cert " + file + "x --tls-key " + file:     "no such file",
		"--listen 127.0.0.1 --metrics-listen 127.0.0.1:": `--listen "127.0.0.1": write HOST:PORT`,
	} {
		arguments := append([]string{"serve", "--listen", "127.0.0.1:0", "--model", stories(t), "--data", t.TempDir()},
			strings.Fields(args)...)
		if _, stderr, status := run(t, "", arguments...); status != 2 || !strings.Contains(stderr, says) {
			t.Errorf("%s: status %d, %q, want %q", args, status, stderr, says)
		}
	}
}

// issue writes a new self-signed certificate for 127.0.0.1, and its key.
func issue(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der},
		keyFile: {Type: "EC PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTLS: with --tls-cert the API is HTTPS alone, streams too, and a new certificate is used without a restart.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	issue(t, certFile, keyFile, 1)
	p := launchServer(t, "--model", stories(t), "--tls-cert", certFile, "--tls-key", keyFile)
	p.url = strings.Replace(p.url, "http:", "https:", 1)
	// get asks on a new connection and trusts the certificate that the file has now.
	get := func(path string, body string) (*http.Response, error) {
		text, err := os.ReadFile(certFile)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(text)
		c := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{RootCAs: roots}}}
		if body == "" {
			return c.Get(p.url + path)
		}
		return c.Post(p.url+path, "application/json", strings.NewReader(body))
	}
	serial := func() int64 {
		resp, err := get("/ready", "")
		if err != nil || resp.StatusCode != 200 {
			return -1
		}
		resp.Body.Close()
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	await := func(want int64) {
		t.Helper()
		for end := time.Now().Add(time.Minute); serial() != want; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the certificate is not number %d after a minute\n%s", want, p.log)
			}
		}
	}
	await(1)
	if log := p.log.String(); !strings.Contains(log, "url=https://127.0.0.1:") {
		t.Errorf("the log has no URL with https:\n%s", log)
	}
	resp, err := get("/v1/completions", `{"prompt":"Once upon a time","max_tokens":20,"ignore_eos":true,"stream":true}`)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !strings.HasSuffix(string(body), "data: [DONE]\n\n") {
		t.Errorf("%v %.200s", err, body)
	}
	if resp, err := client.Get(strings.Replace(p.url, "https:", "http:", 1) + "/v1/models"); err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("HTTP without TLS: %d", resp.StatusCode)
		}
	}
	t.Setenv("SSL_CERT_FILE", certFile)
	if _, stderr, status := run(t, "", "doctor", "--url", p.url); status != 0 {
		t.Errorf("doctor --url: %s", stderr)
	}
	issue(t, certFile, keyFile, 2)
	await(2)
}

// TestHangup: SIGHUP drains like SIGTERM; metrics and probes are answered meanwhile.
func TestHangup(t *testing.T) {
	caught := make(chan os.Signal, 1) // so that the program does not inherit that it is ignored, as under nohup
	signal.Notify(caught, syscall.SIGHUP)
	defer signal.Stop(caught)
	port := freePort(t)
	p := startServer(t, "--model", stories(t), "--metrics-listen", "127.0.0.1:"+port)
	release := p.hold()
	p.signal(syscall.SIGHUP)
	p.await("/ready", http.StatusServiceUnavailable).Body.Close()
	for path, want := range map[string]int{"/live": 200, "/metrics": 200, "/ready": 503, "/health": 503} {
		if status, body := read(t, "http://127.0.0.1:"+port+path); status != want {
			t.Errorf("%s while draining: %d %.200s", path, status, body)
		}
	}
	if status := release(); status != http.StatusOK {
		t.Errorf("the running request: %d", status)
	}
	if status := p.wait(10 * time.Second); status != 0 {
		t.Errorf("exit status %d\n%s", status, p.log)
	}
}

// TestAdapterNames: the metrics name the adapters in memory as requests may name them, by tenant, also after the
// requests have ended; equal adapters of two tenants are not confused.
func TestAdapterNames(t *testing.T) {
	same, model := storiesAdapter(t, 1)
	other, _ := storiesAdapter(t, 2)
	data, port := t.TempDir(), freePort(t)
	do := func(args ...string) string {
		t.Helper()
		out, stderr, status := run(t, "", append(args, "--data", data)...)
		if status != 0 {
			t.Fatalf("weft %v: %s", args, stderr)
		}
		return strings.TrimSpace(out)
	}
	keys := map[string]string{}
	for tenant, all := range map[string]map[string]string{"acme": {"support": same, "sales": other, "idle": other},
		"beta": {"support": same, "mine": same}} {
		do("tenants", "add", tenant)
		keys[tenant] = do("keys", "add", "--tenant", tenant)
		for name, dir := range all {
			do("adapters", "add", tenant+"/"+name, dir, "--model", model)
		}
	}
	p := launch(t, func(addr string) []string {
		return []string{"serve", "--listen", addr, "--memory", "1GiB", "--data", data, "--model", model,
			"--served-model-name", "tiny", "--metrics-listen", "127.0.0.1:" + port}
	})
	p.await("/ready", http.StatusOK).Body.Close()
	ask := func(tenant, name string) int {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, p.url+"/v1/completions",
			strings.NewReader(`{"model":"`+name+`","prompt":"Once","max_tokens":1}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+keys[tenant])
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	info := regexp.MustCompile(
		`(?m)^vllm:lora_requests_info\{max_lora="(\d+)",running_lora_adapters="(.*)",waiting_lora_adapters=""\} `)
	scrape := func() (most int, names []string) {
		t.Helper()
		_, body := read(t, "http://127.0.0.1:"+port+"/metrics")
		found := info.FindStringSubmatch(body)
		if found == nil {
			t.Fatalf("no vllm:lora_requests_info in %s", body)
		}
		most, err := strconv.Atoi(found[1])
		if err != nil {
			t.Fatal(err)
		}
		return most, strings.FieldsFunc(found[2], func(r rune) bool { return r == ',' })
	}
	if most, names := scrape(); len(names) != 0 || most < 1 {
		t.Errorf("before any request: %v of %d", names, most)
	}
	for _, c := range [][2]string{{"acme", "support"}, {"beta", "support"}, {"beta", "mine"}, {"acme", "sales"}} {
		if status := ask(c[0], c[1]); status != http.StatusOK {
			t.Fatalf("%v: %d", c, status)
		}
	}
	most, names := scrape()
	want := []string{"sales", "acme/sales", "tiny:sales", "mine", "beta/mine", "tiny:mine", "support", "beta/support",
		"tiny:support", "acme/support"}
	if !slices.Equal(names, want) || most <= len(names) {
		t.Errorf("%v of %d, want %v", names, most, want)
	}
	for _, name := range names {
		used := 0
		for tenant := range keys {
			switch status := ask(tenant, name); status {
			case http.StatusOK:
				used++
			case http.StatusNotFound:
			default:
				t.Errorf("%s of %s: %d", name, tenant, status)
			}
		}
		if equal := name == "support" || name == "tiny:support"; used != 1 && !equal || used != 2 && equal {
			t.Errorf("%s may be used by %d tenants", name, used)
		}
	}
}
