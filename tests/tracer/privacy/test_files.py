"""Whatever the umask: files of a store and of what leaves it are their owner's alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import os, sys
from pathlib import Path
os.umask(int(sys.argv[1], 8))
import pyarrow
from typer.testing import CliRunner
from redecode.cli.main import app
from redecode.tracer import Store
from redecode.tracer.export.forward import Forwarder
from redecode.tracer.export.send import Target
from tests.tracer.privacy.support import record

here, seen = Path(sys.argv[2]), set()

def look():
    seen.update((path.is_dir(), oct(path.stat().st_mode & 0o777)) for path in here.rglob("*"))

def redecode(*arguments):
    done = CliRunner().invoke(app, [*arguments, "--store", str(here / "store")])
    assert done.exit_code == 0, done.output
    look()

record(here / "first", None)
look()
recorded = record(here / "store", None)
look()
forwarder = Forwarder(Target.parse("http://127.0.0.1:9"), here / "store", linger_s=0)
look()
forwarder.close()
redecode("store", "publish", str(here / "dataset"))
redecode("export", "--all", "--format", "otlp", "-o", str(here / "otlp.json"))
redecode("export", "--all", "--format", "parquet", "-o", str(here / "tables"))
redecode("store", "forget", "--run", recorded.run.run_id, "--yes")
store = Store(here / "store")
with store.held(exclusively=True), store.opened(write=True) as db:  # as one that dies before it has finished
    db.execute("CREATE TABLE x AS SELECT range AS n FROM range(100000)")
    look()
    assert (here / "store" / "runs.duckdb.wal").exists()
print(sorted(seen), oct(os.umask(0)))
"""


@pytest.mark.parametrize("umask", ["000", "027"])
def test_nobody_else_can_read_what_is_written(tmp_path: Path, umask: str) -> None:
    here = tmp_path / "here"
    here.mkdir(mode=0o700)
    env = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, umask, str(here)], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"[(False, '0o600'), (True, '0o700')] {oct(int(umask, 8))}"
