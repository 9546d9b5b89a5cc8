package peft

import "testing"

func TestOtherModel(t *testing.T) {
	for _, c := range []struct {
		a, b  string
		other bool
	}{
		{"", "SmolLM2-135M-Instruct", false},
		{"HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct", false},
		{"HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct.Q4_1", false},
		{"unsloth/smollm2-135m-instruct-bnb-4bit", "SmolLM2-135M-Instruct.Q8_0", false},
		{"owner/SmolLM2-135M-Instruct-GGUF", "smollm2_135m_instruct-F16", false},
		{"meta-llama/Llama-3.1-8B-Instruct", "Meta-Llama-3.1-8B-Instruct-Q4_K_M", false},
		{"/home/somebody/qwen2-7b", "SmolLM2-135M-Instruct", false},
		{"./qwen2-7b", "SmolLM2-135M-Instruct", false},
		{"../models/qwen2-7b", "SmolLM2-135M-Instruct", false},
		{"~/qwen2-7b", "SmolLM2-135M-Instruct", false},
		{`C:\models\qwen2-7b`, "SmolLM2-135M-Instruct", false},
		{"models/llms/qwen2-7b", "SmolLM2-135M-Instruct", false},
		{"qwen2-7b/", "SmolLM2-135M-Instruct", false},
		{"Qwen/Qwen2-7B", "model", false},
		{"checkpoint", "SmolLM2-135M-Instruct", false},
		{"HuggingFaceTB/SmolLM2-135M", "SmolLM2-135M-Instruct", true},
		{"HuggingFaceTB/SmolLM2-360M-Instruct", "SmolLM2-135M-Instruct", true},
		{"Qwen/Qwen2-7B", "SmolLM2-135M-Instruct", true},
		{"microsoft/phi-2", "phi-3", true},
		{"gpt2", "SmolLM2-135M-Instruct", true},
		{"meta-llama/Llama-3.2-1B", "Llama-3.1-1B", true},
	} {
		if got := otherModel(c.a, c.b); got != c.other {
			t.Errorf("%q for %q: %v", c.a, c.b, got)
		}
	}
}
