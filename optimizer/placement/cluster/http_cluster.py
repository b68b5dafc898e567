"""A cluster of plain OpenAI-compatible servers: who they are, how they are, and where a call goes.

What listens for callers is `http_front`. Each replica is polled: `/metrics` for its load, else `/health`, else
`/v1/models`; one that does not answer gets no calls until it does again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Self

import aiohttp

from redecode.optimizer.placement.cluster.calls import Calls, SinceStart, Time
from redecode.optimizer.placement.cluster.errors import BadReplica
from redecode.optimizer.placement.cluster.http_engine import Found, find, root_of
from redecode.optimizer.placement.cluster.live import LiveReplica
from redecode.optimizer.placement.cluster.placing import Choice, LastDecision, Placed, Placing, sent_prefixes
from redecode.optimizer.placement.cluster.prefixes import Prefixes
from redecode.optimizer.placement.cluster.prometheus import read_metrics
from redecode.optimizer.placement.cluster.reading import Asked
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import CallView, Router, State

_CONNECT_S = 5.0
_KEPT_S = 3.0
"""An idle connection; uvicorn closes it after 5 s."""
_ASK_S = 10.0


class HttpCluster:
    """Replicas behind URLs, and a policy. Use it as an async context manager.

    Args:
        slo_s: how long a run may take whose calls do not say; `None` if it may take any time.
        api_key: for the replicas; callers' own keys are passed on, where this is not given.
        poll_s: how often replicas are asked how they are.
        start_s: how long a replica may take to start.
        answer_s: how long an engine may be silent in a call.
        why: what the router was given as its log.
        on_choice: told what became of each call at the router.
        time, later, prefixes: if not this machine's clock, this loop's timers, and our own beliefs.
    """

    def __init__(
        self,
        router: Router,
        *,
        slo_s: float | None = None,
        api_key: str | None = None,
        poll_s: float = 0.5,
        start_s: float = 600.0,
        answer_s: float = 1800.0,
        why: LastDecision | None = None,
        on_choice: Callable[[Choice], None] | None = None,
        time: Time | None = None,
        later: Callable[[float, Callable[[], None]], object] | None = None,
        prefixes: Callable[[Engine], Prefixes] = sent_prefixes,
    ) -> None:
        self.time = time or SinceStart.now()
        self.calls = Calls(self.time, slo_s)
        self.placing = Placing(
            router, self.time.now_s, later or self._later, why=why, prefixes=prefixes, on_choice=on_choice
        )
        self.api_key = api_key
        self.found: dict[int, Found] = {}
        self._poll_s, self._start_s = poll_s, start_s
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=answer_s)
        self._session: aiohttp.ClientSession | None = None
        self._watches: dict[int, asyncio.Task[None]] = {}
        self._ups: dict[int, asyncio.Event] = {}

    async def __aenter__(self) -> Self:
        headers = {} if self.api_key is None else {"authorization": f"Bearer {self.api_key}"}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            timeout=self._timeout,
            auto_decompress=False,
            skip_auto_headers=("accept", "accept-encoding", "user-agent", "content-type"),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for watch in self._watches.values():
            watch.cancel()
        await asyncio.gather(*self._watches.values(), return_exceptions=True)
        self._watches.clear()
        await self.session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """Connections to the replicas."""
        assert self._session is not None, "use the cluster as an async context manager"
        return self._session

    # --- replicas --------------------------------------------------------------------------

    async def add(self, url: str, profile: Engine | None = None) -> LiveReplica:
        """A server that is up.

        Args:
            profile: its times, for policies that need them.

        Raises:
            BadReplica: it is not up, no server of models, not the profile's model, or there already.
        """
        root = self._root(url)
        found = await find(self.session, root)
        replica = self.placing.add(found.engine(profile), root, ready=True)
        replica.told(None if found.metrics is None else found.metrics.load)
        self.found[replica.number] = found
        self._watch(replica)
        return replica

    def expect(self, url: str, engine: Engine) -> LiveReplica:
        """A server that is being started: calls sent to it wait until it is up.

        Args:
            engine: what it will be; its cold start says when.

        Raises:
            BadReplica: it is there already, or that is no URL.
        """
        replica = self.placing.add(engine, self._root(url))
        self._watch(replica)
        return replica

    async def remove(self, number: int, *, wait: bool = False) -> None:
        """Send a replica no more calls; it is gone when those it has are over.

        Raises:
            BadReplica: there is none of this number.
        """
        replica = next((r for r in self.placing.replicas if r.number == number), None)
        if replica is None:
            raise BadReplica(f"there is no replica {number}; there are {[r.number for r in self.placing.replicas]}")
        self.placing.drain(replica)
        if wait or not replica.outstanding:
            await self.drained(replica)

    async def drained(self, replica: LiveReplica) -> None:
        """Wait until a replica that gets no more calls has none, and forget it."""
        while replica.outstanding:
            await asyncio.sleep(min(self._poll_s, 0.05))
        watch = self._watches.get(replica.number)
        self._forget(replica.number)
        if watch is not None:
            watch.cancel()

    def lost(self, replica: LiveReplica) -> None:
        """It could not be reached."""
        if replica.state in (State.READY, State.STARTING):
            self.placing.lost(replica)
            if replica.number in self._ups:
                self._ups[replica.number].clear()

    # --- calls -----------------------------------------------------------------------------

    def view(self, asked: Asked) -> CallView:
        """What the router is to see of a call.

        Raises:
            CallError: nobody serves its model.
        """
        return self.calls.view(asked, self.placing.serving(asked.model).engine)

    async def place(self, call: CallView, *, without: Collection[int] = ()) -> Placed:
        """Where the call goes, once the router lets it go and the replica is up. `placing.ended` must follow.

        Raises:
            CallError: nowhere.
        """
        answer = await self.placing.place(call, without=without)
        if answer.replica.state is State.STARTING:
            await self._up(answer)
        return answer

    async def _up(self, placed: Placed) -> None:
        """Wait until the replica takes calls, or is given up."""
        up = self._ups.get(placed.replica.number)
        if up is None:
            return
        try:
            async with asyncio.timeout(self._start_s):
                await up.wait()
        except TimeoutError:
            pass  # the call will find out, and try elsewhere
        except BaseException:
            self.placing.ended(placed)
            raise

    # --- how they are ----------------------------------------------------------------------

    def _root(self, url: str) -> str:
        root = root_of(url)
        if any(r.name == root for r in self.placing.replicas):
            raise BadReplica(f"{root} is a replica already")
        return root

    def _later(self, delay_s: float, call: Callable[[], None]) -> object:
        return asyncio.get_running_loop().call_later(delay_s, call)

    def _watch(self, replica: LiveReplica) -> None:
        up = self._ups[replica.number] = asyncio.Event()
        if replica.state is State.READY:
            up.set()
        self._watches[replica.number] = asyncio.get_running_loop().create_task(self._poll(replica))

    def _forget(self, number: int) -> None:
        self._watches.pop(number, None)
        self._ups.pop(number, None)
        self.found.pop(number, None)

    async def _poll(self, replica: LiveReplica) -> None:
        ways = ["/metrics", "/health", "/v1/models"]
        while replica.state is not State.DRAINING or replica.outstanding:
            await asyncio.sleep(self._poll_s)
            answers = await self._ask(replica, ways)
            if replica.state is State.DRAINING:
                continue
            if answers:
                self.placing.ready(replica)
                self._ups[replica.number].set()
            elif answers is False and replica.state is State.READY:
                self.lost(replica)
        self._forget(replica.number)

    async def _ask(self, replica: LiveReplica, ways: list[str]) -> bool | None:
        """Whether it is up; `None` if that is not sure. Ways that it does not know are tried no more."""
        timeout = aiohttp.ClientTimeout(total=_ASK_S)
        while ways:
            try:
                async with self.session.get(replica.name + ways[0], timeout=timeout) as response:
                    body = await response.read()
                    if response.status == 404 and len(ways) > 1:
                        del ways[0]
                        continue
                    if response.status >= 500:
                        return False
                    if ways[0] == "/metrics" and (metrics := read_metrics(body.decode(errors="replace"))):
                        replica.told(metrics.load)
                    if replica.number not in self.found and replica.state is not State.READY:
                        self.found[replica.number] = await find(self.session, replica.name)
                    return True
            except TimeoutError:
                return None  # busy, perhaps
            except (aiohttp.ClientError, OSError, BadReplica):
                return False
        return None
