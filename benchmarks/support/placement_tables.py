"""What `benchmarks/placement.py` found, as tables."""

from __future__ import annotations

from typing import Any


def show(result: dict[str, Any]) -> None:
    """Tables."""
    for part in result["fixed_pool"]:
        print(f"\n== {part['workload']} on {part['pool']} replicas ({', '.join(part['replicas'])})")
        print(f"   {part['source']}")
        print(
            f"   SLOs {part['deadlines_s']} s; load 1 is {part['capacity_runs_per_s']} runs/s (by the engine model); "
            f"{part['runs']} runs in each simulation"
        )
        print(f"   Serve tuned: max_ongoing_requests {part['tuned_max_ongoing_requests']}")
        head = f"{'load':>5} {'policy':<24} {'goodput':>8} {'ours less it, 95 %':>26} {'refused':>8} {'TTFT95':>8}"
        print(f"{head} {'E2E95':>8} {'util':>5} {'$/1000':>7}  by class")
        for row in part["rows"]:
            d = row.get("ours_less_it")
            less = f"{d[0]:+.3f} [{d[1]:+.3f}, {d[2]:+.3f}]" if d else ""
            usd = "-" if row["usd_per_1000_good"] is None else f"{row['usd_per_1000_good']:.2f}"
            classes = " ".join(f"{k} {v:.3f}" for k, v in row["by_class"].items())
            print(
                f"{row['load']:>5g} {row['policy']:<24} {row['goodput']:>8.3f} {less:>26} {row['refused']:>8.3f} "
                f"{row['ttft_p95']:>7.2f}s {row['e2e_p95']:>7.2f}s {row['utilisation']:>5.2f} {usd:>7}  {classes}"
            )
        tops = {k: "-" if v is None else f"{v:.2f}" for k, v in part["most_at_95"].items()}
        print(f"   highest load at 95 % in time: {', '.join(f'{k} {v}' for k, v in tops.items())}")
        v = part["verdict"]
        print(
            f"   near saturation (load {part['near_saturation']:g}): ours over Serve default "
            f"{_percent(v['over_default'])}, over tuned {_percent(v['over_tuned'])}"
        )
        for loss in v["worse_beyond_noise"]:
            print(f"   LOSES to {loss['policy']} at load {loss['load']:g}: {loss['ours_less_it']}")
    for part in result["autoscaled"]:
        print(
            f"\n== {part['workload']}: {part['rates_per_s']} runs/s, up and down in {part['seconds']:g} s; "
            "1 to 8 replicas"
        )
        for name, numbers in part["settings"].items():
            print(f"   {name}: {numbers}")
        for row in part["rows"]:
            d = row.get("ours_less_it")
            less = f"{d[0]:+.3f} [{d[1]:+.3f}, {d[2]:+.3f}]" if d else ""
            usd = "-" if row["usd_per_1000_good"] is None else f"{row['usd_per_1000_good']:.2f}"
            print(
                f"   {row['policy']:<24} goodput {row['goodput']:.3f} {less:>26}  $/1000 good {usd}  "
                f"refused {row['refused']:.3f}"
            )
    print(f"\n{result['conditions']}")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1%}"
