// Package chat turns messages into a prompt through the model's own chat template, and watches generated text for stop
// strings.
//
// Templates are Jinja as transformers runs it: the immutable sandbox with trim_blocks, lstrip_blocks, break and
// continue, the generation tag, tojson in insertion order, raise_exception and strftime_now. lexer.go and the parser
// make a tree (ast.go), eval*.go walks it under Limits. Values are plain data (value.go); a template can reach nothing
// else, and neither files nor other templates. The package knows no HTTP and no engine: the trainer uses it too. Source
// of the semantics: Jinja 3.1 and Python 3 as documented, checked against recorded renderings.
package chat
