package chat

import (
	"fmt"
	"strings"
)

// FlattenText returns the messages with every content that is a list of text parts replaced by one string, the parts
// joined by newlines; a content that is missing or null, as beside tool calls, is an empty string. It is for templates
// that expect a string (IteratesContent false). Parts of any other type are an error that names message, part and type;
// messages are not changed, those with a string are shared with the result.
func FlattenText(messages []any) ([]any, error) {
	out := make([]any, len(messages))
	for i, msg := range messages {
		out[i] = msg
		m, ok := msg.(*Map)
		if !ok {
			continue
		}
		content, _ := m.Get("content")
		parts, ok := content.([]any)
		if !ok && content != nil {
			continue
		}
		texts := make([]string, len(parts))
		for k, p := range parts {
			text, err := partText(p)
			if err != nil {
				return nil, fmt.Errorf("message %d, content part %d: %w", i, k, err)
			}
			texts[k] = text
		}
		flat := m.Clone()
		flat.Set("content", strings.Join(texts, "\n"))
		out[i] = flat
	}
	return out, nil
}

func partText(p any) (string, error) {
	if s, ok := p.(string); ok {
		return s, nil
	}
	m, ok := p.(*Map)
	if !ok {
		return "", fmt.Errorf("want an object with type and text, got %s", typeName(p))
	}
	kind, has := m.Get("type")
	text, isText := m.Get("text")
	if s, ok := text.(string); ok && isText && (!has || kind == "text") {
		return s, nil
	}
	if !has {
		return "", fmt.Errorf("has no type")
	}
	return "", fmt.Errorf("type %v is not supported: this model takes text only", kind)
}

// iteratesContent looks for a loop over a content attribute, directly or through a variable that was set from one.
func iteratesContent(body []stmt) bool {
	vars := map[string]bool{}
	found := false
	for _, s := range body {
		walk(s, func(n any) {
			switch n := n.(type) {
			case *setStmt:
				if name, ok := n.target.(*nameExpr); ok && isContent(n.value, vars) {
					vars[name.name] = true
				}
			case *forStmt:
				found = found || isContent(n.iter, vars)
			}
		})
	}
	return found
}

// isContent sees x.content, x['content'] and variables holding one, also behind filters and slices.
func isContent(x expr, vars map[string]bool) bool {
	switch n := x.(type) {
	case *attrExpr:
		return n.name == "content"
	case *itemExpr:
		switch k := n.key.(type) {
		case *constExpr:
			return k.v == "content"
		case *sliceExpr:
			return isContent(n.x, vars)
		}
	case *filterExpr:
		return (n.name == "list" || n.name == "selectattr" || n.name == "rejectattr" || n.name == "reverse") &&
			isContent(n.x, vars)
	case *nameExpr:
		return vars[n.name]
	}
	return false
}
