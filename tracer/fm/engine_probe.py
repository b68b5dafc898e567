"""What an engine is, asked once per URL, and the step clock of its decodes, fetched behind the run's back.

`GET /redecode/info` answers only where our plug-in is loaded (`redecode engine start`). Without it,
`/models` tells vLLM from the rest, and the rest gets nothing it might reject.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import math
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

import orjson

from redecode.tracer import conventions as c
from redecode.tracer.clock import Clock, boot_id
from redecode.tracer.events import with_arrays
from redecode.tracer.privacy.keys import public_fields, public_url
from redecode.tracer.records import JsonObject
from redecode.tracer.spool import JournalWriter

_log = logging.getLogger("redecode")
_TIMEOUT_S = 2.0
_ASK_AGAIN_S = 10.0  # an engine that did not answer, or whose weights were still being read
_REFUSED_S = 600.0  # one that took the call, but not what was added to it
_CHANGED_S = 60.0  # at most so often: behind a balancer each answer may come from another one
_MOST_RIDS = 1000  # in one request
_GATHER_S = 0.2  # step clocks of the calls of this long are fetched together: a request costs more than an answer
# Settings that change from one asking to the next and say nothing about the engine.
_VOLATILE = frozenset({"monotonic_ns", "time_ns", "instance_id", "digests_pending"})
# Not vLLM, and far away: asking would only delay the first call.
_FOREIGN_HOSTS = ("api.openai.com", ".openai.azure.com", "api.anthropic.com", "generativelanguage.googleapis.com")
NOT_VLLM = "the server is not vLLM, and gets nothing that it might reject"
_UNTOLD = "the server does not say what it is, and gets nothing that it might reject"
_NOT_TOLD = (401, 403, 429)  # not to us, or not now


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine is.

    Attributes:
        root: URL without `/v1`, and without whatever lets one in.
        api: URL of its OpenAI-compatible API, likewise.
        headers, query: what lets one in; never written anywhere.
    """

    root: str
    api: str
    headers: dict[str, str] = field(repr=False)
    query: str = field(default="", repr=False)

    @classmethod
    def of(cls, base_url: str, headers: dict[str, str], query: Mapping[str, Any] | None = None) -> Address:
        """The address of an OpenAI client's base URL: user, password and query are taken out of it.

        Args:
            query: what the client adds to every URL.
        """
        parts = urlsplit(base_url)
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers = {**headers, "authorization": "Basic " + base64.b64encode(user.encode()).decode()}
        api = public_url(base_url).rstrip("/")
        given = "&".join(filter(None, (parts.query, urlencode(query or {}))))
        return cls(root=api.removesuffix("/v1"), api=api, headers=headers, query=given)

    def get(self, url: str, body: bytes | None = None) -> Any:
        """The JSON that a URL below this one answers.

        Raises:
            OSError: it does not answer, or with an error (`urllib.error.HTTPError`).
            ValueError: it answers something else.
        """
        headers = {**self.headers, "content-type": "application/json"}
        request = urllib.request.Request(f"{url}?{self.query}" if self.query else url, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            return orjson.loads(response.read())


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine as the tracer sees it.

    Attributes:
        vllm: it understands vLLM's request fields.
        info: what `/redecode/info` said; empty without the plug-in.
        engine_id: content hash of `info`; `None` without.
        limit: why its decodes are recorded at less than `tokens`; `None` if they need not be.
        instance: of the process that serves it; another one may be another engine.
    """

    root: str
    vllm: bool
    info: JsonObject
    engine_id: str | None
    limit: str | None = None
    instance: str | None = None

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

    @property
    def fingerprint(self) -> str | None:
        """The engine's fingerprint of itself, where the plug-in tells it."""
        found = self.info.get("system_fingerprint")
        return found if isinstance(found, str) else None


UNKNOWN = Engine(root="", vllm=False, info={}, engine_id=None)
PLAYED = Engine(root="", vllm=True, info={}, engine_id=None)
"""A recording of a vLLM that answers in its place: with its token ids, and without its clock."""


def describe(info: JsonObject) -> tuple[str, JsonObject]:
    """An engine's id and its lasting description."""
    lasting = {k: v for k, v in info.items() if k not in _VOLATILE}
    text = orjson.dumps(lasting, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(text, digest_size=8).hexdigest(), lasting


def probe(address: Address) -> tuple[Engine, bool]:
    """Ask the engine what it is, and whether it has said all (not while weights are being read).

    Never raises: an engine that does not say gets nothing extra.
    """
    root = address.root
    other = Engine(root, vllm=False, info={}, engine_id=None, limit=NOT_VLLM)
    if (urlsplit(root).hostname or "").endswith(_FOREIGN_HOSTS):
        return other, True
    try:
        info = address.get(f"{root}/redecode/info")
        if isinstance(info, dict) and info.get("protocol"):
            engine_id, lasting = describe(info)
            vllm, instance = info.get("engine") == "vllm", info.get("instance_id")
            engine = Engine(root, vllm=vllm, info=lasting, engine_id=engine_id, instance=instance)
            return engine, not info.get("digests_pending")
    except (OSError, ValueError):
        pass
    try:
        models = address.get(f"{address.api}/models")
        owners = {m.get("owned_by") for m in models.get("data", ())}
    except urllib.error.HTTPError as error:
        if error.code < 500 and error.code not in _NOT_TOLD:
            return other, True  # it has none
        return replace(other, limit=f"{_UNTOLD} (HTTP {error.code})"), False
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return replace(other, limit=f"{_UNTOLD} ({type(error).__name__})"), False
    return (Engine(root, vllm=True, info={}, engine_id=None) if "vllm" in owners else other), True


class Engines:
    """The engines of this process, by URL, and a thread that fetches their step clocks.

    Args:
        journal: where engines and step clocks are written.
        clock: maps the engine's monotonic times when it is on this host.
    """

    def __init__(self, journal: JournalWriter, clock: Clock) -> None:
        self._journal, self._clock = journal, clock
        self._engines: dict[str, tuple[Engine, float]] = {}
        self._fingerprints: dict[str, tuple[str, float]] = {}  # what its last answer had, and when it was forgotten
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._asking = threading.Lock()
        self._pending: list[tuple[Address, JsonObject]] = []
        self._wake = threading.Condition(self._lock)
        self._busy = self._hurry = False
        self._thread: threading.Thread | None = None

    def known(self, root: str) -> Engine | None:
        """The engine at this URL if it has been asked (lately, if it did not say all then)."""
        engine, until = self._engines.get(root, (None, 0.0))
        return engine if time.monotonic() < until else None

    def ask(self, address: Address) -> Engine:
        """The engine at this URL; blocks for one short request the first time."""
        engine = self.known(address.root)
        if engine is None:
            with self._asking:
                engine = self.known(address.root) or self._ask(address)
        return engine

    def _ask(self, address: Address) -> Engine:
        engine, complete = probe(address)
        self._engines[address.root] = engine, math.inf if complete else time.monotonic() + _ASK_AGAIN_S
        if engine.engine_id is not None:
            self._journal.write({"t": "engine", "id": engine.engine_id, "info": public_fields(engine.info)})
        return engine

    def forget(self, root: str) -> None:
        """Ask again next time: the engine there may be another one now."""
        self._engines.pop(root, None)

    def answered(self, engine: Engine, fingerprint: str) -> None:
        """An answer has this fingerprint: with another one than before, the engine is another one, too."""
        before, at = self._fingerprints.get(engine.root, (engine.fingerprint or fingerprint, -math.inf))
        if before != fingerprint and time.monotonic() - at > _CHANGED_S:
            at = time.monotonic()
            self.forget(engine.root)
        self._fingerprints[engine.root] = fingerprint, at

    def refused(self, engine: Engine, why: str) -> None:
        """The engine rejected what was added for it: add nothing for a while."""
        _log.warning("redecode: %s: %s; its FM calls are recorded without token ids", engine.root, why)
        refused = replace(engine, vllm=False, limit=why)
        self._engines[engine.root] = refused, time.monotonic() + _REFUSED_S

    def fetch_steps(self, address: Address, rid: str, span: JsonObject) -> None:
        """Fetch the step clock of a finished decode, soon, in the background.

        Args:
            rid: the id it was sent with.
            span: `{"run", "span", "sent_ns", "tokens"}` of the decode.
        """
        with self._lock:
            self._pending.append((address, {"rid": rid, **span}))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._loop, name="redecode-steps", daemon=True)
                self._thread.start()
            if len(self._pending) == 1:
                self._wake.notify_all()

    def drain(self, timeout_s: float = 5.0) -> None:
        """Wait until nothing is pending."""
        with self._lock:
            self._hurry = True
            self._wake.notify_all()
            self._wake.wait_for(lambda: not self._pending and not self._busy, timeout=timeout_s)
            self._hurry = False

    def _loop(self) -> None:
        while True:
            with self._lock:
                self._wake.wait_for(lambda: bool(self._pending))
                self._wake.wait_for(lambda: self._hurry, timeout=_GATHER_S)
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

    def _fetch(self, batch: list[tuple[Address, JsonObject]]) -> None:
        by_root: dict[str, list[tuple[Address, JsonObject]]] = {}
        for item in batch:
            by_root.setdefault(item[0].root, []).append(item)
        for root, items in by_root.items():
            for at in range(0, len(items), _MOST_RIDS):
                self._fetch_some(root, items[at : at + _MOST_RIDS])

    def _fetch_some(self, root: str, items: list[tuple[Address, JsonObject]]) -> None:
        rids = [span["rid"] for _, span in items]
        try:
            answer = items[0][0].get(f"{root}/redecode/steps", orjson.dumps({"rids": rids}))
        except (OSError, ValueError) as error:
            _log.warning("redecode: no step clock from %s: %s", root, error)
            return
        engine, _ = self._engines.get(root, (None, 0.0))
        if engine is not None and engine.instance != answer.get("instance_id"):
            self.forget(root)  # started again since
        same_host = answer.get("boot_id") is not None and answer.get("boot_id") == boot_id()
        # On another host only the two wall clocks tie the times together.
        base = self._clock.wall_ns - self._clock.monotonic_ns
        offset = base if same_host else answer["time_ns"] - answer["monotonic_ns"]
        for _, span in items:
            steps = answer.get("steps", {}).get(span["rid"])
            if steps:
                self._journal.append(_timing(span, steps, offset, same_host=same_host), span["run"])


def _timing(span: JsonObject, steps: JsonObject, offset: int, *, same_host: bool) -> bytes:
    times, rows, tokens = steps["t_ns"], steps["rows"], span["tokens"]
    if len(set(steps["k"])) != len(steps["k"]) or len(times) > tokens:
        # A step may be computed again (a chunk of a prefill, a preempted sequence): the last time counts. Of a stream
        # that was given up, the engine had made more tokens than the caller got.
        last = {k: (t, n) for k, t, n in zip(steps["k"], times, rows, strict=True) if k < tokens}
        times, rows = [last[k][0] for k in sorted(last)], [last[k][1] for k in sorted(last)]
    document = {"t": "timing", "span": span["span"], "run": span["run"], "same_host": same_host}
    offset -= span["sent_ns"]
    gaps = c.gaps_us([t + offset for t in times])
    return with_arrays(document, {c.TOKEN_GAPS: gaps, c.BATCH_ROWS: c.pack(rows, "i")})
