"""What an engine is, asked once per URL, and the step clock of its decodes, fetched behind the run's back.

`GET /redecode/info` answers only where our plug-in is loaded (`redecode engine start`). Without it,
`/v1/models` tells vLLM from the rest, and the rest gets nothing it might reject.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import orjson

from redecode.tracer import conventions as c
from redecode.tracer.clock import Clock, boot_id
from redecode.tracer.events import with_arrays
from redecode.tracer.records import JsonObject
from redecode.tracer.spool import JournalWriter

_log = logging.getLogger("redecode")
_TIMEOUT_S = 2.0
_ASK_AGAIN_S = 10.0  # an engine that did not answer, or whose weights were still being read
# Settings that change from one asking to the next and say nothing about the engine.
_VOLATILE = frozenset({"monotonic_ns", "time_ns", "instance_id", "digests_pending"})


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine as the tracer sees it.

    Attributes:
        vllm: it understands vLLM's request fields.
        info: what `/redecode/info` said; empty without the plug-in.
        engine_id: content hash of `info`; `None` without.
    """

    root: str
    vllm: bool
    info: JsonObject
    engine_id: str | None

    @property
    def step_clock(self) -> bool:
        """Whether each decode step's time can be had."""
        return bool(self.info.get("step_clock"))

    @property
    def may_seed(self) -> bool:
        """Whether adding a seed is safe: vLLM's CPU engine dies when a seeded prefill is split into chunks."""
        if not self.info:
            return False
        return self.info.get("device") != "cpu" or self.info.get("chunked_prefill") is False


UNKNOWN = Engine(root="", vllm=False, info={}, engine_id=None)


def _get(url: str, headers: dict[str, str], body: bytes | None = None) -> Any:
    request = urllib.request.Request(url, data=body, headers={**headers, "content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        return json.load(response)


def describe(info: JsonObject) -> tuple[str, JsonObject]:
    """An engine's id and its lasting description."""
    lasting = {k: v for k, v in info.items() if k not in _VOLATILE}
    text = orjson.dumps(lasting, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(text, digest_size=8).hexdigest(), lasting


def probe(root: str, headers: dict[str, str]) -> tuple[Engine, bool]:
    """Ask the engine at `root` (without `/v1`) what it is, and whether it has said all (weights still being read).

    Never raises: an engine that does not say gets nothing extra.
    """
    try:
        info = _get(f"{root}/redecode/info", headers)
        if isinstance(info, dict) and info.get("protocol"):
            engine_id, lasting = describe(info)
            engine = Engine(root, vllm=info.get("engine") == "vllm", info=lasting, engine_id=engine_id)
            return engine, not info.get("digests_pending")
    except (OSError, ValueError):
        pass
    try:
        models = _get(f"{root}/v1/models", headers)
        owners = {m.get("owned_by") for m in models.get("data", ())}
        return Engine(root, vllm="vllm" in owners, info={}, engine_id=None), True
    except (OSError, ValueError, AttributeError):
        return Engine(root, vllm=False, info={}, engine_id=None), False


class Engines:
    """The engines of this process, by URL, and a thread that fetches their step clocks.

    Args:
        journal: where engines and step clocks are written.
        clock: maps the engine's monotonic times when it is on this host.
    """

    def __init__(self, journal: JournalWriter, clock: Clock) -> None:
        self._journal, self._clock = journal, clock
        self._engines: dict[str, tuple[Engine, float]] = {}
        self._lock = threading.Lock()
        self._pending: list[tuple[Engine, dict[str, str], JsonObject]] = []
        self._wake = threading.Condition(self._lock)
        self._busy = False
        self._thread: threading.Thread | None = None

    def known(self, root: str) -> Engine | None:
        """The engine at this URL if it has been asked (lately, if it did not say all then)."""
        engine, until = self._engines.get(root, (None, 0.0))
        return engine if time.monotonic() < until else None

    def ask(self, root: str, headers: dict[str, str]) -> Engine:
        """The engine at this URL; blocks for one short request the first time."""
        engine = self.known(root)
        if engine is None:
            engine, complete = probe(root, headers)
            self._engines[root] = engine, math.inf if complete else time.monotonic() + _ASK_AGAIN_S
            if engine.engine_id is not None:
                self._journal.write({"t": "engine", "id": engine.engine_id, "info": engine.info})
        return engine

    def forget(self, root: str) -> None:
        """Ask again next time: the engine there may be another one now."""
        self._engines.pop(root, None)

    def fetch_steps(self, engine: Engine, headers: dict[str, str], rid: str, span: JsonObject) -> None:
        """Fetch the step clock of a finished decode, soon, in the background.

        Args:
            span: `{"run", "span", "sent_ns", "tokens"}` of the decode.
        """
        with self._lock:
            self._pending.append((engine, headers, {"rid": rid, **span}))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._loop, name="redecode-steps", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def drain(self, timeout_s: float = 5.0) -> None:
        """Wait until nothing is pending."""
        with self._lock:
            self._wake.wait_for(lambda: not self._pending and not self._busy, timeout=timeout_s)

    def _loop(self) -> None:
        while True:
            with self._lock:
                self._wake.wait_for(lambda: bool(self._pending))
                batch, self._pending = self._pending, []
                self._busy = True
            try:
                self._fetch(batch)
            except Exception:
                _log.warning("redecode: the engine's step clock could not be read", exc_info=True)
            finally:
                with self._lock:
                    self._busy = False
                    self._wake.notify_all()

    def _fetch(self, batch: list[tuple[Engine, dict[str, str], JsonObject]]) -> None:
        by_root: dict[str, list[tuple[Engine, dict[str, str], JsonObject]]] = {}
        for item in batch:
            by_root.setdefault(item[0].root, []).append(item)
        for root, items in by_root.items():
            rids = [span["rid"] for _, _, span in items]
            try:
                answer = _get(f"{root}/redecode/steps", items[0][1], orjson.dumps({"rids": rids}))
            except (OSError, ValueError) as error:
                _log.warning("redecode: no step clock from %s: %s", root, error)
                continue
            same_host = answer.get("boot_id") is not None and answer.get("boot_id") == boot_id()
            # On another host only the two wall clocks tie the times together.
            base = self._clock.wall_ns - self._clock.monotonic_ns
            offset = base if same_host else answer["time_ns"] - answer["monotonic_ns"]
            for _, _, span in items:
                steps = answer.get("steps", {}).get(span["rid"])
                if steps:
                    self._journal.append(_timing(span, steps, offset, same_host=same_host), span["run"])


def _timing(span: JsonObject, steps: JsonObject, offset: int, *, same_host: bool) -> bytes:
    # A step may be computed again (a chunk of a prefill, a preempted sequence): the last time counts.
    last = {k: (t, rows) for k, t, rows in zip(steps["k"], steps["t_ns"], steps["rows"], strict=True)}
    ordered = [last[k] for k in sorted(last)]
    document = {"t": "timing", "span": span["span"], "run": span["run"], "same_host": same_host}
    times = c.gaps_us(t + offset - span["sent_ns"] for t, _ in ordered)
    return with_arrays(document, {c.TOKEN_GAPS: times, c.BATCH_ROWS: c.pack([rows for _, rows in ordered], "i")})
