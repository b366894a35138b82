"""Real positions on which knobs are set: what can be asked there, and what a rule gives away beyond the best."""

import math
from typing import NamedTuple

import numpy as np

from decoding.evaluation.bootstrap import Bootstrap, Estimate
from solvers.errors import InputError
from tradeoff.conversion import mean, set_knob
from tradeoff.outcome.positions import Positions, measure
from tradeoff.rules.registry import family_from

DIVERGENCE = "kl"
"""By which rules are compared with the best."""

NEAR = 3e-4
"""A rejection this near the one asked for is charged the best rule there by its tangent, off by less than 1e-5 nats."""

NOTHING = 1e-12
"""A mean divergence up to this is rounding: nothing is a multiple of it."""


def clustered_error(values: np.ndarray, cluster: np.ndarray) -> float:
    """Standard error of a mean whose values are correlated within clusters; nan for a single cluster."""
    sums = np.bincount(cluster, weights=values - values.mean())
    groups = len(np.unique(cluster))
    if groups < 2:
        return math.nan
    return float(np.sqrt((sums**2).sum() * groups / (groups - 1)) / len(values))


def check_requested(rejection: float, positions: Positions) -> None:
    """Check that a mean rejection lies below the lossless one.

    Raises
    ------
    InputError
        It does not.
    """
    lossless = float(positions.total_variation.mean())
    if not 0 < rejection < lossless:
        raise InputError(
            f"rejection: expected a rate above 0 and below this pair's mean TV(draft, target) = {lossless:.4f}, "
            f"where decoding is already lossless; got {rejection}; ask for less"
        )


class Best(NamedTuple):
    """The common price at one mean rejection: no rule of the same one has a smaller mean KL (T4).

    Parameters
    ----------
    price
        Of a rejection, nats.
    kl, rejection
        At every position, `[positions]`.
    """

    price: float
    kl: np.ndarray
    rejection: np.ndarray


def best_at(positions: Positions, rejection: float) -> Best | None:
    """Set the common price so that it rejects this often on average; None where it gives away nothing, or infinity."""
    family = family_from("common_price")
    try:
        price = set_knob(family, lambda rule: mean(rule, positions, "rejection"), rejection).value
    except InputError:  # lossless already, or below what a finite price reaches
        return None
    columns = measure(family.at(price), positions, (DIVERGENCE,))
    best = Best(price, columns[DIVERGENCE], columns["rejection"])
    return best if NOTHING < best.kl.mean() < math.inf else None


def over_best(columns: dict[str, np.ndarray], best: Best, positions: Positions, bootstrap: Bootstrap) -> Estimate:
    """Mean KL of a rule over the best rule's, on the same positions at equal mean rejection.

    Parameters
    ----------
    columns
        What `measure` found of the rule, "kl" and "rejection" among it.
    best
        The best rule at the rule's mean rejection, or next to it.
    positions, bootstrap
        Where, and over its prompts.
    """

    def by_prompt(values: np.ndarray) -> np.ndarray:
        return np.bincount(positions.prompt, weights=values, minlength=positions.prompts)

    return bootstrap.over_least(
        rule=by_prompt(columns[DIVERGENCE]),
        rejection=by_prompt(columns["rejection"]),
        least=by_prompt(best.kl),
        split=by_prompt(best.rejection),
        price=best.price,
    )
