"""The bundled FM asked for a contact in every way it knows, one call after another, on an engine of its own."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import BaseModel

from redecode.agents import model_dir
from redecode.agents.contact import FIELDS
from redecode.agents.contact import Contact as Truth
from redecode.agents.extraction import formats as agents_formats
from redecode.agents.extraction.prompts import Prompt, ask_all, ask_one
from redecode.agents.fm.articles import cases
from redecode.agents.fm.chat import END, render_chat
from redecode.optimizer.formats import Format, Json, MalformedAnswer, Reading, Slot, Xml, Yaml, fill
from redecode.optimizer.formats.forced import ForcedShare, added, forced_share
from redecode.optimizer.formats.layout import Layout
from redecode.optimizer.formats.tokens import FileTokens
from redecode.replay.engine import Completion, EngineClient, start, stop

WAYS = ("json", "yaml", "xml", "tagged text", "slots", "a call per field")
_OURS: dict[str, Format] = {"json": Json(spaced=True), "yaml": Yaml(), "xml": Xml()}
_LONGEST = 192


class Contact(BaseModel):
    """What is asked for."""

    name: str
    email: str
    address: str


@dataclass(frozen=True, slots=True)
class Asked:
    """One way to ask one model, over articles it has not seen.

    Attributes:
        tokens: sampled, mean; `prompt_tokens` likewise (of all calls of an answer).
        valid, valid_mended: answers that are a contact strictly, and after repair; `None` where there is no repair.
        right, right_mended: of all answers, those whose every field is exact.
        wrong_mended: answers that only repair made valid, and that are not right.
        latency_ms: median, sent → last token, all calls of an answer together.
    """

    model: str
    temperature: float
    way: str
    answers: int
    tokens: float
    prompt_tokens: float
    valid: int
    valid_mended: int | None
    right: int
    right_mended: int | None
    wrong_mended: int | None
    latency_ms: float
    forced: ForcedShare


@dataclass(slots=True)
class _Answer:
    """What one article's call, or calls, came to."""

    tokens: int = 0
    prompt_tokens: int = 0
    took_ns: int = 0
    strict: Truth | None = None
    mended: Truth | None = None
    forced: ForcedShare | None = None


@asynccontextmanager
async def engine(model: str) -> AsyncIterator[EngineClient]:
    """A vLLM with a bundled model."""
    with tempfile.TemporaryDirectory() as folder:
        state = start(model_dir(model), home=Path(folder) / "engine")
        try:
            async with EngineClient(state.base_url) as client:
                yield client
        finally:
            stop(Path(folder) / "engine")


async def ask(model: str, count: int, temperatures: list[float], level: int) -> list[Asked]:
    """Every way, on the same articles in the same order."""
    rows = []
    articles = list(islice(cases("heldout", 5, level=level), count))
    async with engine(model) as client:
        asker = _Asker(client, FileTokens(model_dir(model)))
        await asker.answer("json", articles[0].text, 0.0, 0)  # the first call of an engine is slower
        for temperature in temperatures:
            answers: dict[str, list[_Answer]] = {way: [] for way in WAYS}
            for number, article in enumerate(articles):
                for way in WAYS:  # turn by turn, so that a busy machine is busy for all
                    await client.reset_prefix_cache()
                    answers[way].append(await asker.answer(way, article.text, temperature, number))
            truths = [article.contact for article in articles]
            rows += [_row(model, temperature, way, answers[way], truths) for way in WAYS]
    return rows


def _row(model: str, temperature: float, way: str, answers: list[_Answer], truths: list[Truth]) -> Asked:
    both = list(zip(answers, truths, strict=True))
    repaired = way in _OURS
    only_mended = [(a, t) for a, t in both if a.strict is None and a.mended is not None]
    return Asked(
        model=model,
        temperature=temperature,
        way=way,
        answers=len(answers),
        tokens=sum(a.tokens for a in answers) / len(answers),
        prompt_tokens=sum(a.prompt_tokens for a in answers) / len(answers),
        valid=sum(a.strict is not None for a in answers),
        valid_mended=sum((a.strict or a.mended) is not None for a in answers) if repaired else None,
        right=sum(a.strict == t for a, t in both),
        right_mended=sum((a.strict or a.mended) == t for a, t in both) if repaired else None,
        wrong_mended=sum(a.mended != t for a, t in only_mended) if repaired else None,
        latency_ms=median(a.took_ns for a in answers) / 1e6,
        forced=added(a.forced for a in answers if a.forced is not None),
    )


