package node

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"weft/adapters"
)

func forms(tenant, ref string) []string { return []string{ref, tenant + "/" + ref, "base:" + ref} }

// TestUsedNames: the names of adapters in memory, most recently used first, each once.
func TestUsedNames(t *testing.T) {
	u, err := newUsedNames()
	if err != nil {
		t.Fatal(err)
	}
	version := func(tenant, name, digest string, current bool, tags ...string) *adapters.Version {
		return &adapters.Version{Tenant: tenant, Name: name, Digest: strings.Repeat(digest, 64), Current: current,
			Tags: tags}
	}
	digests := func(all ...string) map[string]bool {
		set := map[string]bool{}
		for _, d := range all {
			set[strings.Repeat(d, 64)] = true
		}
		return set
	}
	wants := func(what string, got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	u.use(version("acme", "support", "a", true))
	u.use(version("beta", "support", "a", true)) // equal bytes and an equal name
	u.use(version("acme", "sales", "b", true, "v2"))
	u.use(version("acme", "old", "c", false))
	in, coming := u.list(digests("a", "b"), digests("c"), forms)
	wants("in memory", in, "sales", "acme/sales", "base:sales", "sales@v2", "acme/sales@v2", "base:sales@v2", "support",
		"beta/support", "base:support", "acme/support")
	wants("awaited", coming, "old@cccccccccccc", "acme/old@cccccccccccc", "base:old@cccccccccccc")
	u.use(version("acme", "support", "a", true))
	in, _ = u.list(digests("a"), nil, forms)
	wants("used again", in, "support", "acme/support", "base:support", "beta/support")
	// a new version has the name now: it is not in memory
	u.use(version("acme", "support", "d", true))
	in, coming = u.list(digests("a"), digests("d"), forms)
	wants("the version before", in, "support", "beta/support", "base:support")
	wants("the new version", coming, "acme/support")

	resident, awaited := map[string]bool{}, map[string]bool{}
	for i := range 2 * maxUsedNames {
		v := &adapters.Version{Tenant: fmt.Sprint("t", i%7), Name: fmt.Sprint("n", i), Digest: fmt.Sprint(i),
			Current: true}
		u.use(v)
		resident[v.Digest], awaited[v.Digest] = i%2 == 0, i%2 == 1
	}
	in, coming = u.list(resident, awaited, forms)
	if len(in)+len(coming) != maxNames || len(coming) != maxAwaited || in[0] != fmt.Sprint("n", 2*maxUsedNames-2) {
		t.Errorf("%d and %d names, the first is %s", len(in), len(coming), in[0])
	}
}
