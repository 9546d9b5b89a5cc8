package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"weft/internal/deadline"
	"weft/server/tenant"
)

// Tenants that take all places they can leave one for each that comes later; a lone tenant may have all; what is left
// is given back.
func TestPlaces(t *testing.T) {
	for greedy := 1; greedy <= 20; greedy++ {
		p := places{all: 64, each: 64}
		var leaves []func()
		for again := true; again; {
			again = false
			for i := range greedy {
				if leave, ok := p.enter(fmt.Sprint(i)); ok {
					leaves, again = append(leaves, leave), true
				}
			}
		}
		if least := 64 / (greedy + 1); p.of["0"] < least || p.all-p.taken < 1 {
			t.Errorf("%d greedy tenants: the first has %d places, want %d; %d are free", greedy, p.of["0"], least,
				p.all-p.taken)
		}
		if _, ok := p.enter("late"); !ok {
			t.Errorf("%d greedy tenants: none is left for another one", greedy)
		}
		for _, leave := range leaves {
			leave()
		}
		if p.taken != 1 || len(p.of) != 1 {
			t.Errorf("%d places are taken by %v after all but one were given back", p.taken, p.of)
		}
	}
	p := places{all: 3, each: 3, lone: func() bool { return true }}
	for i := range 4 {
		if _, ok := p.enter("lone"); ok != (i < 3) {
			t.Errorf("place %d of 3 for a lone tenant: %v", i+1, ok)
		}
	}
	p = places{all: 64, each: 2}
	for i := range 3 {
		if _, ok := p.enter("one"); ok != (i < 2) {
			t.Errorf("place %d of 2 for each: %v", i+1, ok)
		}
	}
}

// begin opens a connection and sends the header of a request and a part of its body.
func begin(t *testing.T, addr, auth, path, kind string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(deadline.Limit))
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\nContent-Type: %s\r\n"+
		"Content-Length: 1000\r\n\r\n{", path, auth, kind)
	return conn
}

// statusOn reads the status of the answer on a connection.
func statusOn(t *testing.T, conn net.Conn) int {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

func (p *places) held() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken
}

// TestEndlessBodies: one tenant's requests whose bodies never end take no place of requests, and of the places of
// bodies only some: another tenant is answered while they stand. They end with the body's time, those beyond the places
// at once.
func TestEndlessBodies(t *testing.T) {
	s, _ := newTenants(t, func(c *Config, _ *Deps) { c.MaxRequests, c.BodyTimeout = 16, 3*time.Second })
	evil, good := "Bearer "+s.tenantKey(t, "evil", nil), "Bearer "+s.tenantKey(t, "good", nil)
	addr, _ := serveTest(t, s.Server)
	var stand []net.Conn
	began := time.Now()
	for range 20 {
		stand = append(stand, begin(t, addr, evil, "/v1/chat/completions", "application/json"))
	}
	eventually(t, "half of the bodies' places are taken", func() bool { return s.bodies.held() == 8 })
	for range 3 {
		if w := s.do("POST", "/v1/chat/completions", good, `{`+hi+`}`); w.Code != 200 {
			t.Errorf("another tenant: %d %s", w.Code, w.Body)
		}
	}
	if n := s.slots.held(); n != 0 {
		t.Errorf("%d places of requests are taken by requests without a body", n)
	}
	type answer struct {
		code int
		took time.Duration
	}
	answers := make(chan answer, len(stand))
	for _, conn := range stand {
		go func() {
			code := 0
			if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
				code = resp.StatusCode
			}
			answers <- answer{code, time.Since(began)}
		}()
	}
	codes := map[int]int{}
	for range stand {
		a := receive(t, answers)
		if codes[a.code]++; a.code == 429 && a.took >= 3*time.Second {
			t.Errorf("a request beyond the places is refused after %v", a.took)
		}
	}
	if codes[429] != 12 || codes[408] != 8 {
		t.Errorf("the requests without end: %v", codes)
	}
}

// TestRunningRequestsByTenant: one tenant's running requests leave places for another one.
func TestRunningRequestsByTenant(t *testing.T) {
	e := &fakeEngine{reply: "a", hold: make(chan struct{})}
	s, _ := newTenants(t, func(c *Config, d *Deps) { c.MaxRequests, d.Engine = 4, e })
	evil, good := "Bearer "+s.tenantKey(t, "evil", nil), "Bearer "+s.tenantKey(t, "good", nil)
	codes := make(chan int, 6)
	ask := func(auth string) { codes <- s.do("POST", "/v1/chat/completions", auth, `{`+hi+`}`).Code }
	for range 5 {
		go ask(evil)
	}
	for range 3 {
		if code := receive(t, codes); code != 429 {
			t.Errorf("beyond the tenant's part: %d", code)
		}
	}
	go ask(good)
	eventually(t, "the other tenant's request runs", func() bool { return e.live.Load() == 3 })
	close(e.hold)
	for range 3 {
		if code := receive(t, codes); code != 200 {
			t.Errorf("admitted: %d", code)
		}
	}
}

// TestSlowUploads: eight tenants with two uploads each that arrive byte by byte keep no other tenant out, and end soon.
func TestSlowUploads(t *testing.T) {
	s, _ := newTenants(t, withAdapters(library()), func(c *Config, _ *Deps) { c.BodyTimeout = 300 * time.Millisecond })
	addr, _ := serveTest(t, s.Server)
	var slow []net.Conn
	for i := range 8 {
		name := fmt.Sprint("slow", i)
		key := "Bearer " + s.scopedKey(t, name, nil, tenant.Admin)
		for range 2 {
			slow = append(slow, begin(t, addr, key, "/admin/v1/tenants/"+name+"/adapters/a", "application/zip"))
		}
	}
	eventually(t, "all of them are being received", func() bool { return s.uploads.held() == 16 })
	stop := make(chan struct{})
	defer close(stop)
	go func() { // a byte within each read's time
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
			for _, c := range slow {
				_, _ = io.WriteString(c, "x")
			}
		}
	}()
	key := "Bearer " + s.scopedKey(t, "good", nil, tenant.Admin)
	w := s.do("POST", "/admin/v1/tenants/good/adapters/a", key, "zip")
	if w.Code == 429 || w.Code >= 500 {
		t.Errorf("another tenant's upload: %d %s", w.Code, w.Body)
	}
	for _, c := range slow {
		if code := statusOn(t, c); code != 408 {
			t.Errorf("a slow upload ends with %d", code)
		}
	}
}
