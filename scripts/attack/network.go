package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// begin opens a connection and sends the header of a POST and the first byte of its body.
func (w *world) begin(path, key, kind string) (net.Conn, error) {
	address := strings.TrimPrefix(w.url, "http://")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\n"+
		"Content-Length: 1000000\r\n\r\n{", path, address, key, kind)
	return conn, err
}

const short = `{"prompt":"Once","max_tokens":1}`

func endlessBodies(w *world) error {
	evil, err1 := w.key("evil", "infer")
	good, err2 := w.key("good", "infer")
	if err := errors.Join(err1, err2, w.serve()); err != nil {
		return err
	}
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range 1030 {
		c, err := w.begin("/v1/completions", evil, "application/json")
		if err != nil {
			return err
		}
		conns = append(conns, c)
	}
	last := conns[len(conns)-1]
	_ = last.SetReadDeadline(time.Now().Add(10 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(last), nil)
	if err != nil {
		return fmt.Errorf("the last of 1030 requests: %w", err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusTooManyRequests {
		return fmt.Errorf("the last of 1030 requests is answered %s", resp.Status)
	}
	for range 20 {
		if _, err := w.want(200, call{method: "POST", path: "/v1/completions", key: good, body: short}); err != nil {
			return fmt.Errorf("another tenant meanwhile: %w", err)
		}
	}
	return nil
}

func slowUploads(w *world) error {
	var keys []string
	for i := range 9 {
		key, err := w.key(fmt.Sprint("tenant", i), "admin")
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	dir, err := w.adapter(1)
	if err != nil {
		return err
	}
	archive, err := zipOf(dir, "")
	if err != nil {
		return err
	}
	if err := w.serve(); err != nil {
		return err
	}
	for i, key := range keys[:8] {
		for range 2 {
			c, err := w.begin(fmt.Sprintf("/admin/v1/tenants/tenant%d/adapters/a", i), key, "application/zip")
			if err != nil {
				return err
			}
			defer c.Close()
		}
	}
	time.Sleep(200 * time.Millisecond) // they are being received
	_, err = w.want(201, call{method: "POST", path: "/admin/v1/tenants/tenant8/adapters/a", key: keys[8],
		kind: "application/zip", body: archive})
	return err
}

func reboundName(w *world) error {
	if err := w.serve("--allowed-host", "models.test"); err != nil {
		return err
	}
	port := w.url[strings.LastIndexByte(w.url, ':'):]
	for _, c := range []call{{method: "GET", path: "/v1/models"}, {method: "GET", path: "/live"},
		{method: "POST", path: "/admin/v1/tenants/default/keys", body: "{}"},
		{method: "POST", path: "/v1/completions", body: short}} {
		for _, host := range []string{"attacker.example", "attacker.example" + port, "0.0.0.0" + port} {
			c.host = host
			if _, err := w.want(403, c); err != nil {
				return fmt.Errorf("with Host %s: %w", host, err)
			}
		}
	}
	for _, host := range []string{"localhost" + port, "127.0.0.1" + port, "[::1]" + port, "models.test" + port} {
		if _, err := w.want(200, call{method: "GET", path: "/v1/models", host: host}); err != nil {
			return fmt.Errorf("with Host %s: %w", host, err)
		}
	}
	if err := w.stop(); err != nil {
		return err
	}
	if err := w.serve("--insecure"); err != nil {
		return err
	}
	_, err := w.want(200, call{method: "GET", path: "/v1/models", host: "any.example"})
	return err
}

func expiry(w *world) error {
	key, err := w.key("default", "admin")
	if err == nil {
		err = w.serve()
	}
	if err != nil {
		return err
	}
	for at, status := range map[string]int{"0001-01-01T00:00:00Z": 400, "1677-09-21T00:12:43Z": 400,
		"2262-04-11T00:00:00Z": 201, "2262-04-12T00:00:00Z": 400, "2300-01-01T00:00:00Z": 400,
		"2554-07-21T23:34:34Z": 400, "9999-12-31T23:59:59Z": 400, "2090-01-01T00:00:00+24:00": 400} {
		body, err := w.want(status, call{method: "POST", path: "/admin/v1/tenants/default/keys", key: key,
			body: `{"expires":"` + at + `"}`})
		if err != nil {
			return err
		}
		if status == 201 {
			made := strings.Split(body, `"`)
			secret := ""
			for _, part := range made {
				if strings.HasPrefix(part, "weft-") && len(part) > 20 {
					secret = part
				}
			}
			if _, err := w.want(200, call{method: "POST", path: "/v1/completions", key: secret,
				body: short}); err != nil {
				return fmt.Errorf("the key of %s: %w", at, err)
			}
		}
	}
	return nil
}

// atOnce sends n requests at the same time and counts the statuses.
func (w *world) atOnce(n int, c call) map[int]int {
	var mu sync.Mutex
	var all sync.WaitGroup
	codes := map[int]int{}
	for range n {
		all.Go(func() {
			status, _, err := w.ask(c)
			if err != nil && !errors.Is(err, io.EOF) {
				status = -1
			}
			mu.Lock()
			defer mu.Unlock()
			codes[status]++
		})
	}
	all.Wait()
	return codes
}
