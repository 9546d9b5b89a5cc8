// Package chatclient is a conversation in a terminal with any OpenAI-compatible server.
package chatclient

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"weft/internal/sse"
)

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Conversation is one session in a terminal with one server.
type Conversation struct {
	In          io.Reader
	Out         io.Writer
	URL         string // of the server, without /v1
	Key         string // "": none is sent
	Model       string // "": the server's default
	System      string
	Temperature float64
	MaxTokens   int  // longest answer
	Color       bool // Out shows colors
	Prompt      bool // a person types: prompts are shown, and errors do not end the session

	messages []message
}

const help = `/help           this list
/new            forget the conversation
/system TEXT    set the system message and begin anew
/temperature X  0 to 2
/quit           end (so does Ctrl-D)
Ctrl-C stops the answer, not the program.`

func (c *Conversation) paint(code, s string) string {
	if !c.Color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// Run reads lines until /quit or the end of input. A signal on interrupt ends the answer that is being written.
func (c *Conversation) Run(interrupt <-chan os.Signal) error {
	in := bufio.NewReader(c.In)
	c.reset()
	if c.Prompt {
		fmt.Fprintln(c.Out, c.paint("2", "weft chat: /help lists the commands, Ctrl-D ends"))
	}
	lines := make(chan string)
	ended := make(chan error, 1)
	next := make(chan struct{})
	go func() {
		for range next {
			line, err := in.ReadString('\n')
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
		if c.Prompt {
			fmt.Fprint(c.Out, c.paint("1;36", "you> "))
		}
		select {
		case next <- struct{}{}:
		case err := <-ended:
			return endOfInput(err)
		}
		line, err := c.readLine(lines, ended, interrupt)
		if err != nil {
			if c.Prompt {
				fmt.Fprintln(c.Out)
			}
			return endOfInput(err)
		}
		quit, err := c.handle(strings.TrimSpace(line), interrupt)
		if err != nil {
			fmt.Fprintln(c.Out, c.paint("31", err.Error()))
			if !c.Prompt {
				return err
			}
		}
		if quit {
			return nil
		}
	}
}

// readLine waits for a line; Ctrl-C at the prompt starts a new line.
func (c *Conversation) readLine(lines <-chan string, ended <-chan error, interrupt <-chan os.Signal) (string, error) {
	for {
		select {
		case line := <-lines:
			return line, nil
		case err := <-ended:
			return "", err
		case <-interrupt:
			fmt.Fprint(c.Out, "\n"+c.paint("2", "(Ctrl-D or /quit ends)")+"\n"+c.paint("1;36", "you> "))
		}
	}
}

func endOfInput(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (c *Conversation) reset() {
	c.messages = nil
	if c.System != "" {
		c.messages = []message{{"system", c.System}}
	}
}

func (c *Conversation) handle(line string, interrupt <-chan os.Signal) (quit bool, err error) {
	word, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	switch {
	case line == "":
		return false, nil
	case word == "/quit" || word == "/exit":
		return true, nil
	case word == "/help":
		fmt.Fprintln(c.Out, help)
		return false, nil
	case word == "/new":
		c.reset()
		return false, nil
	case word == "/system":
		c.System = rest
		c.reset()
		return false, nil
	case word == "/temperature":
		var t float64
		if n, err := fmt.Sscan(rest, &t); n != 1 || err != nil || !(t >= 0 && t <= 2) {
			return false, fmt.Errorf("/temperature %s: a number from 0 to 2 is needed", rest)
		}
		c.Temperature = t
		return false, nil
	case strings.HasPrefix(word, "/"):
		return false, fmt.Errorf("%s: no such command; /help lists them", word)
	}
	c.messages = append(c.messages, message{"user", line})
	answer, err := c.ask(interrupt)
	if answer == "" && err != nil {
		c.messages = c.messages[:len(c.messages)-1]
		return false, err
	}
	c.messages = append(c.messages, message{"assistant", answer})
	return false, err
}

// ask streams the answer to the terminal; an interrupt ends it early and keeps the text so far.
func (c *Conversation) ask(interrupt <-chan os.Signal) (string, error) {
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
	ask := map[string]any{"messages": c.messages, "stream": true, "temperature": c.Temperature,
		"max_tokens": c.MaxTokens}
	if c.Model != "" {
		ask["model"] = c.Model
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+"/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	if c.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.Key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return "", nil
		}
		return "", fmt.Errorf("cannot reach %s: %w", c.URL, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", ServerError(resp)
	}
	answer, err := c.printStream(resp.Body)
	if ctx.Err() != nil {
		fmt.Fprint(c.Out, c.paint("2", " (stopped)"))
		err = nil
	}
	fmt.Fprintln(c.Out)
	return answer, err
}

type chunk struct {
	Choices []struct {
		Delta struct {
			Content string `json:"content"`
		} `json:"delta"`
	} `json:"choices"`
	Error *struct {
		Message string `json:"message"`
	} `json:"error"`
}

func (c *Conversation) printStream(r io.Reader) (string, error) {
	var answer strings.Builder
	events := sse.NewReader(r, 1<<20)
	for {
		ev, err := events.Next()
		if errors.Is(err, io.EOF) {
			return answer.String(), nil
		}
		if err != nil {
			return answer.String(), err
		}
		if string(ev.Data) == "[DONE]" {
			continue
		}
		var ch chunk
		if err := json.Unmarshal(ev.Data, &ch); err != nil {
			return answer.String(), fmt.Errorf("the server sent an event that is not a chat chunk: %w", err)
		}
		if ch.Error != nil {
			return answer.String(), errors.New(ch.Error.Message)
		}
		for _, choice := range ch.Choices {
			answer.WriteString(choice.Delta.Content)
			fmt.Fprint(c.Out, Printable(choice.Delta.Content))
		}
	}
}

// Printable drops control characters, so that an answer or a file cannot send commands to the terminal.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}

// ServerError returns the error of an answer whose status is not 200; it reads at most 64 KiB of the body.
func ServerError(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	var ch chunk
	if json.Unmarshal(text, &ch) == nil && ch.Error != nil {
		return fmt.Errorf("%s: %s", resp.Status, ch.Error.Message)
	}
	return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(text))
}
