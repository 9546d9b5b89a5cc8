package deploy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

// document is one YAML document, as JSON would hold it.
type document = map[string]any

// documents reads the YAML documents of a file.
func documents(t *testing.T, path string) []document {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []document
	for dec := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var doc any
		if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		raw, err := json.Marshal(doc)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		asJSON, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		d, ok := asJSON.(document)
		if !ok {
			t.Fatalf("%s: a document is a %T, not a mapping", path, asJSON)
		}
		out = append(out, d)
	}
}

// schema compiles the part of a file of schemas that pointer names; "" is all of it.
func schema(t *testing.T, file, pointer string) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile(filepath.Join("schemas", file) + "#" + pointer)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// at walks mappings and lists; it ends the test where there is nothing.
func at(t *testing.T, node any, path ...any) any {
	t.Helper()
	for i, step := range path {
		var next any
		switch step := step.(type) {
		case string:
			m, _ := node.(document)
			next = m[step]
		case int:
			if l, _ := node.([]any); step < len(l) {
				next = l[step]
			}
		}
		if next == nil {
			t.Fatalf("there is nothing at %v", path[:i+1])
		}
		node = next
	}
	return node
}

func keys(node any) []string {
	m, _ := node.(document)
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	return out
}

func TestCompose(t *testing.T) {
	file := documents(t, "compose/compose.yaml")[0]
	if err := schema(t, "compose.json", "").Validate(file); err != nil {
		t.Fatalf("%#v", err)
	}
	services, volumes, secrets := at(t, file, "services"), keys(at(t, file, "volumes")), keys(at(t, file, "secrets"))
	for _, name := range keys(services) {
		service := at(t, services, name).(document)
		for _, needed := range keys(service["depends_on"]) {
			at(t, services, needed)
		}
		mounts, _ := service["volumes"].([]any)
		for _, m := range mounts {
			from, _, _ := strings.Cut(m.(string), ":")
			if !strings.HasPrefix(from, ".") {
				if !slices.Contains(volumes, from) {
					t.Errorf("%s: volume %s is not declared", name, from)
				}
			} else if _, err := os.Stat(filepath.Join("compose", from)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		used, _ := service["secrets"].([]any)
		for _, s := range used {
			if !slices.Contains(secrets, s.(string)) {
				t.Errorf("%s: secret %s is not declared", name, s)
			}
		}
	}
	context := at(t, services, "weft", "build", "context").(string)
	if _, err := os.Stat(filepath.Join("compose", context, "Dockerfile")); err != nil {
		t.Error(err)
	}
	key := at(t, documents(t, "compose/prometheus.yaml")[0], "scrape_configs", 0, "authorization", "credentials_file")
	if key != "/run/secrets/"+secrets[0] {
		t.Errorf("Prometheus reads its key from %s, and the secret is %s", key, secrets[0])
	}
}

func TestSchemasRefuse(t *testing.T) {
	file := documents(t, "compose/compose.yaml")[0]
	at(t, file, "services", "weft").(document)["prots"] = []any{}
	if schema(t, "compose.json", "").Validate(file) == nil {
		t.Error("a misspelt key of a service passes")
	}
	for _, doc := range kubernetes(t) {
		var inner document
		switch doc["kind"] {
		case "Deployment":
			inner = at(t, doc, "spec", "template", "spec", "containers", 0).(document)
		case "InferencePool", "PodMonitor", "ScaledObject":
			inner = at(t, doc, "spec").(document)
		case "HTTPRoute":
			inner = at(t, doc, "spec", "rules", 0, "backendRefs", 0).(document)
		default:
			continue
		}
		inner["readinessProbes"] = "misspelt"
		if kind(t, doc).Validate(doc) == nil {
			t.Errorf("%s: a misspelt key passes", doc["kind"])
		}
	}
}

// kubernetes returns the objects of all files for Kubernetes.
func kubernetes(t *testing.T) []document {
	t.Helper()
	files, err := filepath.Glob("kubernetes/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%v, %v", files, err)
	}
	var out []document
	for _, path := range files {
		out = append(out, documents(t, path)...)
	}
	return out
}

// kind is the schema of a Kubernetes object: that of Kubernetes itself, or of the project whose resource it is.
func kind(t *testing.T, doc document) *jsonschema.Schema {
	t.Helper()
	name := at(t, doc, "apiVersion").(string) + " " + at(t, doc, "kind").(string)
	file := "kubernetes.json"
	switch doc["kind"] {
	case "InferencePool", "HTTPRoute", "PodMonitor", "ScaledObject":
		file = "custom.json"
	}
	return schema(t, file, "/kinds/"+strings.ReplaceAll(name, "/", "~1"))
}

func TestKubernetes(t *testing.T) {
	byKind := map[string]document{}
	for _, doc := range kubernetes(t) {
		if err := kind(t, doc).Validate(doc); err != nil {
			t.Errorf("%s: %#v", doc["kind"], err)
		}
		if doc["kind"] != "Namespace" && at(t, doc, "metadata", "namespace") != "weft" {
			t.Errorf("%s is not in the namespace weft", doc["kind"])
		}
		byKind[doc["kind"].(string)] = doc
	}
	deployment := byKind["Deployment"]
	pod := at(t, deployment, "spec", "template", "spec")
	container := at(t, pod, "containers", 0)
	labels := at(t, deployment, "spec", "template", "metadata", "labels")
	for what, selector := range map[string]any{
		"Deployment":          at(t, deployment, "spec", "selector", "matchLabels"),
		"Service":             at(t, byKind["Service"], "spec", "selector"),
		"PodDisruptionBudget": at(t, byKind["PodDisruptionBudget"], "spec", "selector", "matchLabels"),
		"InferencePool":       at(t, byKind["InferencePool"], "spec", "selector", "matchLabels"),
		"PodMonitor":          at(t, byKind["PodMonitor"], "spec", "selector", "matchLabels"),
	} {
		for _, k := range keys(selector) {
			if at(t, selector, k) != at(t, labels, k) {
				t.Errorf("%s selects no pod of the Deployment: %v", what, selector)
			}
		}
	}
	port, monitor := at(t, container, "ports", 0), at(t, container, "ports", 1)
	for probe, path := range map[string]string{"startupProbe": "/live", "livenessProbe": "/live",
		"readinessProbe": "/ready"} {
		get := at(t, container, probe, "httpGet").(document)
		if get["path"] != path || get["port"] != at(t, monitor, "name") {
			t.Errorf("%s asks %v", probe, get)
		}
	}
	for what, c := range map[string][2]any{
		"Service": {at(t, byKind["Service"], "spec", "ports", 0, "targetPort"), at(t, port, "name")},
		"PodMonitor": {at(t, byKind["PodMonitor"], "spec", "podMetricsEndpoints", 0, "port"),
			at(t, monitor, "name")},
		"InferencePool": {at(t, byKind["InferencePool"], "spec", "targetPorts", 0, "number"),
			at(t, port, "containerPort")},
		"jobLabel": {at(t, labels, at(t, byKind["PodMonitor"], "spec", "jobLabel")), "weft"},
		"HTTPRoute": {at(t, byKind["HTTPRoute"], "spec", "rules", 0, "backendRefs", 0, "name"),
			at(t, byKind["InferencePool"], "metadata", "name")},
		"ScaledObject": {at(t, byKind["ScaledObject"], "spec", "scaleTargetRef", "name"),
			at(t, deployment, "metadata", "name")},
	} {
		if c[0] != c[1] {
			t.Errorf("%s names %v, want %v", what, c[0], c[1])
		}
	}
	for from, name := range map[string]any{
		"Secret":         at(t, container, "envFrom", 0, "secretRef", "name"),
		"ConfigMap":      at(t, pod, "volumes", 0, "configMap", "name"),
		"ServiceAccount": at(t, pod, "serviceAccountName"),
	} {
		if at(t, byKind[from], "metadata", "name") != name {
			t.Errorf("the pod names the %s %v", from, name)
		}
	}
	var settings struct {
		Listen  string
		Monitor string        `yaml:"metrics-listen"`
		Drain   time.Duration `yaml:"drain-timeout"`
	}
	text := at(t, byKind["ConfigMap"], "data", "weft.yaml").(string)
	if err := yaml.Unmarshal([]byte(text), &settings); err != nil {
		t.Fatal(err)
	}
	for address, p := range map[string]any{settings.Listen: port, settings.Monitor: monitor} {
		if want := fmt.Sprint("0.0.0.0:", at(t, p, "containerPort")); address != want {
			t.Errorf("weft listens on %q, and the port is %s", address, want)
		}
	}
	for _, c := range complaints(at(t, byKind["ScaledObject"], "spec", "triggers", 0, "metadata", "query").(string),
		exposed(t)) {
		t.Errorf("ScaledObject: %s", c)
	}
	pause, _ := at(t, container, "lifecycle", "preStop", "sleep", "seconds").(json.Number).Int64()
	grace, _ := at(t, pod, "terminationGracePeriodSeconds").(json.Number).Int64()
	if need := settings.Drain + time.Duration(pause)*time.Second; time.Duration(grace)*time.Second <= need {
		t.Errorf("the pod is killed after %d s, before it has drained in %v", grace, need)
	}
}
