"""Two ways to hear a model greedily: its weights run by torch in this process, or an engine at a URL."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import openai
import torch

from redecode.agents.fm import chat
from redecode.agents.fm.model import load_model
from redecode.agents.fm.tokenizer import CONTEXT, Encoder, load_tokenizer

Message = dict[str, Any]
MAX_TOKENS = 192


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said: words or one tool call (name, arguments as JSON); `cut` when it did not stop itself."""

    text: str
    call: tuple[str, str] | None = None
    cut: bool = False

    def message(self) -> Message:
        """Return it as an assistant message."""
        message: Message = {"role": "assistant", "content": self.text or None}
        if self.call is not None:
            name, arguments = self.call
            function = {"name": name, "arguments": arguments}
            message["tool_calls"] = [{"id": "call_0", "type": "function", "function": function}]
        return message


class Speaker(Protocol):
    """Something that goes on with a conversation."""

    def say(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> Said:
        """Return the next words."""
        ...


class TorchSpeaker:
    """Runs the weights of a model folder here, one whole forward pass per token: slow, and without an engine."""

    def __init__(self, folder: Path) -> None:
        self._encoder = Encoder(load_tokenizer(folder))
        self._model = load_model(folder)

    def say(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> Said:
        """Return the next words."""
        ids = self._encoder.ids(chat.render_chat(messages, tools, generation_prompt=True))
        out: list[int] = []
        while len(out) < MAX_TOKENS and len(ids) + len(out) < CONTEXT:
            with torch.no_grad():
                last = torch.zeros(1, len(ids) + len(out), dtype=torch.bool)
                last[0, -1] = True
                token = int(self._model(torch.tensor([ids + out]), last).argmax())
            if token == self._encoder.end:
                return _split_call(self._decode(out))
            out.append(token)
        return Said(self._decode(out), cut=True)

    def _decode(self, ids: list[int]) -> str:
        return str(self._encoder.tokenizer.decode(ids, skip_special_tokens=True))


class HttpSpeaker:
    """Asks an engine; tool calls are parsed there."""

    def __init__(self, url: str, model: str) -> None:
        self._client = openai.OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY") or "none")
        self._model = model

    def say(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> Said:
        """Return the next words."""
        extra: dict[str, Any] = {"tools": list(tools)} if tools else {}
        conversation: Any = list(messages)
        answer = self._client.chat.completions.create(
            model=self._model, messages=conversation, temperature=0.0, max_tokens=MAX_TOKENS, **extra
        )
        choice = answer.choices[0]
        calls = [c for c in choice.message.tool_calls or () if c.type == "function"]
        call = (calls[0].function.name, calls[0].function.arguments) if calls else None
        return Said(choice.message.content or "", call, cut=choice.finish_reason == "length")


def _split_call(text: str) -> Said:
    head, mark, rest = text.partition(chat.CALL)
    if not mark:
        return Said(text)
    try:
        data = json.loads(rest.removesuffix(chat.CALL_END))
        return Said(head, (data["name"], json.dumps(data["arguments"], ensure_ascii=False)))
    except (ValueError, KeyError, TypeError):
        return Said(text)
