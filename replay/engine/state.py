"""engine.json: which process the engine of a home is, so that a later command finds it again."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from redecode.replay.engine.errors import EngineStateCorrupt
from redecode.replay.engine.processes import boot_id, read_process

STATE_VERSION = 1


class EngineState(BaseModel):
    """engine.json: which process the engine of a home is. Times are ns UTC."""

    model_config = ConfigDict(frozen=True)

    version: int
    pid: int
    pgid: int
    start_ticks: int
    boot_id: str | None
    base_url: str
    model: str
    served_name: str
    device: str
    started_ns: int
    log: str
    step_log: str
    argv: list[str]
    #: From its start until it was healthy: the cold start of a replica like it.
    start_s: float | None = None

    def is_alive(self) -> bool:
        """Whether the process is still the one that was started."""
        process = read_process(self.pid)
        return process is not None and process.start_ticks == self.start_ticks and self.boot_id == boot_id()


def _state_file(home: Path) -> Path:
    return home.absolute() / "engine.json"


def read_state(home: Path) -> EngineState | None:
    """Read a home's engine.json; None when there is none, EngineStateCorrupt when it makes no sense."""
    path = _state_file(home)
    try:
        state = EngineState.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise EngineStateCorrupt(path, f"{error.error_count()} fields do not fit") from error
    if state.version != STATE_VERSION:
        raise EngineStateCorrupt(path, f"version {state.version}, this redecode knows {STATE_VERSION}")
    return state


def write_state(home: Path, state: EngineState) -> None:
    """Write a home's engine.json in one piece."""
    path = _state_file(home)
    fresh = path.with_suffix(".json.new")
    fresh.write_text(state.model_dump_json(indent=2) + "\n")
    fresh.replace(path)


def remove_state(home: Path) -> None:
    """Forget the engine of a home; nothing if there is none."""
    _state_file(home).unlink(missing_ok=True)
