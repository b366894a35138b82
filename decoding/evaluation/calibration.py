"""Meeting a mean rejection rate: the knob of each rule that rejects equally often on real positions."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.optimize import root_scalar

from decoding.evaluation.positions import Positions
from decoding.statistics import DIVERGENCES
from solvers.arrays import mass
from solvers.errors import InputError
from tradeoff.outcome import apply_rule
from tradeoff.rule import Rule
from tradeoff.rules import CommonPrice, DecodingOPT, DecodingUNO, RatioClip, SpeculativeSampling


@dataclass(frozen=True, kw_only=True)
class Family:
    """A rule with one knob that lowers rejection as it grows.

    Parameters
    ----------
    name
        For tables.
    knob
        The knob's name, a key of `BRACKETS`.
    rule
        The rule, called with the knob alone.
    """

    name: str
    knob: str
    rule: Callable[..., Rule]

    def at(self, value: float) -> Rule:
        """The rule at a value of its knob."""
        return self.rule(**{self.knob: value})


BRACKETS = {"epsilon": (0.0, 1.0), "ceiling": (1.0, 1e30), "price": (0.0, 100.0)}
"""Strictest (lossless acceptance) and loosest value of each knob."""

FAMILIES = (
    Family(name="DecodingUNO (draft)", knob="epsilon", rule=partial(DecodingUNO, residual="draft")),
    Family(name="DecodingUNO", knob="epsilon", rule=DecodingUNO),
    Family(name="DecodingOPT", knob="epsilon", rule=DecodingOPT),
    Family(name="RatioClip", knob="ceiling", rule=RatioClip),
    Family(name="CommonPrice", knob="price", rule=CommonPrice),
)
LOSSLESS = "SpeculativeSampling"


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """A rule whose mean rejection over real positions meets a request.

    Parameters
    ----------
    family, knob
        The rule's family and its knob's name and value.
    requested, rejection
        Mean rejection asked for and reached on the positions.
    standard_error
        Of that mean as an estimate for other texts, positions clustered by prompt.
    divergences
        Mean of each divergence over the same positions, for every rule the same ones.
    kl_by_prompt, rejection_by_prompt
        Sums over each prompt's positions, `[prompts]`: what a bootstrap over prompts resamples.
    rule
        The rule itself.
    """

    family: str
    knob: dict[str, float]
    requested: float
    rejection: float
    standard_error: float
    divergences: dict[str, float]
    kl_by_prompt: np.ndarray
    rejection_by_prompt: np.ndarray
    rule: Rule


def rejections(rule: Rule, positions: Positions) -> np.ndarray:
    """Exact rejection probability of a rule at every position, `[positions]`."""
    parts = [1.0 - mass(rule.acceptance(draft, target) * draft) for draft, target in positions.chunks()]
    return np.concatenate([part.cpu().numpy() for part in parts])


def clustered_error(values: np.ndarray, cluster: np.ndarray) -> float:
    """Standard error of a mean whose values are correlated within clusters; nan for a single cluster."""
    sums = np.bincount(cluster, weights=values - values.mean())
    groups = len(np.unique(cluster))
    if groups < 2:
        return math.nan
    return float(np.sqrt((sums**2).sum() * groups / (groups - 1)) / len(values))


def calibrate(positions: Positions, rejection: float) -> Iterator[Calibration]:
    """Set every family's knob so that its mean rejection on the positions is `rejection`; one result at a time.

    Raises
    ------
    InputError
        A rejection above the positions' mean TV, where lossless decoding already is, or below what a family
        can reach.
    """
    lossless = float(positions.total_variation.mean())
    if not 0 < rejection < lossless:
        raise InputError(
            f"rejection: expected a rate above 0 and below this pair's mean TV(draft, target) = {lossless:.4f}, "
            f"where decoding is already lossless; got {rejection}; ask for less"
        )
    values: dict[str, float] = {}
    for family in FAMILIES:
        # families that share a knob share the acceptance, hence its value
        if family.knob not in values:
            values[family.knob] = find_knob(family, positions, rejection)
        knob = {family.knob: values[family.knob]}
        yield measured(family.name, knob, family.at(values[family.knob]), positions, requested=rejection)


def find_knob(family: Family, positions: Positions, rejection: float) -> float:
    """Solve for the knob at which a family's mean rejection on the positions is `rejection`.

    Raises
    ------
    InputError
        A rejection below what the family can reach.
    """
    strictest, loosest = BRACKETS[family.knob]
    # the ceiling is a ratio that may be astronomic: its logarithm is searched
    scale, back = (math.log, math.exp) if family.knob == "ceiling" else (float, float)

    def excess(scaled: float) -> float:
        return float(rejections(family.at(back(scaled)), positions).mean()) - rejection

    if excess(scale(loosest)) > 0:
        raise InputError(
            f"{family.name}: expected a mean rejection its {family.knob} can reach; got {rejection}; ask for more"
        )
    # an epsilon that matters may be 1e-5 on a large vocabulary: only a relative tolerance is safe
    return back(root_scalar(excess, bracket=[scale(strictest), scale(loosest)], xtol=1e-14, rtol=1e-6).root)


def lossless(positions: Positions) -> Calibration:
    """The lossless rule's line beside the calibrated ones."""
    return measured(LOSSLESS, {}, SpeculativeSampling(), positions, requested=float(positions.total_variation.mean()))


def measured(name: str, knob: dict[str, float], rule: Rule, positions: Positions, *, requested: float) -> Calibration:
    """Measure a rule on the positions: mean rejection with its error, mean divergences."""
    chunks: dict[str, list[np.ndarray]] = {column: [] for column in ("rejection", *DIVERGENCES)}
    for draft, target in positions.chunks():
        outcome = apply_rule(rule, draft, target)  # five laws a row: kept for one chunk only
        for column, parts in chunks.items():
            values = outcome.rejection if column == "rejection" else outcome.divergence(column)
            parts.append(values.cpu().numpy())
    columns = {column: np.concatenate(parts) for column, parts in chunks.items()}

    def by_prompt(column: str) -> np.ndarray:
        return np.bincount(positions.prompt, weights=columns[column], minlength=positions.prompts)

    return Calibration(
        family=name,
        knob=knob,
        requested=requested,
        rejection=float(columns["rejection"].mean()),
        standard_error=clustered_error(columns["rejection"], positions.prompt),
        divergences={divergence: float(columns[divergence].mean()) for divergence in DIVERGENCES},
        kl_by_prompt=by_prompt("kl"),
        rejection_by_prompt=by_prompt("rejection"),
        rule=rule,
    )
