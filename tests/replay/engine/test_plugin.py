"""The logits processor by itself, on CPU tensors; needs vLLM to be importable, not a running engine."""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from redecode.replay.engine.step_log import StepLogTail

pytestmark = pytest.mark.vllm

VOCAB = 10
INF = float("inf")


@pytest.fixture(scope="module")
def plugin() -> Any:
    return pytest.importorskip("redecode.replay.engine.plugin")


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def params(force: object = None, rid: object = None, **settings: Any) -> Any:
    from vllm import SamplingParams

    extra = {"redecode_force": force, "redecode_rid": rid}
    extra = {name: value for name, value in extra.items() if value is not None}
    return SamplingParams(extra_args=extra or None, **({"ignore_eos": True} | settings))


def config(max_model_len: int = 8) -> Any:
    return SimpleNamespace(
        model_config=SimpleNamespace(get_vocab_size=lambda: VOCAB, max_model_len=max_model_len),
        parallel_config=SimpleNamespace(rank=0, tensor_parallel_size=1, data_parallel_size=1),
    )


@pytest.mark.parametrize(
    ("force", "words"),
    [
        ([], "non-empty"),
        ([-1], "non-empty list of token ids"),
        ([1.0], "integers"),
        ([True], "integers"),
        (["1"], "integers"),
        (7, "list of token ids"),
        ("!", "base64"),
        (base64.b64encode(b"123").decode(), "3 bytes"),
        (base64.b64encode(struct.pack("<i", -1)).decode(), "integers >= 0"),
        ("", "non-empty"),
    ],
    ids=["empty", "negative", "float", "bool", "string", "int", "no base64", "odd", "packed negative", "nothing"],
)
def test_malformed_tokens_are_refused(plugin: Any, force: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plugin.ForceTokens.validate_params(params(force))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n": 2}, "n=1"),
        ({"ignore_eos": False}, "ignore_eos"),
        ({"stop": ["x"], "detokenize": True}, "no stop"),
        ({"stop_token_ids": [7]}, "no stop"),
    ],
    ids=["n", "eos", "stop", "stop ids"],
)
def test_what_would_end_a_forced_call_early_is_refused(plugin: Any, settings: dict[str, Any], words: str) -> None:
    plugin.ForceTokens.validate_params(params(None, **settings))  # fine without forced tokens
    with pytest.raises(ValueError, match=words):
        plugin.ForceTokens.validate_params(params([1], **settings))


@pytest.mark.parametrize("rid", ["", "x" * 201, 7, ["a"]], ids=["empty", "long", "int", "list"])
def test_malformed_ids_are_refused(plugin: Any, rid: object) -> None:
    with pytest.raises(ValueError, match="redecode_rid"):
        plugin.ForceTokens.validate_params(params(None, rid))


def test_a_list_and_its_packed_form_are_the_same(plugin: Any) -> None:
    packed = base64.b64encode(struct.pack("<3i", 1, 2, 300)).decode()
    assert plugin.parse_force(params(packed)) == plugin.parse_force(params([1, 2, 300])) == [1, 2, 300]


