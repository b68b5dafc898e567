"""Runs Vidur on a workload given to it; for a Python that has Vidur, and nothing of ours (`benchmarks/vidur.py`).

    python vidur_driver.py CALLS.csv JOB.json

CALLS.csv: arrived_at,num_prefill_tokens,num_decode_tokens. JOB.json: replicas, limits and the step costs in seconds.
The costs take the place of Vidur's own predictor, a random forest over profiles of single operators: so both simulators
give a step the same time, and Vidur is spared training and asking the forest. If the job is `quiet` it keeps no
metrics, else those that it keeps by default. Prints one JSON line: its seconds in `Simulator.run`, and what came.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any


def predictor(costs: dict[str, float]) -> Any:
    """A predictor of Vidur's with these costs."""
    base: Any = import_module("vidur.execution_time_predictor.base_execution_time_predictor").BaseExecutionTimePredictor

    class Given(base):  # type: ignore[misc]
        def _get_schedule_time(self, batch: Any) -> float:
            tokens = pairs = prompts = decodes = context = 0
            for request, new in zip(batch.requests, batch.num_tokens, strict=True):
                done = request.num_processed_tokens
                if request.is_prefill_complete:
                    decodes += 1
                    context += done + 1
                else:
                    prompts += 1
                    tokens += new
                    pairs += new * (2 * done + new + 1) // 2
            c = costs
            work = c["step"] + c["prefill_token"] * tokens + c["prefill_pair"] * pairs + c["prefill_call"] * prompts
            work += c["decode"] * decodes + c["context_token"] * context + c["gap"] + c["gap_row"] * (prompts + decodes)
            return float(work * 1e3)  # Vidur's are milliseconds

    for name in base.__abstractmethods__ - {"_get_schedule_time"}:
        setattr(Given, name, lambda self, batch: 0.0)
    Given.__abstractmethods__ = frozenset()
    return Given


def main() -> None:
    """Run and print."""
    calls, job = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    c: Any = import_module("vidur.config")
    registry: Any = import_module("vidur.execution_time_predictor").ExecutionTimePredictorRegistry
    metrics: Any = import_module("vidur.metrics.metrics_store")
    kind = import_module("vidur.types").ExecutionTimePredictorType.RANDOM_FORREST
    registry.unregister(kind)
    registry.register(kind, predictor(job["costs"]))
    metrics.MetricsStore.plot = lambda self: None  # drawn at exit
    silent = (
        "write_metrics", "write_json_trace", "enable_chrome_trace", "store_plots", "store_operation_metrics",
        "store_token_completion_metrics", "store_request_metrics", "store_batch_metrics", "store_utilization_metrics",
    )  # fmt: skip
    folder = calls.parent
    simulation = c.SimulationConfig(
        cluster_config=c.ClusterConfig(
            num_replicas=job["replicas"],
            replica_config=c.ReplicaConfig(model_name="meta-llama/Meta-Llama-3-8B"),
            global_scheduler_config=c.RoundRobinGlobalSchedulerConfig(),
            replica_scheduler_config=c.SarathiSchedulerConfig(
                batch_size_cap=job["max_num_seqs"], chunk_size=job["token_budget"], num_blocks=job["kv_blocks"],
                watermark_blocks_fraction=0.0,
            ),
        ),
        request_generator_config=c.TraceRequestGeneratorConfig(trace_file=str(calls), max_tokens=job["max_tokens"]),
        metrics_config=c.MetricsConfig(output_dir=str(folder / "out"), cache_dir=str(folder / "cache"),
            **(dict.fromkeys(silent, False) if job["quiet"] else {})),
    )  # fmt: skip
    simulator = import_module("vidur.simulator").Simulator(simulation)
    requests = [event._request for _, event in simulator._event_queue]
    cpu, wall = time.process_time(), time.perf_counter()
    simulator.run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    done = [r for r in requests if r.completed]
    result = {
        "wall_s": wall,
        "cpu_s": cpu,
        "calls": len(done),
        "tokens": sum(r.num_prefill_tokens + r.num_decode_tokens for r in done),
        "virtual_s": max(r.completed_at for r in done),
        "ttft_s": sorted(r.prefill_completed_at - r.arrived_at for r in done),
        "e2e_s": sorted(r.completed_at - r.arrived_at for r in done),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
