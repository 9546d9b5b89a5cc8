package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func chatCommand() *cobra.Command {
	var f stackFlags
	var url, key, system string
	var temperature float64
	var maxTokens int
	cmd := &cobra.Command{
		Use:   "chat",
		Short: "Talk in the terminal, with a model of this machine or (--url) with any OpenAI-compatible server",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !(temperature >= 0 && temperature <= 2) {
				return usagef("--temperature %v: 0 to 2", temperature)
			}
			if maxTokens < 1 {
				return usagef("--max-tokens %d: at least 1", maxTokens)
			}
			c := &conversation{
				model: f.adapter,
				in:    bufio.NewReader(cmd.InOrStdin()), out: cmd.OutOrStdout(), key: key, system: system,
				temperature: temperature, maxTokens: maxTokens, color: isTerminal(cmd.OutOrStdout()) &&
					os.Getenv("NO_COLOR") == "",
				prompt: isTerminal(cmd.InOrStdin()), url: strings.TrimSuffix(strings.TrimSuffix(url, "/"), "/v1"),
			}
			if url == "" {
				c.model = "" // every request here is the adapter's
				stop, addr, err := serveLocally(&f)
				if err != nil {
					return err
				}
				c.url = "http://" + addr
				err = c.run()
				return errors.Join(err, stop())
			}
			return c.run()
		},
	}
	f.register(cmd.Flags())
	f.fourBit.register(cmd.Flags())
	f.registerAdapter(cmd.Flags(), "PEFT folder or GGUF adapter to use; with --url the `name` of a model there")
	fl := cmd.Flags()
	fl.StringVar(&url, "url", "", "talk to this server instead, e.g. http://127.0.0.1:8000")
	fl.StringVar(&key, "api-key", "", "key for --url (or WEFT_API_KEY)")
	fl.StringVar(&system, "system", "", "system message")
	fl.Float64Var(&temperature, "temperature", 0.7, "0: greedy")
	fl.IntVar(&maxTokens, "max-tokens", 512, "longest answer in tokens")
	return cmd
}

