// Command picker reads a server's metrics with the code of the endpoint picker of the Kubernetes inference gateway, as
// the picker does before it routes, and scores the server for model names. It fails where a figure is missing, where
// the server does not score 1 (the adapter is in memory) for each name, or not 0.8 (there is room) for another one.
//
//	picker HOST:PORT NAME...
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"sigs.k8s.io/gateway-api-inference-extension/pkg/epp/framework/interface/datalayer"
	"sigs.k8s.io/gateway-api-inference-extension/pkg/epp/framework/interface/scheduling"
	extractor "sigs.k8s.io/gateway-api-inference-extension/pkg/epp/framework/plugins/datalayer/extractor/metrics"
	source "sigs.k8s.io/gateway-api-inference-extension/pkg/epp/framework/plugins/datalayer/source/metrics"
	"sigs.k8s.io/gateway-api-inference-extension/pkg/epp/framework/plugins/scheduling/scorer/loraaffinity"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "picker HOST:PORT NAME...")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := check(ctx, os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "picker:", err)
		os.Exit(1)
	}
}

// scrape polls the server and returns what the picker keeps of its metrics.
func scrape(ctx context.Context, address string) (*datalayer.Metrics, error) {
	from, err := source.NewHTTPMetricsDataSource("http", "/metrics", "source")
	if err != nil {
		return nil, err
	}
	server := datalayer.NewEndpoint(&datalayer.EndpointMetadata{MetricsHost: address}, nil)
	data, err := from.Poll(ctx, server)
	if err != nil {
		return nil, err
	}
	plugin, err := extractor.CoreMetricsExtractorFactory("extractor", nil, nil)
	if err != nil {
		return nil, err
	}
	if err := plugin.(*extractor.Extractor).Extract(ctx, data, server); err != nil {
		return nil, err
	}
	return server.GetMetrics(), nil
}

func check(ctx context.Context, address string, names []string) error {
	m, err := scrape(ctx, address)
	if err != nil {
		return err
	}
	fmt.Printf("picker: %+v\n", *m)
	if m.CacheBlockSize <= 0 || m.CacheNumBlocks <= 0 || m.KVCacheUsagePercent < 0 || m.KVCacheUsagePercent > 1 ||
		m.UpdateTime.IsZero() {
		return fmt.Errorf("a figure is missing or makes no sense: %+v", *m)
	}
	wants := map[string]float64{"no-such-adapter": 0.8}
	for _, n := range names {
		wants[n] = 1
	}
	server := scheduling.NewEndpoint(nil, m, nil)
	for name, want := range wants {
		scores := loraaffinity.NewLoraAffinityScorer().Score(ctx, nil, &scheduling.LLMRequest{TargetModel: name},
			[]scheduling.Endpoint{server})
		if got := scores[server]; got != want {
			return fmt.Errorf("the score for %s is %v, want %v", name, got, want)
		}
	}
	return nil
}
