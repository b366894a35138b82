"""What several drafts of one position are worth: published selections beside the best one, and the exact fronts.

Run it with `python -m benchmarks.multi_draft`: rows in `benchmarks/results`, figure in `docs/multi_draft.png`; four
minutes, nearly all of them for the enumeration of four drafts.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.closed_form import laws as zipf_laws
from benchmarks.harness import interleaved_seconds, quantiles, write_rows
from solvers.convex_multi_draft import solve_drafts
from tradeoff import solve_pareto
from tradeoff.fronts.multi_draft import effective_draft, optimal_acceptance, solve_multi_draft_pareto
from tradeoff.outcome.multi_draft import evaluate_multi_draft
from tradeoff.rules.multi_draft import GreedyMultiDraft, KSeq, RecursiveRejection

PAIRS, VOCAB, CONCENTRATION, SEED = 100, 6, 0.6, 0
DRAFTS, FRONTS, POINTS = (1, 2, 3, 4), (1, 2, 4, 8), 25
RULES = {
    "recursive rejection": RecursiveRejection(),
    "K-SEQ": KSeq(),
    "recursive rejection, no replacement": RecursiveRejection(replacement=False),
    "greedy": GreedyMultiDraft(),
}
LOSSY = {2: (1.0, 1.1, 1.2, 1.35, 1.5), 4: (1.0, 1.3, 1.6, 2.0, 2.4)}
"""Ratios of K-SEQ by drafts, from accepting all it can to nearly lossless."""
SIZES = (100, 300, 1000)
COLOURS = {
    "best, replacement": "#1f5fa8",
    "best, no replacement": "#12365f",
    "recursive rejection": "#4f9d8f",
    "K-SEQ": "#8a6fb0",
    "recursive rejection, no replacement": "#d9a441",
    "greedy": "#d9622b",
}
FIGURE = Path(__file__).parents[1] / "docs" / "multi_draft.png"


def random_laws() -> tuple[np.ndarray, np.ndarray]:
    """Pairs of Dirichlet laws, `[pairs, vocab]`."""
    rng = np.random.default_rng(SEED)
    draft, target = rng.dirichlet(np.full(VOCAB, CONCENTRATION), size=(2, PAIRS))
    return draft, target


def common() -> dict[str, Any]:
    """What all rows about the random pairs share."""
    return {"pairs": PAIRS, "vocab": VOCAB, "concentration": CONCENTRATION, "seed": SEED}


def acceptance_row(drafts: int, draft: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    """Mean acceptance of every lossless selection and of the best ones."""
    means = {
        name: float(
            np.mean(
                [
                    1 - evaluate_multi_draft(rule, *pair, drafts=drafts).rejection
                    for pair in zip(draft, target, strict=True)
                ]
            )
        )
        for name, rule in RULES.items()
    }
    means["best, replacement"] = float(optimal_acceptance(draft, target, drafts=drafts).mean())
    means["best, no replacement"] = float(optimal_acceptance(draft, target, drafts=drafts, replacement=False).mean())
    return common() | {"question": "mean acceptance, lossless", "drafts": drafts, "acceptance": means}


def front_row(drafts: int, draft: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    """Least mean KL at a mean rejection: the common price's split over the effective drafts."""
    law = effective_draft(draft, target, drafts=drafts)
    end = float(np.abs(law - target).sum(axis=-1).mean() / 2)
    front = solve_pareto(law, target, divergence="kl", budget="mean", rejection=np.linspace(0.0, end, POINTS).tolist())
    return common() | {
        "question": "least mean KL at a mean rejection, drafts with replacement",
        "drafts": drafts,
        "rejection": front.rejection.tolist(),
        "divergence": front.divergence.tolist(),
    }


