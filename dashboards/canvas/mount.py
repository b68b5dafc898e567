"""The components, mounted: each is ES modules put behind each other, read from this folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

HERE = Path(__file__).parent

_WATERFALL = """
<div class="waterfall">
  <div class="bar"></div>
  <div class="frame">
    <div class="scroller"><div class="spacer"><canvas tabindex="0" role="application"
      aria-label="Waterfall: j and k go from step to step, c along the critical path"></canvas></div></div>
    <div class="tip" hidden></div>
  </div>
</div>
"""
_TIP = """
.tip { position: absolute; pointer-events: none; white-space: pre; font-size: 12px; line-height: 1.45; padding: 6px 9px;
  background: var(--st-background-color); border: 1px solid var(--st-border-color); border-radius: 4px;
  box-shadow: 0 2px 8px rgba(0, 0, 0, .2); max-width: 420px; overflow: hidden; }
"""
_WATERFALL_CSS = (
    """
.waterfall { font-family: var(--st-font); color: var(--st-text-color); }
.bar { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: center; font-size: 12.5px; padding: 2px 0 8px; }
.bar i { display: inline-block; width: 11px; height: 11px; margin-right: 5px; border-radius: 2px;
  vertical-align: -1px; }
.bar button { font: inherit; color: inherit; cursor: pointer; background: var(--st-secondary-background-color);
  border: 1px solid var(--st-border-color); border-radius: 4px; padding: 2px 9px; }
.bar button[aria-pressed="true"] { border-color: var(--st-primary-color); color: var(--st-primary-color); }
.bar .path { color: var(--st-primary-color); font-weight: 600; }
.bar .marks { opacity: .65; margin-left: auto; white-space: pre; }
.frame { position: relative; height: var(--height); border: 1px solid var(--st-border-color); overflow: hidden; }
.spacer { min-height: 100%; }
.scroller { position: absolute; inset: 0; overflow-y: auto; overflow-x: hidden; }
canvas { position: sticky; top: 0; display: block; outline: none; touch-action: none; }
canvas:focus-visible { box-shadow: inset 0 0 0 2px var(--st-primary-color); }
"""
    + _TIP
)
_STRIP = """
<div class="strip"><canvas role="img" aria-label="Tokens of the call in time, and the gap before each"></canvas>
<div class="tip" hidden></div></div>
"""
_STRIP_CSS = f"""
.strip {{ position: relative; font-family: var(--st-font); color: var(--st-text-color); }}
canvas {{ display: block; }}
{_TIP}
"""

_PARALLEL = """
<div class="parallel"><div class="legend"></div>
<div class="frame"><canvas tabindex="0" role="img" aria-label="Parallel coordinates: a line for each trial"></canvas>
<div class="tip" hidden></div></div><div class="told"></div></div>
"""
_PARALLEL_CSS = f"""
.parallel {{ font-family: var(--st-font); color: var(--st-text-color); font-size: 12.5px; }}
.legend {{ display: flex; flex-wrap: wrap; gap: 2px 16px; padding: 0 0 6px; }}
.frame {{ position: relative; overflow-x: auto; overflow-y: hidden; }}
.told {{ opacity: .7; padding-top: 2px; }}
canvas {{ display: block; outline: none; touch-action: pan-x; }}
{_TIP}
"""


def _script(*names: str) -> str:
    """Modules as one: a component cannot import another file."""
    return "\n".join((HERE / f"{name}.js").read_text(encoding="utf-8") for name in ("common", *names))


@cache
def _component(name: str, html: str, css: str, *scripts: str) -> Any:
    return st.components.v2.component(f"redecode_{name}", html=html, css=css, js=_script(*scripts))


def keys() -> None:
    """Keys that work on every page: / to the search, ? for help."""
    _component("keys", "<div>\n</div>", "div {\n display: none; }", "keys")(key="keys", data={}, height=1)


def strip(data: dict[str, Any], *, key: str) -> None:
    """The token strip of a call (`Strip.to_json`)."""
    _component("strip", _STRIP, _STRIP_CSS, "drawing", "strip")(key=key, data=data, height="content")


def waterfall(
    data: dict[str, Any], *, key: str, selected: str | None, height: int, on_step: Callable[[], None]
) -> None:
    """The waterfall of a run (`Waterfall.to_json`).

    Args:
        key: `st.session_state[key].step` is the id of the selected span ("": none) when `on_step` is called.
        height: of the drawing, px.
    """
    made = _component("waterfall", _WATERFALL, _WATERFALL_CSS, "drawing", "waterfall")
    made(key=key, data={**data, "selected": selected, "height": height}, on_step_change=on_step, height="content")


def parallel(data: dict[str, Any], *, key: str, on_trial: Callable[[], None]) -> None:
    """Parallel coordinates of a study's trials.

    Args:
        data: `study`, `axes` (`parallel.Axis.to_json`), `trials` (their numbers), `standing` of each, `selected`.
        key: `st.session_state[key].trial` is the number of the trial that was chosen when `on_trial` is called.
    """
    made = _component("parallel", _PARALLEL, _PARALLEL_CSS, "drawing", "parallel")
    made(key=key, data=data, on_trial_change=on_trial, height="content")
