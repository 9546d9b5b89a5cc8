package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"weft/adapters"
	"weft/internal/chatclient"
	"weft/internal/names"
	"weft/internal/node"
)

func adaptersCommand() *cobra.Command {
	return group("adapters",
		"Add, list and remove the adapters of tenants; running servers apply changes within a second",
		adaptersAddCommand(), adaptersInspectCommand(), adaptersListCommand(), adaptersRemoveCommand(),
		adaptersPinCommand(), adaptersAliasCommand(), adaptersRollbackCommand(), adaptersGCCommand())
}

// adaptersFlags are those of every command below `weft adapters`.
type adaptersFlags struct{ storeFlags }

// with opens the registry for one operation.
func (f *adaptersFlags) with(ctx context.Context, check adapters.Checker,
	do func(d *node.Stores) error) (err error) {
	d, err := node.OpenStores(ctx, f.stores, check)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return do(d)
}

// parseRef reads TENANT/NAME[@VERSION]; mistakes are usage errors.
func parseRef(ref string, versionAllowed bool) (tenant, name, version string, err error) {
	tenant, name, version, err = adapters.ParseRef(ref)
	if err != nil {
		return "", "", "", usageError{err}
	}
	if version != "" && !versionAllowed {
		return "", "", "", usagef("%s: write TENANT/NAME, without a version", names.Quote(ref))
	}
	return tenant, name, version, nil
}

// adapterRow is a version as the commands print it.
type adapterRow struct {
	Tenant  string    `json:"tenant"`
	Name    string    `json:"name"`
	Digest  string    `json:"digest"`
	Current bool      `json:"current"`
	Tags    []string  `json:"tags"`
	Pinned  bool      `json:"pinned"`
	Rank    int       `json:"rank"`
	Targets []string  `json:"targets"`
	Params  int64     `json:"parameters"`
	Bytes   int64     `json:"bytes"`
	Base    string    `json:"base"`
	Created time.Time `json:"created"`
}

func rowOf(v adapters.Version) adapterRow {
	return adapterRow{v.Tenant, v.Name, v.Digest, v.Current, append([]string{}, v.Tags...), v.Pinned, v.Rank,
		append([]string{}, v.Targets...), v.Params, v.Bytes, v.Base, v.Created.UTC()}
}

// printVersion prints what a command did to one version.
func (f *adaptersFlags) printVersion(w io.Writer, what string, v adapters.Version) error {
	if f.asJSON {
		return printJSON(w, rowOf(v))
	}
	_, err := fmt.Fprintf(w, "%s %s\n", what, v.Ref())
	return err
}

func adaptersListCommand() *cobra.Command {
	var f adaptersFlags
	cmd := &cobra.Command{
		Use:   "list [TENANT]",
		Short: "List the versions of a tenant's adapters, or of all",
		Example: "  weft adapters list\n" +
			"  weft adapters list acme --json",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant := strings.Join(args, "")
			if tenant != "" {
				if err := adapters.CheckName("tenant", tenant); err != nil {
					return usageError{err}
				}
			}
			return f.with(cmd.Context(), nil, func(d *node.Stores) error {
				all, err := d.List(cmd.Context(), tenant)
				if err != nil {
					return err
				}
				return f.printList(cmd.OutOrStdout(), all)
			})
		},
	}
	return f.register(cmd)
}

func (f *adaptersFlags) printList(w io.Writer, all []adapters.Version) error {
	if f.asJSON {
		rows := make([]adapterRow, len(all))
		for i, v := range all {
			rows[i] = rowOf(v)
		}
		return printJSON(w, rows)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ADAPTER\tVERSION\tCURRENT\tPINNED\tRANK\tBYTES\tADDED\tTAGS")
	for _, v := range all {
		fmt.Fprintf(t, "%s/%s\t%.12s\t%s\t%s\t%d\t%s\t%s\t%s\n", v.Tenant, v.Name, v.Digest, yes(v.Current),
			yes(v.Pinned), v.Rank,
			formatBytes(v.Bytes), v.Created.UTC().Format(time.DateTime), strings.Join(v.Tags, " "))
	}
	return t.Flush()
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

func adaptersRemoveCommand() *cobra.Command {
	var f adaptersFlags
	cmd := &cobra.Command{
		Use:     "remove TENANT/NAME[@VERSION]",
		Short:   "Remove an adapter with all its versions, or one version; running requests finish",
		Example: "  weft adapters remove acme/support@0123456789ab",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant, name, version, err := parseRef(args[0], true)
			if err != nil {
				return err
			}
			return f.with(cmd.Context(), nil, func(d *node.Stores) error {
				if err := d.Registry.Remove(cmd.Context(), tenant, name, version); err != nil {
					return err
				}
				if f.asJSON {
					return printJSON(cmd.OutOrStdout(), map[string]string{"removed": args[0]})
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "removed %s\n", args[0])
				return err
			})
		},
	}
	return f.register(cmd)
}

func adaptersPinCommand() *cobra.Command {
	var f adaptersFlags
	var off bool
	cmd := &cobra.Command{
		Use:   "pin TENANT/NAME",
		Short: "Keep an adapter in memory once it has been loaded",
		Example: "  weft adapters pin acme/support\n" +
			"  weft adapters pin acme/support --off",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant, name, _, err := parseRef(args[0], false)
			if err != nil {
				return err
			}
			what := "pinned"
			if off {
				what = "no longer pinned"
			}
			return f.with(cmd.Context(), nil, func(d *node.Stores) error {
				if err := d.Registry.Pin(cmd.Context(), tenant, name, !off); err != nil {
					return err
				}
				return f.show(cmd, d.Registry, what, tenant, name, "")
			})
		},
	}
	cmd.Flags().BoolVar(&off, "off", false, "unpin the adapter")
	return f.register(cmd)
}

