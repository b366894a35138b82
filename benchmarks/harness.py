"""Timing and result rows: warm-up, interleaved repeats, quantiles, a stamp on every row."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decoding.evaluation.files.stamp import stamp

RESULTS = Path(__file__).parent / "results"


def interleaved_seconds(tasks: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, np.ndarray]:
    """Time every task `repeats` times, taking turns, so that a busy moment of the machine hits all of them.

    Each task runs once before the clock starts. Returns seconds by task, `[repeats]`.
    """
    for task in tasks.values():
        task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            _synchronise()
            start = time.perf_counter()
            task()
            _synchronise()
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(times) for name, times in seconds.items()}


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Median with the quartiles around it."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": float(middle), "q25": float(low), "q75": float(high)}


def write_rows(name: str, rows: list[dict[str, Any]]) -> Path:
    """Write the stamped rows of one benchmark, replacing its former ones."""
    RESULTS.mkdir(exist_ok=True)
    path, stamped = RESULTS / f"{name}.jsonl", stamp()
    path.write_text("".join(json.dumps(row | {"stamp": stamped}) + "\n" for row in rows), encoding="utf-8")
    return path
