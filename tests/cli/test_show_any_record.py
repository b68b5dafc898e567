"""Whatever a record says, it can be drawn, every span of it, and what is printed adds up."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from redecode.cli.show_head import errors, head, longest
from redecode.cli.show_tables import blame_table, critical_table, float_table
from redecode.cli.show_tree import Tree
from redecode.replay.analysis import AnalysisError, RunActivities, RunAnalysis, activities_of, analyze_recorded
from redecode.tracer import RecordedRun
from tests.replay.analysis.test_any_record import records


def analysed(record: RecordedRun) -> tuple[RunActivities | None, RunAnalysis | None]:
    try:
        cut = activities_of(record)
        return cut, analyze_recorded(cut, slo_s=20e-9)
    except AnalysisError:
        return None, None


@settings(max_examples=60, deadline=None)
@given(record=records(), width=st.integers(60, 200), unicode=st.booleans(), everything=st.booleans())
def test_anything_can_be_drawn(record: RecordedRun, width: int, unicode: bool, everything: bool) -> None:
    cut, analysis = analysed(record)
    ruler, line, *rows = Tree(record, cut, analysis, width, unicode, everything=everything).lines()
    drawn = [row for row in rows if row.no_wrap]
    known = {s.span_id for s in record.spans}
    if cut is not None:
        assert len(drawn) == len(known)
    assert all(cell_len(text.plain) <= width for text in (ruler, line, *drawn))
    assert unicode or all(text.plain.isascii() for text in (ruler, line, *drawn))
    assert list(head(record, analysis, "no reason"))
    assert all(text.isprintable() for text in errors(record))


@settings(max_examples=60, deadline=None)
@given(record=records(), everything=st.booleans())
def test_tables_add_up_as_printed(record: RecordedRun, everything: bool) -> None:
    cut, analysis = analysed(record)
    if cut is None or analysis is None or not analysis.makespan_ns:
        return
    assert list(longest(cut, analysis, 80))
    assert list(float_table(analysis, 80, everything=everything))
    for table, column in ((critical_table, 1), (blame_table, 0)):
        rows = [text.plain.split() for text in table(analysis, 100, everything=everything)][1:]
        last = next(n for n, row in enumerate(rows) if row[-2:] == ["in", "all"])
        total = float(rows[last][0])
        numbers = [row for row in rows[:last] if re.fullmatch(r"[\d.]+", row[column])]
        assert len(numbers) == last > 0
        assert abs(sum(float(row[column]) for row in numbers) - total) < 1e-9
