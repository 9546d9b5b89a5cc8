package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"weft/internal/chatclient"
)

// ErrURL is an address that no server can have.
var ErrURL = errors.New("not a URL")

// CheckServer asks the server at url, with or without /v1, whether it works, also while it loads its model or drains,
// as a container's health check does. Nil if it does; ErrURL, the error of the connection, or what the server answers.
func CheckServer(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet,
		strings.TrimSuffix(strings.TrimSuffix(url, "/"), "/v1")+"/live", nil)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrURL, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return chatclient.ServerError(resp)
	}
	return nil
}

// WriteText writes the checks as lines of text, each with its advice, if any, below it.
func WriteText(w io.Writer, checks []Check) {
	for _, c := range checks {
		mark := "ok  "
		if !c.OK {
			mark = "note"
		}
		fmt.Fprintf(w, "%s  %-16s %s\n", mark, c.What, c.Found)
		if c.Advice != "" {
			fmt.Fprintf(w, "      %-16s → %s\n", "", c.Advice)
		}
	}
}
