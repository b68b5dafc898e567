"""`pip install redecode`, without extras, records and reads: proven with everything else made unimportable."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from house.lock import closure, required

ROOT = Path(__file__).parents[2]
HEAVY = ["vllm", "torch", "transformers", "langgraph", "langchain_core", "langchain_openai", "openai", "streamlit"]

PROGRAM = """
import sys
sys.dont_write_bytecode = True
allowed = set(sys.argv.pop(1).split(","))
class Bare:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in allowed and top not in sys.stdlib_module_names and not top.startswith("_"):
            raise ModuleNotFoundError(f"No module named {name!r} in a bare install", name=name)
sys.meta_path.insert(0, Bare())
exec(sys.argv.pop(1))
"""


def bare(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a Python that can import the base dependencies and nothing else."""
    names = closure([text for text in required(ROOT / "pyproject.toml") if not text.startswith("setuptools")])
    tops = metadata.packages_distributions()
    allowed = {top for top, owners in tops.items() if {o.lower().replace("_", "-") for o in owners} & names}
    command = [sys.executable, "-c", PROGRAM, ",".join(allowed | {"redecode", "sitecustomize"}), code, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("module", ["redecode.tracer", "redecode.tracer.store", "redecode.cli.main"])
def test_a_bare_install_imports(module: str, tmp_path: Path) -> None:
    done = bare(f"import {module}, sys; print(sorted(set(sys.modules) & set({HEAVY})))", cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr[-1000:]


def test_a_bare_install_records_and_reads(tmp_path: Path) -> None:
    code = """
from redecode import tracer
tracer.instrument("store")
with tracer.run("greeter"):
    pass
tracer.uninstrument()
import sys; sys.argv = ["redecode", "runs", "--store", "store"]
from redecode.cli.main import run
run()
"""
    done = bare(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-1000:]
    assert "greeter" in done.stdout


def test_the_tracer_costs_a_host_little(tmp_path: Path) -> None:
    """Recording must not drag the store's libraries, or any heavy one, into the recorded program."""
    code = f"import redecode.tracer, sys; print(sorted(set(sys.modules) & {{'duckdb', 'pyarrow', 'numpy', *{HEAVY}}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr[-1000:]
