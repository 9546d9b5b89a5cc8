package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// AdapterPaths returns the folders or files of adapters for ModelConfig.Adapters. Each is a path, or
// TENANT/NAME[@VERSION] of the registry in the stores, which are opened only for such. done closes them; call it when
// the adapters are loaded.
func AdapterPaths(ctx context.Context, refs []string, c StoreConfig) (paths []string, done func() error, err error) {
	var stores *Stores
	done = func() error {
		if stores == nil {
			return nil
		}
		return stores.Close()
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, done())
		}
	}()
	for _, ref := range refs {
		if _, err := os.Stat(ref); err == nil {
			paths = append(paths, ref)
			continue
		}
		tenant, name, ok := strings.Cut(ref, "/")
		name, version, _ := strings.Cut(name, "@")
		if !ok || tenant == "" || tenant == "." || tenant == ".." || name == "" || strings.Contains(name, "/") {
			return nil, done, fmt.Errorf("adapter %q: no such file or folder, and not TENANT/NAME[@VERSION] of the "+
				"registry", ref)
		}
		if stores == nil {
			if err := c.MustExist(); err != nil {
				return nil, done, fmt.Errorf("adapter %q: no such file or folder, and the registry cannot be "+
					"opened: %w", ref, err)
			}
			if stores, err = OpenStores(ctx, c, nil); err != nil {
				return nil, done, err
			}
		}
		v, err := stores.Registry.Resolve(ctx, tenant, name, version)
		if err != nil {
			return nil, done, fmt.Errorf("adapter %q: %w", ref, err)
		}
		dir, err := stores.Registry.Dir(ctx, v)
		if err != nil {
			return nil, done, fmt.Errorf("adapter %q: %w", ref, err)
		}
		paths = append(paths, dir)
	}
	return paths, done, nil
}
