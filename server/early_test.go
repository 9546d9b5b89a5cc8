package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"weft/internal/deadline"
	"weft/server/tenant"
)

// announce opens a connection and sends what begins a request.
func announce(t *testing.T, addr, line, headers, part string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(deadline.Limit))
	fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n%s", line, headers, part)
	return conn, bufio.NewReader(conn)
}

const jsonType = "Content-Type: application/json\r\n"

// TestEarlyAnswers: an answer for which the body is not needed does not wait for it, however its length is announced.
// The connection ends soon after.
func TestEarlyAnswers(t *testing.T) {
	s, _ := newTenants(t, withAdapters(library()), func(c *Config, _ *Deps) {
		c.BodyTimeout, c.WriteTimeout, c.MaxBody = time.Hour, time.Hour, 5000
	})
	key := "Authorization: Bearer " + s.tenantKey(t, "acme", nil) + "\r\n"
	admin := "Authorization: Bearer " + s.scopedKey(t, "acme", nil, tenant.Admin) + "\r\n"
	addr, _ := serveTest(t, s.Server)
	lengths := map[string]string{"known": "Content-Length: 1000\r\n\r\n{", "large": "Content-Length: 900000\r\n\r\n{",
		"chunked": "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
		"waits":   "Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n"}
	type answer struct {
		name, more string // more of the body, after the answer
		want       int
		conn       net.Conn
		in         *bufio.Reader
	}
	var open []answer
	began := time.Now()
	for _, c := range []struct {
		line, headers string
		want          int
	}{
		{"POST /v1/completions", jsonType, 401},
		{"POST /nowhere", jsonType, 401},
		{"POST /nowhere", key + jsonType, 404},
		{"PUT /v1/completions", key + jsonType, 405},
		{"POST /v1/completions", key + "Content-Type: text/plain\r\n", 415},
		{"POST /admin/v1/tenants/acme/keys", key + jsonType, 403},
		{"POST /admin/v1/tenants/none/keys", admin + jsonType, 404},
		{"POST /admin/v1/tenants/none/adapters/a", admin + "Content-Type: application/zip\r\n", 404},
		{"GET /v1/models", key, 200},
		{"GET /live", "", 200},
		{"OPTIONS /v1/models", key, 405},
	} {
		for length, rest := range lengths {
			header, part, _ := strings.Cut(rest, "\r\n\r\n")
			conn, in := announce(t, addr, c.line, c.headers+header+"\r\n", part)
			more := map[string]string{"chunked": "1\r\nx\r\n", "waits": ""}
			if _, ok := more[length]; !ok {
				more[length] = "x"
			}
			open = append(open, answer{c.line + " " + length, more[length], c.want, conn, in})
		}
	}
	for _, a := range open {
		resp, err := http.ReadResponse(a.in, nil)
		if err != nil {
			t.Errorf("%s: %v", a.name, err)
			continue
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != a.want || !resp.Close || time.Since(began) > deadline.Limit/3 {
			t.Errorf("%s: %d after %v, closes the connection: %v; want %d", a.name, resp.StatusCode, time.Since(began),
				resp.Close, a.want)
		}
		_, _ = io.WriteString(a.conn, a.more) // a client that is still writing
	}
	for line, rest := range map[string]string{"413": key + jsonType + "Content-Length: 900000\r\n",
		"413 chunked": key + jsonType + "Transfer-Encoding: chunked\r\n"} {
		part := strings.Repeat("x", 6000)
		if strings.HasSuffix(line, "chunked") {
			part = "10000\r\n" + part
		}
		_, in := announce(t, addr, "POST /v1/completions", rest, part)
		if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 413 || !resp.Close {
			t.Errorf("%s: %v %v", line, resp, err)
		}
	}
	for _, a := range open {
		if _, err := io.Copy(io.Discard, a.in); err != nil {
			t.Errorf("%s: the connection ends with %v", a.name, err)
		}
	}
}

// TestRefusedWhole: a refusal of a request whose body is there keeps the connection, also where the body comes a
// little later than the header; a client that writes all of a large body before it reads gets the answer too.
func TestRefusedWhole(t *testing.T) {
	s, _ := newTenants(t)
	s.tenantKey(t, "acme", nil)
	addr, _ := serveTest(t, s.Server)
	conn, in := announce(t, addr, "POST /v1/completions", jsonType+"Content-Length: 2\r\n", "{}")
	for i := range 3 {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != 401 || resp.Close {
			t.Errorf("request %d: %d, closes the connection: %v", i, resp.StatusCode, resp.Close)
		}
		fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: 2\r\n\r\n", jsonType)
		_, _ = io.WriteString(conn, "{}")
	}
	const size = 8 << 20
	conn, in = announce(t, addr, "POST /v1/completions", jsonType+fmt.Sprintf("Content-Length: %d\r\n", size), "")
	if _, err := io.WriteString(conn, strings.Repeat(" ", size)); err != nil {
		t.Errorf("writing the body: %v", err)
	}
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 401 {
		t.Errorf("after a large body: %v %v", resp, err)
	}
}
