"""Digests of a model's files: the same content gives the same digest, as sha256sum prints it."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

from redecode.replay.engine.fingerprint import digest_model, processor, weights_sha256


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_one_file_has_its_own_digest(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert weights_sha256(tmp_path) == sha(b"weights")


def test_several_files_have_the_digest_of_what_sha256sum_prints(tmp_path: Path) -> None:
    for name in ("b.safetensors", "a.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    listing = f"{sha(b'a.safetensors')}  a.safetensors\n{sha(b'b.safetensors')}  b.safetensors\n"
    assert weights_sha256(tmp_path) == sha(listing.encode())


def test_what_is_not_there_is_unknown(tmp_path: Path) -> None:
    names = ("weights_sha256", "tokenizer_sha256", "chat_template_sha256")
    assert digest_model(tmp_path) == dict.fromkeys(names)
    assert digest_model(None) == dict.fromkeys(names)


def test_the_template_in_use_is_the_one_digested(tmp_path: Path) -> None:
    def template_sha(given: str | None = None) -> str | None:
        return digest_model(tmp_path, given)["chat_template_sha256"]

    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "inside"}')
    assert template_sha() == sha(b"inside")
    (tmp_path / "chat_template.jinja").write_text("file")
    assert template_sha() == sha(b"file")
    (tmp_path / "other.jinja").write_text("other")
    assert template_sha(str(tmp_path / "other.jinja")) == sha(b"other")
    assert template_sha("{{ given }}\n") == sha(b"{{ given }}\n")


def test_the_processor_is_named_where_the_system_tells_it(tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t: a b\nmodel name\t: Some CPU @ 2 GHz\n")
    assert processor(told) == "Some CPU @ 2 GHz"
    told.write_text("processor\t: 0\nBogoMIPS\t: 50\n")
    assert processor(told) == platform.machine() == processor(tmp_path / "none")
