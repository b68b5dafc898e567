"""kill -9 of a collector at any moment: nothing that it acknowledged is lost, nothing is doubled.

The moments include those of its own moving of the spool into the database. REDECODE_TEST_KILLS sets how many.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import grpc
import pytest

from redecode.tracer import Store
from tests.tracer.collector.support import PROTOBUF, span_ids, trace_request

KILLS = int(os.environ.get("REDECODE_TEST_KILLS", "60"))
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

# Starts a collector in a fork for every line it reads, so that a start takes no second of imports.
STARTER = """
import json, os, sys
from pathlib import Path
from redecode.tracer.collector import Options, serve, server
for line in sys.stdin:
    settings = json.loads(line)
    pid = os.fork()
    if pid == 0:
        def ready(listening):
            print(json.dumps([os.getpid(), listening.http, listening.grpc]), flush=True)
        serve(Options(store=Path(sys.argv[1]), port=0, rpc_port=0, **settings), on_ready=ready, on_note=print)
        os._exit(0)
    os.waitpid(pid, 0)
    print("gone", flush=True)
"""


class Client(threading.Thread):
    """Sends batches one after the other until its collector is gone; an unanswered one is sent again to the next."""

    def __init__(self, seed: int, where: list[Any], unanswered: list[Any], *, over_grpc: bool) -> None:
        super().__init__()
        self.rng, self.unanswered, self.over_grpc = random.Random(seed), unanswered, over_grpc
        self.http, self.grpc = (url.removeprefix("http://") for url in where[1:])
        self.acknowledged: list[str] = []
        self.sent: set[str] = set()
        self.failures: list[str] = []

    def run(self) -> None:
        for send in self.connected():
            request = self.unanswered.pop() if self.unanswered else trace_request(self.rng.randint(1, 8), self.rng)
            self.sent.update(span_ids(request))
            try:
                send(request.SerializeToString())
            except (OSError, http.client.HTTPException, grpc.RpcError):
                self.unanswered.append(request)
                return
            self.acknowledged += span_ids(request)

    def connected(self) -> Iterator[Any]:
        if self.over_grpc:
            with grpc.insecure_channel(self.grpc) as channel:
                call = channel.unary_unary(EXPORT)
                while True:
                    yield lambda body: call(body, timeout=30)
        connection = http.client.HTTPConnection(self.http, timeout=30)

        def post(body: bytes) -> None:
            connection.request("POST", "/v1/traces", body, {"content-type": PROTOBUF})
            response = connection.getresponse()
            if response.status != 200:
                self.failures.append(f"{response.status}: {response.read()!r}")
            response.read()

        try:
            while True:
                yield post
        finally:
            connection.close()


@pytest.mark.timeout(max(300, KILLS * 5))
def test_killed_at_random_moments(store: Path) -> None:
    rng = random.Random(11)
    acknowledged: list[str] = []
    sent: set[str] = set()
    rounds_with_answers = 0
    waiting: list[list[Any]] = [[], [], []]
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdin is not None
    assert starter.stdout is not None
    with starter:
        for n in range(KILLS):
            print(json.dumps({"drain_every_s": 0.02 if n % 2 else None}), file=starter.stdin, flush=True)
            where = json.loads(starter.stdout.readline())
            clients = [Client(n * 10 + i, where, waiting[i], over_grpc=i == 2) for i in range(3)]
            for client in clients:
                client.start()
            time.sleep(rng.uniform(0.0, 0.3))
            os.kill(where[0], signal.SIGKILL)
            for client in clients:
                client.join()
                assert client.failures == []
                acknowledged += client.acknowledged
                sent |= client.sent
            rounds_with_answers += any(client.acknowledged for client in clients)
            assert starter.stdout.readline() == "gone\n"
        starter.stdin.close()
    opened = Store(store)
    opened.drain()
    with duckdb.connect(str(store / "runs.duckdb"), read_only=True) as db:
        kept = [row[0] for row in db.execute("SELECT span_id FROM spans").fetchall()]
    assert rounds_with_answers > KILLS / 2
    assert len(kept) == len(set(kept))
    assert set(acknowledged) - set(kept) == set()
    assert set(kept) - sent == set()
    assert opened.health().corrupt == []
    assert list((store / "spool").iterdir()) == []
