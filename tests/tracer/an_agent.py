"""A program that goes through every seam of the tracer: graphs of all shapes, both clients, tools, threads, tasks.

Run by itself it is a nursery: for every line of JSON on stdin it forks a program that records into `store` and prints
what it answers, while the `fault` happens to it, and says how that ended. Forked, since Python and LangGraph take two
seconds to start.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import operator
import os
import resource
import shutil
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypedDict

import openai
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import CachePolicy, Command, RetryPolicy, Send, interrupt
from pydantic import SecretStr

from redecode import tracer
from redecode.tracer import spool

Halfway = Callable[[int], object]
"""Called with 1 in the middle of it all, inside a graph, and with 2 later on."""
QUESTION: Any = [{"role": "user", "content": "how many?"}]


class State(TypedDict):
    out: Annotated[list[str], operator.add]


class Messages(TypedDict):
    messages: Annotated[list[Any], add_messages]


def answer(body: dict[str, Any]) -> Any:
    """What the engine answers: two tool calls if it is offered tools and has no result yet, else a sentence."""
    if body.get("tools") and not any(m["role"] == "tool" for m in body["messages"]):
        calls = [{"id": f"c{n}", "type": "function", "function": {"name": "look", "arguments": json.dumps({"at": n})}}
                 for n in range(2)]  # fmt: skip
        return {"content": None, "tool_calls": calls}
    return f"{len(body['messages'])} so far"


@tool
def look(at: int) -> str:
    """Look at something."""
    return f"seen {at}"


class Shelf(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document(f"about {query}")]


class Clients:
    """One of each, and the loop that the asynchronous ones live in."""

    def __init__(self, url: str) -> None:
        self.model = ChatOpenAI(base_url=url, api_key=SecretStr("none"), model="m", max_retries=0)
        self.raw = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        self.raw_async = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
        self.runner = asyncio.Runner()

    def close(self) -> None:
        self.model.root_client.close()
        self.runner.run(self.model.root_async_client.close())
        self.raw.close()
        self.runner.run(self.raw_async.close())
        self.runner.close()


def run_agent(clients: Clients, halfway: Halfway) -> list[Any]:
    """Everything once."""
    model, raw, raw_async = clients.model, clients.raw, clients.raw_async
    cache: Any = InMemoryCache()
    attempts = [0, 0]

    def plan(state: State) -> dict[str, list[str]]:
        said = (model | StrOutputParser()).invoke("plan")
        chunks = raw.chat.completions.create(model="m", messages=QUESTION, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        whole = raw.chat.completions.create(model="m", messages=QUESTION).choices[0].message.content
        return {"out": [said, streamed, str(whole)]}

    def spread(state: State) -> dict[str, list[str]]:
        with ThreadPoolExecutor(2) as pool:
            seen = list(pool.map(look.invoke, [{"at": n} for n in range(2)]))
        thread = threading.Thread(target=lambda: seen.append(look.invoke({"at": 2})))
        thread.start()
        thread.join()
        return {"out": [*seen, Shelf().invoke("cats")[0].page_content]}

    def middle(state: State) -> dict[str, list[str]]:
        before = look.invoke({"at": 3})
        stream = model.stream("go on")
        first = next(stream).text
        halfway(1)
        rest = "".join(chunk.text for chunk in stream)
        return {"out": [before, first + rest, look.invoke({"at": 4})]}

    def flaky(state: State) -> dict[str, list[str]]:
        attempts[0] += 1
        if attempts[0] % 2:
            raise ConnectionError("not yet")
        return {"out": ["at last"]}

    inner = StateGraph(State)
    inner.add_node("inner", lambda s: Command(update={"out": ["inner"]}, goto="end", graph=Command.PARENT))
    inner.add_edge(START, "inner")

    graph = StateGraph(State)
    graph.add_node("plan", plan)
    graph.add_node("spread", spread)
    graph.add_node("cached", lambda s: {"out": ["cached"]}, cache_policy=CachePolicy(key_func=lambda *_: "k"))
    graph.add_node("ask", lambda n: {"out": [str(model.invoke(f"{n}").content)]})
    graph.add_node("middle", middle)
    graph.add_node("flaky", flaky, retry_policy=RetryPolicy(initial_interval=0.001, jitter=False))
    graph.add_node("sub", inner.compile(), destinations=("end",))
    graph.add_node("person", lambda s: {"out": [interrupt("sure?")]})
    graph.add_node("end", lambda s: {"out": ["end"]})
    graph.add_edge(START, "plan")
    graph.add_edge(START, "spread")
    graph.add_edge(START, "cached")
    graph.add_conditional_edges("plan", lambda s: [Send("ask", n) for n in range(2)], ["ask"])
    graph.add_edge("ask", "middle")
    graph.add_edge("middle", "flaky")
    graph.add_edge("flaky", "person")
    graph.add_edge("person", "sub")
    compiled = graph.compile(cache=cache, checkpointer=InMemorySaver())

    talk = StateGraph(Messages)
    talk.add_node("agent", lambda s: {"messages": [model.bind_tools([look]).invoke(s["messages"])]})
    talk.add_node("tools", ToolNode([look]))
    talk.add_edge(START, "agent")
    talk.add_conditional_edges("agent", lambda s: "tools" if s["messages"][-1].tool_calls else END, ["tools", END])
    talk.add_edge("tools", "agent")
    talking = talk.compile()

    @task
    def double(n: int) -> int:
        return 2 * n

    @entrypoint()
    def work(n: int) -> int:
        futures = [double(n), double(n + 1)]
        return sum(f.result() for f in futures)

    async def beside(state: State) -> dict[str, list[str]]:
        seen = await asyncio.gather(*(look.ainvoke({"at": n}) for n in range(2)))
        async with asyncio.TaskGroup() as group:
            more = group.create_task(look.ainvoke({"at": 5}))
        in_thread = await asyncio.to_thread(look.invoke, {"at": 6})
        in_time = await asyncio.wait_for(look.ainvoke({"at": 7}), 30)
        stream = await raw_async.chat.completions.create(model="m", messages=QUESTION, stream=True)
        streamed = [c.choices[0].delta.content or "" async for c in stream if c.choices]
        chunks = [chunk.text async for chunk in model.astream("on")]
        return {"out": [*seen, more.result(), in_thread, in_time, "".join(streamed), "".join(chunks)]}

    async def flaky_async(state: State) -> dict[str, list[str]]:
        attempts[1] += 1
        if attempts[1] % 2:
            raise ConnectionError("not yet")
        halfway(2)
        return {"out": [str((await model.ainvoke("again")).content)]}

    later = StateGraph(State)
    later.add_node("beside", beside)
    later.add_node("flaky", flaky_async, retry_policy=RetryPolicy(initial_interval=0.001, jitter=False))
    later.add_node("cached", lambda s: {"out": ["cached"]}, cache_policy=CachePolicy(key_func=lambda *_: "k"))
    later.add_edge(START, "beside")
    later.add_edge(START, "cached")
    later.add_edge("beside", "flaky")
    asynchronous = later.compile(cache=cache)

    config: Any = {"configurable": {"thread_id": "t"}}
    compiled.invoke({"out": []}, config)
    answers: list[Any] = [compiled.invoke(Command(resume="yes"), config)["out"]]
    answers.append([str(m.content) for m in talking.invoke({"messages": QUESTION})["messages"]])
    answers.append(clients.runner.run(asynchronous.ainvoke({"out": []}))["out"])
    answers.append([list(chunk) for chunk in compiled.stream(None, config, stream_mode="updates")])
    answers.append(work.invoke(3))
    with tracer.run("by hand"), tracer.step("one"):
        answers.append(raw.chat.completions.create(model="m", messages=QUESTION).choices[0].message.content)
    return answers


def may_grow(limit: int) -> None:
    """No file of this process may become longer, in bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def no_room(store: Path) -> None:
    """As on a full disk: not even the rest of the next record has room."""
    may_grow(max(path.stat().st_size for path in (store / "spool").iterdir()) + 100)


