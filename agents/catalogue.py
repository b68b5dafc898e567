"""The agents under one roof: how to build each, which cases to give it, how to grade it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any

from langgraph.graph.state import CompiledStateGraph

from redecode.agents.clerk import graph as clerk_graph
from redecode.agents.clerk.graph import ClerkContext
from redecode.agents.contact import Contact
from redecode.agents.contacts_desk import graph as desk_graph
from redecode.agents.contacts_desk import scorer as desk_scorer
from redecode.agents.contacts_desk.directory import Directory
from redecode.agents.contacts_desk.policy import DeskCase, desk_cases, expected_answer
from redecode.agents.contacts_desk.service import AddressService
from redecode.agents.contacts_desk.state import DeskContext
from redecode.agents.context import AgentContext
from redecode.agents.extraction import graphs, scorer
from redecode.agents.extraction.state import ExtractionContext
from redecode.agents.fm.articles import cases as article_cases
from redecode.agents.fm.phrases import Split
from redecode.agents.score import Score

Graph = CompiledStateGraph[Any, Any, Any, Any]
Scorer = Callable[[Mapping[str, Any]], Score]


@dataclass(frozen=True, slots=True)
class Case:
    """An input state for a graph, the right answer, and the grade of the output state it leads to."""

    input: Mapping[str, Any]
    expected: Mapping[str, Any]
    score: Scorer


@dataclass(frozen=True, slots=True)
class Agent:
    """A compiled graph ready to run on its cases, and the type of its context."""

    name: str
    graph: Graph
    context_type: type[AgentContext]
    cases: Sequence[Case]


def make_agent(name: str, *, split: Split = "heldout", seed: int = 0, count: int = 20, level: int = 2) -> Agent:
    """Build an agent with `count` fresh cases; the same arguments give the same agent in any process.

    `level` 0 to 3 sets how many sentences of an article mislead.
    """
    if name == "contacts_desk":
        jobs = list(islice(desk_cases(split, seed, level=level), count))
        graph: Graph = desk_graph.build(Directory.of_cases(jobs), AddressService(seed))
        return Agent(name, graph, DeskContext, [_desk_case(job) for job in jobs])
    if name == "clerk":
        told = (
            job for job in desk_cases(split, seed, level=level) if job.request == "file" and job.article.has_address
        )
        jobs = list(islice(told, count))
        graph = clerk_graph.build(Directory.of_cases(jobs), AddressService(seed))
        return Agent(name, graph, ClerkContext, [_clerk_case(job) for job in jobs])
    for architecture, builder in graphs.BUILDERS.items():
        if architecture == name:
            articles = islice(article_cases(split, seed, level=level), count)
            cases = [_extraction_case(a.text, a.contact) for a in articles]
            return Agent(name, builder(), ExtractionContext, cases)
    raise UnknownAgent(name)


class UnknownAgent(ValueError):
    """There is no agent of that name."""

    def __init__(self, name: str) -> None:
        known = ", ".join((*graphs.BUILDERS, "contacts_desk", "clerk"))
        super().__init__(f"no agent called {name!r}; there are: {known}")


def _extraction_case(article: str, truth: Contact) -> Case:
    return Case({"article": article}, asdict(truth), partial(scorer.score, truth=truth))


def _clerk_case(job: DeskCase) -> Case:
    scorer_of_case = partial(desk_scorer.score, case=job)
    return Case({"article": job.article.text}, asdict(expected_answer(job)), scorer_of_case)


def _desk_case(job: DeskCase) -> Case:
    given = {"article": job.article.text, "request": job.request}
    return Case(given, asdict(expected_answer(job)), partial(desk_scorer.score, case=job))
