"""Profiles of a store: one for each FM, engine and hardware, found by name, and never mixed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from redecode.replay.simulator.catalogue import all_named, keep, named, profile_for, profiles_in, shelf, some
from redecode.replay.simulator.errors import NoProfile, SimulationError
from redecode.replay.simulator.profile import EngineProfile, Overheads
from tests.replay.simulator.made import made_profile

UNKNOWN = Overheads()


def test_a_second_measurement_takes_the_place_of_the_first_and_keeps_what_it_lacks(tmp_path: Path) -> None:
    first = keep(tmp_path, made_profile(cold_start_s=12.5, memory_bytes=2**30))
    assert (first.replaced, first.carried) == (None, ())
    second = keep(tmp_path, made_profile(source="store", steps=70, overheads=UNKNOWN, made="2026-11-22T00:00:00+00:00"))
    assert second.path == first.path
    assert second.replaced == first.profile
    assert set(second.carried) == {"overheads", "cold_start_s", "memory_bytes"}
    (kept,) = profiles_in(tmp_path)
    assert (kept.source, kept.steps, kept.cold_start_s) == ("store", 70, 12.5)
    assert kept.overheads == first.profile.overheads
    third = keep(tmp_path, made_profile(cold_start_s=9.0))
    assert third.profile.cold_start_s == 9.0
    assert third.carried == ("memory_bytes",)


@pytest.mark.parametrize(
    "other",
    [
        {"model": "n"},
        {"hardware": "another machine"},
        {"engine": {"engine": "vllm", "engine_version": "0.33.0", "weights_sha256": "ab" * 32}},
        {"engine": {"engine": "vllm", "engine_version": "0.32.0", "weights_sha256": "cd" * 32}},
        {"limits": made_profile().limits.model_copy(update={"max_num_seqs": 5})},
    ],
    ids=["FM", "hardware", "version", "weights", "limits"],
)
def test_another_engine_has_a_profile_of_its_own(tmp_path: Path, other: dict[str, Any]) -> None:
    keep(tmp_path, made_profile())
    kept = keep(tmp_path, made_profile(**other))
    assert kept.replaced is None
    assert len(profiles_in(tmp_path)) == 2


def test_it_is_found_by_its_key_its_fm_or_its_file(tmp_path: Path) -> None:
    m, n = keep(tmp_path, made_profile("m")), keep(tmp_path, made_profile("n"))
    assert named(tmp_path, m.profile.key[:6]).model == "m"
    assert named(tmp_path, "n") == n.profile
    assert named(tmp_path / "elsewhere", str(n.path)) == n.profile
    with pytest.raises(NoProfile, match=r"no engine profile 'o' .* \(m on a machine\)"):
        named(tmp_path, "o")
    both = all_named(tmp_path, ["n", m.profile.key, str(m.path), "m", "n"])
    assert both == [n.profile, m.profile], "each once"
    keep(tmp_path, made_profile("m", hardware="another"))
    with pytest.raises(NoProfile, match="'m' could be any of"):
        named(tmp_path, "m")


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", "\0"])
def test_a_file_that_is_no_profile_is_left_out_with_a_warning_and_the_others_serve(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    m = keep(tmp_path, made_profile("m")).profile
    other = tmp_path / "profiles" / "other.json"
    other.write_text(text)
    assert profiles_in(tmp_path) == [profile_for(tmp_path, "m")] == [m]
    (warned,) = caplog.messages
    assert f"{other} is no engine profile" in warned
    assert "delete the file" in warned
    with pytest.raises(SimulationError, match=r"other.json is no engine profile"):
        named(tmp_path, "other")
    other.unlink()
    other.mkdir()
    assert list(shelf(tmp_path).left_out) == [other]
    (tmp_path / "profiles" / f"{m.key}.json").write_text(text)
    with pytest.raises(NoProfile, match="there is no engine profile in"):
        some(tmp_path)
    assert keep(tmp_path, made_profile("m")).replaced is None
    assert profiles_in(tmp_path) == [m]


def test_of_two_files_of_one_engine_the_newer_serves(tmp_path: Path) -> None:
    kept = keep(tmp_path, made_profile(made="2026-11-22T00:00:00+00:00"))
    copy = kept.path.with_name("copy.json")
    shutil.copyfile(kept.path, copy)
    assert named(tmp_path, "m") == profile_for(tmp_path, "m") == kept.profile
    assert list(shelf(tmp_path).left_out) == [copy]
    newer = made_profile(made="2026-11-23T00:00:00+00:00")
    newer.save(copy)
    assert profiles_in(tmp_path) == [newer]
    assert "same engine as copy.json" in shelf(tmp_path).left_out[kept.path]


def test_an_fm_has_the_profile_of_the_engine_it_was_recorded_on(tmp_path: Path) -> None:
    with pytest.raises(NoProfile, match="`redecode profile --engine URL`"):
        profile_for(tmp_path, "m")
    one = keep(tmp_path, made_profile("m")).profile
    assert profile_for(tmp_path, "m", ["of no profile"]) == one
    two = keep(tmp_path, made_profile("m", hardware="another")).profile
    assert profile_for(tmp_path, "m", [two.key, None]) == two
    with pytest.raises(NoProfile, match="say which by --profile"):
        profile_for(tmp_path, "m")
    with pytest.raises(NoProfile, match=r"no engine profile of o .*there are"):
        profile_for(tmp_path, "o")


@pytest.mark.parametrize(
    ("seconds", "why"),
    [
        ({"step": "NaN"}, "seconds.step Input should be a finite number"),
        ({"decode": -1e-3}, "seconds.decode Input should be greater than or equal to 0"),
        (dict.fromkeys(("step", "gap"), 0), "a step that takes no time"),
    ],
)
def test_a_profile_whose_steps_take_no_or_less_than_no_time_is_refused(
    tmp_path: Path, seconds: dict[str, Any], why: str
) -> None:
    path = keep(tmp_path, made_profile()).path
    told = json.loads(path.read_text())
    told["seconds"].update(seconds)
    path.write_text(json.dumps(told))
    with pytest.raises(SimulationError, match=f"{path.name} is no engine profile: .*{why}"):
        EngineProfile.load(path)
    assert profiles_in(tmp_path) == []
