"""Meeting a mean rejection rate: the knob of each rule that rejects equally often on real positions."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from decoding.verification.account import RECORDED
from solvers.errors import InputError
from tradeoff.conversion import mean, set_knob
from tradeoff.outcome.positions import Positions, measure
from tradeoff.rule import Rule
from tradeoff.rules import SpeculativeSampling
from tradeoff.rules.info import Family
from tradeoff.rules.registry import family_from

FAMILIES: dict[str, Family] = {
    "DecodingUNO (draft)": family_from("decoding_uno:residual=draft"),
    "DecodingUNO": family_from("decoding_uno"),
    "DecodingOPT": family_from("decoding_opt"),
    "RatioClip": family_from("ratio_clip"),
    "CommonPrice": family_from("common_price"),
}
"""What is compared, by the name in tables, the worst first."""

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


def calibrate(positions: Positions, rejection: float) -> Iterator[Calibration]:
    """Set every family's knob so that its mean rejection on the positions is `rejection`; one result at a time.

    Raises
    ------
    InputError
        A rejection above the positions' mean TV, where lossless decoding already is, or below what a family
        can reach.
    """
    check_requested(rejection, positions)
    values: dict[str, float] = {}
    for name, family in FAMILIES.items():
        # families that share a knob share the acceptance, hence its value
        knob = family.knob.name
        if knob not in values:
            values[knob] = set_knob(family, lambda rule: mean(rule, positions, "rejection"), rejection).value
        yield measured(name, {knob: values[knob]}, family.at(values[knob]), positions, requested=rejection)


def lossless(positions: Positions) -> Calibration:
    """The lossless rule's line beside the calibrated ones."""
    return measured(LOSSLESS, {}, SpeculativeSampling(), positions, requested=float(positions.total_variation.mean()))


def measured(name: str, knob: dict[str, float], rule: Rule, positions: Positions, *, requested: float) -> Calibration:
    """Measure a rule on the positions: mean rejection with its error, mean divergences."""
    columns = measure(rule, positions, RECORDED)

    def by_prompt(column: str) -> np.ndarray:
        return np.bincount(positions.prompt, weights=columns[column], minlength=positions.prompts)

    return Calibration(
        family=name,
        knob=knob,
        requested=requested,
        rejection=float(columns["rejection"].mean()),
        standard_error=clustered_error(columns["rejection"], positions.prompt),
        divergences={divergence: float(columns[divergence].mean()) for divergence in RECORDED},
        kl_by_prompt=by_prompt("kl"),
        rejection_by_prompt=by_prompt("rejection"),
        rule=rule,
    )
