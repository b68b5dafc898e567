"""`redecode dashboard`: what it refuses, what it prints, and that nothing else pays for it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from redecode.cli.main import app
from redecode.dashboards import serve
from redecode.dashboards.menu import SCREENS


def test_a_missing_store_is_one_line(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["dashboard", "--store", str(tmp_path / "nothing")])
    assert said.exit_code == 2
    assert "no store at" in said.output
    assert said.output.count("\n") == 1


def test_a_taken_port_is_one_line_that_names_the_way_out(filled: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        said = CliRunner().invoke(app, ["dashboard", "--store", str(filled), "--port", port])
    assert said.exit_code == 2
    assert f"port {port}" in said.output
    assert "--port" in said.output


def test_without_streamlit_the_extra_is_named(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    said = CliRunner().invoke(app, ["dashboard", "--store", str(filled)])
    assert said.exit_code == 2
    assert "redecode[dashboards]" in said.output


def test_it_says_where_it_is_as_one_json_document_and_listens_on_this_machine_alone(filled: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "redecode.cli", "dashboard", "--no-browser", "--json", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--store", str(filled)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        told = "".join(iter(process.stdout.readline, "}\n")) + "}"
        document = json.loads(told)
        assert document == {"url": f"http://127.0.0.1:{port}", "store": str(filled), "pid": process.pid}
        with urllib.request.urlopen(document["url"], timeout=20) as answer:
            assert answer.status == 200
        with socket.socket() as elsewhere, pytest.raises(OSError, match="refused"):
            elsewhere.connect(("127.0.0.2", port))
    finally:
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=20)[0]
    assert rest == ""


def test_other_commands_do_not_import_streamlit(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['redecode', '--help']\n"
        "from redecode.cli.main import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "print(sorted(set(sys.modules) & {'streamlit', 'pandas'}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "dashboard" in done.stdout
    assert done.stderr.strip() == "[]"


def test_every_page_of_the_menu_has_its_script() -> None:
    scripts = {path.name for path in (serve.APP.parent / "screens").glob("*.py")} - {"__init__.py", "to_runs.py"}
    assert {screen.script.removeprefix("screens/") for screen in SCREENS} == scripts
    assert len({screen.url for screen in SCREENS}) == len(SCREENS)
