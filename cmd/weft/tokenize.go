package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"weft/internal/modelref"
	"weft/internal/node"
	"weft/runtime/tokenizer"
)

func tokenizeCommand() *cobra.Command {
	var ref string
	var special, asText, asJSON bool
	var decode []int32
	cmd := &cobra.Command{
		Use:   "tokenize [TEXT]",
		Short: "Print the token ids of TEXT (or of standard input), or decode ids",
		Example: "  weft tokenize \"Hello world\"\n" +
			"  weft tokenize --decode 1,2,3",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, _, err := modelref.Resolve(ref)
			if err != nil {
				return err
			}
			tok, _, err := node.LoadTokenizer(path)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if cmd.Flags().Changed("decode") {
				for _, id := range decode {
					if id < 0 || int(id) >= tok.VocabSize() {
						return usagef("--decode %d: ids are 0 to %d", id, tok.VocabSize()-1)
					}
				}
				text := tok.Decode(decode, false)
				if asJSON {
					return printJSON(out, map[string]any{"count": len(decode), "tokens": decode, "text": text})
				}
				_, err := fmt.Fprintln(out, text)
				return err
			}
			text := strings.Join(args, "")
			if len(args) == 0 {
				b, err := io.ReadAll(cmd.InOrStdin())
				if err != nil {
					return err
				}
				text = string(b)
			}
			ids := tok.Encode(text, tokenizer.EncodeOptions{AddSpecial: special, SpecialAsText: asText})
			if asJSON {
				pieces := make([]string, len(ids))
				for i, id := range ids {
					pieces[i], _ = tok.Token(id)
				}
				return printJSON(out, map[string]any{"count": len(ids), "tokens": ids, "pieces": pieces})
			}
			for _, id := range ids {
				piece, _ := tok.Token(id)
				fmt.Fprintf(out, "%7d %q\n", id, piece)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&ref, "model", "",
		"`model`: a folder, tokenizer.json, tokenizer.model, .gguf file or name in the model cache")
	f.BoolVar(&special, "add-special", false, "add BOS and EOS as the model's tokenizer does")
	f.BoolVar(&asText, "special-as-text", false, "encode special tokens in TEXT as plain text")
	f.Int32SliceVar(&decode, "decode", nil, "token `IDS` to decode, e.g. 1,2,3")
	addJSONFlag(f, &asJSON)
	return cmd
}
