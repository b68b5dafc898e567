"""The endpoints over a bare ASGI application: no vLLM, no web framework."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Awaitable, MutableMapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from redecode.replay.engine.middleware import RedecodeMiddleware
from redecode.replay.engine.processes import boot_id
from redecode.replay.engine.protocol import EngineInfo, StepsAnswer
from redecode.replay.engine.step_log import Step, StepLogWriter

Message = MutableMapping[str, Any]


class BareEngine:
    """The seam of vLLM's server that the middleware touches: `app.state`."""

    def __init__(self, model: Path, api_key: list[str] | None = None) -> None:
        self.resets = 0
        config = SimpleNamespace(
            use_v2_model_runner=False,
            model_config=SimpleNamespace(
                model=str(model),
                logits_processors=["redecode.replay.engine.plugin:ForceTokens"],
                dtype="torch.bfloat16",
                max_model_len=768,
                get_vocab_size=lambda: 1024,
            ),
            scheduler_config=SimpleNamespace(max_num_seqs=16),
            parallel_config=SimpleNamespace(rank=0, tensor_parallel_size=1, data_parallel_size=1),
        )
        args = SimpleNamespace(served_model_name=None, model=str(model), api_key=api_key, chat_template=None)
        self.state = SimpleNamespace(vllm_config=config, args=args, engine_client=self)

    async def reset_prefix_cache(self) -> bool:
        self.resets += 1
        return self.resets == 1


