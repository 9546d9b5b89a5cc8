package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/finetune/redact"
	"weft/internal/bounded"
	"weft/internal/node"
	"weft/internal/settings"
	"weft/server/tenant"
)

// storeFlags are those of every command that works on what is stored.
type storeFlags struct {
	stores node.StoreConfig
	asJSON bool
}

func (f *storeFlags) register(cmd *cobra.Command) *cobra.Command {
	addStoreFlags(cmd.Flags(), &f.stores, "data")
	addJSONFlag(cmd.Flags(), &f.asJSON)
	return cmd
}

// tenantFlags are those of every command below `weft tenants` and `weft keys`.
type tenantFlags struct{ storeFlags }

// with opens the store of tenants for one operation.
func (f *tenantFlags) with(ctx context.Context, do func(s *tenant.Store) error) (err error) {
	s, err := node.OpenTenants(ctx, f.stores)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return asUsage(do(s.Tenants))
}

// asUsage makes a refused name or setting a mistake of the caller.
func asUsage(err error) error {
	if errors.Is(err, tenant.ErrInvalid) {
		return usageError{err}
	}
	return err
}

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  noSuchCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

func tenantsCommand() *cobra.Command {
	return group("tenants", "Add, list, change and remove tenants; running servers apply changes within a second",
		tenantsAddCommand(), tenantsListCommand(), tenantsSetCommand(), tenantsRemoveCommand())
}

// settingsFlags are a tenant's settings; only those that were given are applied.
type settingsFlags struct {
	set     tenant.Settings
	prefix  string
	capture string
	redact  string
	bytes   byteSize
}

func (f *settingsFlags) register(fs *pflag.FlagSet) {
	fs.Float64Var(&f.set.Weight, "weight", 1,
		"weight of the tenant when requests of several tenants wait (fair scheduling)")
	fs.StringVar(&f.set.DefaultAdapter, "default-adapter", "",
		"adapter `NAME[@VERSION]` of requests that name no model (default: the base model)")
	settings.Strings(fs, &f.set.Adapters, "allow", []string{"*"},
		"`names` of the adapters that the tenant may use, separated by commas; * allows all of its own, an empty "+
			"value none")
	fs.StringVar(&f.prefix, "prefix-cache", string(tenant.PrefixTenant),
		"`scope` in which cached prompts may be reused: tenant, shared or none")
	fs.Int64Var(&f.set.RequestsPerMinute, "requests-per-minute", 0, "limit of requests per minute; 0 is no limit")
	fs.Int64Var(&f.set.TokensPerMinute, "tokens-per-minute", 0,
		"limit of prompt and generated tokens per minute; 0 is no limit")
	fs.Int64Var(&f.set.ConcurrentRequests, "concurrent-requests", 0,
		"limit of requests at the same time on one server; 0 is no limit")
	fs.Int64Var(&f.set.MaxTokens, "max-tokens-per-request", 0,
		"limit of generated tokens of a request, over all choices; 0 is no limit")
	fs.Var(&f.bytes, "adapter-bytes", "limit of the size of all stored adapters; 0 is no limit")
	fs.Int64Var(&f.set.AdapterCount, "adapter-count", 0, "limit of the number of adapter names; 0 is no limit")
	fs.StringVar(&f.capture, "capture", string(tenant.CaptureOff),
		"`which` chat completions are stored: off (none), on-request (store: true), on (all but store: false)")
	fs.StringVar(&f.redact, "redact-rules", "",
		"YAML `file` with rules of the tenant's own for the redaction of what is stored; an empty value: none")
	fs.StringVar(&f.set.Retrain.Adapter, "retrain-adapter", "",
		"`name` of the adapter that is trained from stored completions; until it exists the base model answers for it")
	fs.BoolVar(&f.set.Retrain.BaseAlias, "retrain-base-alias", false,
		"requests for the base model use the adapter of --retrain-adapter once it exists")
	fs.BoolVar(&f.set.Retrain.RequireUser, "retrain-require-user", false,
		"with --retrain-adapter: refuse requests whose completion would be stored without a user, instead of counting "+
			"them")
}

