package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"weft/adapters/backup"
	"weft/internal/interrupt"
	"weft/internal/node"
	"weft/internal/store"
)

func backupCommand() *cobra.Command {
	var c node.StoreConfig
	var out string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "backup --out PATH",
		Short: "Copy tenants, keys, usage and adapters to a folder or a tar file; servers may run meanwhile",
		Long: "Copy the database and the adapters' files, as they are at one moment, to a new folder, or to one file " +
			"where PATH ends in .tar. Servers may run meanwhile. Every file is checked against its SHA-256, and PATH " +
			"appears once it is complete on disk.\nWith --database and --bucket the same data is copied from " +
			"Postgres and the bucket: the format of a backup does not depend on its source. It does not contain the " +
			"model.",
		Example: "  weft backup --out /backups/weft-$(date +%F).tar",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return usagef("--out is empty: give a folder or a .tar file")
			}
			ctx, stop := interrupt.Until(cmd.Context())
			defer stop()
			return node.WithBackupStore(ctx, c, store.OpenExisting, func(s backup.Store) error {
				m, err := backup.Write(ctx, s, filepath.Clean(out), version)
				if err != nil {
					return fmt.Errorf("backup: %w", err)
				}
				return printBackup(cmd.OutOrStdout(), asJSON, "backed up to", out, &m)
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "new `folder`, or file that ends in .tar")
	addJSONFlag(cmd.Flags(), &asJSON)
	addStoreFlags(cmd.Flags(), &c, "data")
	return cmd
}

func restoreCommand() *cobra.Command {
	var c node.StoreConfig
	var from string
	var replace, check, asJSON bool
	cmd := &cobra.Command{
		Use:   "restore --from PATH",
		Short: "Restore a backup into an empty data directory, or into a database and a bucket",
		Long: "Restore a backup into the data directory, or into --database and --bucket. The whole backup is read " +
			"and checked first, and the database is changed last, in one transaction: an interrupted restore changes " +
			"nothing and can be repeated.\nA store that has tenants, keys, adapters or usage is refused unless " +
			"--replace allows to delete them: back it up first. A backup of an earlier version is migrated to the " +
			"present schema.",
		Example: "  weft restore --from /backups/weft-2026-01-31.tar --check\n" +
			"  weft restore --from /backups/weft-2026-01-31.tar --data /var/lib/weft",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if from == "" {
				return usagef("--from is empty: give the folder or file that weft backup wrote")
			}
			ctx, stop := interrupt.Until(cmd.Context())
			defer stop()
			b, err := backup.Open(ctx, from) // before the store, which opening would create
			if err != nil {
				return fmt.Errorf("restore: %w", err)
			}
			defer func() { err = errors.Join(err, b.Close()) }()
			if check {
				return printBackup(cmd.OutOrStdout(), asJSON, "complete and undamaged:", from, &b.Manifest)
			}
			keys, err := b.HasKeys(ctx)
			if err := errors.Join(err, c.CheckRestore(keys)); err != nil {
				return fmt.Errorf("restore: %w", err)
			}
			return node.WithBackupStore(ctx, c, store.Open, func(s backup.Store) error {
				err := b.Restore(ctx, s, replace)
				if errors.Is(err, backup.ErrExists) {
					return fmt.Errorf("restore: %w: give another --data, or --replace to delete them", err)
				}
				if err != nil {
					return fmt.Errorf("restore: %w", err)
				}
				return printBackup(cmd.OutOrStdout(), asJSON, "restored", from, &b.Manifest)
			})
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&from, "from", "", "`path` of the backup")
	fs.BoolVar(&replace, "replace", false, "delete the tenants, keys, adapters and usage in the store")
	fs.BoolVar(&check, "check", false, "only read and check the backup")
	addJSONFlag(fs, &asJSON)
	addStoreFlags(fs, &c, "data")
	return cmd
}

func printBackup(w io.Writer, asJSON bool, what, path string, m *backup.Manifest) error {
	if asJSON {
		return printJSON(w, m)
	}
	_, err := fmt.Fprintf(w, "%s %s: %d files of adapters, %s, as of %s\n", what, path, len(m.Files)-1,
		formatBytes(m.Bytes()), m.Created.Format("2006-01-02 15:04:05 MST"))
	return err
}