class Batch:
    """A V1 batch: rows come, move and go as vLLM tells its processors."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def update(
        self, *, removed: tuple[int, ...] = (), added: tuple[Any, ...] = (), moved: tuple[Any, ...] = ()
    ) -> None:
        from vllm.v1.sample.logits_processor.interface import BatchUpdate

        self.processor.update_state(BatchUpdate(batch_size=8, removed=removed, added=added, moved=moved))


@pytest.fixture
def v1(plugin: Any, torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("REDECODE_STEP_LOG", str(tmp_path / "steps.jsonl"))
    return plugin.ForceTokens(config(), torch.device("cpu"), False)


def chosen(logits: Any) -> list[int | None]:
    """The only token that each row allows; None for a row left alone."""
    rows = logits.tolist()
    return [row.index(0.0) if sorted(row)[-2] == -INF else None for row in rows]


def test_v1_forces_the_next_token_of_each_row(v1: Any, torch: Any) -> None:
    batch = Batch(v1)
    first: list[int] = []
    other: list[int] = [4, 4]
    batch.update(
        added=((0, params([3, 5]), [1], first), (1, params(None), [1], []), (2, params([9, 9, 8]), [1], other))
    )
    logits = torch.ones(3, VOCAB)
    assert chosen(v1.apply(logits)) == [3, None, 8]
    assert logits[1].tolist() == [1.0] * VOCAB
    first.append(3)
    other.append(8)  # past its end: sampled freely again
    assert chosen(v1.apply(torch.ones(3, VOCAB))) == [5, None, None]


def test_v1_follows_rows_as_they_move(v1: Any, torch: Any) -> None:
    from vllm.v1.sample.logits_processor.interface import MoveDirectionality as Way

    batch = Batch(v1)
    batch.update(added=((0, params([1]), [0], []), (1, params([2]), [0], []), (2, params([3]), [0], [])))
    batch.update(removed=(0,), moved=((2, 0, Way.UNIDIRECTIONAL),))
    assert chosen(v1.apply(torch.ones(2, VOCAB))) == [3, 2]
    batch.update(moved=((0, 1, Way.SWAP),))
    assert chosen(v1.apply(torch.ones(2, VOCAB))) == [2, 3]
    batch.update(added=((1, params(None), [0], []),))
    assert chosen(v1.apply(torch.ones(2, VOCAB))) == [2, None]


def test_v1_leaves_alone_what_is_past_the_vocabulary(v1: Any, torch: Any) -> None:
    Batch(v1).update(added=((0, params([3, VOCAB]), [0], []),))
    assert chosen(v1.apply(torch.ones(1, VOCAB))) == [None]


def test_v1_clocks_the_rows_that_ask_for_it(v1: Any, torch: Any, tmp_path: Path) -> None:
    output: list[int] = []
    batch = Batch(v1)
    batch.update(added=((0, params([3, 5], "a"), [1, 1], output), (1, params(None), [1, 1, 1], [7])))
    v1.apply(torch.ones(2, VOCAB))
    output.append(3)
    v1.update_state(None)
    v1.apply(torch.ones(2, VOCAB))
    batch.update(removed=(0,))
    v1.apply(torch.ones(1, VOCAB))  # nobody asks any more: no line
    steps = list(StepLogTail(tmp_path / "steps.jsonl").poll())
    assert [(s.rows, s.context_tokens, s.prefill_tokens, s.recorded) for s in steps] == [
        (2, 2 + 4, 2, [("a", 0)]),
        (2, 3 + 4, 0, [("a", 1)]),
    ]
    assert steps[0].start_ns <= steps[0].t_ns <= steps[1].start_ns <= steps[1].t_ns


@pytest.mark.parametrize(
    ("parallel", "keeps"),
    [((0, 1, 1), True), ((1, 2, 1), False), ((2, 2, 1), True), ((0, 1, 2), False)],
    ids=["alone", "second tensor rank", "last pipeline stage", "replicas"],
)
def test_one_process_writes_the_log(
    plugin: Any, torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parallel: tuple[int, ...], keeps: bool
) -> None:
    monkeypatch.setenv("REDECODE_STEP_LOG", str(tmp_path / "log"))
    settings = config()
    names = ("rank", "tensor_parallel_size", "data_parallel_size")
    settings.parallel_config = SimpleNamespace(**dict(zip(names, parallel, strict=True)))
    plugin.ForceTokens(settings, torch.device("cpu"), False)
    assert (tmp_path / "log").exists() is keeps


def test_v2_forces_by_tensors_alone(plugin: Any, torch: Any) -> None:
    """Slots 0..2: forced from prompts of 2 and 3 tokens, and free; row order differs from slot order."""
    prompt_len = SimpleNamespace(gpu=torch.tensor([2, 3, 1]))
    states = SimpleNamespace(device=torch.device("cpu"), max_num_reqs=3, prompt_len=prompt_len)
    processor = plugin.ForceTokens(config(), states)
    assert processor.add_request(0, params([3, 5])) is True
    assert processor.add_request(1, params([7])) is True
    assert processor.add_request(2, params(None)) is False
    processor.apply_staged_writes()

    def apply(*rows: tuple[int, int]) -> list[int | None]:
        slots, positions = (torch.tensor(column) for column in zip(*rows, strict=True))
        context = SimpleNamespace(expanded_idx_mapping=slots, pos=positions)
        return chosen(processor.apply(torch.ones(len(rows), VOCAB), context))

    assert apply((1, 2), (2, 0), (0, 1)) == [7, None, 3]  # the last prompt position makes token 0
    assert apply((0, 2), (1, 3)) == [5, None]  # token 1; past the end
    assert apply((0, 0), (-1, 5)) == [None, None]  # inside the prompt; padding
    processor.add_request(0, params(None))  # the slot's next occupant is not forced
    processor.apply_staged_writes()
    assert apply((0, 1)) == [None]
