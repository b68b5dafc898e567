"""Runs agents on their cases, several at a time: awaited in one loop, or in threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import openai
from langchain_core.runnables import RunnableConfig

from redecode.agents.catalogue import Agent, Case
from redecode.agents.context import AgentContext, close_clients
from redecode.agents.score import Score

Clock = Callable[[], float]


class EngineUnusable(Exception):
    """The engine does not answer, or refuses what it is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run to make."""

    number: int
    agent: Agent
    case: Case
    context: AgentContext

    @property
    def config(self) -> RunnableConfig:
        """Return what LangGraph is told about the run; whoever records it may keep the right answer as a label."""
        known = {"redecode.labels": {"expected": dict(self.case.expected)}}
        return {"run_name": self.agent.name, "metadata": {"case": self.number, **known}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run made: what came out, how right it was, how long it took in seconds."""

    number: int
    agent: str
    score: Score
    output: dict[str, Any]
    duration_s: float


def run_job(job: Job, clock: Clock = time.perf_counter) -> Result:
    """Run one job and wait for it."""
    began = clock()
    with _engine_errors(job.context):
        output = job.agent.graph.invoke(job.case.input, job.config, context=job.context)
    return _result(job, output, clock() - began)


async def run_job_async(job: Job, clock: Clock = time.perf_counter) -> Result:
    """Run one job without holding a thread."""
    began = clock()
    with _engine_errors(job.context):
        output = await job.agent.graph.ainvoke(job.case.input, job.config, context=job.context)
    return _result(job, output, clock() - began)


def run_in_threads(jobs: Sequence[Job], concurrency: int) -> list[Result]:
    """Run jobs, at most `concurrency` at once; the first failure cancels what has not begun."""
    with ThreadPoolExecutor(concurrency) as pool:
        futures = [pool.submit(run_job, job) for job in jobs]
        _, waiting = wait(futures, return_when=FIRST_EXCEPTION)
        for future in waiting:
            future.cancel()
        failed = [f for f in futures if not f.cancelled() and f.done() and f.exception() is not None]
        for future in failed[:1]:
            future.result()
    return [f.result() for f in futures]


async def run_awaited(jobs: Sequence[Job], concurrency: int) -> list[Result]:
    """Run jobs in one event loop, at most `concurrency` at once; the first failure cancels the rest."""
    gate = asyncio.Semaphore(concurrency)

    async def gated(job: Job) -> Result:
        async with gate:
            return await run_job_async(job)

    tasks = [asyncio.ensure_future(gated(job)) for job in jobs]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await close_clients()


def _result(job: Job, output: dict[str, Any], duration_s: float) -> Result:
    return Result(
        number=job.number,
        agent=job.agent.name,
        score=job.case.score(output),
        output=output,
        duration_s=duration_s,
    )


@contextmanager
def _engine_errors(context: AgentContext) -> Iterator[None]:
    try:
        yield
    except openai.APITimeoutError as err:
        raise EngineUnusable(f"the engine at {context.base_url} did not answer within {context.timeout_s:g} s") from err
    except openai.APIConnectionError as err:
        raise EngineUnusable(f"no engine answers at {context.base_url}; start one, or point --base-url at it") from err
    except openai.APIStatusError as err:
        raise EngineUnusable(
            f"the engine at {context.base_url} refused model {context.model!r} ({err.status_code}): "
            f"{_first_line(err.message)}"
        ) from err
    except openai.APIError as err:
        raise EngineUnusable(
            f"the engine at {context.base_url} broke off the answer: {_first_line(err.message)}"
        ) from err


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:300] if lines else "no reason given"