def lossy_row(drafts: int, rho: float, draft: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    """K-SEQ below its lossless ratio, where it accepts more than the target covers."""
    outcomes = [evaluate_multi_draft(KSeq(rho=rho), *pair, drafts=drafts) for pair in zip(draft, target, strict=True)]
    return common() | {
        "question": "K-SEQ at one ratio for all pairs",
        "drafts": drafts,
        "rho": rho,
        "rejection": float(np.mean([outcome.rejection for outcome in outcomes])),
        "divergence": float(np.mean([outcome.kl for outcome in outcomes])),
    }


def timing_row(vocab: int) -> dict[str, Any]:
    """One point of the KL front of four drafts by one sort, and by the convex program with generated sets."""
    draft, target = zipf_laws(vocab)
    half = float(1 - optimal_acceptance(draft, target, drafts=4)) / 2
    values = {}

    def closed_form() -> None:
        front = solve_multi_draft_pareto(draft, target, drafts=4, divergence="kl", rejection=half)
        values["closed_form"] = float(front.divergence[0])

    def cvxpy() -> None:
        values["cvxpy"] = solve_drafts(draft, target, drafts=4, rejection=half, divergence="kl").value

    seconds = interleaved_seconds({"closed_form": closed_form, "cvxpy": cvxpy}, repeats=5)
    point = solve_multi_draft_pareto(draft, target, drafts=4, divergence="kl").at(rejection=half)
    return {
        "question": "closed form against cvxpy/CLARABEL, one point of the KL front, laws checked",
        "drafts": 4,
        "vocab": vocab,
        "rejection": half,
        "threads": 1,
        "seconds": {name: quantiles(times) for name, times in seconds.items()},
        "ratio": quantiles(seconds["cvxpy"] / seconds["closed_form"]),
        "objective_difference": values["cvxpy"] - values["closed_form"],
        "certificate_gap": float(point.certificate.gap),
    }


def figure(rows: list[dict], path: Path) -> None:
    """Acceptance by number of drafts, and the fronts, from rows alone."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.8), layout="constrained")
    accepted = [row for row in rows if row["question"].startswith("mean acceptance")]
    for name, colour in COLOURS.items():
        style = {"linewidth": 2.2} if name.startswith("best") else {"linestyle": "--", "marker": "o", "markersize": 4}
        left.plot(
            [row["drafts"] for row in accepted],
            [row["acceptance"][name] for row in accepted],
            color=colour,
            label=name,
            **style,
        )
    left.set(xlabel="drafts of the position", ylabel="mean acceptance, lossless", xticks=DRAFTS, ylim=(0.35, None))
    left.legend(frameon=False, fontsize=8, loc="lower right")
    shades = plt.get_cmap("Blues")(np.linspace(0.45, 1.0, len(FRONTS)))
    for shade, drafts in zip(shades, FRONTS, strict=True):
        (front,) = (row for row in rows if row["question"].startswith("least mean KL") and row["drafts"] == drafts)
        label = f"front, {drafts} draft{'s' if drafts > 1 else ''}"
        right.plot(front["rejection"], front["divergence"], color=shade, label=label)
    for marker, drafts in zip("s^", LOSSY, strict=True):
        lossy = [row for row in rows if row["question"].startswith("K-SEQ") and row["drafts"] == drafts]
        x, y = ([row[name] for row in lossy] for name in ("rejection", "divergence"))
        right.plot(x, y, f"{marker}--", color=COLOURS["K-SEQ"], markersize=4, label=f"K-SEQ, {drafts} drafts")
    right.set(xlabel="mean probability of emitting no draft", ylabel="mean KL(output, target), nats", xlim=(0, None))
    right.set_ylim(0, None)
    right.legend(frameon=False, fontsize=8)
    fig.savefig(path, dpi=160)


def measured() -> list[dict[str, Any]]:
    """All rows."""
    draft, target = random_laws()
    rows = [acceptance_row(drafts, draft, target) for drafts in track(DRAFTS, description="enumerating")]
    rows += [front_row(drafts, draft, target) for drafts in FRONTS]
    rows += [lossy_row(drafts, rho, draft, target) for drafts, ratios in LOSSY.items() for rho in ratios]
    return rows + [timing_row(vocab) for vocab in SIZES]


def show(rows: list[dict[str, Any]]) -> None:
    """Print acceptances and timings."""
    names = list(COLOURS)
    accepted, timed = Table("drafts", *names), Table("vocab", "closed form, ms", "cvxpy, ms", "ratio", "difference")
    for row in rows:
        if "acceptance" in row:
            accepted.add_row(str(row["drafts"]), *(f"{row['acceptance'][name]:.3f}" for name in names))
        elif "seconds" in row:
            times = [f"{1e3 * row['seconds'][name]['median']:.2f}" for name in ("closed_form", "cvxpy")]
            timed.add_row(
                str(row["vocab"]), *times, f"{row['ratio']['median']:.0f}", f"{row['objective_difference']:.1e}"
            )
    for table in (accepted, timed):
        Console(width=140).print(table)


def main() -> None:
    """Measure, write rows and figure, print tables."""
    rows = measured()
    show(rows)
    Console(width=120).print(str(write_rows("multi_draft", rows)))
    figure(rows, FIGURE)


if __name__ == "__main__":
    main()
