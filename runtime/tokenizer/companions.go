package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// hfAddedToken is a token that is matched before any other processing, as the files of transformers spell it.
type hfAddedToken struct {
	Content    string `json:"content"`
	Special    bool   `json:"special"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	SingleWord bool   `json:"single_word"`
}

func (a hfAddedToken) token() addedToken {
	return addedToken{-1, a.Content, a.Special, a.LStrip, a.RStrip, a.Normalized, a.SingleWord}
}

// namedTokens are the members of tokenizer_config.json that name a token with a role, in transformers' order. Other
// members of such a name are tokens too.
var namedTokens = []string{"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}

// companions reads the files next to a tokenizer: its special and added tokens, those that begin and end a text,
// the chat templates, further ids that end a generation. What stands where, and which file counts where two disagree,
// is as in transformers.
func (t *Tokenizer) companions(dir string) error {
	config, err := readObject(filepath.Join(dir, "tokenizer_config.json"))
	if err != nil {
		return err
	}
	if err := t.readTemplates(dir, config.get("chat_template")); err != nil {
		return err
	}
	if err := t.readTokens(dir, config); err != nil {
		return err
	}
	return t.readEnds(dir)
}

// readTokens adds the tokens that the files name beside those of the tokenizer itself.
func (t *Tokenizer) readTokens(dir string, config *object) error {
	extra := config.get("extra_special_tokens")
	if raw := config.get("additional_special_tokens"); raw != nil && (extra == nil || isEmpty(extra)) {
		extra = raw
	}
	var named []json.RawMessage // tokens of roles that extra_special_tokens names
	split := func() {
		if o, err := parseObject(extra); err == nil && bytes.TrimSpace(extra)[0] == '{' {
			for _, name := range o.keys {
				named = append(named, o.get(name))
			}
			extra = nil
		}
	}
	split()
	byID := map[int32]addedToken{}
	byText := map[string]addedToken{}
	note := func(id int32, a addedToken) { byID[id], byText[a.content] = a, a }
	if raw := config.get("added_tokens_decoder"); raw != nil {
		var tokens map[string]json.RawMessage
		if err := json.Unmarshal(raw, &tokens); err != nil {
			return fmt.Errorf("%s: %w: added_tokens_decoder: %w", config.path, ErrFormat, err)
		}
		for key, raw := range tokens {
			id, err := strconv.ParseInt(key, 10, 32)
			a, ok := readToken(raw, false)
			if err != nil || !ok || raw[0] != '{' {
				return fmt.Errorf("%s: %w: added_tokens_decoder[%q]: expected an id and an object with content",
					config.path, ErrFormat, key)
			}
			note(int32(id), a)
		}
	} else {
		special, err := readObject(filepath.Join(dir, "special_tokens_map.json"))
		if err != nil {
			return err
		}
		for _, key := range special.keys {
			switch key {
			case "extra_special_tokens":
				extra = joinLists(extra, special.get(key))
			case "additional_special_tokens":
			default:
				own := config.get(key) // of another role it counts before this file's
				if slices.Contains(namedTokens, key) || len(own) == 0 || own[0] != '"' {
					config.set(key, special.get(key))
				}
			}
		}
		split()
		if err := readAddedTokens(dir, config, extra, note); err != nil {
			return err
		}
		if extra == nil {
			extra = special.get("additional_special_tokens")
		}
		for id, a := range t.added {
			note(id, a)
		}
	}
	var err error
	if t.bare, err = t.isLlamaClass(dir, config); err != nil {
		return err
	}
	for name, text := range map[string]string{"bos_token": `"<s>"`, "eos_token": `"</s>"`, "unk_token": `"<unk>"`} {
		if t.bare && config.get(name) == nil {
			config.set(name, json.RawMessage(text))
		}
	}
	roleTokens := readNamed(config, named, byText)
	known := map[string]bool{} // added tokens
	for _, a := range t.added {
		known[a.content] = true
	}
	roles := map[string]bool{}
	for _, a := range roleTokens {
		roles[a.content] = true
	}
	var add []addedToken
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		add = append(add, byID[id])
		known[byID[id].content] = true
	}
	var list []json.RawMessage
	if json.Unmarshal(extra, &list) == nil {
		for _, raw := range list {
			if a, ok := readToken(raw, !typed(raw)); ok {
				roleTokens = append(roleTokens, a)
			}
		}
	}
	for _, a := range roleTokens { // a text and an object are two tokens, of which the last counts
		if !known[a.content] && !slices.Contains(add, a) {
			add = append(add, a)
		}
	}
	for _, a := range add {
		if a.content == "" {
			continue
		}
		a.special, a.id = a.special || roles[a.content], -1
		if err := t.addText(a); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	for name, to := range map[string]*int32{"bos_token": &t.bos, "eos_token": &t.eos} {
		if a, ok := readToken(config.get(name), true); ok {
			if id, ok := t.ids[a.content]; ok {
				*to = id
			}
		}
	}
	return nil
}

// isLlamaClass reports whether transformers' AutoTokenizer reads the tokenizer.json of a folder with LlamaTokenizer.
// This class has no normalizer, so that added tokens are found in the text as it is, and default tokens.
func (t *Tokenizer) isLlamaClass(dir string, config *object) (bool, error) {
	var model struct {
		Type  string `json:"model_type"`
		Class string `json:"tokenizer_class"`
	}
	if err := readJSON(filepath.Join(dir, "config.json"), &model); err != nil {
		return false, err
	}
	class := model.Class
	if raw := config.get("tokenizer_class"); raw != nil && !isEmpty(raw) {
		if err := json.Unmarshal(raw, &class); err != nil {
			return false, fmt.Errorf("%s: %w: tokenizer_class: %w", config.path, ErrFormat, err)
		}
	}
	class = strings.TrimSuffix(class, "Fast")
	switch model.Type { // for these AutoTokenizer takes another class, whatever the files say
	case "mistral", "phi3", "qwen2":
		return false, nil
	}
	return class == "LlamaTokenizer" && !t.scored && !t.byteLevel, nil
}

// readNamed returns the tokens that have a role, with the flags that byText has for them.
func readNamed(config *object, more []json.RawMessage, byText map[string]addedToken) []addedToken {
	var out []addedToken
	add := func(raw json.RawMessage, standard bool) {
		a, ok := readToken(raw, !typed(raw))
		if !ok {
			return
		}
		if same, ok := byText[a.content]; ok && standard {
			a = same
		}
		out = append(out, a)
	}
	for _, name := range namedTokens {
		add(config.get(name), true)
	}
	for _, name := range config.keys {
		raw := config.get(name)
		if strings.HasSuffix(name, "_token") && !slices.Contains(namedTokens, name) &&
			(raw[0] == '"' || raw[0] == '{') {
			add(raw, false)
		}
	}
	for _, raw := range more {
		add(raw, false)
	}
	return out
}

// readAddedTokens reads added_tokens.json, which older versions of transformers wrote: text → id.
func readAddedTokens(dir string, config *object, extra json.RawMessage, note func(int32, addedToken)) error {
	path := filepath.Join(dir, "added_tokens.json")
	var ids map[string]int32
	if err := readJSON(path, &ids); err != nil {
		return err
	}
	special := map[string]bool{}
	count := func(raw json.RawMessage) {
		if !typed(raw) { // transformers reads these objects later
			special[tokenName(raw)] = true
		}
	}
	for _, name := range namedTokens {
		count(config.get(name))
	}
	var list []json.RawMessage
	if json.Unmarshal(extra, &list) == nil {
		for _, raw := range list {
			count(raw)
		}
	}
	for content, id := range ids {
		if id < 0 {
			return fmt.Errorf("%s: %w: token %q has id %d", path, ErrFormat, content, id)
		}
		note(id, addedToken{content: content, special: special[content], normalized: !special[content]})
	}
	return nil
}

// readEnds reads the ids that end a generation: generation_config.json's, else those of config.json or of its
// text_config.
func (t *Tokenizer) readEnds(dir string) error {
	var generation, config struct {
		EOS  json.RawMessage `json:"eos_token_id"`
		Text struct {
			EOS json.RawMessage `json:"eos_token_id"`
		} `json:"text_config"`
	}
	if err := readJSON(filepath.Join(dir, "generation_config.json"), &generation); err != nil {
		return err
	}
	many := idList(generation.EOS)
	if many == nil {
		if err := readJSON(filepath.Join(dir, "config.json"), &config); err != nil {
			return err
		}
		if many = idList(config.EOS); many == nil {
			many = idList(config.Text.EOS)
		}
	}
	if t.eos < 0 && len(many) > 0 && int(many[0]) < len(t.pieces) {
		t.eos = max(many[0], -1)
	}
	for _, id := range many {
		t.addStop(id)
	}
	return nil
}

// idList reads an id or a list of ids; nil where raw is neither.
func idList(raw json.RawMessage) []int32 {
	var one *int32
	var many []int32
	if json.Unmarshal(raw, &one) == nil && one != nil {
		return []int32{*one}
	}
	if json.Unmarshal(raw, &many) != nil {
		return nil
	}
	return many
}

// templateDir holds further chat templates, NAME.jinja each.
const templateDir = "additional_chat_templates"

// maxTemplates bounds the chat templates of a model.
const maxTemplates = 64

// readTemplates reads the chat templates: of files of their own, else of tokenizer_config.json, where they are one
// string or a list of named ones.
func (t *Tokenizer) readTemplates(dir string, raw json.RawMessage) error {
	if text, err := readFile(filepath.Join(dir, "chat_template.jinja")); err == nil {
		t.templates["default"] = string(text)
	}
	files, _ := filepath.Glob(filepath.Join(globEscape(dir), templateDir, "*.jinja"))
	if len(files) > maxTemplates {
		return fmt.Errorf("%s: %w: %d chat templates, at most %d", filepath.Join(dir, templateDir), ErrFormat,
			len(files), maxTemplates)
	}
	for _, file := range files {
		text, err := readFile(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		t.templates[strings.TrimSuffix(filepath.Base(file), ".jinja")] = string(text)
	}
	if len(t.templates) > 0 {
		return nil
	}
	var s string
	var list []struct{ Name, Template string }
	if json.Unmarshal(raw, &s) == nil && s != "" {
		t.templates["default"] = s
	} else if json.Unmarshal(raw, &list) == nil {
		for _, e := range list[:min(len(list), maxTemplates)] {
			t.templates[e.Name] = e.Template
		}
	}
	return nil
}

// globEscape makes a path match itself only.
func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// readToken reads a token: its text, or an object with its flags. A text is a special token if special is set. The id
// is -1, of a text -2.
func readToken(raw json.RawMessage, special bool) (addedToken, bool) {
	var s string
	if json.Unmarshal(raw, &s) == nil && s != "" {
		return addedToken{id: -2, content: s, special: special, normalized: !special}, true
	}
	o := struct {
		hfAddedToken
		Normalized *bool `json:"normalized"`
	}{}
	if json.Unmarshal(raw, &o) != nil || o.Content == "" {
		return addedToken{}, false
	}
	a := o.token()
	a.special = a.special || special
	a.normalized = !a.special
	if o.Normalized != nil {
		a.normalized = *o.Normalized
	}
	return a, true
}

// tokenName returns the text of a token.
func tokenName(raw json.RawMessage) string {
	a, _ := readToken(raw, true)
	return a.content
}

// typed reports whether raw is an object that names its own class, as in tokenizer_config.json.
func typed(raw json.RawMessage) bool {
	var o struct {
		Type string `json:"__type"`
	}
	return json.Unmarshal(raw, &o) == nil && o.Type != ""
}

func isEmpty(raw json.RawMessage) bool {
	s := string(bytes.TrimSpace(raw))
	return s == "null" || s == "[]" || s == "{}"
}

// joinLists returns the elements of both lists, each once.
func joinLists(a, b json.RawMessage) json.RawMessage {
	var x, y []json.RawMessage
	_ = json.Unmarshal(a, &x)
	if json.Unmarshal(b, &y) != nil {
		return b
	}
	names := map[string]bool{}
	for _, raw := range x {
		names[tokenName(raw)] = true
	}
	for _, raw := range y {
		if !names[tokenName(raw)] {
			x = append(x, raw)
		}
	}
	out, _ := json.Marshal(x)
	return out
}

// object is a JSON object with its members in their order.
type object struct {
	path    string
	keys    []string
	members map[string]json.RawMessage
}

func (o *object) get(key string) json.RawMessage { return o.members[key] }

func (o *object) set(key string, value json.RawMessage) {
	if _, known := o.members[key]; !known {
		o.keys = append(o.keys, key)
	}
	o.members[key] = value
}

// readObject reads an optional file; without one the object is empty.
func readObject(path string) (*object, error) {
	text, err := readFile(path)
	if os.IsNotExist(err) {
		return &object{path: path, members: map[string]json.RawMessage{}}, nil
	} else if err != nil {
		return nil, err
	}
	o, err := parseObject(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s%w", path, ErrFormat, place(err), err)
	}
	o.path = path
	return o, nil
}

func parseObject(text []byte) (*object, error) {
	o := &object{members: map[string]json.RawMessage{}}
	if err := json.Unmarshal(text, &o.members); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	dec := json.NewDecoder(bytes.NewReader(text))
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		if name, _ := key.(string); !seen[name] {
			o.keys, seen[name] = append(o.keys, name), true
		}
	}
	return o, nil
}

// readJSON reads an optional file.
func readJSON(path string, v any) error {
	text, err := readFile(path)
	if err != nil {
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w: %s%w", path, ErrFormat, place(err), err)
	}
	return nil
}
