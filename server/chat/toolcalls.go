package chat

// ObjectArguments returns the messages with the arguments of tool calls as templates expect them: where the API has a
// string that is a JSON object, the object, in the client's order; where it has nothing, an empty object. Any other
// string stays one. Messages are not changed, those without tool calls are shared with the result.
func ObjectArguments(messages []any) []any {
	out := make([]any, len(messages))
	for i, msg := range messages {
		out[i] = msg
		m, ok := msg.(*Map)
		if !ok {
			continue
		}
		v, _ := m.Get("tool_calls")
		calls, ok := v.([]any)
		if !ok {
			continue
		}
		done := make([]any, len(calls))
		for k, call := range calls {
			done[k] = objectArguments(call)
		}
		m = m.Clone()
		m.Set("tool_calls", done)
		out[i] = m
	}
	return out
}

func objectArguments(call any) any {
	c, ok := call.(*Map)
	if !ok {
		return call
	}
	v, _ := c.Get("function")
	f, ok := v.(*Map)
	if !ok {
		return call
	}
	args, _ := f.Get("arguments")
	switch text, isText := args.(string); {
	case args == nil, isText && text == "":
		args = NewMap()
	case isText:
		v, err := DecodeJSON([]byte(text))
		object, ok := v.(*Map)
		if err != nil || !ok {
			return call
		}
		args = object
	default:
		return call
	}
	f, c = f.Clone(), c.Clone()
	f.Set("arguments", args)
	c.Set("function", f)
	return c
}
