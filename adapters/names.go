package adapters

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"weft/internal/names"
	"weft/internal/store"
)

// CheckAdapterName returns ErrInvalid for an invalid name of an adapter; what is the word for it in the message.
func CheckAdapterName(what, name string) error {
	if err := names.CheckAdapter(what, name); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// checkUnique returns ErrConflict where the tenant has an adapter whose name differs only in capitals.
func checkUnique(ctx context.Context, tx *store.Tx, tenant, name string) error {
	var other string
	err := tx.QueryRow(ctx, "SELECT name FROM adapter_names WHERE tenant = ? AND LOWER(name) = ? AND name <> ?", tenant,
		names.Fold(name), name).Scan(&other)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf(
		"%w: tenant %s has an adapter %s, and names that differ only in capitals would be confused: write "+
			"it so, or choose another name",
		ErrConflict,
		tenant,
		other,
	)
}

// CheckName returns ErrInvalid for an invalid name of a tenant or a tag; what is the word for it in the message.
func CheckName(what, name string) error {
	if err := names.Check(what, name); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// checkTag also refuses tags that could be the prefix of a digest.
func checkTag(tag string) error {
	if err := CheckName("tag", tag); err != nil {
		return err
	}
	if isDigestPrefix(tag) {
		return fmt.Errorf("%w: tag %q could be a digest: choose another", ErrInvalid, tag)
	}
	return nil
}

// minPrefix is the shortest prefix of a digest that names a version.
const minPrefix = 8

func isDigestPrefix(s string) bool {
	if len(s) < minPrefix || len(s) > 64 {
		return false
	}
	return strings.Trim(s, "0123456789abcdef") == ""
}

// ParseRef splits TENANT/NAME or TENANT/NAME@VERSION and checks the names. ErrInvalid.
func ParseRef(ref string) (tenant, name, version string, err error) {
	tenant, name, ok := strings.Cut(ref, "/")
	if !ok {
		return "", "", "", fmt.Errorf("%w: %s: TENANT/NAME is expected", ErrInvalid, names.Quote(ref))
	}
	name, version, _ = strings.Cut(name, "@")
	if err := CheckName("tenant", tenant); err != nil {
		return "", "", "", err
	}
	return tenant, name, version, CheckAdapterName("adapter", name)
}

// CountNames returns how many adapters a tenant has in the registry in tx's database. Other packages call it in their
// own transaction, such as before they delete a tenant.
func CountNames(ctx context.Context, tx *store.Tx, tenant string) (n int64, err error) {
	err = tx.QueryRow(ctx, "SELECT COUNT(*) FROM adapter_names WHERE tenant = ?", tenant).Scan(&n)
	return n, err
}
