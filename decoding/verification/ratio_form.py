"""Rules whose acceptance at a token needs two probabilities: what every fast path of the verification step runs on."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from solvers.divergences import DIVERGENCES
from tradeoff.rules import (
    CommonPrice,
    DecodingOPT,
    DecodingUNO,
    Ensemble,
    Lenience,
    RatioClip,
    SpeculativeSampling,
    Synthetic,
)

PerText: TypeAlias = float | Tensor
"""One number, or one per sequence, `[batch]`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RatioForm:
    """A rule in numbers: p the draft's law, q the target's, x the drafted token, u its uniform in [0, 1).

    "fixed": accept iff u p(x) < A q(x) + B p(x) + E, strictly.

    "rejection": the ratio clip whose ceiling C >= 1 has sum [p - C q]_+ = R; "price": the one with C = c e^price and
    sum [c q - p]_+ = sum [p - C q]_+ (T1 and T4 of docs/theory.md, KL). Both accept iff t < C at t = u p(x) / q(x),
    which one reduction over the vocabulary decides where t >= 1 (below 1 the token is accepted):

        rejection   sum [p - t q]_+ > R;      where q(x) = 0:  (1 - u) sum over q = 0 of p > R
        price       sum [t e^-price q - p]_+ < sum [p - t q]_+;      where q(x) = 0: reject

    The replacement has law m / sum m; where m = 0, which rounding alone can reach, the target's:

        "difference"    m = [q - p]_+
        "fill"          m = [c q - p]_+ with 0 <= c <= 1 the root of sum [c q - p]_+ = lost, and lost the mass rejected:
                        sum [p - A q]_+ (fixed), min(R, TV) (rejection), sum [p - c e^price q]_+ (price)
        "target", "draft"    m = q, m = p

    Parameters
    ----------
    level
        Which acceptance.
    target_weight, draft_weight, slack
        A, B and E of a fixed level.
    knob
        R or the price, of the other two; 0 for a fixed level.
    residual
        Which replacement.
    """

    level: Literal["fixed", "rejection", "price"] = "fixed"
    target_weight: float = 1.0
    draft_weight: float = 0.0
    slack: float = 0.0
    knob: PerText = 0.0
    residual: Literal["difference", "fill", "target", "draft"] = "difference"


def ratio_form(rule: object) -> RatioForm | None:
    """Return the rule in numbers; None if it has no such form."""
    match rule:
        case SpeculativeSampling():
            return RatioForm()
        case Lenience(factor=factor):
            return RatioForm(target_weight=1.0 / factor if factor > 0 else float("inf"))
        case DecodingOPT(epsilon=epsilon):
            return RatioForm(slack=epsilon)
        case DecodingUNO(epsilon=epsilon, residual_from=residual):
            return RatioForm(slack=epsilon, residual=residual)
        case Ensemble(target_weight=weight):
            return RatioForm(target_weight=weight, draft_weight=1.0 - weight)
        case Synthetic(rate=rate):
            return RatioForm(target_weight=0.0, draft_weight=rate)
        case RatioClip(ceiling=float() | int() as ceiling):
            return RatioForm(target_weight=ceiling, residual="fill")
        case RatioClip(rejection=float() | int() as rejection):
            return RatioForm(level="rejection", knob=rejection, residual="fill")
        case CommonPrice(price=price, divergence="kl"):
            return RatioForm(level="price", knob=price, residual="fill")
        case CommonPrice(price=price, divergence=divergence) if divergence is DIVERGENCES["kl"]:
            return RatioForm(level="price", knob=price, residual="fill")
    return None