// show prints a version as it is after a change.
func (f *adaptersFlags) show(cmd *cobra.Command, r *adapters.Registry, what, tenant, name, version string) error {
	v, err := r.Resolve(cmd.Context(), tenant, name, version)
	if err != nil {
		return err
	}
	return f.printVersion(cmd.OutOrStdout(), what, v)
}

func adaptersAliasCommand() *cobra.Command {
	var f adaptersFlags
	var remove bool
	cmd := &cobra.Command{
		Use:   "alias TENANT/NAME TAG [VERSION]",
		Short: "Add a tag to a version (default: the current one), which can then be named NAME@TAG",
		Example: "  weft adapters alias acme/support stable\n" +
			"  weft adapters alias acme/support stable --remove",
		Args: cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant, name, _, err := parseRef(args[0], false)
			if err != nil {
				return err
			}
			if remove && len(args) > 2 {
				return usagef("--remove takes no version")
			}
			return f.with(cmd.Context(), nil, func(d *node.Stores) error {
				if remove {
					if err := d.Registry.Untag(cmd.Context(), tenant, name, args[1]); err != nil {
						return err
					}
					return f.show(cmd, d.Registry, "alias removed; the current version is", tenant, name, "")
				}
				if err := d.Registry.Tag(cmd.Context(), tenant, name, args[1], strings.Join(args[2:], "")); err != nil {
					return err
				}
				return f.show(cmd, d.Registry, args[1]+" is", tenant, name, args[1])
			})
		},
	}
	cmd.Flags().BoolVar(&remove, "remove", false, "remove the tag instead")
	return f.register(cmd)
}

func adaptersRollbackCommand() *cobra.Command {
	var f adaptersFlags
	cmd := &cobra.Command{
		Use:     "rollback TENANT/NAME[@VERSION]",
		Short:   "Make the previous version, or the given one, the current version of an adapter",
		Example: "  weft adapters rollback acme/support",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant, name, version, err := parseRef(args[0], true)
			if err != nil {
				return err
			}
			return f.with(cmd.Context(), nil, func(d *node.Stores) error {
				v, err := d.Registry.Rollback(cmd.Context(), tenant, name, version)
				if err != nil {
					return err
				}
				return f.printVersion(cmd.OutOrStdout(), "the current version is", v)
			})
		},
	}
	return f.register(cmd)
}

func adaptersAddCommand() *cobra.Command {
	var f adaptersFlags
	var model, tag string
	cmd := &cobra.Command{
		Use:   "add TENANT/NAME DIR",
		Short: "Copy a PEFT folder or a GGUF adapter into the store as the current version of TENANT/NAME",
		Long: "Copy a PEFT folder or a GGUF adapter into the store as the current version of TENANT/NAME. DIR is not " +
			"needed afterwards.\n" +
			"With --model its tensors are checked against that model's, as a server does it; a server also runs the " +
			"parity check, when it first loads the adapter. Without --model only the adapter itself is checked, and " +
			"a server whose model it does not fit refuses it when it is first used.\n" +
			"An adapter that PEFT initialized with pissa or olora changed the base's weights: with --model it is " +
			"converted to a plain LoRA of twice the rank.",
		Example: "  weft adapters add acme/support runs/support/adapter --model SmolLM2-135M-Instruct",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			owner, name, _, err := parseRef(args[0], false)
			if err != nil {
				return err
			}
			check, done, err := node.AdapterChecker(model)
			if err != nil {
				return err
			}
			defer done()
			d, err := node.OpenStores(cmd.Context(), f.stores, check)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, d.Close()) }()
			opt, err := d.AddOptions(cmd.Context(), owner)
			if err != nil {
				return err
			}
			opt.Tag = tag
			v, err := d.Registry.Add(cmd.Context(), owner, name, args[1], opt)
			if err != nil {
				return err
			}
			for _, text := range v.Warnings {
				fmt.Fprintf(cmd.ErrOrStderr(), "weft: warning: %s\n", chatclient.Printable(text))
			}
			return f.printVersion(cmd.OutOrStdout(), "added", v)
		},
	}
	cmd.Flags().StringVar(&model, "model", "",
		"check that the adapter fits this "+modelHelp)
	cmd.Flags().StringVar(&tag, "tag", "", "`tag` of the version, which can then be named NAME@TAG")
	return f.register(cmd)
}

func adaptersGCCommand() *cobra.Command {
	var f adaptersFlags
	opt := adapters.CollectOptions{Grace: adapters.GarbageGrace}
	cmd := &cobra.Command{
		Use:     "gc",
		Short:   "Delete stored files that no adapter has used for three days, as servers do every hour",
		Example: "  weft adapters gc --dry-run\n  weft adapters gc --force",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd.Context(), nil, func(d *node.Stores) error {
				g, err := d.Registry.Collect(cmd.Context(), opt)
				if err == nil && f.asJSON {
					return printJSON(cmd.OutOrStdout(), g)
				} else if err == nil {
					_, err = fmt.Fprintln(cmd.OutOrStdout(), g)
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&opt.DryRun, "dry-run", false, "delete nothing and print what --force would delete")
	cmd.Flags().BoolVar(&opt.Force, "force", false, "take the store over and delete what --dry-run has just listed")
	return f.register(cmd)
}