// apply changes what was given on the command line, in the environment or in the file.
func (f *settingsFlags) apply(fs *pflag.FlagSet, to *tenant.Settings) {
	for name, set := range map[string]func(){
		"weight":          func() { to.Weight = f.set.Weight },
		"default-adapter": func() { to.DefaultAdapter = f.set.DefaultAdapter },
		"allow": func() {
			to.Adapters = slices.DeleteFunc(f.set.Adapters,
				func(s string) bool { return s == "" })
		},
		"prefix-cache":           func() { to.PrefixCache = tenant.Prefix(f.prefix) },
		"requests-per-minute":    func() { to.RequestsPerMinute = f.set.RequestsPerMinute },
		"tokens-per-minute":      func() { to.TokensPerMinute = f.set.TokensPerMinute },
		"concurrent-requests":    func() { to.ConcurrentRequests = f.set.ConcurrentRequests },
		"max-tokens-per-request": func() { to.MaxTokens = f.set.MaxTokens },
		"adapter-bytes":          func() { to.AdapterBytes = int64(f.bytes) },
		"adapter-count":          func() { to.AdapterCount = f.set.AdapterCount },
		"capture":                func() { to.Capture = tenant.Capture(f.capture) },
		"redact-rules":           func() { to.Redact = f.set.Redact },
		"retrain-adapter":        func() { to.Retrain.Adapter = f.set.Retrain.Adapter },
		"retrain-base-alias":     func() { to.Retrain.BaseAlias = f.set.Retrain.BaseAlias },
		"retrain-require-user":   func() { to.Retrain.RequireUser = f.set.Retrain.RequireUser },
	} {
		if fs.Changed(name) {
			set()
		}
	}
}

// read reads the files that flags name.
func (f *settingsFlags) read() error {
	if f.redact == "" {
		return nil
	}
	text, err := bounded.ReadFile(f.redact, redact.MaxFile)
	if err != nil {
		return err
	}
	if _, err := redact.ParseRules(text); err != nil {
		return usageError{fmt.Errorf("%s: %w", f.redact, err)}
	}
	f.set.Redact = string(text)
	return nil
}

func (f *tenantFlags) printTenant(w io.Writer, what string, t tenant.Tenant) error {
	if f.asJSON {
		return printJSON(w, t)
	}
	_, err := fmt.Fprintf(w, "%s %s\n", what, t.Name)
	return err
}

func tenantsAddCommand() *cobra.Command {
	var f tenantFlags
	var sf settingsFlags
	cmd := &cobra.Command{
		Use:     "add TENANT",
		Short:   "Add a tenant",
		Example: "  weft tenants add acme --tokens-per-minute 100000 --allow support,sales",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			set := tenant.DefaultSettings()
			if err := sf.read(); err != nil {
				return err
			}
			sf.apply(cmd.Flags(), &set)
			return f.with(cmd.Context(), func(s *tenant.Store) error {
				t, err := s.Create(cmd.Context(), args[0], set)
				if err != nil {
					return err
				}
				return f.printTenant(cmd.OutOrStdout(), "added", t)
			})
		},
	}
	sf.register(cmd.Flags())
	return f.register(cmd)
}

func tenantsSetCommand() *cobra.Command {
	var f tenantFlags
	var sf settingsFlags
	cmd := &cobra.Command{
		Use:   "set TENANT",
		Short: "Change settings of a tenant; settings that are not given stay as they are",
		Example: "  weft tenants set acme --weight 2 --concurrent-requests 8\n" +
			"  weft tenants set acme --capture on --retrain-adapter support",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := sf.read(); err != nil {
				return err
			}
			return f.with(cmd.Context(), func(s *tenant.Store) error {
				t, err := s.Update(cmd.Context(), args[0],
					func(set *tenant.Settings) error { sf.apply(cmd.Flags(), set); return nil })
				if err != nil {
					return err
				}
				return f.printTenant(cmd.OutOrStdout(), "changed", t)
			})
		},
	}
	sf.register(cmd.Flags())
	return f.register(cmd)
}

func tenantsRemoveCommand() *cobra.Command {
	var f tenantFlags
	cmd := &cobra.Command{
		Use:     "remove TENANT",
		Short:   "Remove a tenant that has no adapters, and revoke its keys",
		Example: "  weft tenants remove acme",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(cmd.Context(), func(s *tenant.Store) error {
				if err := s.Delete(cmd.Context(), args[0]); err != nil {
					return err
				}
				return f.printTenant(cmd.OutOrStdout(), "removed", tenant.Tenant{Name: args[0]})
			})
		},
	}
	return f.register(cmd)
}

func tenantsListCommand() *cobra.Command {
	var f tenantFlags
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List tenants with their settings",
		Example: "  weft tenants list --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd.Context(), func(s *tenant.Store) error {
				all, err := s.List(cmd.Context())
				if err != nil {
					return err
				}
				if f.asJSON {
					return printJSON(cmd.OutOrStdout(), append([]tenant.Tenant{}, all...))
				}
				t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				fmt.Fprintln(t,
					"TENANT\tWEIGHT\tDEFAULT\tALLOWED\tREQUESTS/MIN\tTOKENS/MIN\tCONCURRENT\tMAX "+
						"TOKENS\tADAPTERS\tADAPTER BYTES\tPREFIX CACHE\tCAPTURE\tRETRAIN")
				for _, x := range all {
					s := &x.Settings
					fmt.Fprintf(t, "%s\t%g\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.Name, s.Weight,
						orDash(s.DefaultAdapter), orDash(strings.Join(s.Adapters, ",")), limit(s.RequestsPerMinute),
						limit(s.TokensPerMinute), limit(s.ConcurrentRequests), limit(s.MaxTokens),
						limit(s.AdapterCount), limit(s.AdapterBytes), s.PrefixCache, s.Capture,
						orDash(s.Retrain.Adapter))
				}
				return t.Flush()
			})
		},
	}
	return f.register(cmd)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// limit shows 0, no limit, as a dash.
