"""Run the reference agents on fresh articles: `python -m redecode.agents --agent parallel --runs 5`.

An ordinary program against any OpenAI-compatible URL; it knows nothing of recording or replay. Prints one line
per run and a summary, or with --json one document. Exit 0 when the runs are done, 2 when they cannot be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, get_args

from pydantic import ValidationError

from redecode.agents import AGENTS
from redecode.agents.catalogue import Agent, make_agent
from redecode.agents.clerk.graph import Execution
from redecode.agents.contacts_desk.prompts import WORDINGS as DESK_WORDINGS
from redecode.agents.context import DEFAULT_MODEL, AgentContext, default_base_url
from redecode.agents.extraction.formats import FORMATS
from redecode.agents.extraction.prompts import LAYOUTS, WORDINGS
from redecode.agents.fm.phrases import Split
from redecode.agents.runner import EngineUnusable, Job, Result, run_awaited, run_in_threads

BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, run, report."""
    args = _parser().parse_args(argv)
    try:
        jobs = _jobs(args)
        run = run_in_threads if args.sync else _run_loop
        results = run(jobs, args.concurrency)
    except (EngineUnusable, ValidationError) as err:
        reason = str(err) if isinstance(err, EngineUnusable) else _readable(err)
        sys.stderr.write(f"redecode.agents: {reason}\n")
        return BAD_INPUT
    sys.stdout.write(_as_json(results) if args.json else _as_text(results))
    return 0


def _run_loop(jobs: Sequence[Job], concurrency: int) -> list[Result]:
    return asyncio.run(run_awaited(jobs, concurrency))


def _jobs(args: argparse.Namespace) -> list[Job]:
    names = args.agent
    agents = [make_agent(n, split=args.split, seed=args.seed, count=args.runs, level=args.level) for n in names]
    contexts = [_context(agent, args) for agent in agents]
    jobs = []
    for number in range(args.runs):
        turn = number % len(agents)
        agent = agents[turn]
        jobs.append(Job(number=number, agent=agent, case=agent.cases[number], context=contexts[turn]))
    return jobs


def _context(agent: Agent, args: argparse.Namespace) -> AgentContext:
    """Give an agent those knobs from the command line that it has; what was not said stays its default."""
    wanted = {
        "base_url": args.base_url,
        "model": args.model,
        "temperature": args.temperature,
        "seed": args.seed,
        "max_tokens": args.max_tokens,
        "stream": args.stream,
        "format": args.format,
        "wording": args.wording,
        "layout": args.layout,
        "max_rounds": args.max_rounds,
        "max_turns": args.max_turns,
        "execution": args.execution,
        "tool_wait_s": None if args.tool_wait_ms is None else args.tool_wait_ms / 1000,
    }
    if agent.name == "contacts_desk" and args.wording not in DESK_WORDINGS:
        del wanted["wording"]
    known = agent.context_type.model_fields
    return agent.context_type(**{k: v for k, v in wanted.items() if v is not None and k in known})


def _agents(text: str) -> tuple[str, ...]:
    names = tuple(AGENTS) if text == "all" else tuple(text.split(","))
    if unknown := [name for name in names if name not in AGENTS]:
        raise argparse.ArgumentTypeError(f"no agent called {unknown[0]!r}; there are: {', '.join(AGENTS)}, or all")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m redecode.agents",
        description="Run the reference agents on fresh articles and score the answers.",
        epilog="agents: " + "; ".join(f"{name}: {what}" for name, what in AGENTS.items()),
    )
    add = parser.add_argument
    add("--agent", type=_agents, default=("single",), metavar="NAME[,NAME]", help="which take turns, or all")
    add("--runs", type=_positive, default=5, help="how many runs in all (default 5)")
    add("--concurrency", type=_positive, default=4, help="how many at once (default 4)")
    add("--base-url", default=default_base_url(), help="an OpenAI-compatible URL (default $OPENAI_BASE_URL)")
    add("--model", default=DEFAULT_MODEL, help=f"the model's name at that URL (default {DEFAULT_MODEL})")
    add("--seed", type=int, default=0, help="seed of the articles and of sampling (default 0)")
    add("--split", choices=get_args(Split), default="heldout", help="sentences the bundled FM was trained on")
    add("--level", type=int, choices=range(4), default=2, help="how much the articles mislead (default 2)")
    add("--temperature", type=float, help="sampling temperature (default 0)")
    add("--max-tokens", type=_positive, help="bound on each answer")
    add("--format", choices=FORMATS, help="language of the answers (default json)")
    add("--wording", choices=WORDINGS, help="how the question is put (default plain)")
    add("--layout", choices=LAYOUTS, help="article before or after the question (default article_first)")
    add("--max-rounds", type=_positive, help="bound on a debate's rounds")
    add("--max-turns", type=_positive, help="bound on the contacts desk's FM calls")
    add("--execution", choices=get_args(Execution), help="when the clerk's look-ups begin (default plan_then_run)")
    add("--tool-wait-ms", type=float, help="how long the address service takes (default 30; the clerk's: 200)")
    add("--stream", action="store_true", help="ask the engine to stream its answers")
    add("--sync", action="store_true", help="threads and blocking calls instead of an event loop")
    add("--json", action="store_true", help="print one JSON document")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number


def _readable(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    return f"{name}: {first['msg']}, not {first['input']!r}"


def _as_text(results: Sequence[Result]) -> str:
    lines = []
    for r in results:
        marks = " ".join(f"{k}={'ok' if right else 'wrong'}" for k, right in r.score.fields.items())
        why = f"  ({r.score.error})" if r.score.error else ""
        lines.append(f"{r.number:4d}  {r.agent:13s} {r.duration_s * 1000:7.0f} ms  {marks}{why}")
    lines.append("")
    for row in _summary(results):
        lines.append(
            f"{row['agent']}: {row['exact']} of {row['runs']} exact, {row['fields']:.0%} of fields, "
            f"{row['mean_s'] * 1000:.0f} ms a run"
        )
    return "\n".join(lines) + "\n"


def _as_json(results: Sequence[Result]) -> str:
    runs = [
        {
            "number": r.number,
            "agent": r.agent,
            "exact": r.score.exact,
            "score": asdict(r.score),
            "answer": r.output.get("contact", r.output.get("answer")),
            "duration_s": r.duration_s,
        }
        for r in results
    ]
    return json.dumps({"runs": runs, "summary": _summary(results)}, indent=1) + "\n"


def _summary(results: Sequence[Result]) -> list[dict[str, Any]]:
    rows = []
    for name in dict.fromkeys(r.agent for r in results):
        mine = [r for r in results if r.agent == name]
        rows.append(
            {
                "agent": name,
                "runs": len(mine),
                "exact": sum(r.score.exact for r in mine),
                "fields": sum(r.score.share for r in mine) / len(mine),
                "mean_s": sum(r.duration_s for r in mine) / len(mine),
            }
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
