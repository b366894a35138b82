"""Cost of the ratio clip's levels without a sort, in reads of the row, and the memory they need.

Run it with `python -m benchmarks.thresholds`, on a GPU with `--device cuda`. A read is the sum of clip(p, c q, C q)
over the row, written the fastest way torch has: clamp, summed in float32.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import interleaved_seconds, quantiles, write_rows
from solvers.arrays import Array, to_numpy
from solvers.divergences import DIVERGENCES, total_variation
from solvers.sort_free import ceiling_level, floor_level, levels_at_price
from solvers.sorted_front import SortedFront

SEED, SPREAD = 0, 0.7
SHAPES = {"cpu": ((1, 151936), (64, 151936)), "cuda": tuple((b, v) for v in (32000, 151936) for b in (1, 32, 256))}
PRICE = 0.5


def laws(batch: int, vocab: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Zipf-like laws in float32, a different noise in every row."""
    generator = torch.Generator().manual_seed(SEED)
    target = -torch.log(torch.arange(1, vocab + 1)) + 0.1 * torch.randn(batch, vocab, generator=generator)
    draft = target + SPREAD * torch.randn(batch, vocab, generator=generator)
    return torch.softmax(draft, -1).to(device), torch.softmax(target, -1).to(device)


def questions(draft: Array, target: Array) -> dict[str, Callable[[], object]]:
    """The three things a decoder may want: either level at half the TV, or both at a price."""
    half = total_variation(draft, target) / 2
    price = 0 * half + PRICE
    return {
        "floor at a rejection": lambda: floor_level(draft, target, half),
        "ceiling at a rejection": lambda: ceiling_level(draft, target, half),
        "both levels at a price (KL)": lambda: levels_at_price(draft, target, price, DIVERGENCES["kl"]),
    }


def errors(draft: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    """Largest relative error of each level against the sorted solution of the same float32 numbers, in float64."""
    p, q = draft.cpu().double(), target.cpu().double()
    half = to_numpy(total_variation(draft, target))[:, None] / 2
    # at every rejection both sides must move the same mass, so each law is scaled to sum 1 for the price only
    sorted_front = SortedFront(p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True), DIVERGENCES["kl"])
    floor, ceiling = sorted_front.levels(half)
    scale = to_numpy(p.sum(-1, keepdim=True) / q.sum(-1, keepdim=True))
    priced, _ = sorted_front.levels(sorted_front.rejection_at_price(np.full_like(half, PRICE)))
    found = {name: task() for name, task in questions(draft, target).items()}
    exact = (floor * scale, ceiling * scale, priced * scale)
    return {
        name: float(np.abs(to_numpy(level[0] if isinstance(level, tuple) else level) / value[:, 0] - 1).max())
        for (name, level), value in zip(found.items(), exact, strict=True)
    }


def measure(batch: int, vocab: int, device: str, repeats: int) -> list[dict[str, object]]:
    """One row per question."""
    draft, target = laws(batch, vocab, device)
    low, high = (torch.full((batch, 1), level, device=device) for level in (0.8, 1.3))
    reads: dict[str, Callable[[], object]] = {
        "read": lambda: torch.clamp(draft, low * target, high * target).sum(-1),
        "read, summed in float64": lambda: torch.clamp(draft, low * target, high * target).sum(-1, dtype=torch.float64),
    }
    # by themselves: after megabytes come and go the allocator hands out cold pages to whoever is next
    others: dict[str, Callable[[], object]] = {
        "copy of both inputs": lambda: (draft.clone(), target.clone()),
        "sort of the ratios": lambda: torch.sort(draft / target, -1),
    }
    seconds = interleaved_seconds(reads | questions(draft, target), repeats=repeats)
    seconds |= interleaved_seconds(others, repeats=repeats)
    worst = errors(draft, target)
    return [
        {
            "question": name,
            "batch": batch,
            "vocab": vocab,
            "device": device,
            "dtype": "float32",
            "threads": torch.get_num_threads(),
            "microseconds_per_row": quantiles(1e6 * seconds[name] / batch),
            "reads": quantiles(seconds[name] / seconds["read"]),
            "reads_summed_in_float64": quantiles(seconds[name] / seconds["read, summed in float64"]),
            "ratio_to_copy": quantiles(seconds[name] / seconds["copy of both inputs"]),
            "ratio_to_sort": quantiles(seconds[name] / seconds["sort of the ratios"]),
            "read_microseconds_per_row": quantiles(1e6 * seconds["read"] / batch),
            "largest_relative_error": error,
            "peak_memory_over_input": peak_memory(name, draft, target),
            "seed": SEED,
        }
        for name, error in worst.items()
    ]


def peak_memory(name: str, draft: torch.Tensor, target: torch.Tensor) -> float:
    """Highest memory held while one question is answered, inputs included, as a multiple of the inputs."""
    if draft.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        questions(draft, target)[name]()
        return torch.cuda.max_memory_allocated() / (2 * draft.nbytes)
    # a process of its own that never held anything else: resident memory is not given back by allocators
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "laws.npy"
        np.save(path, np.stack([draft.numpy(), target.numpy()]))
        command = [sys.executable, "-m", "benchmarks.thresholds", "--peak-of", name, "--laws", str(path)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _peak_in_this_process(name: str, path: str) -> float:
    torch.set_num_threads(1)
    warm = laws(1, 1000, "cpu")
    for task in questions(*warm).values():
        task()
    both = torch.from_numpy(np.load(path))
    task = questions(both[0], both[1])[name]
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _resident("VmRSS")
    task()
    return 1 + (_resident("VmHWM") - before) / both.nbytes


def _resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Measure, write rows, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--laws", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    console = Console(width=140)
    if arguments.peak_of:
        console.print(_peak_in_this_process(arguments.peak_of, arguments.laws))
        return
    torch.set_num_threads(1)
    kind = torch.device(arguments.device).type
    rows = [
        row
        for batch, vocab in SHAPES[kind]
        for row in measure(batch, vocab, arguments.device, repeats=101 if batch == 1 else 9)
    ]
    table = Table("question", "batch", "vocab", "us a row", "reads", "of sort", "of copy", "error", "memory")
    for row in rows:
        medians = {key: value["median"] for key, value in row.items() if isinstance(value, dict)}
        table.add_row(
            str(row["question"]),
            str(row["batch"]),
            str(row["vocab"]),
            f"{medians['microseconds_per_row']:.0f}",
            f"{medians['reads']:.1f}",
            f"{medians['ratio_to_sort']:.3f}",
            f"{medians['ratio_to_copy']:.1f}",
            f"{row['largest_relative_error']:.0e}",
            f"{row['peak_memory_over_input']:.2f}",
        )
    console.print(table)
    console.print(str(write_rows(f"thresholds_{kind}", rows)))


if __name__ == "__main__":
    main()
