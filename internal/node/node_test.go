package node

import "testing"

func TestCheckAddress(t *testing.T) {
	for _, c := range []struct {
		listen         string
		keys, insecure bool
		ok             bool
	}{
		{"127.0.0.1:8000", false, false, true},
		{"localhost:0", false, false, true},
		{"[::1]:8000", false, false, true},
		{"0.0.0.0:8000", false, false, false},
		{":8000", false, false, false},
		{"192.0.2.1:8000", false, false, false},
		{"example.org:80", false, false, false},
		{"0.0.0.0:8000", true, false, true},
		{"0.0.0.0:8000", false, true, true},
	} {
		if err := checkAddress(c.listen, c.keys, c.insecure); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
