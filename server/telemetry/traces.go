package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Traces starts a span for each request and, when a sequence has ended, adds its child spans queue, prefill and decode.
type Traces struct {
	tracer   trace.Tracer
	shutdown func(context.Context) error
}

// NewTraces exports over OTLP/HTTP where OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set; the
// exporter reads the other OTEL_ variables and logs a warning where it cannot send. Without these variables nothing is
// traced.
func NewTraces(ctx context.Context, version string, log *slog.Logger) (*Traces, error) {
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return NoTraces(), nil
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces", "error", err) }))
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the OTLP exporter: %w", err)
	}
	res, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "weft"), attribute.String("service.version", version)),
		resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil {
		return nil, fmt.Errorf("describe the service for traces: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(res))
	return &Traces{tracer: provider.Tracer("weft/server"), shutdown: provider.Shutdown}, nil
}

// NoTraces records nothing.
func NoTraces() *Traces {
	return &Traces{tracer: noop.NewTracerProvider().Tracer(""), shutdown: func(context.Context) error { return nil }}
}

// Shutdown sends the spans that are still buffered.
func (t *Traces) Shutdown(ctx context.Context) error { return t.shutdown(ctx) }

// Span is one request's span. Methods of a nil Span do nothing.
type Span struct {
	tracer trace.Tracer
	ctx    context.Context //nolint:containedctx // parent of the child spans, made later
	span   trace.Span
}

// Start begins a request's span as a child of the traceparent in the header, if there is one.
func (t *Traces) Start(ctx context.Context, header http.Header, name string) *Span {
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(header))
	ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer))
	return &Span{t.tracer, ctx, span}
}

// TraceID returns the trace's id for logs; "" where nothing is traced.
func (s *Span) TraceID() string {
	if s == nil || !s.span.SpanContext().HasTraceID() || !s.span.IsRecording() {
		return ""
	}
	return s.span.SpanContext().TraceID().String()
}

// Set adds an attribute: a string, int, int64, float64, bool or []string; others are dropped.
func (s *Span) Set(key string, v any) {
	if s == nil || !s.span.IsRecording() {
		return
	}
	switch v := v.(type) {
	case string:
		s.span.SetAttributes(attribute.String(key, v))
	case int:
		s.span.SetAttributes(attribute.Int(key, v))
	case int64:
		s.span.SetAttributes(attribute.Int64(key, v))
	case float64:
		s.span.SetAttributes(attribute.Float64(key, v))
	case bool:
		s.span.SetAttributes(attribute.Bool(key, v))
	case []string:
		s.span.SetAttributes(attribute.StringSlice(key, v))
	}
}

// Stages adds the child spans queue, prefill and, where tokens were generated, decode of choice number index, from the
// times of its record.
func (s *Span) Stages(index int, q Sequence) {
	if s == nil || !s.span.IsRecording() {
		return
	}
	stage := func(name string, from, to time.Time, attrs ...attribute.KeyValue) {
		if from.IsZero() || to.IsZero() {
			return
		}
		_, child := s.tracer.Start(s.ctx, name, trace.WithTimestamp(from),
			trace.WithAttributes(append(attrs, attribute.Int("gen_ai.choice.index", index))...))
		child.End(trace.WithTimestamp(to))
	}
	stage("queue", q.Queued, q.Scheduled)
	stage("prefill", q.Scheduled, q.FirstToken, attribute.Int("gen_ai.usage.input_tokens", q.PromptTokens),
		attribute.Int("gen_ai.usage.cached_tokens", q.CachedTokens))
	if q.GenerationTokens == 0 {
		return // only scored, or ended before its first token
	}
	stage("decode", q.FirstToken, q.Ended, attribute.Int("gen_ai.usage.output_tokens", q.GenerationTokens))
}

// End ends the span with the HTTP status; a fault of the server marks it as failed.
func (s *Span) End(status int) {
	if s == nil {
		return
	}
	s.Set("http.response.status_code", status)
	if status >= 500 {
		s.span.SetStatus(codes.Error, http.StatusText(status))
	}
	s.span.End()
}
