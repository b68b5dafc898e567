"""The inference engine that replay talks to: vLLM, with a plug-in that forces recorded tokens.

server.py      start, ask after and stop a local vLLM as a detached process
client.py      EngineClient: prompt ids in, tokens and times out, forced if wanted
plugin.py      inside the engine: forced tokens and the step clock (alone imports vllm)
middleware.py  inside the API server: /redecode/info, /redecode/steps
step_log.py    the file between the two, and its index
launch.py, state.py, processes.py, logs.py, fingerprint.py, protocol.py   their parts

The names are looked up when asked for: vLLM loads plug-in and middleware through this package, and
must not pay for (or fail on) the imports of the client and of other rooms.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redecode.replay.engine.client import EngineClient
    from redecode.replay.engine.errors import EngineError
    from redecode.replay.engine.launch import EngineOptions, check_model
    from redecode.replay.engine.protocol import Completion, EngineInfo
    from redecode.replay.engine.server import EngineStatus, start, status, stop
    from redecode.replay.engine.state import EngineState

__all__ = [
    "Completion",
    "EngineClient",
    "EngineError",
    "EngineInfo",
    "EngineOptions",
    "EngineState",
    "EngineStatus",
    "check_model",
    "start",
    "status",
    "stop",
]

_MODULES = {
    "Completion": "protocol",
    "EngineClient": "client",
    "EngineError": "errors",
    "EngineInfo": "protocol",
    "EngineOptions": "launch",
    "EngineState": "state",
    "EngineStatus": "server",
    "check_model": "launch",
    "start": "server",
    "status": "server",
    "stop": "server",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
