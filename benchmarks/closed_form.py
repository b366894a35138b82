"""Time and accuracy of the closed form beside the convex program it solves.

Run it with `python -m benchmarks.closed_form`.
"""

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import interleaved_seconds, quantiles, write_rows
from tradeoff import solve_pareto

SIZES = (10, 100, 1000)
SEED = 0


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
    points = {}

    def solve(solver: str) -> None:
        points[solver] = solve_pareto(draft, target, divergence=divergence, rejection=half, solver=solver).at(  # type: ignore[arg-type]
            rejection=half
        )

    seconds = interleaved_seconds(
        {solver: lambda solver=solver: solve(solver) for solver in ("closed_form", "cvxpy")}, repeats=9
    )
    return {
        "question": "closed form against cvxpy/CLARABEL, one point, problem built and solved",
        "divergence": divergence,
        "vocab": vocab,
        "rejection": half,
        "seconds": {name: quantiles(times) for name, times in seconds.items()},
        "ratio": quantiles(seconds["cvxpy"] / seconds["closed_form"]),
        "objective_difference": float(points["cvxpy"].divergence - points["closed_form"].divergence),
        "closed_form_optimality_gap": float(points["closed_form"].optimality_gap),
        "seed": SEED,
    }


def main() -> None:
    """Measure, write rows, print a table."""
    rows = [measure(divergence, vocab) for divergence in ("tv", "kl") for vocab in SIZES]
    table = Table("divergence", "vocab", "closed form, ms", "cvxpy, ms", "ratio", "objective difference")
    for row in rows:
        seconds, ratio = row["seconds"], row["ratio"]
        assert isinstance(seconds, dict)
        assert isinstance(ratio, dict)
        table.add_row(
            str(row["divergence"]),
            str(row["vocab"]),
            *(f"{1e3 * seconds[name]['median']:.3f}" for name in ("closed_form", "cvxpy")),
            f"{ratio['median']:.0f}",
            f"{row['objective_difference']:.1e}",
        )
    Console().print(table)
    Console().print(str(write_rows("closed_form", rows)))


if __name__ == "__main__":
    main()
