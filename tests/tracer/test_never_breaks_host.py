"""Whatever goes wrong with a recording, the program gives the same answer, and what was lost is counted and told."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest

pytest.importorskip("langgraph")

from typer.testing import CliRunner

from redecode import tracer
from redecode.cli.main import app
from redecode.tracer import Store, errors
from redecode.tracer.events import parse
from redecode.tracer.losses import read_losses
from redecode.tracer.spool import read_journal
from redecode.tracer.strands import strands
from tests.conftest import OpenAIServer
from tests.tracer import an_agent

HERE = Path(errors.__file__).parent
# The guards themselves, and what is called from outside and does nothing but call them.
GUARDS = {
    "_Door.get", "_Tapped._aclose", "_Tapped._aiterate", "_Tapped._close_sync", "_Tapped._iterate", "_answered",
    "_attempted", "_run", "_sending", "_to_hand_over", "_within", "_ended", "active", "never_raise", "run", "step",
    "HandOver.start", "InFlight.dropped", "InFlight.finish", "JournalWriter._sync_on_a_timer", "LiveSpan.flows",
    "ModelCallbacks.on_llm_new_token", "PregelSeam._watch",
}  # fmt: skip


@dataclass(frozen=True)
class Host:
    """The agent, what it answers without a tracer, and the functions of the tracer that it then goes through."""

    url: str
    clients: an_agent.Clients
    answers: list[Any]
    functions: dict[CodeType, list[FunctionType]]


def never(place: int) -> None:
    pass


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    server = OpenAIServer(an_agent.answer, vllm=True)
    clients = an_agent.Clients(server.base_url)
    answers = an_agent.run_agent(clients, never)
    called: set[CodeType] = set()

    def see(frame: FrameType, event: str, arg: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(HERE)):
            called.add(frame.f_code)

    def begin(place: int) -> None:
        sys.setprofile(see)
        threading.setprofile(see)

    tracer.instrument(tmp_path_factory.mktemp("seen") / "store")
    try:
        assert an_agent.run_agent(clients, begin) == answers
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        tracer.uninstrument()
    functions: dict[CodeType, list[FunctionType]] = {}
    for found in gc.get_objects():
        if type(found) is FunctionType and found.__code__ in called:  # asking others for their class can warn
            functions.setdefault(found.__code__, []).append(found)
    kept = {
        code: found
        for code, found in functions.items()
        if "<locals>" not in code.co_qualname and code.co_qualname not in GUARDS
    }
    yield Host(server.base_url, clients, answers, kept)
    clients.close()
    server.close()


class Warnings(logging.Handler):
    """What would be on stderr."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += logging.Formatter().format(record).splitlines()


def raises(variables: tuple[str, ...]) -> CodeType:
    """Code that raises, of a function that closes over these variables."""
    given = f"{' = '.join(variables)} = None" if variables else "pass"
    names: dict[str, Any] = {}
    used = "; ".join(variables) or "pass"
    exec(
        f"def outer():\n  {given}\n  def f(*a, **k):\n    {used}\n    raise RuntimeError('sabotage')\n  return f", names
    )
    code = names["outer"]().__code__
    assert isinstance(code, CodeType)
    return code


def written(store: Path) -> tuple[int, int]:
    """Events in the spool, and events of which it says that they are lost."""
    events = lost = 0
    for journal in (store / "spool").glob("*.journal"):
        for payload in (p for batch in read_journal(journal) for p in batch.payloads):
            event = parse(payload)
            events += event["t"] not in ("process", "dropped")
            lost += event["count"] if event["t"] == "dropped" else 0
        lost += sum(count for _, count, _ in read_losses(journal))
    return events, lost


MODULES = (
    "clock", "conventions", "events", "fm/call", "fm/client", "fm/decode_attributes", "fm/response_tap", "fm/wire",
    "fm/wire_stream", "instrument", "langgraph/agents", "langgraph/callbacks", "langgraph/models", "langgraph/pregel",
    "langgraph/task_names", "langgraph/tools", "privacy/keys", "recorder", "records", "spool", "strands/strands",
    "strands/tasks", "strands/threads",
)  # fmt: skip


def module_of(code: CodeType) -> str:
    return Path(code.co_filename).relative_to(HERE).with_suffix("").as_posix()


@pytest.mark.parametrize("module", MODULES)
def test_whatever_function_of_the_tracer_raises(host: Host, tmp_path: Path, module: str) -> None:
    chosen = [(code, found) for code, found in host.functions.items() if module_of(code) == module]
    assert chosen
    for code, functions in chosen:
        told = Warnings()
        broken = raises(code.co_freevars)

        def break_it(place: int, functions: list[FunctionType] = functions, broken: CodeType = broken) -> None:
            for function in functions:
                function.__code__ = broken

        store, loggers = tmp_path / code.co_qualname, [logging.getLogger(n) for n in ("redecode", "langchain_core")]
        for logger in loggers:
            logger.addHandler(told)
        recording = tracer.instrument(store)
        try:
            answers = an_agent.run_agent(host.clients, break_it)
            tracer.uninstrument()
        finally:
            for function in functions:
                function.__code__ = code
            tracer.uninstrument()
            for logger in loggers:
                logger.removeHandler(told)
        assert answers == host.answers, code.co_qualname
        assert len(told.lines) <= 1, code.co_qualname
        assert recording.recorder.journal.lost, code.co_qualname
        assert written(store)[1], code.co_qualname