def fork() -> None:
    """A child that does something and leaves by itself."""
    child = os.fork()
    if not child:
        look.invoke({"at": 9})
        tracer.uninstrument()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise AssertionError("the child did not end well")


def faults(store: Path) -> dict[str, tuple[Callable[[], object], ...]]:
    """What happens in the middle and, for some, later on."""
    return {
        "none": (),
        "full": (lambda: no_room(store),),
        "full for a while": (lambda: no_room(store), lambda: may_grow(resource.RLIM_INFINITY)),
        "spool deleted": (lambda: shutil.rmtree(store / "spool"), lambda: time.sleep(spool.SYNC_S + 0.2)),
        "store deleted": (lambda: shutil.rmtree(store),),
        "files closed": (lambda: os.closerange(100, 4096), lambda: time.sleep(spool.SYNC_S + 0.2)),
        "fork": (fork,),
    }


def program(url: str, store: str, fault: str) -> None:
    """What the nursery forks."""
    warnings.simplefilter("error")
    if fault == "store deleted":
        spool.SYNC_S = 3600  # nobody looks before the end
    tracer.instrument(store)
    happens, clients = faults(Path(store))[fault], Clients(url)
    answers = run_agent(clients, lambda n: happens[n - 1]() if n <= len(happens) else None)
    clients.close()
    sys.stdout.write(json.dumps(answers))


def nursery() -> None:
    for line in sys.stdin:
        out, err = os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            os.dup2(out[1], 1)
            os.dup2(err[1], 2)
            os.closerange(3, 64)
            code = 1
            try:
                program(**json.loads(line))
                code = 0
            except BaseException:
                traceback.print_exc()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            os._exit(code)
        told = []
        for reading, writing in (out, err):
            os.close(writing)
            with open(reading) as file:
                told.append(file.read())
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(json.dumps([ended, *told]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    nursery()
