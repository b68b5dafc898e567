"""How far studies have come, as a report says it, read beside whoever goes on with them: nothing is written."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna

from redecode.optimizer.errors import BadStudy
from redecode.optimizer.preparing import goals_of
from redecode.optimizer.study.hypervolume import front
from redecode.optimizer.study.search import done_of, failures_of, importances_of
from redecode.optimizer.study.storage import opened, studies


def begun(place: Path) -> dict[str, int]:
    """The studies in a journal that is there: name → when it was begun, ns, newest first.

    Raises:
        BadStudy: it cannot be read.
    """
    try:
        return {name: about.made_ns for name, about in studies(opened(place))}
    except BadStudy:
        raise
    except Exception as error:  # of a damaged journal Optuna raises whatever its lines lead to
        raise BadStudy(f"studies at {place} cannot be read: {type(error).__name__}: {error}") from error


def progress(place: Path, name: str) -> dict[str, Any]:
    """What `report.to_json` says of a study, without what is only known at its end.

    Raises:
        BadStudy: it cannot be read, or there is none of this name.
    """
    storage = opened(place)
    try:
        about = dict(studies(storage)).get(name)
        if about is None:
            raise BadStudy(f"there is no study {name} at {place}")
        goals = goals_of(about.goals)
        study = optuna.load_study(storage=storage, study_name=name)
        done = done_of(study, goals)
        feasible = [d for d in done if d.feasible and d.why is None]
        trials = study.get_trials(deepcopy=False)
        ended = [t.datetime_complete for t in trials if t.datetime_complete is not None]
        return {
            "study": name,
            "agent": about.agent,
            "spec": about.spec,
            "fidelity": about.fidelity,
            "sampler": about.sampler,
            "seed": about.seed,
            "knobs": dict(about.space),
            "goals": {**dict(about.goals), "cost_unit": goals.cost_unit},
            "runs": {"search": len(about.search), "held_out": len(about.decide), "left_out": {}},
            "incumbent": dict(about.incumbent),
            "trials": [
                {
                    "number": d.number,
                    "candidate": d.config,
                    "measured": asdict(d.measured),
                    "feasible": d.feasible,
                    "out": d.why,
                }
                for d in done
            ],
            "failures": [{"candidate": config, "why": why} for config, why in failures_of(study)],
            "front": [feasible[i].number for i in front([d.measured.values for d in feasible])],
            "importances": importances_of(study),
            "last": max(ended).isoformat(timespec="seconds") if ended else None,
        }
    except BadStudy:
        raise
    except Exception as error:  # as above
        raise BadStudy(f"study {name} at {place} cannot be read: {type(error).__name__}: {error}") from error
