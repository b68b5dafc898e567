"""Reading the spans of other tracers: OpenInference, OpenLLMetry, OpenTelemetry's own, vLLM's, and ours exported.

Their spans are kept word for word (`OtlpSpan`); `derive` says what they are in our terms, again whenever more of a
trace has come. Nothing here touches a store.

    otlp          a span as it came, and back
    reading       what a span says by itself; openinference, genai, engine, own: by which conventions it says so
    messages      messages in the form of the OpenAI API
    tree          which span is below which; nodes: one of them; folding: two spans of one thing
    edges         what waited for what, as far as it can be known
    derivation    all of it together
"""

from redecode.tracer.foreign.derivation import MISSING_PARENT, SCOPE, derive
from redecode.tracer.foreign.engine import engine_split, engine_splits, is_engine_span
from redecode.tracer.foreign.otlp import OtlpSpan, read_request

__all__ = [
    "MISSING_PARENT",
    "SCOPE",
    "OtlpSpan",
    "derive",
    "engine_split",
    "engine_splits",
    "is_engine_span",
    "read_request",
]