func limit(n int64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func keysCommand() *cobra.Command {
	return group("keys", "Add, list and revoke API keys; running servers apply changes within a second",
		keysAddCommand(),
		keysListCommand(), keysRevokeCommand())
}

func keysAddCommand() *cobra.Command {
	var f tenantFlags
	var name, adapter string
	var scopes []string
	var expires time.Duration
	cmd := &cobra.Command{
		Use:   "add",
		Short: "Add an API key and print it; only a hash is stored, so it cannot be shown again",
		Example: "  weft keys add --tenant acme --expires 720h\n" +
			"  weft keys add --scope admin,metrics",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if expires < 0 {
				return usagef("--expires %v: give a positive duration, or 0 for a key that does not expire", expires)
			}
			set := tenant.KeySettings{DefaultAdapter: adapter}
			for _, s := range scopes {
				set.Scopes = append(set.Scopes, tenant.Scope(s))
			}
			var end time.Time
			if expires > 0 {
				end = time.Now().Add(expires)
			}
			return f.with(cmd.Context(), func(s *tenant.Store) error {
				secret, k, err := s.AddKey(cmd.Context(), name, set, end)
				if err != nil {
					return err
				}
				if f.asJSON {
					return printJSON(cmd.OutOrStdout(), map[string]any{"key": secret, "info": &k})
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "%s of tenant %s; the key is not shown again\n", k.ID, k.Tenant)
				_, err = fmt.Fprintln(cmd.OutOrStdout(), secret)
				return err
			})
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&name, "tenant", tenant.Default, "`tenant` to which the key belongs")
	settings.Strings(fs, &scopes, "scope", []string{string(tenant.Infer)},
		"`scopes` of the key, separated by commas: infer, admin, metrics")
	fs.DurationVar(&expires, "expires", 0, "time until the key expires, e.g. 720h; 0 is never")
	fs.StringVar(&adapter, "default-adapter", "",
		"adapter `NAME[@VERSION]` of requests that name no model, instead of the tenant's default")
	return f.register(cmd)
}

func keysListCommand() *cobra.Command {
	var f tenantFlags
	var name string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List API keys with their state; the keys themselves are not stored",
		Example: "  weft keys list --tenant acme",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd.Context(), func(s *tenant.Store) error {
				keys, err := s.Keys(cmd.Context(), name)
				if err != nil {
					return err
				}
				return f.printKeys(cmd.OutOrStdout(), keys)
			})
		},
	}
	cmd.Flags().StringVar(&name, "tenant", "", "list only the keys of this `tenant`")
	return f.register(cmd)
}

func (f *tenantFlags) printKeys(w io.Writer, keys []tenant.Key) error {
	rows := make([]*tenant.Key, len(keys))
	for i := range keys {
		rows[i] = &keys[i]
	}
	if f.asJSON {
		return printJSON(w, rows)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KEY\tTENANT\tBEGINS\tSCOPES\tMADE\tSTATE")
	for _, k := range rows {
		var scopes []string
		for _, s := range k.Scopes {
			scopes = append(scopes, string(s))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Tenant, k.Hint, strings.Join(scopes, ","),
			k.Created.Format(time.DateTime), keyState(k))
	}
	return t.Flush()
}

func keyState(k *tenant.Key) string {
	switch {
	case !k.Revoked.IsZero():
		return "revoked " + k.Revoked.Format(time.DateTime)
	case !k.Usable(time.Now()):
		return "expired " + k.Expires.Format(time.DateTime)
	case !k.Expires.IsZero():
		return "until " + k.Expires.Format(time.DateTime)
	}
	return "good"
}

func keysRevokeCommand() *cobra.Command {
	var f tenantFlags
	cmd := &cobra.Command{
		Use:     "revoke KEY",
		Short:   "Revoke a key by its id, as `weft keys list` shows it",
		Example: "  weft keys revoke key_0123456789",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(cmd.Context(), func(s *tenant.Store) error {
				if err := s.Revoke(cmd.Context(), "", args[0]); err != nil {
					return err
				}
				if f.asJSON {
					return printJSON(cmd.OutOrStdout(), map[string]any{"id": args[0], "revoked": true})
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "revoked", args[0])
				return err
			})
		},
	}
	return f.register(cmd)
}