def redecode(*arguments: str) -> Any:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Any]:
    command = [sys.executable, an_agent.__file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        orders, ended = process.stdin, process.stdout
        assert orders is not None and ended is not None

        def run(**order: str) -> tuple[int, str, str]:
            orders.write(json.dumps(order) + "\n")
            orders.flush()
            code, out, err = json.loads(ended.readline())
            return code, out, err

        yield run
        orders.close()


@pytest.fixture(scope="module")
def whole(host: Host, nursery: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, int]:
    """How many events and runs there are when nothing goes wrong."""
    store = tmp_path_factory.mktemp("whole") / "store"
    assert nursery(url=host.url, store=str(store), fault="none") == (0, json.dumps(host.answers), "")
    events, lost = written(store)
    assert lost == 0
    assert redecode("doctor", "--store", str(store))["ok"]
    return events, len(redecode("runs", "--store", str(store)))


def said_of_journals(store: Path) -> list[str]:
    """What `redecode doctor` finds wrong with what was recorded."""
    doctor = redecode("doctor", "--store", str(store))
    assert not doctor["ok"]
    return [check["detail"] for check in doctor["checks"] if check["name"] == "journal"]


@pytest.mark.parametrize("fault", ["full", "full for a while", "spool deleted", "store deleted", "files closed"])
def test_what_happens_to_the_disk_in_the_middle(
    host: Host, nursery: Any, whole: tuple[int, int], store: Path, fault: str
) -> None:
    code, out, err = nursery(url=host.url, store=str(store), fault=fault)
    assert (code, err.count("\n"), len(err) < 400) == (0, 1, True), err
    assert json.loads(out) == host.answers
    events, lost = written(store)
    assert lost > 0
    assert events + lost == whole[0]
    told = said_of_journals(store)
    assert sum(int(detail.split(" lost ")[1].split()[0]) for detail in told) == lost
    runs = redecode("runs", "--store", str(store))
    if fault == "store deleted":  # and the program ended before anybody noticed
        assert (runs, lost) == ([], whole[0])
    else:
        incomplete = [r for r in runs if r["lost"]]
        assert redecode("show", incomplete[0]["run_id"], "--store", str(store))["run"]["lost"] == incomplete[0]["lost"]
        if fault == "full":
            assert [r["status"] for r in incomplete] == ["open"]  # its end is among what is lost
        else:  # what came after it is whole
            assert (runs[0]["agent"], runs[0]["status"], runs[0]["lost"]) == ("by hand", "ok", 0)
    assert said_of_journals(store) == told  # counted once, told whenever it is asked for


def test_a_process_forked_in_the_middle(host: Host, nursery: Any, whole: tuple[int, int], store: Path) -> None:
    code, out, err = nursery(url=host.url, store=str(store), fault="fork")
    assert (code, json.loads(out), err) == (0, host.answers, "")
    assert written(store) == (whole[0] + 2, 0)
    assert len(list((store / "spool").glob("*.journal"))) == 2
    assert redecode("doctor", "--store", str(store))["ok"]
    runs = [Store(store).load(r.run_id) for r in Store(store).runs()]
    assert len(runs) == whole[1]
    keys = [s.step_key for r in runs for s in r.spans if "~fork" in s.step_key]
    assert keys == ["run/middle@3[pull:middle]/~fork.0/tool:look"]
    for r in runs:
        assert len({s.step_key for s in r.spans}) == len(r.spans)


@pytest.mark.parametrize("where", ["file", "file/store", "/proc/nowhere"])
def test_a_place_where_no_store_can_be(host: Host, nursery: Any, tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("mine")
    store = tmp_path / where
    code, out, err = nursery(url=host.url, store=str(store), fault="none")
    assert (code, err.count("\n"), len(err) < 400) == (0, 1, True), err
    assert str(store) in err
    assert json.loads(out) == host.answers
    (check,) = [c for c in redecode("doctor", "--store", str(store))["checks"] if c["name"] == "store"]
    assert check["ok"] is False
    assert str(store) in check["detail"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_fault_far_from_any_callback_is_told_by_its_run(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(work: object) -> None:
        raise RuntimeError("sabotage")

    monkeypatch.setattr(strands.HandOver, "collect", fails)
    tracer.instrument(store)
    with tracer.run("faulty"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(an_agent.look.invoke, {"at": 1}).result() == "seen 1"
    with tracer.run("sound"):
        an_agent.look.invoke({"at": 2})
    tracer.uninstrument()
    assert {r.agent: r.lost for r in Store(store).runs()} == {"faulty": 1, "sound": 0}
