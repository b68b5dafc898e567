"""Where studies are kept (Optuna's journal file in the store, or a database by URL), and what is said of each.

A study's name has a hash of its search space and of the runs it is evaluated on, since Optuna lets neither be changed:
other choices, or other runs, make another study. `optuna-dashboard FILE` opens the journal.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from redecode.optimizer.errors import BadStudy
from redecode.tracer import Store

ABOUT = "redecode"
"""The user attribute of a study that says all of it."""
FOLDER = "studies"
JOURNAL = "studies.journal"
_MEASURED = ("concurrency", "run_timeout", "at_load", "measured_on")
"""Settings that latencies depend on: under others they are another study's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is said of a study, enough to go on with it.

    Attributes:
        fidelity: how candidates were evaluated; never mixed within a study.
        space: described knobs; `base` what all candidates have besides, as labels.
        search, decide: run ids of the cases, in order.
        goals: as JSON.
        settings: of the evaluation: concurrency, the load that is simulated, and so on.
        scoring: a digest of the scorer and the right answers: other qualities are another study's.
    """

    spec: str
    agent: str
    fidelity: str
    space: Mapping[str, Any]
    space_digest: str
    base: Mapping[str, Any]
    incumbent: Mapping[str, Any]
    search: tuple[str, ...]
    decide: tuple[str, ...]
    goals: Mapping[str, Any]
    sampler: str
    seed: int
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    made_ns: int
    scoring: str = ""

    @property
    def name(self) -> str:
        """Of the study."""
        return f"{self.agent}-{self.fidelity}-{self.space_digest}-{_short(self._identity())}-s{self.seed}"

    def _identity(self) -> str:
        measured = {name: self.settings.get(name) for name in _MEASURED}
        what = [self.search, self.decide, self.goals, self.base, self.incumbent, self.sampler, self.scoring, measured]
        return json.dumps(what, sort_keys=True, default=str)

    def to_json(self) -> dict[str, Any]:
        """Its inverse is `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> About:
        """Its inverse is `to_json`."""
        return cls(**{**data, "search": tuple(data["search"]), "decide": tuple(data["decide"])})


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


class _Lock:
    """The right to add to a journal, as Optuna's own locks give it, but freed by the kernel.

    Theirs is a file, which a process that was killed leaves behind: whoever comes next waits for 30 s.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.flock")
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Wait for it."""
        file = self._path.open("a", encoding="utf-8")
        fcntl.flock(file, fcntl.LOCK_EX)
        self._file = file
        return True

    def release(self) -> None:
        """Give it back."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def opened(place: str | Path) -> BaseStorage:
    """The storage at a path (Optuna's journal) or URL (a database).

    Raises:
        BadStudy: it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if "://" in str(place):
            return RDBStorage(str(place))
        path = Path(place)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_Lock(path)))  # type: ignore[arg-type]
    except Exception as error:  # SQLAlchemy's, a driver's, the disk's
        raise BadStudy(f"studies at {place} cannot be opened: {error}") from error


def place_of(store: Store) -> Path:
    """Where the studies of a store are."""
    return store.path / FOLDER / JOURNAL


def studies(storage: BaseStorage, agent: str | None = None) -> list[tuple[str, About]]:
    """Ours in a storage, newest first."""
    out = []
    for summary in optuna.get_all_study_summaries(storage, include_best_trial=False):
        if (data := summary.user_attrs.get(ABOUT)) is not None and agent in (None, data["agent"]):
            out.append((summary.study_name, About.from_json(data)))
    return sorted(out, key=lambda s: s[1].made_ns, reverse=True)


def find(storage: BaseStorage, name: str) -> tuple[str, About]:
    """The study of that name, of enough of its beginning, or the "last" one.

    Raises:
        BadStudy: there is none, or there are several.
    """
    known = studies(storage)
    if not known:
        raise BadStudy("there is no study here to go on with; begin one with `redecode tune SPEC`")
    if name == "last":
        return known[0]
    found = [s for s in known if s[0] == name] or [s for s in known if s[0].startswith(name)]
    if len(found) != 1:
        which = "no study is called" if not found else f"{len(found)} studies begin with"
        raise BadStudy(f"{which} {name}; there are: {', '.join(s[0] for s in known[:5])}")
    return found[0]
