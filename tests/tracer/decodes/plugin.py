"""What our plug-in answers in front of an engine: who it is, and when each token was made."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from redecode.tracer.clock import boot_id
from tests.tracer.decodes.server import Reply, Request, Server

PACE_NS = 2_000_000
AHEAD_NS = 7_000_000_000  # how much the clocks of another host differ from ours


@dataclass
class Plugin:
    """A plug-in whose engine makes a token every 2 ms, beginning 1 ms after a call has come."""

    server: Server
    tokens: int
    fingerprint: str
    instance: str = "first"
    device: str = "cuda"
    elsewhere: bool = False
    again: bool = False  # the first step is computed twice
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._came: dict[str, int] = {}
        self._inner = self.server.answer
        self.server.answer, self.server.plugin = self._call, self._own

    def _now(self) -> int:
        return time.monotonic_ns() + (AHEAD_NS if self.elsewhere else 0)

    def _call(self, request: Request) -> Reply:
        rid = (request.body.get("vllm_xargs") or {}).get("redecode_rid")
        if rid is not None:
            self._came[rid] = self._now()
        return self._inner(request)

    def _own(self, request: Request) -> Reply | None:
        clocks = {
            "boot_id": "of another host" if self.elsewhere else boot_id(),
            "monotonic_ns": self._now(),
            "time_ns": time.time_ns(),
            "instance_id": self.instance,
        }
        path = request.path.partition("?")[0]
        if path == "/redecode/info":
            info = {"protocol": 1, "engine": "vllm", "step_clock": True, "system_fingerprint": self.fingerprint}
            return Reply.of({**info, "device": self.device, "digests_pending": False, **self.more, **clocks})
        if path == "/redecode/steps":
            return Reply.of({**clocks, "steps": {rid: self._steps(rid) for rid in request.body["rids"]}})
        return None

    def _steps(self, rid: str) -> dict[str, list[int]]:
        came, ks = self._came[rid], list(range(self.tokens))
        ks = [0, *ks] if self.again else ks
        times = [came + 1_000_000 + n * PACE_NS for n in range(len(ks))]
        return {"k": ks, "t_ns": times, "rows": [1 + n % 3 for n in range(len(ks))]}
