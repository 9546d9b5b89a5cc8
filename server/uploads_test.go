package server

import (
	"errors"
	"fmt"
	"testing"
)

// A tenant's slow uploads keep nobody else out.
func TestUploadsByTenant(t *testing.T) {
	var u uploads
	var leaves []func()
	for i := range tenantUploads + 1 {
		leave, err := u.enter("slow")
		if full := i == tenantUploads; errors.Is(err, errUploads) != full {
			t.Errorf("upload %d of one tenant: %v", i+1, err)
		}
		if err == nil {
			leaves = append(leaves, leave)
		}
	}
	for i := range maxUploads - tenantUploads {
		leave, err := u.enter(fmt.Sprint(i))
		if err != nil {
			t.Fatalf("upload of another tenant: %v", err)
		}
		leaves = append(leaves, leave)
	}
	if _, err := u.enter("late"); !errors.Is(err, errUploads) {
		t.Errorf("one upload too many: %v", err)
	}
	for _, leave := range leaves {
		leave()
	}
	if u.all != 0 || len(u.of) != 0 {
		t.Errorf("%d uploads are left, of %d tenants", u.all, len(u.of))
	}
}
