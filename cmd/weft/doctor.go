package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// check is one line of the doctor's report.
type check struct {
	What   string `json:"what"`
	Found  string `json:"found"`
	OK     bool   `json:"ok"`
	Advice string `json:"advice,omitempty"`
}

func doctorCommand() *cobra.Command {
	var asJSON bool
	var url string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this machine offers and what weft will use, or (--url) whether a server is ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if url != "" {
				err := checkServer(cmd.Context(), url)
				if err == nil && asJSON {
					return printJSON(cmd.OutOrStdout(), []check{{What: "server", Found: url + " is ready", OK: true}})
				}
				return err
			}
			checks := examine()
			if asJSON {
				return printJSON(cmd.OutOrStdout(), checks)
			}
			for _, c := range checks {
				mark := "ok  "
				if !c.OK {
					mark = "note"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s  %-16s %s\n", mark, c.What, c.Found)
				if c.Advice != "" {
					fmt.Fprintf(cmd.OutOrStdout(), "      %-16s → %s\n", "", c.Advice)
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	cmd.Flags().StringVar(&url, "url", "", "ask this server instead: exit status 0 if it is ready")
	return cmd
}

// checkServer asks a server's /ready, as a container's health check does.
func checkServer(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet,
		strings.TrimSuffix(strings.TrimSuffix(url, "/"), "/v1")+"/ready", nil)
	if err != nil {
		return usagef("--url: %v", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return serverError(resp)
	}
	return nil
}

func examine() []check {
	checks := []check{
		{What: "version", Found: version + " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH,
			OK: true},
		{What: "processor", Found: processor(), OK: true},
		{What: "cores", Found: fmt.Sprintf("%d usable of %d", runtime.GOMAXPROCS(0), runtime.NumCPU()), OK: true},
	}
	checks = append(checks, examineDevice()...)
	mem := availableMemory()
	memory := check{What: "memory", Found: formatBytes(mem) + " free", OK: mem > 1<<30}
	if !memory.OK {
		memory.Advice = "the default model needs about 400 MiB with its KV cache; set --memory"
	}
	checks = append(checks, memory)
	path, _, err := modelPath("")
	if err != nil {
		checks = append(checks, check{What: "default model", Found: "absent", Advice: "make model"})
	} else {
		checks = append(checks, check{What: "default model", Found: path, OK: true})
	}
	_, err = exec.LookPath("gcc")
	compiler := check{What: "C compiler", Found: "gcc", OK: err == nil}
	if err != nil {
		compiler.Found, compiler.Advice = "absent", "only needed to build; make setup installs it"
	}
	return append(checks, compiler)
}

func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				return strings.TrimSpace(v)
			}
		}
	}
	return runtime.GOARCH
}

const bandwidthTime = 300 * time.Millisecond
