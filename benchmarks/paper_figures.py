"""The simulations of Yin et al., arXiv 2411.00841, made again: Figures 2 to 5 beside the numbers published in them.

Run it with `python -m benchmarks.paper_figures` (half a minute): rows in `benchmarks/results`, figure in
`docs/paper_figures.png`.

What differs from the paper: the chains are a reconstruction (seed 10); a batch starts at the beginning of every text,
as Algorithm 4 says, where the published curves seem to leave the first one out; the laws of Figure 4 are not published,
so a made pair is used that rejects as its plot does, to 0.005.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.harness import write_rows
from tradeoff import evaluate
from tradeoff.chains import (
    MarkovChain,
    Simulation,
    batch_expected_rejections,
    batch_improvement,
    expected_rejections,
    published_chains,
    simulate,
    simulate_batch,
)
from tradeoff.chains.published import bernoulli_pair, uniform_pair
from tradeoff.rules import DecodingOPT, DecodingUNO, SpeculativeSampling

SEED, RUNS, POINTS = 0, 20_000, 200
HORIZONS = {50: "2", 100: "5"}
BATCHES = (4, 5)
DRAFTS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000)
COIN, COINS = 0.5, (0.1, 0.2, 0.3, 0.65, 0.85, 0.95)
TOKENS, RATIOS = 300, (2, 5, 10, 15, 20, 50)
IMPROVEMENT_DRAFTS = (*range(1, 21), *range(25, 251, 5))
EPSILONS = (0.0, 0.03, 0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.45)
FIGURE_4 = ((0.40, 0.20, 0.15, 0.10, 0.05, 0.05, 0.05), (0.125, 0.11, 0.112, 0.096, 0.187, 0.185, 0.185))
"""Draft and target for Figure 4: positive gaps 0.275, 0.09, 0.038 and 0.004, so that TV is 0.407."""

PUBLISHED = {
    "2a": 16.41,
    "5a": 33.535,
    "2b, M = 4": 14.22,
    "2b, M = 5": 14.01,
    "2c, M = 2000": 12.35,
} | {
    f"4, epsilon = {epsilon}": value
    for epsilon, value in zip(EPSILONS, (0.407, 0.313, 0.265, 0.178, 0.122, 0.08, 0.022, 0.0, 0.0), strict=True)
}
"""Expected rejections printed or plotted in the paper, and rejection probabilities read off Figure 4.

That 0.022 belongs to epsilon = 0.25 is inferred: from 0.08 at 0.2 the curve falls with slope 1 at least.
"""

FIGURE = Path(__file__).parents[1] / "docs" / "paper_figures.png"
BLUE, ORANGE, GREEN, QUIET = "#1f5fa8", "#d9622b", "#4f9d8f", "#8a8f98"


def averages(simulation: Simulation) -> dict[str, list[float]]:
    """Mean rejections of the first 100, 200, ... runs with their standard errors: the paper's empirical curves."""
    runs = np.linspace(simulation.runs / POINTS, simulation.runs, POINTS).astype(int)
    sums, squares = np.cumsum(simulation.rejections), np.cumsum(simulation.rejections.astype(float) ** 2)
    means = sums[runs - 1] / runs
    variances = (squares[runs - 1] - runs * means**2) / (runs - 1)
    return {
        "runs": runs.tolist(),
        "mean": means.tolist(),
        "standard_error": np.sqrt(variances / runs).tolist(),
    }


def simulated_rows(horizon: int, draft: MarkovChain, target: MarkovChain) -> list[dict[str, Any]]:
    """Panels a and b: exact and empirical rejections, one draft and several."""
    figure, exact = HORIZONS[horizon], expected_rejections(draft, target)
    common = {"horizon": horizon, "seed": SEED}
    rows = [
        common
        | {
            "figure": f"{figure}a",
            "rejections": exact.mean,
            "standard_deviation": exact.standard_deviation,
            "acceleration": exact.acceleration,
            "simulated": averages(simulate(draft, target, runs=RUNS, seed=SEED)),
        }
    ]
    for drafts in BATCHES:
        ours, without = batch_means(draft, target, drafts)
        simulation = simulate_batch(draft, target, drafts=drafts, runs=RUNS, seed=SEED + drafts)
        rows.append(
            common
            | {
                "figure": f"{figure}b",
                "seed": SEED + drafts,
                "drafts": drafts,
                "rejections": ours,
                "rejections_without_first_root": without,
                "simulated": averages(simulation),
            }
        )
    return rows


def batch_means(draft: MarkovChain, target: MarkovChain, drafts: float) -> tuple[float, float]:
    """Theorem 3 with f = 1 and with f = 0 before the first token."""
    right, without = (
        batch_expected_rejections(draft, target, drafts=drafts, first_root=root).mean for root in (1.0, 0.0)
    )
    return right, without


