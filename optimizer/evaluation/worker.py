"""A process that evaluates: `python -m redecode.optimizer.evaluation.worker`, spoken to by `process.Worker`.

One JSON document a line on stdin, one a line back on what was stdout (the agent's own prints go to stderr). It ends
when stdin does, so it never outlives whoever started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from typing import IO, Any

from redecode.optimizer.errors import BadSpec, EngineGone, OptimizerError, ScorerFailed
from redecode.optimizer.evaluation.session import Block, Session, Settings
from redecode.optimizer.spec import Case
from redecode.tracer import RedecodeError

KINDS = {"engine": EngineGone, "scorer": ScorerFailed, "candidate": BadSpec, "other": OptimizerError}
"""What a worker's error is here. `candidate`: this one's values are refused, as they are by an agent's own checks."""


def kind_of(error: RedecodeError) -> str:
    """Of an error in the evaluation of a block."""
    return next((kind for kind, cls in KINDS.items() if isinstance(error, cls)), "other")


def main() -> None:
    """Serve until stdin ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with asyncio.Runner() as loop:
        session: Session | None = None
        for line in sys.stdin:
            ask = json.loads(line)
            try:
                if session is None:
                    session = Session(Settings.from_json(ask))
                    _say(out, {"ready": os.getpid()})
                else:
                    block = Block(**{**ask, "cases": [Case(**case) for case in ask["cases"]]})
                    _say(out, {"outcomes": [o.to_json() for o in loop.run(session.block(block))]})
            except RedecodeError as error:
                _say(out, {"error": str(error), "kind": "other" if session is None else kind_of(error)})
            except (KeyboardInterrupt, BrokenPipeError):  # whoever asked is gone
                break
        if session is not None:
            with contextlib.suppress(Exception):  # whatever the agent's own closing does
                loop.run(session.close())
            session.end()


def _say(out: IO[str], document: dict[str, Any]) -> None:
    out.write(json.dumps(document) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
