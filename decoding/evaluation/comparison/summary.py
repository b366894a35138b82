"""From rows to results: ratios of sums with bootstrap intervals over prompts, and win rates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from decoding.evaluation.bootstrap import Bootstrap, Estimate, estimate
from decoding.evaluation.comparison.texts import Cell
from decoding.evaluation.positions.calibration import Calibration
from decoding.verification.account import RECORDED

REFERENCE, BEST = "DecodingOPT", "CommonPrice"
RATIOS = {
    "rejection": ("rejection", "verified"),
    "rejected_fraction": ("rejected", "verified"),
    "total_variation": ("total_variation", "verified"),
    "tokens_per_target_call": ("generated", "target_calls"),
    "log_likelihood": ("log_likelihood", "generated"),
} | {name: (name, "verified") for name in RECORDED}
"""Every reported mean as numerator and denominator columns of the rows."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One cell's line of the table.

    Parameters
    ----------
    cell
        The calibrated rule.
    texts
        How many texts it rests on.
    means
        Means along the generated text, keys of `RATIOS`.
    kl_over_best
        Ratio of this rule's mean KL to CommonPrice's on the calibration positions, where both reject equally
        often; None for lossless sampling.
    opt_wins
        Fraction of prompts on which Decoding-OPT's texts beat this rule's: more than half of all pairs of texts
        have the higher mean log-likelihood per token under the target; a tie counts half. None for OPT itself
        and where OPT has no cell at that request.
    """

    cell: Cell
    texts: int
    means: dict[str, Estimate]
    kl_over_best: Estimate | None
    opt_wins: Estimate | None


def summarise(rows: Sequence[dict[str, Any]], cells: Sequence[Cell], *, prompts: int, seed: int) -> list[Result]:
    """Turn the rows into one result per cell, in the order of the cells."""
    bootstrap = Bootstrap(prompts, seed)
    by_cell: dict[str, list[dict[str, Any]]] = {cell.label: [] for cell in cells}
    for row in rows:
        by_cell[row["cell"]].append(row)
    means = {label: _means(group, prompts, bootstrap) for label, group in by_cell.items()}
    results = []
    for cell in cells:
        best, opponent = _cell_at(cells, BEST, cell), _cell_at(cells, REFERENCE, cell)
        results.append(
            Result(
                cell=cell,
                texts=len(by_cell[cell.label]),
                means={name: estimate(*pair) for name, pair in means[cell.label].items()},
                kl_over_best=None if best is None else _over_best(cell.calibration, best.calibration, bootstrap),
                opt_wins=None
                if opponent in (None, cell)
                else _win_rate(by_cell[opponent.label], by_cell[cell.label], prompts, bootstrap),
            )
        )
    return results


def _means(group: Sequence[dict[str, Any]], prompts: int, bootstrap: Bootstrap) -> dict[str, tuple[float, np.ndarray]]:
    owner = np.array([row["prompt"] for row in group], dtype=int)

    def per_prompt(column: str) -> np.ndarray:
        return np.bincount(owner, weights=[row[column] for row in group], minlength=prompts)

    return {name: bootstrap.ratio(per_prompt(top), per_prompt(bottom)) for name, (top, bottom) in RATIOS.items()}


def _cell_at(cells: Sequence[Cell], family: str, like: Cell) -> Cell | None:
    """The cell of a family at the same request."""
    wanted = family, like.calibration.requested
    return next((cell for cell in cells if (cell.calibration.family, cell.calibration.requested) == wanted), None)


def _over_best(rule: Calibration, best: Calibration, bootstrap: Bootstrap) -> Estimate:
    """KL of a rule over the common price's at the rule's own rejection.

    The two reject equally often on all prompts together, not on a resample of them; the front's slope, minus the
    price, takes the common price's KL to the rule's rejection. No rule is below that line (T4), so no resample
    of the ratio is below 1; where the line itself is below zero it bounds nothing, and the ratio counts as infinite.
    """
    slack = best.rejection_by_prompt - rule.rejection_by_prompt
    value, resampled = bootstrap.ratio(rule.kl_by_prompt, best.kl_by_prompt + best.knob["price"] * slack)
    return estimate(value, np.where(resampled < 0, np.inf, resampled))


def _win_rate(
    reference: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]], prompts: int, bootstrap: Bootstrap
) -> Estimate:
    """Per prompt: 1 if the reference wins more than half of all pairs of texts, 1/2 at exactly half, else 0."""
    wins, judged = np.zeros(prompts), np.zeros(prompts)
    for prompt in range(prompts):
        ours, theirs = _scores(reference, prompt), _scores(other, prompt)
        if len(ours) and len(theirs):
            difference = ours[:, None] - theirs[None, :]
            balance = np.sign(difference).sum()
            wins[prompt], judged[prompt] = (1 + np.sign(balance)) / 2, 1
    return estimate(*bootstrap.ratio(wins, judged))


def _scores(rows: Sequence[dict[str, Any]], prompt: int) -> np.ndarray:
    return np.array([row["log_likelihood"] / row["generated"] for row in rows if row["prompt"] == prompt])
