"""Time and accuracy of the closed form beside the convex program it solves.

Run it with `python -m benchmarks.closed_form`; the largest programs take minutes.
"""

import time

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import interleaved_seconds, quantiles, write_rows
from tradeoff import SolverError, solve_pareto

SIZES = (10, 100, 1000, 10000, 50000)
DIVERGENCES = ("tv", "kl", "chi2")
SEED = 0
LONG = 10.0
"""Seconds from which a program is solved once and not again."""


def laws(vocab: int) -> tuple[np.ndarray, np.ndarray]:
    """Zipf-like laws as a language model's are: a target, and a draft that errs on every token."""
    rng = np.random.default_rng([SEED, vocab])
    target = rng.permutation(1 / np.arange(1, vocab + 1))
    draft = target * np.exp(0.7 * rng.normal(size=vocab))
    return draft / draft.sum(), target / target.sum()


def measure(divergence: str, vocab: int) -> dict[str, object]:
    """Time one point of the front, at half the TV, by both solvers in turn."""
    draft, target = laws(vocab)
    half = float(np.abs(draft - target).sum() / 4)
    values: dict[str, float] = {}

    def solve(solver: str) -> None:
        front = solve_pareto(draft, target, divergence=divergence, rejection=half, solver=solver)  # type: ignore[arg-type]
        values[solver] = float(front.divergence[0])

    row: dict[str, object] = {
        "question": "closed form against cvxpy/CLARABEL, one point, laws checked, problem built and solved",
        "divergence": divergence,
        "vocab": vocab,
        "rejection": half,
        "threads": 1,
        "seed": SEED,
    }
    start = time.perf_counter()
    try:
        solve("cvxpy")
    except SolverError as error:
        seconds = interleaved_seconds({"closed_form": lambda: solve("closed_form")}, repeats=9)
        return row | {"seconds": {"closed_form": quantiles(seconds["closed_form"])}, "cvxpy_error": str(error)}
    first = time.perf_counter() - start
    if first > LONG:  # once is enough
        seconds = interleaved_seconds({"closed_form": lambda: solve("closed_form")}, repeats=9)
        seconds["cvxpy"] = np.full(9, first)
    else:
        seconds = interleaved_seconds(
            {solver: lambda solver=solver: solve(solver) for solver in ("closed_form", "cvxpy")},
            repeats=9 if first < 1 else 3,
        )
    certificate = solve_pareto(draft, target, divergence=divergence, rejection=half).at(rejection=half).certificate
    return row | {
        "seconds": {name: quantiles(times) for name, times in seconds.items()},
        "cvxpy_solves": 1 if first > LONG else len(seconds["cvxpy"]),
        "ratio": quantiles(seconds["cvxpy"] / seconds["closed_form"]),
        "objective_difference": values["cvxpy"] - values["closed_form"],
        "closed_form_gap": float(certificate.gap),
    }


def main() -> None:
    """Measure, write rows, print a table."""
    rows = []
    table = Table("divergence", "vocab", "closed form, ms", "cvxpy, ms", "ratio", "objective difference", "gap")
    for divergence in DIVERGENCES:
        for vocab in SIZES:
            row = measure(divergence, vocab)
            rows.append(row)
            seconds, ratio = row["seconds"], row.get("ratio")
            assert isinstance(seconds, dict)
            cells = [f"{1e3 * seconds['closed_form']['median']:.2f}"]
            if isinstance(ratio, dict):
                cells += [f"{1e3 * seconds['cvxpy']['median']:.1f}", f"{ratio['median']:.0f}"]
                cells += [f"{row['objective_difference']:.1e}", f"{row['closed_form_gap']:.1e}"]
            else:
                cells.append("no solution")
            table.add_row(divergence, str(vocab), *cells)
    Console(width=120).print(table)
    Console(width=120).print(str(write_rows("closed_form", rows)))


if __name__ == "__main__":
    main()