class Inner:
    """The application behind the middleware; it remembers what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *call: Any) -> Awaitable[None]:
        self.calls.append(call)

        async def answer() -> None:
            return None

        return answer()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_bytes(b"{}")
    (folder / "tokenizer_config.json").write_bytes(b'{"chat_template": "hello"}')
    return folder


async def ask(
    middleware: RedecodeMiddleware,
    engine: BareEngine,
    method: str,
    path: str,
    body: bytes = b"",
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> tuple[int, dict[str, Any]]:
    part_bytes = max(1, len(body) // 3)  # a body comes in several messages
    parts = [body[i : i + part_bytes] for i in range(0, len(body), part_bytes)] or [b""]
    sent: list[Message] = []

    async def receive() -> Message:
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers), "app": engine}
    await middleware(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"], orjson.loads(sent[1]["body"])


async def test_other_requests_pass_as_they_are(model: Path) -> None:
    inner = Inner()
    middleware = RedecodeMiddleware(inner, env={})

    async def receive() -> Message:
        raise AssertionError("the middleware must not read other requests")

    async def send(message: Message) -> None:
        raise AssertionError("the middleware must not answer other requests")

    scopes: list[Message] = [
        {"type": "lifespan"},
        {"type": "websocket", "path": "/redecode/info"},
        {"type": "http", "path": "/v1/completions"},
        {"type": "http", "path": "/redecodeish"},
    ]
    for scope in scopes:
        await middleware(scope, receive, send)
    assert [call[0] for call in inner.calls] == scopes
    assert all(call[1] is receive and call[2] is send for call in inner.calls)


async def test_info_says_what_the_engine_is(model: Path, tmp_path: Path) -> None:
    env = {"REDECODE_STEP_LOG": str(tmp_path / "steps.jsonl"), "OMP_NUM_THREADS": "1"}
    status, answer = await ask(RedecodeMiddleware(Inner(), env), BareEngine(model), "GET", "/redecode/info")
    assert status == 200
    info = EngineInfo.model_validate(answer)
    assert (info.protocol, info.force, info.step_clock, info.runner) == (1, True, True, "v1")
    assert (info.dtype, info.vocab_size, info.threads, info.max_num_seqs) == ("bfloat16", 1024, 1, 16)
    assert info.model_path == str(model)
    assert info.weights_sha256 == hashlib.sha256(b"weights").hexdigest()
    assert info.boot_id == boot_id()
    assert info.chunked_prefill is None  # this engine does not say: unknown, not False
    assert answer["steps_kept"]["max_requests"] > 0


@pytest.mark.parametrize("env", [{}, {"REDECODE_STEP_LOG": ""}], ids=["unset", "empty"])
async def test_without_a_step_log_there_is_no_clock(model: Path, env: dict[str, str]) -> None:
    middleware, engine = RedecodeMiddleware(Inner(), env), BareEngine(model)
    _, info = await ask(middleware, engine, "GET", "/redecode/info")
    assert info["step_clock"] is False
    status, answer = await ask(middleware, engine, "POST", "/redecode/steps", b'{"rids":["a"]}')
    assert (status, answer["steps"]) == (200, {})


async def test_steps_are_read_as_they_come(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    middleware, engine = RedecodeMiddleware(Inner(), {"REDECODE_STEP_LOG": str(path)}), BareEngine(model)
    writer = StepLogWriter(path)
    for k in range(2):
        writer.write(Step(10 + k, 5 + k, 3, 70 + k, 0, [("a", k)]))
        status, answer = await ask(middleware, engine, "POST", "/redecode/steps", b'{"rids":["a","never seen"]}')
        steps = StepsAnswer.model_validate(answer).steps
        assert status == 200
        assert list(steps) == ["a"]
        assert steps["a"].t_ns == [10, 11][: k + 1]
    assert (steps["a"].rows, steps["a"].k, steps["a"].context_tokens) == ([3, 3], [0, 1], [70, 71])
    writer.close()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/redecode/steps", b"", 400),
        ("POST", "/redecode/steps", b"[]", 400),
        ("POST", "/redecode/steps", b'{"rids":"a"}', 400),
        ("POST", "/redecode/steps", b'{"rids":[1]}', 400),
        ("POST", "/redecode/steps", orjson.dumps({"rids": ["a"] * 10_001}), 400),
        ("POST", "/redecode/steps", b" " * (4 * 2**20 + 1), 413),
        ("GET", "/redecode/steps", b"", 405),
        ("GET", "/redecode/nothing", b"", 404),
    ],
    ids=["empty", "list", "string", "number", "too many", "too large", "method", "path"],
)
async def test_bad_requests_get_a_reason(model: Path, method: str, path: str, body: bytes, status: int) -> None:
    got, answer = await ask(RedecodeMiddleware(Inner(), {}), BareEngine(model), method, path, body)
    assert got == status
    assert answer["error"]


@pytest.mark.parametrize(
    ("header", "status"),
    [(None, 401), (b"Bearer wrong", 401), (b"Basic secret", 401), (b"Bearer secret", 200), (b"bearer second", 200)],
)
@pytest.mark.parametrize("source", ["argument", "environment"])
async def test_an_api_key_guards_our_endpoints_too(model: Path, source: str, header: bytes | None, status: int) -> None:
    if source == "environment":
        env, keys = {"VLLM_API_KEY": (header or b"secret").rpartition(b" ")[2].decode() if status == 200 else "k"}, None
    else:
        env, keys = {"VLLM_API_KEY": "not used beside the argument"}, ["secret", "second"]
    headers = () if header is None else ((b"authorization", header),)
    got, _ = await ask(
        RedecodeMiddleware(Inner(), env), BareEngine(model, keys), "GET", "/redecode/info", headers=headers
    )
    assert got == status


async def test_the_prefix_cache_can_be_reset(model: Path) -> None:
    middleware, engine = RedecodeMiddleware(Inner(), {}), BareEngine(model)
    answers = [await ask(middleware, engine, "POST", "/redecode/reset_prefix_cache") for _ in range(2)]
    assert answers == [(200, {"success": True}), (200, {"success": False})]


def test_the_engine_side_imports_no_other_room() -> None:
    """Plug-in and middleware are loaded into vLLM's processes: what they import, the engine carries."""
    code = (
        "import sys, redecode.replay.engine.middleware, redecode.replay.engine.step_log;"
        "print([m for m in ('vllm', 'torch', 'duckdb', 'pyarrow', 'opentelemetry', 'httpx2', 'typer',"
        " 'redecode.tracer') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
