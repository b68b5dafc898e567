"""`redecode show`: what is drawn where, that tables add up as printed, and that no name harms a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from redecode.cli.main import app
from redecode.cli.screen import Unit, clean, ending, fitted, short, time_s
from redecode.cli.show_bars import DEADLINE, Axis
from redecode.cli.show_fold import rows_of
from redecode.replay.errors import ReplayError
from redecode.tracer import EdgeKind, LiveSpan, Provenance, Recorder, SpanKind, Store
from tests.replay.analysis.recordings import span

MS = 1_000_000
CSI = "\x1b[31m"


def show(store: Path, *arguments: str, columns: int = 80, encoding: str | None = None) -> Result:
    (run,) = Store(store).runs()
    env = {"COLUMNS": str(columns), "NO_COLOR": "1"}
    runner = CliRunner(charset=encoding or "utf-8")
    return runner.invoke(app, ["show", run.run_id, "--store", str(store), *arguments], env=env)


Act = Callable[[Recorder, LiveSpan], list[LiveSpan]]
"""Records steps below a run; returns those that the run waited for at its end."""


def write(store: Path, act: Act, *, slo_s: float | None = None, ms: int = 100) -> None:
    """A run of `ms` that does what `act` records."""
    recorder = Recorder(store, slo_s=slo_s)
    run = recorder.start_run("agent")
    last = act(recorder, run)
    returns = [(s.span_id, EdgeKind.RETURN, Provenance.RECORDED) for s in last]
    recorder.end(run, end_ns=run.start_ns + ms * MS, returns=returns)
    recorder.close()


def step(
    recorder: Recorder,
    run: LiveSpan,
    name: str,
    start: int,
    end: int,
    *,
    after: tuple[LiveSpan, ...] = (),
    how: EdgeKind = EdgeKind.RETURN,
    known: Provenance = Provenance.RECORDED,
    error: BaseException | None = None,
) -> LiveSpan:
    """A tool from `start` to `end`, ms, which waited for others, or for nothing but its caller."""
    edges = [(s.span_id, how, known) for s in after] or [(run.span_id, EdgeKind.CALL, known)]
    begun = recorder.start(SpanKind.TOOL, name, run, name, start_ns=run.start_ns + start * MS, edges=edges)
    recorder.end(begun, end_ns=run.start_ns + end * MS, error=error)
    return begun


def beside(recorder: Recorder, run: LiveSpan) -> list[LiveSpan]:
    """Two tools side by side, the second of which the run waits for longer; a third after both."""
    both = step(recorder, run, "short", 10, 30), step(recorder, run, "long", 10, 60)
    return [step(recorder, run, "last", 80, 100, after=both, how=EdgeKind.JOIN)]


def line_of(done: Result, name: str) -> str:
    assert done.exit_code == 0, done.output
    (found,) = [line for line in done.stdout.splitlines() if re.match(rf"[├└]─ (tool )?{name}\b", line)]
    return found


# -- the tree --


def test_bars_lie_on_one_axis_with_floats_behind_them(store: Path) -> None:
    write(store, beside)
    done = show(store)
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    short_one, long_one, last = (line_of(done, name) for name in ("short", "long", "last"))
    assert short_one.index("■") == long_one.index("■")
    assert long_one.count("■") == pytest.approx(2.5 * short_one.count("■"), abs=3)
    assert short_one.count("┄") == pytest.approx(30 / 50 * long_one.count("■"), abs=1)
    assert "┄" not in long_one
    assert last.index("■") > long_one.rindex("■") + 5
    assert [("●" in line) for line in (short_one, long_one, last)] == [False, True, True]
    assert "■ tool" in done.stdout
    assert "float" in done.stdout


def test_the_first_bar_is_what_the_path_did(store: Path) -> None:
    write(store, beside)
    (root,) = [line for line in show(store).stdout.splitlines() if line.startswith("invoke_agent agent")]
    bar = root.split("ms ")[-1]
    assert re.fullmatch(r"━+■+━+■+", bar)
    assert bar.count("■") / len(bar) == pytest.approx(0.7, abs=0.08)


def test_the_slo_is_a_line_across_all_bars(store: Path) -> None:
    write(store, beside, slo_s=0.05)
    done = show(store)
    places = {line.index("┃") for line in done.stdout.splitlines() if "┃" in line and "SLO" not in line}
    assert len(places) == 1
    assert "SLO 50.0 ms: MISSED by 50.0 ms" in done.stdout
    met = show(store, "--slo", "120ms").stdout
    assert "SLO 120.0 ms: met, headroom 20.0 ms" in met
    assert "┃" in met
    assert "┃" not in show(store, "--slo", "10s").stdout  # far off the axis


def test_what_failed_is_marked_and_named(store: Path) -> None:
    def act(recorder: Recorder, run: LiveSpan) -> list[LiveSpan]:
        return [step(recorder, run, "bad", 0, 50, error=ValueError("no such town"))]

    write(store, act)
    done = show(store)
    assert "✗" in line_of(done, "bad")
    assert "✗ bad: ValueError: no such town" in done.stdout


def test_a_further_attempt_is_marked(store: Path) -> None:
    def act(recorder: Recorder, run: LiveSpan) -> list[LiveSpan]:
        first = step(recorder, run, "one", 0, 20, error=ValueError("busy"))
        return [step(recorder, run, "two", 30, 60, after=(first,), how=EdgeKind.RETRY)]

    write(store, act)
    assert "↻" in line_of(show(store), "two")
    assert "retry" in show(store, "--critical", "--all").stdout


def test_a_run_that_was_killed_is_open_and_so_is_what_it_did(store: Path) -> None:
    recorder = Recorder(store)
    run = recorder.start_run("agent")
    step(recorder, run, "done", 0, 40)
    recorder.start(SpanKind.TOOL, "hangs", run, "hangs", start_ns=run.start_ns + 50 * MS)
    recorder.journal.sync()
    done = show(store)
    assert "open  50.0 ms so far" in done.stdout
    assert "open" in line_of(done, "hangs")
    assert "▸" in line_of(done, "hangs")
    recorder.close()


def test_edges_guessed_from_times_are_announced_first(store: Path) -> None:
    def act(recorder: Recorder, run: LiveSpan) -> list[LiveSpan]:
        first = step(recorder, run, "a", 0, 20)
        return [step(recorder, run, "b", 30, 60, after=(first,), known=Provenance.TIME)]

    write(store, act)
    head = show(store).stdout.split("┬")[0]
    assert "edges guessed from times: the path is a guess" in head
    assert "(by time)" in show(store, "--critical", "--all").stdout


def test_clocks_that_contradict_each_other_are_told_and_not_mended(store: Path) -> None:
    def act(recorder: Recorder, run: LiveSpan) -> list[LiveSpan]:
        first, early = step(recorder, run, "a", 10, 50), step(recorder, run, "early", -20, 10)
        return [step(recorder, run, "b", 30, 60, after=(first,)), early]

    write(store, act)
    done = show(store)
    assert "WARNING run/b began 20000000 ns before run/a, which it waited for, had finished" in done.stdout
    assert line_of(done, "early").index("■") < line_of(done, "a").index("■")


def test_edges_in_a_circle_leave_a_tree_without_a_path(store: Path) -> None:
    def act(recorder: Recorder, run: LiveSpan) -> list[LiveSpan]:
        first = step(recorder, run, "a", 0, 20)
        second = step(recorder, run, "b", 30, 60, after=(first,))
        recorder.edge(run.run_id, second.span_id, first.span_id, EdgeKind.RETURN, Provenance.RECORDED)
        return [second]

    write(store, act)
    done = show(store)
    assert "no critical path: the edges form a cycle" in done.stdout
    assert line_of(done, "a")
    told = json.loads(show(store, "--json").stdout)
    assert (told["analysis"], told["critical_path"], len(told["spans"])) == (None, [], 3)
    assert "cycle" in told["no_analysis"]
    refused = show(store, "--critical")
    assert refused.exit_code == 2
    assert "has no critical path" in refused.stderr


# -- names --


def test_names_can_neither_steer_the_terminal_nor_style_the_output(store: Path) -> None:
    name = f"a{CSI}b[bold]c[/bold]\r\n\x07\u202e{'x' * 90}"

    def act(recorder: Recorder, run: LiveSpan) -> list[LiveSpan]:
        error = ValueError(f"{CSI}]0;title\x07 [red]r")
        return [step(recorder, run, name, 0, 50, error=error)]

    write(store, act)
    for arguments in ((), ("--critical",), ("--slack",), ("--blame",), ("--all",)):
        done = show(store, *arguments)
        assert done.exit_code == 0, done.output
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", done.stdout)
    assert "a\\x1b[31mb[bold]c" in show(store, columns=200).stdout
    assert "[red]r" in show(store, columns=200).stdout


def test_wide_letters_keep_bars_in_line(store: Path) -> None:
    def act(recorder: Recorder, run: LiveSpan) -> list[LiveSpan]:
        first = step(recorder, run, "東京の天気を調べる道具その一東京の天気を", 0, 50)
        return [step(recorder, run, "plain", 50, 100, after=(first,))]

    write(store, act)
    from rich.cells import cell_len

    lines = [line for line in show(store).stdout.splitlines() if "■" in line and "─ " in line][:2]
    first, second = (cell_len(line[: line.index("■")]) for line in lines)
    assert cell_len(lines[0]) <= 80
    assert second - first == pytest.approx(lines[0].count("■"), abs=1)


def test_a_terminal_without_unicode_gets_the_same_in_ascii(store: Path) -> None:
    write(store, beside, slo_s=0.05)
    done = show(store, encoding="ascii")
    assert done.exit_code == 0, repr(done.exception)
    assert done.stdout.isascii()
    (line,) = [line for line in done.stdout.splitlines() if "tool short" in line or "- short" in line]
    assert "o" in line.split("ms")[-1]
    assert "~" in line
    assert "o tool" in done.stdout


# -- many spans --


def test_of_many_spans_those_on_the_path_and_those_that_failed_are_shown(store: Path) -> None:
    def act(recorder: Recorder, run: LiveSpan) -> list[LiveSpan]:
        for n in range(300):
            step(recorder, run, f"small{n}", n % 50, n % 50 + 1, error=ValueError("x") if n == 7 else None)
        return [step(recorder, run, "big", 0, 90)]

    write(store, act)
    done = show(store)
    assert len(done.stdout.splitlines()) < 90
    assert line_of(done, "big")
    assert line_of(done, "small7")
    assert re.search(r"… 24\d more: 24\d tool", done.stdout)
    assert "of 302 spans have no row of their own; --depth N" in done.stdout
    assert len(show(store, "--all").stdout.splitlines()) > 300
    assert "… " not in show(store, "--all").stdout
    assert "302 spans" in show(store, "--depth", "0").stdout


def test_depth_hides_what_is_below_it() -> None:
    spans = [span("r", None, 0, 10), span("a", "r", 0, 5), span("b", "a", 0, 5), span("c", "b", 0, 5)]
    parents = {"a": "r", "b": "a", "c": "b"}
    names = [[row.span.span_id for row in rows_of(spans, parents, {}, depth=n).rows if row.span] for n in (0, 1, 5)]
    assert names == [["r"], ["r", "a"], ["r", "a", "b", "c"]]
    assert [rows_of(spans, parents, {}, depth=n).hidden for n in (0, 1, 5)] == [3, 2, 0]


def test_a_trace_deeper_than_there_are_rows_is_shown_from_its_top() -> None:
    spans = [span(str(n), str(n - 1) if n else None, n, 1000 - n) for n in range(200)]
    folded = rows_of(spans, {str(n): str(n - 1) for n in range(1, 200)}, {"199": 10}, most=20)
    assert [row.span.span_id for row in folded.rows if row.span] == [str(n) for n in range(20)]
    assert folded.hidden == 180


# -- tables --


def printed(text: str, column: int) -> list[float]:
    """The numbers of a column of a table, without its header."""
    rows = [line.split() for line in text.splitlines()]
    return [float(row[column]) for row in rows if len(row) > column and re.fullmatch(r"[+-]?\d+\.\d", row[column])]


@pytest.mark.parametrize("everything", [False, True])
def test_the_critical_path_adds_up_as_printed(store: Path, *, everything: bool) -> None:
    def act(recorder: Recorder, run: LiveSpan) -> list[LiveSpan]:
        for n in range(33):
            start_ns = run.start_ns + n * 3 * MS + 12_345 * n
            begun = recorder.start(SpanKind.TOOL, "t", run, f"t{n}", start_ns=start_ns)
            recorder.end(begun, end_ns=start_ns + 1_234_567 * (1 + n % 2))
        return [begun]

    write(store, act, ms=101)
    done = show(store, "--critical", *(["--all"] if everything else []))
    table = done.stdout.split("step\n", 1)[1]
    *rows, total = [line for line in table.splitlines() if line.strip()]
    assert total.split()[:2] == ["101.0", "100.0%"]
    assert len(rows) > 10
    assert sum(printed("\n".join(rows), 1)) == pytest.approx(101.0, abs=1e-6)
    assert printed("\n".join(rows), 0)[0] == 0


def test_blame_adds_up_to_the_run_and_to_what_it_is_over(store: Path) -> None:
    write(store, beside, slo_s=0.07)
    done = show(store, "--blame", "--all")
    lines = [line.split() for line in done.stdout.split("step\n", 1)[1].splitlines()]
    total = next(line for line in lines if line[-2:] == ["in", "all"])
    rows = lines[: lines.index(total)]
    assert sum(float(row[0]) for row in rows) == pytest.approx(float(total[0])) == pytest.approx(100.0)
    assert sum(float(row[4]) for row in rows) == pytest.approx(float(total[3])) == pytest.approx(30.0)
    assert float(rows[0][4]) == max(float(row[4]) for row in rows)
    assert "burn +30.0 ms = +30.0 (the run's end - its deadline) +0.0" in done.stdout


def test_budgets_come_from_other_runs_of_the_agent(store: Path) -> None:
    write(store, beside, slo_s=0.07)
    only = json.loads(show(store, "--json").stdout)["analysis"]
    write(store, beside, slo_s=0.07)
    other = CliRunner().invoke(app, ["show", Store(store).runs()[0].run_id, "--json", "--store", str(store)])
    assert (only["budgets_from"], json.loads(other.stdout)["analysis"]["budgets_from"]) == ("recorded", "profiles")


def test_floats_step_by_step(store: Path) -> None:
    write(store, beside, slo_s=0.09)
    done = show(store, "--slack")
    rows = {line.split()[-1]: line.split() for line in done.stdout.splitlines() if " tool " in line}
    assert rows["short"][:5] == ["20.0", "30.0", "30.0", "0.0", "20.0"]
    assert rows["long"][:5] == ["50.0", "0.0", "0.0", "30.0", "-10.0"]
    assert "●" in rows["long"]
    assert "●" not in rows["short"]


def test_json_has_all_of_it(store: Path) -> None:
    write(store, beside, slo_s=0.07)
    told = json.loads(show(store, "--json").stdout)
    analysis = told["analysis"]
    assert analysis["makespan_ns"] == 100 * MS == sum(s["end_ns"] - s["start_ns"] for s in told["critical_segments"])
    assert sum(analysis["split"].values()) == sum(b["duration_ns"] for b in analysis["blame"]) == 100 * MS
    assert analysis["headroom_ns"] == -30 * MS
    assert {"total_float_ns", "free_float_ns", "drag_ns", "burn_ns"} <= set(analysis["activities"][0])


@pytest.mark.parametrize("slo", ["0", "soon", "-1s", "1 day"])
def test_an_slo_that_is_no_time(store: Path, slo: str) -> None:
    write(store, beside)
    done = show(store, "--slo", slo)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--slo wants a time above 0" in done.stderr


# -- what is under it --


@pytest.mark.parametrize(("text", "expected"), [("2s", 2), ("500ms", 0.5), ("1.5m", 90), ("2", 2), (" .5 h ", 1800)])
def test_times_on_the_command_line(text: str, expected: float) -> None:
    assert time_s("--slo", text) == expected


def test_times_that_are_none_are_refused() -> None:
    with pytest.raises(ReplayError, match="--x wants"):
        time_s("--x", "five")


@pytest.mark.parametrize("values", [[1], [333_333, 333_333, 333_334], [49_999] * 7, [-50_001, 150_002], [0, 0], []])
def test_rounded_times_add_up_to_the_rounded_sum(values: list[int]) -> None:
    unit = Unit("ms", 1e6, 1)
    rounded = unit.adding_up(values)
    assert sum(rounded) == unit.shown_ns(sum(values))
    assert all(abs(r - v) < unit.grain_ns for r, v in zip(rounded, values, strict=True))


def test_texts_are_cut_to_their_place() -> None:
    assert (fitted("abcdef", 4), fitted("ab", 4), ending("abcdef", 4)) == ("abc…", "ab  ", "…def")
    assert clean("tab\there") == "tab\\there"
    assert short("run/agent@1[pull:agent]/chat#2") == "agent@1/chat#2"
    assert short("run/ask@2[push:7]") == "ask@2[push:7]"


def test_a_cell_shows_what_took_most_of_it_and_nothing_is_too_short_to_see() -> None:
    axis = Axis(0, 100, 10)
    cells = axis.blank()
    axis.paint(cells, [(0, 14, "tool"), (14, 21, "code"), (55, 56, "decode"), (100, 100, "queue")])
    assert cells == ["tool", "code", "code", "", "", "decode", "", "", "", "queue"]
    axis.paint(cells, [(30, 34, "gap"), (40, 50, "gap")], least=0)
    assert cells[3:5] == ["", "gap"]


def test_ticks_are_round_and_counted_from_the_start_of_the_run() -> None:
    names, line = Axis(-250 * MS, 1000 * MS, 50, deadline_ns=500 * MS).ruler(0)
    ticks = [place for place, sign in enumerate(line) if sign in "┬┃"]
    assert names.split() == ["0", "500", "ms", "1000", "ms"] or "0" in names.split()
    assert names.index("0") in ticks
    assert line.index("┃") == 750 * 50 // 1250
    assert DEADLINE == "deadline"
