"""A night: its steps in order, each kept in a file when it is done, so that whoever is started next goes on from there.

begin → select → drift → profile → tune → gate → move → trends → worth → (report) → done
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from redecode.optimizer.configuration import read_context, toml
from redecode.optimizer.errors import BadSpec, NoRuns
from redecode.optimizer.nightly import drift, profiling, reference, report, trends, tuning, window
from redecode.optimizer.nightly.config import NightlyConfig
from redecode.optimizer.nightly.ending import since, standing
from redecode.optimizer.nightly.errors import BadNight, CapReached
from redecode.optimizer.nightly.gate import Gated, Rejected, gate
from redecode.optimizer.nightly.history import Change, Event, History, config_id
from redecode.optimizer.nightly.home import DONE, FOLDER, Home, NightFolder, write_whole
from redecode.optimizer.nightly.mix import rows_of
from redecode.optimizer.nightly.spending import Meter, is_for, made_for
from redecode.optimizer.preparing import goals_json, goals_of
from redecode.optimizer.promotion.decide import Verdict
from redecode.optimizer.spec import Spec, load
from redecode.optimizer.worth.volume import VolumeError
from redecode.replay.prices import Price
from redecode.replay.simulator.errors import SimulationError
from redecode.tracer import RedecodeError, Run, Store

GIVEN_UP = "given up"
SAME_NIGHT_S = 12 * 3600.0
"""A start within this of the last night's is of the same night; one that was late by half a day is followed on time."""
_KEPT = ("begin", "select", "drift", "profile", "tune", "gate", "move", "trends", "worth", DONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A night that is over.

    Attributes:
        document: as in `report.json`.
        already: it was over before; nothing was done now.
    """

    folder: NightFolder
    document: Mapping[str, Any]
    already: bool = False

    @property
    def promoted(self) -> bool:
        """Whether another configuration is in use since."""
        return bool(self.document["promoted"])


def home_of(config: NightlyConfig, store: Store) -> Home:
    """The folder of a job."""
    return Home(store.path / FOLDER / config.name)


def taken(home: Home, config: NightlyConfig) -> str | None:
    """Why a folder is not this job's, if its last night was of another spec: what is in use there is that one's."""
    begun = [(n.step("begin") or {}).get("config", {}).get("spec") for n in reversed(home.nights())]
    last = next((spec for spec in begun if spec is not None), config.spec)
    if _where(last) == _where(config.spec):
        return None
    return (
        f"name {config.name} is taken by the job of {last}; say another `name`, or, if {config.spec} is that job's "
        "spec from now on, begin a night with --anew"
    )


def _where(spec: str) -> str:
    """The module or file of a spec, whatever it is called in there and however its path is written."""
    where = spec.rpartition(":")[0]
    return str(Path(where).resolve()) if where.endswith(".py") else where


@dataclass(slots=True, kw_only=True)
class Nightly:
    """Runs the nights of one job.

    Args:
        now_ns: UTC; `clock` only goes forward, seconds.
        tell: told in words what goes on.
        again: begin a further night though the last one began less than `SAME_NIGHT_S` ago.
        anew: give up one that has not ended; take over what another spec has begun.
    """

    config: NightlyConfig
    store: Store
    now_ns: Callable[[], int]
    clock: Callable[[], float]
    tell: Callable[[str], None] = lambda _: None
    again: bool = False
    anew: bool = False

    def run(self) -> Ended:
        """Tonight's night, begun or gone on with; one that is over already is only told of.

        Raises:
            Busy: another process runs one.
            Halted: the kill switch is set.
            RedecodeError: something must be mended; the next start goes on from here.
        """
        home = home_of(self.config, self.store)
        with home.locked():
            folder = self._folder(home)
            if folder.finished:
                with home.moving():
                    document = since(History(home), report.read(folder))
                return Ended(folder=folder, document=document, already=True)
            meter = Meter(folder, self.config.budget, self.config.kill_switch or home.stop_file, self.clock)
            meter.stopped()
            try:
                return _Steps(self, home, folder, meter).all()
            except RedecodeError as error:
                if isinstance(error, NoRuns):  # nothing was evaluated: what is recorded by the next start counts
                    folder.forget("select", "drift")
                folder.keep("problem", {"at": trends.iso(self.now_ns()), "why": str(error)})
                raise
            finally:
                meter.mark()

    def _folder(self, home: Home) -> NightFolder:
        """The one to go on with, the last if that has just been, else a new one."""
        now = self.now_ns()
        other = taken(home, self.config)
        if other is not None and not self.anew:
            raise BadNight(other)
        open_ = home.unfinished()
        if open_ is not None:
            begun = open_.step("begin")
            late = now - begun["began_ns"] > self.config.resume_within * 1e9
            changed = "" if late or self.anew else self._changed(begun)
            if not (late or self.anew or changed):
                self.tell(f"going on with night {open_.id}")
                return open_
            ours = (self.config.name, open_.id, begun["began_ns"])
            if changed and any(is_for(run, *ours) for run in self.store.runs()):
                raise BadNight(
                    f"the configuration has changed since night {open_.id} began ({changed}): change it back to go "
                    "on, or give that night up with --anew"
                )
            why = (
                "it was asked to begin anew" if self.anew
                else f"the configuration has changed ({changed}), and it had evaluated nothing" if changed
                else "it did not end in time"
            )  # fmt: skip
            self.tell(f"night {open_.id} is given up: {why}")
            with home.moving():
                in_use = self.settled(History(home, self.tell), check=True)
                open_.keep(DONE, {"verdict": GIVEN_UP, "why": why, "promoted": False, "config": in_use})
        elif other is None and not self.again and (last := _just_been(home, now)) is not None:
            if changed := self._changed(last.step("begin")):
                self.tell(f"the configuration has changed since that night ({changed}): --again begins one with it")
            return last
        return home.new_night(now)

    def settled(self, history: History, *, check: bool = False) -> str | None:
        """The configuration in use, once `current.toml` and history say the same; wants `home.moving()` held.

        Args:
            check: refuse a file that no night could begin with.
        """
        begun = history.config is not None
        note = history.settle(self.now_ns(), self._check) if check else history.settle(self.now_ns())
        if note is not None:
            self.tell(note)
        if not begun and history.config is not None and (given := self.config.tune.incumbent) is not None:
            self.tell(f"tune.incumbent ({given.name}) is left aside: {history.home.current.name} says what is in use")
        return history.config

    def _check(self, found: Mapping[str, Any]) -> None:
        tuning.point_agents_at(self.config.engine, self.store.path)
        try:
            tuning.taken_by_knobs(self.config, found)
        except BadSpec as error:
            raise BadSpec(f"current.toml: {error}") from error

    def _changed(self, begun: Mapping[str, Any]) -> str:
        """What the configuration says otherwise than when a night began."""
        then, now = _flat(begun["config"]), _flat(self.config.identity())
        changed = [f"{k}: {then.get(k)} → {now.get(k)}" for k in (*then, *(n for n in now if n not in then))
                   if then.get(k) != now.get(k)]  # fmt: skip
        return "; ".join(changed)


def _flat(data: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{before}{key}.")
        else:
            out[f"{before}{key}"] = value
    return out


def _counts(folder: NightFolder) -> bool:
    return bool(folder.step(DONE)["verdict"] != GIVEN_UP)


def _just_been(home: Home, now_ns: int) -> NightFolder | None:
    """A night that began so shortly before that it is too early for another one, whatever their dates are."""
    for night in reversed(home.nights()):
        began = (night.step("begin") or {}).get("began_ns")
        if began is not None and abs(now_ns - began) < SAME_NIGHT_S * 1e9 and night.finished and _counts(night):
            return night
    return None


class _Steps:
    """The steps of one night."""

    def __init__(self, nightly: Nightly, home: Home, folder: NightFolder, meter: Meter) -> None:
        self.nightly, self.home, self.folder, self.meter = nightly, home, folder, meter
        self.config, self.store, self.tell = nightly.config, nightly.store, nightly.tell
        self.history = History(home, self.tell)
        self._runs: list[Run] | None = None

    def all(self) -> Ended:
        """In order; what is kept is not done again."""
        with self.home.moving():
            self.home.sweep()
            self.nightly.settled(self.history, check=True)
        begin = self._step("begin", self._begin)
        tuning.point_agents_at(self.config.engine, self.store.path)
        self.spec: Spec = load(self.config.spec)
        self._is_of_this_agent()
        select = self._step("select", self._select)
        self.window = window.Window.from_json(select)
        self._step("drift", self._drift)
        profile = self._step("profile", lambda: self._profile(begin))
        self.meter.calls = int(profile.get("fm_calls", 0))
        tuned = self._step("tune", lambda: self._tune(begin))
        gated = self._step("gate", lambda: self._gate(tuned))
        self._step("move", lambda: self._move(gated))
        self._step("trends", lambda: self._trends(tuned, gated))
        self._told()
        self._step("worth", lambda: self._worth(tuned))
        return self._end()

    def _is_of_this_agent(self) -> None:
        """Refuse what another agent's nights have left: a module of the same name may well be another one."""
        mine = self.spec.name
        others = [n.step("agent") for n in reversed(self.home.nights()) if n.id != self.folder.id]
        last = next((other["name"] for other in others if other is not None), mine)
        if last != mine and not self.nightly.anew and self.folder.step("agent") is None:
            raise BadNight(
                f"name {self.config.name} is taken by the job of agent {last}, and {self.config.spec} is {mine}; say "
                "another `name`, or, if that job is this agent's from now on, begin a night with --anew"
            )
        self.folder.keep("agent", {"name": mine})

    def _step(self, name: str, do: Callable[[], Any]) -> Any:
        kept = self.folder.step(name)
        if kept is not None:
            return kept
        self.meter.stopped()
        made = self.folder.keep(name, do())
        self.meter.mark()
        return made

    def runs(self) -> list[Run]:
        """Of the store, newest first, read once."""
        if self._runs is None:
            self._runs = self.store.runs(besides=True)
        return self._runs

    def _of_tonight(self) -> list[Run]:
        ids = set(self.window.run_ids)
        return [r for r in self.runs() if r.run_id in ids]

    def _agents(self) -> list[str]:
        return sorted(set(self.spec.agents) or {self.spec.name})

    # -- the steps --

    def _begin(self) -> dict[str, Any]:
        self.tell(f"night {self.folder.id} begins: {self.config.spec}")
        return {
            "night": self.folder.id,
            "began_ns": self.nightly.now_ns(),
            "digest": self.config.digest,
            "config": self.config.identity(),
            "versions": {name: version(name) for name in ("redecode", "optuna", "scipy")},
        }

    def _select(self) -> dict[str, Any]:
        before = [n.step("select") for n in self.home.nights() if n.finished and _counts(n)]
        last = max((s["until_ns"] for s in before if s is not None), default=None)
        found = window.choose(self.runs(), self.config.runs, now_ns=self.nightly.now_ns(), last_until_ns=last)
        self.tell(f"{len(found.run_ids)} runs ({found.words})")
        return found.to_json()

    def _drift(self) -> dict[str, Any]:
        asked = self.config.drift
        since = self.window.since_ns - int(asked.reference * 1e9)
        tonight = self._of_tonight()
        its = {r.run_id for r in tonight}
        before = [
            r for r in window.own_runs(self.runs())
            if since <= r.started_ns <= self.window.since_ns and r.run_id not in its
        ]  # fmt: skip
        moved = reference.moved(self.history.events(), before, tonight)
        found = drift.compare(
            rows_of(self.store, before),
            rows_of(self.store, tonight),
            agents=self._agents(),
            least=asked.least,
            matters=asked.matters,
            alpha=asked.alpha,
            moved=None if moved is None else (moved.when, rows_of(self.store, moved.alike)),
        )
        self.tell(f"mix of runs: {found.verdict}: {found.words}")
        return found.to_json()

    def _profile(self, begin: Mapping[str, Any]) -> dict[str, Any]:
        asked = self.config.profile
        if asked.source == "none":
            return {"source": "none", "made": [], "refused": {}, "fm_calls": 0, "profiles": []}
        before = self.folder.path / "profiles-before"
        profiling.remember(self.store.path, before)
        try:
            if asked.source == "store":
                made = profiling.from_store(
                    self.store, runs=asked.runs, now_ns=begin["began_ns"], check=self.meter.check
                )
            else:
                made = profiling.from_engine(
                    self.store, self.config.engine, seconds=asked.seconds, now_ns=self.nightly.now_ns,
                    check=self.meter.check, on_call=self.meter.measures,
                )  # fmt: skip
        except (CapReached, SimulationError) as error:  # the night can do without, unless it simulates
            made = {"source": asked.source, "made": [], "refused": {"none was made": str(error)}}
        finally:
            if self.meter.calls:
                self.meter.measured()
        told = profiling.against(self.store.path, before, made["made"])
        self.tell(f"engine profile from the {asked.source}: {report.profile_line({**made, 'profiles': told})}")
        return {**made, "fm_calls": self.meter.calls, "profiles": told}

    def _incumbent(self) -> tuple[str | None, dict[str, Any]]:
        """The configuration in use, if there is one yet, and what the study begins with."""
        present = self.history.config
        if present is not None:
            return present, self.history.context(present)
        given = self.config.tune.incumbent
        return None, {} if given is None else read_context(given)

    def _tune(self, begin: Mapping[str, Any]) -> dict[str, Any]:
        runs = self._of_tonight()
        with self.home.moving():
            self.nightly.settled(self.history, check=True)
        in_use, incumbent = self._incumbent()
        ready = tuning.ready(
            self.config, self.spec, self.store, runs,
            incumbent=incumbent, now_ns=begin["began_ns"], words=self.window.words,
        )  # fmt: skip
        if in_use is None:
            with self.home.moving():
                if self.nightly.settled(self.history, check=True) is None:
                    in_use = config_id(ready.incumbent)
                    event = Event(at_ns=begin["began_ns"], change=Change.BEGUN, config=in_use, night=self.folder.id)
                    self.history.put(event, ready.incumbent)
        if in_use is None:  # somebody has put a file there just now
            return self._tune(begin)
        p = ready.prepared
        for note in p.notes:
            self.tell(note)
        spent = made_for(self.store, self.config.name, self.folder.id, begin["began_ns"], p.goals)
        if not spent.calls and (why := self.meter.over()) is not None:
            return {"skipped": why, "incumbent": ready.incumbent, "config": in_use, "goals": goals_json(p.goals)}
        budget = self.meter.budget(spent)
        self.tell(f"study {p.about.name}: {len(p.cases.search)} runs to search on, {len(p.cases.decide)} to decide on")
        found = tuning.tuned(ready, self.config, self.store, self.folder.id, budget, self.tell)
        self.meter.stopped()  # a study that the kill switch ended is gone on with
        made = made_for(self.store, self.config.name, self.folder.id, begin["began_ns"], p.goals)
        whole = made.calls + self.meter.calls >= budget.spent_calls  # else some are not in the store, and are estimated
        cost = made.cost if whole else budget.spent_cost
        kept = tuning.kept(found, self.folder.path, calls=budget.spent_calls, cost=cost)
        seen = self._seen_before(kept["held_out"])
        return {**kept, "config": in_use, "held_out_before": seen, "fm_calls_before": spent.calls + self.meter.before}

    def _seen_before(self, held_out: Sequence[str]) -> int:
        """How many of the held-out runs another night has decided on."""
        seen: set[str] = set()
        for night in self.home.nights():
            if night.id != self.folder.id and (other := night.step("tune")) is not None:
                seen.update(other.get("held_out", ()))
        return len(seen.intersection(held_out))

    def _gate(self, tuned: Mapping[str, Any]) -> dict[str, Any]:
        hold = None
        found = self.folder.step("drift")
        if self.config.drift.action == "hold" and found["verdict"] == "drifted":
            hold = f"the mix of runs has changed ({found['words']}), and drift.action is hold"
        # What is in use may lack knobs that are new tonight: the study's incumbent has those, and so another id.
        before = tuned.get("config") or config_id(tuned["incumbent"])
        if (present := self.history.config) != before:
            hold = f"configuration {present} has come into use during the night; it was measured against {before}"
        rejected = [Rejected(config=r, at_ns=at, context=self._said(r)) for r, at in self.history.rejected().items()]
        recorded, held = len(self.window.run_ids), len(tuned.get("held_out", ()))
        share = held / recorded if held else self.config.tune.held_out  # of all that is recorded: not all can be used
        evidence = window.Evidence(which=self.config.runs, recorded=recorded, held_out=share)
        gated: Gated = gate(tuned, rejected, hold=hold, evidence=evidence)
        self.tell(f"{gated.verdict.value}: {gated.why}")
        return {**gated.to_json(), "before": before}

    def _said(self, config: str) -> dict[str, Any] | None:
        try:
            return self.history.context(config)
        except BadSpec:  # its file is gone; its id is known
            return None

    def _move(self, gated: Mapping[str, Any]) -> dict[str, Any]:
        if gated["verdict"] != Verdict.PROMOTE.value:
            return {"moved": False}
        with self.home.moving():
            self.nightly.settled(self.history)
            events = self.history.events()
            if any(e.night == self.folder.id and e.change is Change.PROMOTED for e in events):
                return {"moved": True}  # a kill came between the move and this file
            if events[-1].config != gated["before"]:
                why = f"configuration {events[-1].config} has come into use meanwhile, and stays"
                self.tell(f"nothing is moved: {why}")
                return {"moved": False, "why": why}
            self.history.put(
                Event(
                    at_ns=self.nightly.now_ns(),
                    change=Change.PROMOTED,
                    config=gated["config"],
                    before=gated["before"],
                    night=self.folder.id,
                    why=gated["why"],
                ),
                gated["context"],
            )
        self.tell(f"{self.home.current} is configuration {gated['config']} now")
        return {"moved": True}

    def _trends(self, tuned: Mapping[str, Any], gated: Mapping[str, Any]) -> dict[str, Any]:
        agents = set(self._agents())
        runs = [r for r in self._of_tonight() if r.agent in agents]
        measured = trends.measured(self.store, runs, self._prices(tuned))
        lane = tuned.get("report", {}).get("lanes", {}).get("incumbent")
        if lane is not None and lane["scored"]:
            measured["measures"]["error"] = lane["error"]
        scorer = tuned.get("scorer")
        return {"time": trends.iso(self.window.until_ns), "config": gated["before"], "scorer": scorer, **measured}

    def _prices(self, tuned: Mapping[str, Any]) -> Mapping[str, Price]:
        """Those of the study: the configuration's, the spec's, else the store's."""
        return goals_of(tuned["goals"]).prices if "goals" in tuned else self.spec.prices

    def _told(self) -> None:
        """Otava's input, and its answer; anew at every start, since it is of all nights."""
        asked = self.config.trends
        rows = trends.written(self.home, self.config.name)
        found = trends.changes(self.home, self.config.name, rows, otava=asked.otava, magnitude=asked.magnitude)
        self.folder.keep("changes", {**found.to_json(), "previous": trends.previous(rows, self.folder.id)})

    def _worth(self, tuned: Mapping[str, Any]) -> dict[str, Any]:
        asked = self.config.worth
        if asked is None:
            return {"words": "not asked for: say what training would cost in [worth]"}
        from redecode.optimizer.nightly.worth import worth_of  # with its statistics

        try:
            return worth_of(self.store, asked, self._agents(), self._prices(tuned), now_ns=self.window.until_ns)
        except VolumeError as error:
            return {"words": f"cannot be told: {error}"}

    def _end(self) -> Ended:
        """Nobody changes what is in use from what is told of it until the night has ended."""
        steps = {name: self.folder.step(name) for name in (*_KEPT, "changes")}
        with self.home.moving():
            self.nightly.settled(self.history)
            now = standing(self.history, steps["gate"], steps["move"])
            done = {
                "verdict": steps["gate"]["verdict"],
                "promoted": now.promoted,
                "then": now.then,
                "config": now.config,
                "seconds": self.meter.seconds,
                "ended_ns": self.nightly.now_ns(),
            }
            document = report.document(self.config, self.folder, {**steps, DONE: done}, now, self.history.events())
            comment = [f"configuration {now.config} ({document['verdict_words']}, night {self.folder.id})"]
            write_whole(self.folder.path / "tuned.toml", toml(now.context, comment))
            report.write(self.folder, document)
            self.folder.keep(DONE, done)
        if now.then is not None:
            self.tell(now.why)
        (self.folder.path / "steps" / "problem.json").unlink(missing_ok=True)
        return Ended(folder=self.folder, document=document)
