"""The engine profiles of a store: `STORE/profiles/KEY.json`, one for each FM, engine and hardware.

Files and not a table: a profile is made once, read whole, and carried to another store or repository by copying it.
So there may be files that are none, and copies of one: these are left out, with a warning, and the others serve.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from redecode.replay.simulator.errors import NoProfile, SimulationError
from redecode.replay.simulator.profile import EngineProfile

_log = logging.getLogger("redecode")
FOLDER = "profiles"
_MEASURE = "`redecode profile --engine URL` measures a live engine, `redecode profile --from-store` fits recorded runs"


@dataclass(frozen=True, slots=True)
class Kept:
    """A profile that was stored.

    Attributes:
        replaced: the one that was there of the same engine, if that could be read.
        carried: what it has from that, since it was not measured anew.
    """

    profile: EngineProfile
    path: Path
    replaced: EngineProfile | None
    carried: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shelf:
    """What is in the folder of profiles.

    Attributes:
        profiles: one for each engine, by FM, the newest first.
        left_out: file → why it is none of them, and what to do about it.
    """

    profiles: list[EngineProfile]
    left_out: dict[Path, str]


def keep(store: Path, profile: EngineProfile) -> Kept:
    """Store a profile in the place of one of the same FM, engine and hardware.

    What passes outside of steps, the cold start and the memory are kept from that one, where the new one lacks them.
    """
    path = store / FOLDER / f"{profile.key}.json"
    before = readable(path)
    carried: dict[str, object] = {}
    if before is not None:
        if not profile.overheads.known and before.overheads.known:
            carried["overheads"] = before.overheads
        for name in ("cold_start_s", "memory_bytes"):
            if getattr(profile, name) is None and getattr(before, name) is not None:
                carried[name] = getattr(before, name)
    profile = profile.model_copy(update=carried)
    profile.save(path)
    return Kept(profile, path, before, tuple(carried))


def readable(path: Path) -> EngineProfile | None:
    """The profile in this file; `None` if there is none, or what is there cannot be read."""
    try:
        return EngineProfile.load(path)
    except SimulationError:
        return None


def shelf(store: Path) -> Shelf:
    """All files of a store; of several of one engine the newest serves."""
    read: list[tuple[EngineProfile, Path]] = []
    left_out: dict[Path, str] = {}
    for path in sorted((store / FOLDER).glob("*.json")):
        try:
            read.append((EngineProfile.load(path), path))
        except SimulationError as error:
            left_out[path] = f"{error}; delete the file, or measure that engine anew (`redecode profile`)"
    read.sort(key=lambda r: (r[0].made, r[1].stem == r[0].key), reverse=True)
    served: dict[str, Path] = {}
    for profile, path in read:
        if (newer := served.setdefault(profile.key, path)) is not path:
            left_out[path] = f"{path} is of the same engine as {newer.name}, and no newer; delete one of them"
    found = [profile for profile, path in read if path not in left_out]
    return Shelf(sorted(found, key=lambda p: p.model), left_out)


def profiles_in(store: Path) -> list[EngineProfile]:
    """All of a store, by FM, the newest first; a file that is left out is warned of, once."""
    found = shelf(store)
    for why in found.left_out.values():
        _warn(why)
    return found.profiles


@lru_cache(maxsize=256)  # those of a study's candidates are looked up hundreds of times
def _warn(why: str) -> None:
    _log.warning("WARNING left out: %s", why)


def some(store: Path) -> None:
    """Refuse a store without any.

    Raises:
        NoProfile: it is one.
    """
    if not profiles_in(store):
        raise NoProfile(f"there is no engine profile in {store}; {_MEASURE}")


def named(store: Path, name: str) -> EngineProfile:
    """The profile with this key (or enough of its beginning), in this file, or the only one of this FM.

    Raises:
        NoProfile: there is none, or there are several.
        SimulationError: the file is none.
    """
    if name.endswith(".json"):
        return EngineProfile.load(Path(name))
    known = profiles_in(store)
    found = [p for p in known if p.key.startswith(name.lower())] or [p for p in known if p.model == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise NoProfile(f"'{name}' could be any of {_listed(found)}; name one by its key")
    for path, why in shelf(store).left_out.items():
        if name and path.stem.startswith(name):
            raise SimulationError(why)
    raise NoProfile(f"no engine profile '{name}' in {store}" + _there(known))


def all_named(store: Path, names: Iterable[str]) -> list[EngineProfile]:
    """Those of `names`, in their order, each once however often and by whatever it is named.

    Raises:
        SimulationError: as of `named`.
    """
    found: list[EngineProfile] = []
    for name in names:
        profile = named(store, name)
        if profile not in found:
            found.append(profile)
    return found


def profile_for(store: Path, model: str, recorded_on: Collection[str | None] = ()) -> EngineProfile:
    """The profile of an FM: that of the engine it was recorded on if there is one, else the only one.

    Args:
        recorded_on: keys of these engines, as far as they are known.

    Raises:
        NoProfile: there is none, or there are several of other engines.
    """
    known = profiles_in(store)
    of_model = [p for p in known if p.model == model]
    if not of_model:
        raise NoProfile(f"no engine profile of {model} in {store}; {_MEASURE}{_there(known)}")
    if len(of_model) == 1:
        return of_model[0]
    exact = [p for p in of_model if p.key in recorded_on]
    if len(exact) == 1:
        return exact[0]
    raise NoProfile(f"{len(of_model)} engine profiles of {model}, say which by --profile: {_listed(of_model)}")


def _there(known: Iterable[EngineProfile]) -> str:
    listed = _listed(known)
    return f" (there are {listed})" if listed else ""


def _listed(profiles: Iterable[EngineProfile]) -> str:
    return ", ".join(f"{p.key} ({p.model} on {p.hardware})" for p in profiles)
