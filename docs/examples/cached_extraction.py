"""The reference extraction with a cache around it and a choice of models: what the study in docs/studies searches.

redecode tune docs/examples/cached_extraction.py:spec --runs all
"""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from redecode.agents.extraction.graphs import build as extraction
from redecode.agents.extraction.state import ExtractionContext, ExtractionState
from redecode.agents.extraction.tuning import spec as reference
from redecode.optimizer import Range, Spec
from redecode.optimizer.caching import CachedStep, HashedNgrams

ENGINES = {
    "redecode-fm-s": os.environ.get("OPENAI_BASE_URL", ""),
    "redecode-fm-xs": os.environ.get("XS_BASE_URL", ""),
}


class Context(ExtractionContext):
    """The extraction's knobs, and a cache's."""

    cache: Literal["none", "exact", "semantic"] = "none"
    threshold: Annotated[float, Range(0.98, 0.998, step=0.006, when={"cache": ["semantic"]})] = 0.998
    architecture: Literal["single", "parallel", "sequential", "debate"] = "single"


known = CachedStep(
    "extract",
    "contacts.sqlite",
    text=lambda state: state["article"],
    side_effect=False,
    vectors=HashedNgrams(),
)


def build(values: Mapping[str, Any]) -> Any:
    """One of the four architectures, behind the cache."""
    inner = extraction(values["architecture"])

    async def extract(state: ExtractionState, runtime: Runtime[Context]) -> ExtractionState:
        asked = Context.model_validate({**runtime.context.model_dump(), "base_url": ENGINES[runtime.context.model]})
        plain = {name: value for name, value in asked.model_dump().items() if name in ExtractionContext.model_fields}

        async def made() -> ExtractionState:
            found = await inner.ainvoke({"article": state["article"]}, context=ExtractionContext(**plain))
            return {"contact": found["contact"], "error": found["error"]}

        return await known.arun(state, runtime.context, made)

    builder = StateGraph(ExtractionState, context_schema=Context)
    builder.add_node("extract", extract)
    builder.add_edge(START, "extract")
    builder.add_edge("extract", END)
    return builder.compile(name="extraction")


base = reference()
knobs = {**base["knobs"], "model": [name for name, url in ENGINES.items() if url] or ["redecode-fm-s"]}
spec = Spec(**{**base, "build": build, "context": Context, "knobs": knobs, "caches": [known]})
