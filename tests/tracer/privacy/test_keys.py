"""Keys, headers and passwords are never written, whatever else is."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redecode.tracer import Store
from redecode.tracer.privacy.keys import Keyring, public_url
from tests.tracer.privacy.support import bytes_of

Serve = Callable[..., Any]


def test_command_lines_and_addresses_lose_their_keys() -> None:
    keys = Keyring({"SOME_API_KEY": "very-own-key-77", "HOME": "/some/where", "SHORT_TOKEN": "none"})
    given = [
        "app.py",
        "--api-key",
        "abc",
        "--token=xyz",
        "--url",
        "https://u:p@h/",
        "very-own-key-77",
        "--n",
        "3",
        "none",
    ]
    assert keys.arguments(given) == [
        "app.py", "--api-key", "[secret]", "--token=[secret]", "--url", "https://[url-password]h/", "[secret]", "--n",
        "3", "none",
    ]  # fmt: skip
    assert public_url("http://u:p@h:80/a?key=1") == "http://h:80/a"


SECRETS = {
    "api_key": "planted-client-key-1", "header": "planted-header-2", "password": "planted-password-3",
    "environment": "planted-environment-4", "argument": "planted-argument-5", "body": "planted-body-6",
}  # fmt: skip
PROGRAM = """
    import sys, openai
    from redecode.tracer import instrument, run
    instrument(sys.argv[1])
    base = sys.argv[2].replace("http://", "http://user:planted-password-3@")
    client = openai.OpenAI(
        base_url=base, api_key="planted-client-key-1", default_headers={"x-planted": "planted-header-2"}, max_retries=0)
    messages = [{"role": "user", "content": "spoken words"}]
    extra = {"extra_headers": {"authorization": "Bearer planted-header-2"}, "extra_body": {"api_key": "planted-body-6"}}
    with run("agent"):
        client.chat.completions.create(model="m", messages=messages, **extra)
        for stream in (False, True):
            list(client.chat.completions.create(model="m", messages=messages, stream=stream, **extra))
    try:
        with run("fails"):
            raise RuntimeError("401 for planted-client-key-1 and planted-environment-4")
    except RuntimeError:
        pass
"""


@pytest.mark.parametrize("vllm", [False, True])
def test_no_key_is_ever_on_the_disk(store: Path, serve: Serve, *, vllm: bool) -> None:
    pytest.importorskip("openai")
    server = serve(vllm=vllm)
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(PROGRAM),
        str(store),
        server.base_url,
        "--password",
        "planted-argument-5",
    ]
    env = {**os.environ, "SERVICE_API_KEY": "planted-environment-4"}
    journals: list[bytes] = []
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    journals.append(bytes_of(store))
    runs = Store(store).runs()
    assert done.returncode == 0, done.stderr
    assert {(r.agent, r.status) for r in runs} == {("agent", "ok"), ("fails", "error")}
    assert sum(r.decodes for r in runs) == 3
    for data in (journals[0], bytes_of(store)):
        assert b"spoken words" in data  # what the test looks through is what was recorded
        for where, secret in SECRETS.items():
            assert secret.encode() not in data, where
