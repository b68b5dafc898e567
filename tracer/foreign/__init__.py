"""Reading the spans of other tracers: OpenInference, OpenLLMetry, OpenTelemetry's own, vLLM's, and ours exported.

`otlp` is a span as it came, kept word for word.
"""