class _Asker:
    def __init__(self, client: EngineClient, tokens: FileTokens) -> None:
        self._client, self._tokens, self._calls = client, tokens, 0
        self._end = tokens.encode(END)

    async def answer(self, way: str, article: str, temperature: float, number: int) -> _Answer:
        """Ask for one article's contact."""
        out = _Answer()
        sampling: dict[str, Any] = {"temperature": temperature, "max_tokens": _LONGEST}
        if temperature:
            sampling["seed"] = number
        if way == "slots":
            await self._filled(article, sampling, out)
        elif way == "a call per field":
            await self._by_field(article, sampling, out)
        else:
            await self._whole(way, article, sampling, out)
        return out

    async def _call(self, prompt: str, sampling: dict[str, Any], out: _Answer) -> tuple[Completion, str]:
        self._calls += 1
        done = await self._client.complete(self._tokens.encode(prompt), sampling=sampling, rid=f"formats-{self._calls}")
        out.tokens += len(done.token_ids)
        out.prompt_tokens += done.prompt_tokens or 0
        out.took_ns += done.done_ns - done.sent_ns
        said = [i for i in done.token_ids if i not in self._end]
        return done, b"".join(self._tokens.spelled(said)).decode(errors="replace")

    async def _whole(self, way: str, article: str, sampling: dict[str, Any], out: _Answer) -> None:
        fmt = agents_formats.FORMATS[WAYS.index(way)]
        messages = ask_all(article, fmt, Prompt())
        done, text = await self._call(render_chat(messages, generation_prompt=True), sampling, out)
        try:
            out.strict = agents_formats.parse(text, fmt)
        except agents_formats.MalformedAnswer:
            out.strict = None
        layout = None
        if way in _OURS:
            try:
                reading = _OURS[way].read(text, Contact, finish_reason=done.finish_reason)
                out.mended = Truth(**reading.record.model_dump())
                layout = _OURS[way].laid_out(reading.record)
            except MalformedAnswer:
                out.mended = None
        elif out.strict is not None:
            layout = _tagged(out.strict)
        times = done.token_times_ns
        gaps = None if times is None else [(b - a) / 1e9 for a, b in zip((times[0], *times), times, strict=False)]
        spelled = self._tokens.spelled(done.token_ids)
        if layout is not None:
            out.forced = forced_share(layout, spelled, logprobs=done.logprobs, gaps_s=gaps)
        else:
            out.forced = ForcedShare(left_out=1)

    async def _filled(self, article: str, sampling: dict[str, Any], out: _Answer) -> None:
        prompt = render_chat(ask_all(article, "json", Prompt()), generation_prompt=True)
        steps = fill(Contact, spaced=True)
        try:
            slot: Slot = next(steps)
            while True:
                _, text = await self._call(prompt + slot.prefix, sampling | {"stop": list(slot.stop)}, out)
                slot = steps.send(text.partition(slot.stop[0])[0])
        except StopIteration as done:
            reading: Reading[Contact] = done.value
            out.strict = Truth(**reading.record.model_dump())
        except MalformedAnswer:
            out.strict = None

    async def _by_field(self, article: str, sampling: dict[str, Any], out: _Answer) -> None:
        found = {}
        for field in FIELDS:
            messages = ask_one(article, field, Prompt())
            _, found[field] = await self._call(render_chat(messages, generation_prompt=True), sampling, out)
        if all(v.strip() and "\n" not in v for v in found.values()):
            out.strict = Truth(**{str(k): v for k, v in found.items()})


def _tagged(contact: Truth) -> Layout:
    """The agents' tagged text, `<NAME="…">`, with what is forced."""
    out = Layout()
    for n, (name, value) in enumerate(asdict(contact).items()):
        out.fixed("\n" if n else "")
        out.fixed(f'<{name.upper()}="')
        out.free(value)
        out.fixed('">')
    return out