func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// serveLocally starts a server for this conversation alone, on a free loopback port.
func serveLocally(f *stackFlags) (stop func() error, addr string, err error) {
	s, err := openStack(f, nil)
	if err != nil {
		return nil, "", err
	}
	h, err := newHandler(s)
	if err != nil {
		return nil, "", errors.Join(err, s.Close())
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", errors.Join(err, s.Close())
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go srv.Serve(l) //nolint:errcheck // ends with ErrServerClosed
	return func() error { return errors.Join(srv.Close(), s.Close()) }, l.Addr().String(), nil
}

type chatMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// conversation is one terminal session against one server.
type conversation struct {
	in            *bufio.Reader
	out           io.Writer
	url, key      string
	model         string // "" is the server's default
	system        string
	temperature   float64
	maxTokens     int
	color, prompt bool
	messages      []chatMessage
}

const chatHelp = `/help           this list
/new            forget the conversation
/system TEXT    set the system message and begin anew
/temperature X  0 to 2
/quit           end (so does Ctrl-D)
Ctrl-C stops the answer, not the program.`

func (c *conversation) paint(code, s string) string {
	if !c.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// run reads lines until /quit or the end of input.
func (c *conversation) run() error {
	if c.key == "" {
		c.key = os.Getenv("WEFT_API_KEY")
	}
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt)
	defer signal.Stop(interrupt)
	c.reset()
	if c.prompt {
		fmt.Fprintln(c.out, c.paint("2", "weft chat: /help lists the commands, Ctrl-D ends"))
	}
	lines := make(chan string)
	ended := make(chan error, 1)
	next := make(chan struct{})
	go func() {
		for range next {
			line, err := c.in.ReadString('\n')
			if line != "" {
				lines <- line
			}
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	defer close(next)
	for {
		if c.prompt {
			fmt.Fprint(c.out, c.paint("1;36", "you> "))
		}
		select {
		case next <- struct{}{}:
		case err := <-ended:
			return endOfInput(err)
		}
		line, err := c.readLine(lines, ended, interrupt)
		if err != nil {
			if c.prompt {
				fmt.Fprintln(c.out)
			}
			return endOfInput(err)
		}
		quit, err := c.handle(strings.TrimSpace(line), interrupt)
		if err != nil {
			fmt.Fprintln(c.out, c.paint("31", err.Error()))
			if !c.prompt {
				return err
			}
		}
		if quit {
			return nil
		}
	}
}

// readLine waits for a line; Ctrl-C at the prompt only begins a new one.
func (c *conversation) readLine(lines <-chan string, ended <-chan error, interrupt <-chan os.Signal) (string, error) {
	for {
		select {
		case line := <-lines:
			return line, nil
		case err := <-ended:
			return "", err
		case <-interrupt:
			fmt.Fprint(c.out, "\n"+c.paint("2", "(Ctrl-D or /quit ends)")+"\n"+c.paint("1;36", "you> "))
		}
	}
}

func endOfInput(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (c *conversation) reset() {
	c.messages = nil
	if c.system != "" {
		c.messages = []chatMessage{{"system", c.system}}
	}
}

func (c *conversation) handle(line string, interrupt <-chan os.Signal) (quit bool, err error) {
	word, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	switch {
	case line == "":
		return false, nil
	case word == "/quit" || word == "/exit":
		return true, nil
	case word == "/help":
		fmt.Fprintln(c.out, chatHelp)
		return false, nil
	case word == "/new":
		c.reset()
		return false, nil
	case word == "/system":
		c.system = rest
		c.reset()
		return false, nil
	case word == "/temperature":
		var t float64
		if n, err := fmt.Sscan(rest, &t); n != 1 || err != nil || !(t >= 0 && t <= 2) {
			return false, fmt.Errorf("/temperature %s: a number from 0 to 2 is needed", rest)
		}
		c.temperature = t
		return false, nil
	case strings.HasPrefix(word, "/"):
		return false, fmt.Errorf("%s: no such command; /help lists them", word)
	}
	c.messages = append(c.messages, chatMessage{"user", line})
	answer, err := c.ask(interrupt)
	if answer == "" && err != nil {
		c.messages = c.messages[:len(c.messages)-1]
		return false, err
	}
	c.messages = append(c.messages, chatMessage{"assistant", answer})
	return false, err
}

// ask streams the answer to the terminal; an interrupt ends it early and keeps what came.
func (c *conversation) ask(interrupt <-chan os.Signal) (string, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-interrupt:
			cancel()
		case <-done:
		}
	}()
	ask := map[string]any{"messages": c.messages, "stream": true, "temperature": c.temperature,
		"max_tokens": c.maxTokens}
	if c.model != "" {
		ask["model"] = c.model
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return "", nil
		}
		return "", fmt.Errorf("cannot reach %s: %w", c.url, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", serverError(resp)
	}
	answer, err := c.printStream(resp.Body)
	if ctx.Err() != nil {
		fmt.Fprint(c.out, c.paint("2", " (stopped)"))
		err = nil
	}
	fmt.Fprintln(c.out)
	return answer, err
}

type chatChunk struct {
	Choices []struct {
		Delta struct {
			Content string `json:"content"`
		} `json:"delta"`
	} `json:"choices"`
	Error *struct {
		Message string `json:"message"`
	} `json:"error"`
}

func (c *conversation) printStream(r io.Reader) (string, error) {
	var answer strings.Builder
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		data, ok := strings.CutPrefix(sc.Text(), "data: ")
		if !ok || data == "[DONE]" {
			continue
		}
		var chunk chatChunk
		if err := json.Unmarshal([]byte(data), &chunk); err != nil {
			return answer.String(), fmt.Errorf("the server sent what is no chat chunk: %w", err)
		}
		if chunk.Error != nil {
			return answer.String(), errors.New(chunk.Error.Message)
		}
		for _, ch := range chunk.Choices {
			answer.WriteString(ch.Delta.Content)
			fmt.Fprint(c.out, printable(ch.Delta.Content))
		}
	}
	return answer.String(), sc.Err()
}

// printable drops control characters, so that an answer or a foreign file cannot command the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}

func serverError(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	var chunk chatChunk
	if json.Unmarshal(text, &chunk) == nil && chunk.Error != nil {
		return fmt.Errorf("%s: %s", resp.Status, chunk.Error.Message)
	}
	return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(text))
}
