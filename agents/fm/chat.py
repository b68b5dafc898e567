"""How a conversation becomes text: once in Python for training, once in Jinja for serving.

The two must agree to the token, or a model is served something it was never trained on; a test holds them
together. Tool definitions are written as `name(arguments): description`, one line each, because a tool's
JSON schema would fill a tenth of the context.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]

PAD = "<|endoftext|>"
START = "<|im_start|>"
END = "<|im_end|>"
CALL = "<tool_call>"
CALL_END = "</tool_call>"

CHAT_TEMPLATE = (
    "{%- set first = messages[0] if messages and messages[0]['role'] == 'system' else none -%}"
    "{%- if tools -%}"
    "{{- '<|im_start|>system\\n' + (first['content'] + '\\n' if first else '') + 'Tools:' -}}"
    "{%- for t in tools -%}{%- set f = t['function'] if 'function' in t else t -%}"
    "{{- '\\n' + f['name'] + '(' + (f['parameters']['properties'] | list | join(', ')) + '): '"
    " + f['description'] -}}{%- endfor -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- elif first -%}{{- '<|im_start|>system\\n' + first['content'] + '<|im_end|>\\n' -}}{%- endif -%}"
    "{%- for m in messages -%}{%- if m['role'] != 'system' -%}"
    "{{- '<|im_start|>' + m['role'] + '\\n' + (m['content'] or '') -}}"
    "{%- for c in m['tool_calls'] or [] -%}{%- set f = c['function'] if 'function' in c else c -%}"
    "{%- set a = f['arguments'] -%}"
    "{{- ('' if loop.first else '\\n') + '<tool_call>\\n{\"name\": \"' + f['name'] + '\", \"arguments\": '"
    " + (a if a is string else a | tojson) + '}\\n</tool_call>' -}}"
    "{%- endfor -%}{{- '<|im_end|>\\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a rendered conversation; the model writes it (`answer`) or reads it."""

    text: str
    answer: bool


def pieces(messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[Piece]:
    """Render a conversation, split where the model's own words begin and end."""
    out: list[Piece] = []
    rest = list(messages)
    system = rest.pop(0)["content"] if rest and rest[0]["role"] == "system" else ""
    if tools:
        lines = ([system] if system else []) + ["Tools:"] + [_tool_line(t) for t in tools]
        out.append(Piece(f"{START}system\n" + "\n".join(lines) + f"{END}\n", answer=False))
    elif system:
        out.append(Piece(f"{START}system\n{system}{END}\n", answer=False))
    for message in rest:
        body = _body(message) + END
        mine = message["role"] == "assistant"
        if mine:
            out.append(Piece(f"{START}assistant\n", answer=False))
            out.append(Piece(body, answer=True))
            out.append(Piece("\n", answer=False))
        else:
            out.append(Piece(f"{START}{message['role']}\n{body}\n", answer=False))
    return out


def render_chat(
    messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), *, generation_prompt: bool = False
) -> str:
    """Render a conversation to the text the model reads."""
    text = "".join(p.text for p in pieces(messages, tools))
    return text + f"{START}assistant\n" if generation_prompt else text


def call_text(name: str, arguments: str) -> str:
    """Write a tool call the way vLLM's Hermes parser reads it."""
    return f'{CALL}\n{{"name": "{name}", "arguments": {arguments}}}\n{CALL_END}'


def _tool_line(tool: dict[str, Any]) -> str:
    function = tool["function"]
    return f"{function['name']}({', '.join(function['parameters']['properties'])}): {function['description']}"


def _body(message: Message) -> str:
    calls = []
    for call in message.get("tool_calls") or ():
        arguments = call["function"]["arguments"]
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        calls.append(call_text(call["function"]["name"], arguments))
    return (message["content"] or "") + "\n".join(calls)