def saturation_row(horizon: int, draft: MarkovChain, target: MarkovChain) -> dict[str, Any]:
    """Panel c: expected rejections against the number of drafts, and their limit."""
    right, without = zip(*(batch_means(draft, target, drafts) for drafts in DRAFTS), strict=True)
    limits = batch_means(draft, target, math.inf)
    return {
        "figure": f"{HORIZONS[horizon]}c",
        "horizon": horizon,
        "drafts": DRAFTS,
        "rejections": right,
        "rejections_without_first_root": without,
        "limit": limits[0],
        "limit_without_first_root": limits[1],
    }


def improvement_rows() -> list[dict[str, Any]]:
    """Figure 3: what a batch takes off the rejection probability of its first place."""
    pairs = [("3a", {"draft": u, "target": COIN}, bernoulli_pair(u, COIN)) for u in COINS]
    pairs += [("3b", {"ratio": ratio}, uniform_pair(TOKENS, TOKENS // ratio)) for ratio in RATIOS]
    return [
        {"figure": figure, "drafts": IMPROVEMENT_DRAFTS}
        | parameters
        | {"improvement": [float(batch_improvement(*pair, drafts=drafts)) for drafts in IMPROVEMENT_DRAFTS]}
        for figure, parameters, pair in pairs
    ]


def tradeoff_row() -> dict[str, Any]:
    """Figure 4: bias against rejection of Decoding-OPT and Decoding-UNO."""
    pair = [np.array(law) for law in FIGURE_4]
    row: dict[str, Any] = {"figure": "4", "draft": FIGURE_4[0], "target": FIGURE_4[1], "epsilon": EPSILONS}
    row["lossless_rejection"] = float(evaluate(SpeculativeSampling(), *pair).rejection)
    for name, rule in (("opt", DecodingOPT), ("uno", DecodingUNO)):
        outcomes = [evaluate(rule(epsilon=epsilon), *pair) for epsilon in EPSILONS]
        row[name] = {"rejection": [float(o.rejection) for o in outcomes], "tv": [float(o.tv) for o in outcomes]}
    return row


def comparison_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Published numbers beside those of the other rows."""
    single = {row["figure"]: row for row in rows if row["figure"] in ("2a", "5a", "2c", "4")}
    batches = {row["drafts"]: row for row in rows if row["figure"] == "2b"} | {DRAFTS[-1]: _last(single["2c"])}
    found: dict[str, tuple[float, float | None]] = {
        figure: (single[figure]["rejections"], None) for figure in ("2a", "5a")
    }
    for drafts, row in batches.items():
        place = "2c" if drafts == DRAFTS[-1] else "2b"
        found[f"{place}, M = {drafts}"] = (row["rejections"], row["rejections_without_first_root"])
    for epsilon, rejection in zip(EPSILONS, single["4"]["opt"]["rejection"], strict=True):
        found[f"4, epsilon = {epsilon}"] = (rejection, None)
    return [
        {"figure": "published", "number": name, "published": value, "ours": found[name][0], "without": found[name][1]}
        for name, value in PUBLISHED.items()
    ]


def _last(row: dict[str, Any]) -> dict[str, float]:
    return {name: row[name][-1] for name in ("rejections", "rejections_without_first_root")}


def measure() -> list[dict[str, Any]]:
    """All rows; those with "figure": "published" compare with the paper."""
    rows: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("simulating", total=2 * len(HORIZONS) + 1)
        for horizon in HORIZONS:
            chains = published_chains(horizon)
            rows += simulated_rows(horizon, *chains)
            progress.advance(task)
            rows.append(saturation_row(horizon, *chains))
            progress.advance(task)
        rows += [*improvement_rows(), tradeoff_row()]
    return rows + comparison_rows(rows)


def figure(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw every panel, from rows alone."""
    of = {name: [row for row in rows if row["figure"] == name] for name in {row["figure"] for row in rows}}
    published = {row["number"]: row["published"] for row in of["published"]}
    fig, grid = plt.subplots(3, 3, figsize=(13.0, 10.5), layout="constrained")
    for number, (horizon, letter) in enumerate(HORIZONS.items()):
        _draw_lossless(grid[number, 0], of[f"{letter}a"][0], published[f"{letter}a"])
        _draw_batches(grid[number, 1], of[f"{letter}b"], published)
        _draw_saturation(grid[number, 2], of[f"{letter}c"][0], published.get(f"{letter}c, M = {DRAFTS[-1]}"))
        panels = {"a": "one draft", "b": "batches", "c": "more and more drafts"}
        for ax, (part, what) in zip(grid[number], panels.items(), strict=True):
            ax.set_title(f"Figure {letter}({part}), T = {horizon}: {what}", loc="left", fontsize=10)
    _draw_improvement(grid[2, 0], of["3a"], "Figure 3: two coins, target 0.5", lambda row: f"draft {row['draft']}")
    _draw_improvement(grid[2, 1], of["3b"], "Figure 3: uniform laws", lambda row: f"V / V' = {row['ratio']}")
    _draw_tradeoff(grid[2, 2], of["4"][0], [published[f"4, epsilon = {epsilon}"] for epsilon in EPSILONS])
    fig.savefig(path, dpi=150)


def _draw_averages(ax: Axes, row: dict[str, Any], colour: str, label: str) -> None:
    """Empirical means with a band of two standard errors."""
    curve = row["simulated"]
    runs, mean, error = (np.array(curve[name]) for name in ("runs", "mean", "standard_error"))
    ax.plot(runs, mean, color=colour, linewidth=1.0, label=label)
    ax.fill_between(runs, mean - 2 * error, mean + 2 * error, color=colour, alpha=0.15, linewidth=0)
    ax.set(xlabel="runs averaged", xscale="log", xlim=(runs[0], runs[-1]), ylabel="rejections in a text")


def _zoom(ax: Axes, *values: float) -> None:
    """The first averages leave the panel, so that the lines they end at can be told apart."""
    ax.set_ylim(0.975 * min(values), 1.035 * max(values))


def _draw_published(ax: Axes, value: float, label: str) -> None:
    ax.axhline(value, color=QUIET, linestyle=":", linewidth=1.4, label=label)


def _draw_lossless(ax: Axes, row: dict[str, Any], published: float) -> None:
    _draw_averages(ax, row, BLUE, "simulated, two standard errors")
    ax.axhline(row["rejections"], color="black", linewidth=1.2, label=f"Theorem 1: {row['rejections']:.4f}")
    _draw_published(ax, published, f"published: {published}")
    _zoom(ax, row["rejections"])
    ax.legend(frameon=False, fontsize=8)


def _draw_batches(ax: Axes, rows: Sequence[dict[str, Any]], published: dict[str, float]) -> None:
    for row, colour in zip(rows, (BLUE, ORANGE), strict=True):
        _draw_averages(ax, row, colour, f"M = {row['drafts']}, simulated")
        right, without = row["rejections"], row["rejections_without_first_root"]
        ax.axhline(right, color=colour, linewidth=1.2, label=f"Theorem 3: {right:.3f}")
        ax.axhline(without, color=colour, linewidth=1.2, linestyle="--", label=f"with f = 0 first: {without:.3f}")
        value = published.get(f"{row['figure']}, M = {row['drafts']}")
        if value is not None:
            _draw_published(ax, value, f"published: {value}")
    _zoom(ax, *(row["rejections"] for row in rows))
    ax.legend(frameon=False, fontsize=7, ncols=2, loc="upper right")


def _draw_saturation(ax: Axes, row: dict[str, Any], published: float | None) -> None:
    ax.plot(row["drafts"], row["rejections"], ".-", color=BLUE, label="Theorem 3")
    ax.plot(
        row["drafts"], row["rejections_without_first_root"], "--", color=BLUE, linewidth=1.0, label="with f = 0 first"
    )
    ax.axhline(row["limit"], color="black", linewidth=1.0, label=f"limit (Proposition 1): {row['limit']:.3f}")
    if published is not None:
        _draw_published(ax, published, f"published: about {published}")
    ax.set(xlabel="drafts M", xscale="log", ylabel="expected rejections")
    ax.legend(frameon=False, fontsize=8)


def _draw_improvement(ax: Axes, rows: Sequence[dict[str, Any]], title: str, label: Any) -> None:
    colours = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(rows)))
    for row, colour in zip(rows, colours, strict=True):
        ax.plot(row["drafts"], row["improvement"], color=colour, linewidth=1.3, label=label(row))
    ax.set(xlabel="drafts M", xscale="log", ylabel="batch improvement")
    ax.set_title(title, loc="left", fontsize=10)
    ax.legend(frameon=False, fontsize=8)


def _draw_tradeoff(ax: Axes, row: dict[str, Any], published: Sequence[float]) -> None:
    lossless = row["lossless_rejection"]
    ax.fill_between([0, lossless], [lossless, 0], color=QUIET, alpha=0.15, linewidth=0, label="unattainable")
    ax.plot(row["uno"]["rejection"], row["uno"]["tv"], "^-", color=ORANGE, markersize=5, label="Decoding-UNO")
    ax.plot(row["opt"]["rejection"], row["opt"]["tv"], "o-", color=BLUE, markersize=5, label="Decoding-OPT")
    ax.plot(published, np.zeros(len(published)), "|", color="black", markersize=9, clip_on=False)
    ax.plot([], [], "|", color="black", markersize=9, label="published rejections, read off")
    ax.set(xlabel="rejection probability", ylabel="TV(output, target)", xlim=(0, None), ylim=(0, None))
    ax.set_title("Figure 4: a made pair with its rejections", loc="left", fontsize=10)
    ax.legend(frameon=False, fontsize=8)


def main() -> None:
    """Measure, write rows and figure, print the published numbers beside ours."""
    rows = measure()
    table = Table("Figure", "published", "here", "with f = 0 first")
    for row in rows:
        if row["figure"] == "published":
            without = "" if row["without"] is None else f"{row['without']:.4f}"
            table.add_row(str(row["number"]), str(row["published"]), f"{row['ours']:.4f}", without)
    Console(width=120).print(table)
    Console(width=120).print(str(write_rows("paper_figures", rows)))
    figure(rows, FIGURE)


if __name__ == "__main__":
    main()
