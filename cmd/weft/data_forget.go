package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/finetune/capture"
	"weft/internal/chatclient"
	"weft/internal/names"
	"weft/internal/node"
	"weft/internal/settings"
)

// addCaptureKeyFlag is for the commands that open the store of completions.
func addCaptureKeyFlag(fs *pflag.FlagSet, c *node.StoreConfig) {
	defer settings.Topic(fs, topicStores)()
	fs.StringVar(&c.CaptureKey, "capture-key", "", "`file` of the master key of stored completions, outside of the data "+
		"directory (default: capture-key in the folder weft of $XDG_CONFIG_HOME or ~/.config; it is made when a "+
		"completion is first stored)")
}

// addCaptureFlags are the settings of a server that stores completions.
func addCaptureFlags(fs *pflag.FlagSet, c *node.Config, s *node.StoreConfig) {
	addCaptureKeyFlag(fs, s)
	defer settings.Topic(fs, topicStores)()
	fs.DurationVar(&c.CaptureAge, "capture-age", 90*24*time.Hour, "age from which stored completions are deleted, a "+
		"tenth of a tenant's a day at most; 0 keeps them")
	c.CaptureBytes = 4 << 30
	fs.Var(&c.CaptureBytes, "capture-bytes", "stored completions of a tenant at most: the oldest are deleted, a tenth "+
		"an hour at most; 0 is no limit")
}

// forgetFlags say what is deleted.
type forgetFlags struct {
	storeFlags
	tenant, user, conversation, id string
	olderThan                      time.Duration
}

func dataForgetCommand() *cobra.Command {
	var f forgetFlags
	cmd := &cobra.Command{
		Use:   "forget --tenant T (--user U | --conversation C | --id ID | --older-than D)",
		Short: "Delete stored completions of a user or a conversation, with the feedback on them",
		Long: "Delete stored completions of a tenant: all of a user, of a conversation (the conversation_id of the " +
			"requests' metadata), one by its id, or those that are older. When the command returns, no server reads " +
			"them any more, and an answer to the user or in the conversation that is under way is not stored. Their " +
			"bytes are removed at once where no server runs, else by the server that wrote them, within minutes.",
		Example: "  weft data forget --tenant acme --user user-17\n" +
			"  weft data forget --tenant acme --conversation 8f14e45f --json\n" +
			"  weft data forget --tenant acme --older-than 720h",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.tenant, "tenant", "", "`name` of the tenant")
	fs.StringVar(&f.user, "user", "", "`user` as requests name it in safety_identifier, user or metadata.user_id")
	fs.StringVar(&f.conversation, "conversation", "", "`conversation` as requests name it in metadata.conversation_id")
	fs.StringVar(&f.id, "id", "", "`id` of one completion")
	fs.DurationVar(&f.olderThan, "older-than", 0, "delete all that are older, however many they are")
	addCaptureKeyFlag(fs, &f.stores)
	return f.register(cmd)
}

// forgotten is what the command prints.
type forgotten struct {
	Tenant string `json:"tenant"`
	capture.Deleted
}

func (f *forgetFlags) run(cmd *cobra.Command) (err error) {
	given := 0
	for _, name := range []string{"user", "conversation", "id", "older-than"} {
		if cmd.Flags().Changed(name) {
			given++
		}
	}
	empty := f.user == "" && f.conversation == "" && f.id == "" && f.olderThan == 0
	switch {
	case f.tenant == "":
		return usagef("--tenant is empty: name the tenant whose completions are deleted")
	case given != 1 || empty:
		return usagef("give one of --user, --conversation, --id and --older-than")
	case f.olderThan < 0:
		return usagef("--older-than %v: give more than 0", f.olderThan)
	}
	if err := f.stores.MustExist(); err != nil {
		return err
	}
	ctx := cmd.Context()
	s, err := node.OpenTenants(ctx, f.stores)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if _, err := s.Tenants.Get(ctx, f.tenant); err != nil {
		return asUsage(err)
	}
	st, err := node.OpenCapture(ctx, s, f.stores, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	out := forgotten{Tenant: f.tenant}
	if out.Deleted, err = f.forget(ctx, st); err != nil {
		return err
	}
	if err := st.Sweep(ctx); err != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "the bytes of what was deleted are still on the disk: %v\n"+
			"A server that runs on this data directory tries again.\n", err)
	}
	if f.asJSON {
		return printJSON(cmd.OutOrStdout(), out)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "tenant %s: %d stored completions deleted, %d ratings of them\n",
		chatclient.Printable(f.tenant), out.Records, out.Feedback)
	return err
}

func (f *forgetFlags) forget(ctx context.Context, st *capture.Store) (capture.Deleted, error) {
	switch {
	case f.id != "":
		err := st.Delete(ctx, f.tenant, f.id)
		if errors.Is(err, capture.ErrNotFound) {
			err = fmt.Errorf("%w: tenant %s has no %s", err, names.Quote(f.tenant), names.Quote(f.id))
		}
		return capture.Deleted{Records: 1}, err
	case f.olderThan > 0:
		out, err := st.Retain(ctx, f.tenant, capture.Retention{MaxAge: f.olderThan, Confirmed: true})
		return out.Deleted, err
	}
	return st.Forget(ctx, capture.Selection{Tenant: f.tenant, User: f.user, Conversation: f.conversation})
}
