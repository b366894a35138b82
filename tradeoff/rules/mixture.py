"""Rules that verify against another law than the target: a mixture with the draft, or a contrast to it."""

import sys
from dataclasses import dataclass
from typing import Literal

from array_api_compat import array_namespace

from solvers.arrays import Array, mass
from solvers.closed_form import lenient_acceptance
from solvers.divergences import divergence_named, total_variation
from tradeoff.problem import SMALLEST_MASS
from tradeoff.rules.parts import at_least, between, capped, highest, indicator, one_of, ordinary_residual, ratio


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Static ensemble: output w target + (1 - w) draft exactly, by b = min(1, 1 - w + w target / draft).

    Residual [target - draft]_+ / TV; R = w TV. On the TV front, linear along it. Leaks (1 - w) draft(x) wherever the
    draft's mask is wider than the target's.

    Parameters
    ----------
    target_weight
        w in [0, 1]; 1 is lossless, 0 returns the draft.

    Notes
    -----
    transformers' `assistant_ensemble_weight` (pull request 45979; inside (0, 1), None is 1, bonus from the target).
    When sampling it is this rule; with `do_sample=False` it emits the argmax of w target + (1 - w) draft at every
    drafted place, which is not this rule on one-hot laws. DIVERSED, arXiv 2604.07622, Proposition 1; CoS, arXiv
    2502.01662; `interp.py` of the Cactus code with w = 1/2.
    """

    target_weight: float

    def __post_init__(self) -> None:
        between("target_weight", self.target_weight, 0.0, 1.0, "1 is lossless")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return min(1, 1 - w + w target / draft), `[..., vocab]`."""
        return capped(1.0 - self.target_weight + self.target_weight * ratio(draft, target))

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [target - draft]_+, normalised, `[..., vocab]`."""
        return ordinary_residual(draft, target)


@dataclass(frozen=True, kw_only=True)
class Contrastive:
    """Speculative sampling of the contrast: law proportional to target (target / draft)^alpha, not the target.

    The output is softmax(z_q + alpha (z_q - z_p)) on the target's support, which moves away from the draft: its bias
    is intended, and it rejects more often than lossless sampling. The bonus token follows the contrast too. A token
    the draft never proposes counts as one of its smallest representable probability.

    Parameters
    ----------
    alpha
        At least 0, which is lossless; published runs use 0.1, 0.5 and 1.

    Notes
    -----
    Speculative contrastive decoding, arXiv 2311.08981, in the form of CoS, arXiv 2502.01662. Both laws must carry the
    same temperature; top-k and top-p masks of the target are kept.
    """

    alpha: float

    def __post_init__(self) -> None:
        at_least("alpha", self.alpha, 0.0, "0 is lossless")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return min(1, contrast / draft), `[..., vocab]`."""
        return lenient_acceptance(draft, self.bonus(draft, target), 1.0)

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [contrast - draft]_+, normalised, `[..., vocab]`."""
        return ordinary_residual(draft, self.bonus(draft, target))

    def bonus(self, draft: Array, target: Array) -> Array:
        """Return the contrast, `[..., vocab]`."""
        xp = array_namespace(draft, target)
        if self.alpha == 0:
            return target
        known = target > 0
        logs = (1.0 + self.alpha) * xp.log(xp.where(known, target, xp.ones_like(target)))
        logs = logs - self.alpha * xp.log(xp.clip(draft, SMALLEST_MASS, None))
        logs = xp.where(known, logs, xp.full_like(logs, -float("inf")))
        masses = xp.exp(logs - xp.max(logs, axis=-1, keepdims=True))
        return masses / mass(masses, keepdims=True)


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """A benchmark tool, not a rule: b = rate whatever the laws, residual [target - draft]_+ / TV.

    Output rate draft + (1 - rate) residual. It fixes the speed of a simulated pair and says nothing of its quality.

    Parameters
    ----------
    rate
        Probability of acceptance, in [0, 1].

    Notes
    -----
    vLLM's `synthetic` rejection sample method, at one position; its schedules of rates only set `rate` per position.
    """

    rate: float

    def __post_init__(self) -> None:
        between("rate", self.rate, 0.0, 1.0, "1 returns the draft")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return the rate, `[..., vocab]`."""
        return self.rate + array_namespace(draft, target).zeros_like(draft)

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [target - draft]_+, normalised, `[..., vocab]`."""
        return ordinary_residual(draft, target)


@dataclass(frozen=True, kw_only=True)
class Fuzzy:
    """Fuzzy speculative decoding: accept whatever is drafted where D(draft, target) < threshold.

    Elsewhere the original samples the target afresh (b = 0), which has the law of speculative sampling and more
    rejections: it is off the front. The revised form falls back to speculative sampling and is on the TV front.

    Parameters
    ----------
    divergence
        "kl" is KL(target, draft), "js", or "tv"; js is recommended by the authors.
    threshold
        At least 0; published runs use 0.05, 0.2 and 0.3 with js. Compared strictly: draft = target at threshold 0 is
        not accepted outright. Code bases differ in this.
    fallback
        "target" (the original) or "speculative" (the revised form).

    Notes
    -----
    Holsman et al., arXiv 2502.20704, known to us from the code of others; the revised form: arXiv 2607.08690,
    Appendix C. The bonus token is the target's.
    """

    divergence: Literal["kl", "js", "tv"] = "js"
    threshold: float
    fallback: Literal["target", "speculative"] = "target"

    def __post_init__(self) -> None:
        one_of("divergence", self.divergence, ("kl", "js", "tv"))
        at_least("threshold", self.threshold, 0.0, "0 never accepts outright")
        one_of("fallback", self.fallback, ("target", "speculative"))

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return 1 where the laws are near, elsewhere 0 or min(1, target / draft), `[..., vocab]`."""
        xp = array_namespace(draft, target)
        near = xp.expand_dims(divergence_named(self.divergence).value(target, draft) < self.threshold, axis=-1)
        strict = xp.zeros_like(draft) if self.fallback == "target" else lenient_acceptance(draft, target, 1.0)
        return xp.where(near, xp.ones_like(draft), strict)

    def residual(self, draft: Array, target: Array) -> Array:
        """Return the target, or [target - draft]_+, normalised, `[..., vocab]`."""
        return target if self.fallback == "target" else ordinary_residual(draft, target)


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """Speculative cascade: a deferral rule mixes draft and target into a law pi, which is sampled speculatively.

    b = min(1, pi / draft), residual [pi - draft]_+, bonus pi. With m(.) the largest probability:

    - "chow": pi = target where m(draft) < 1 - alpha, else draft.
    - "diff": pi = target where m(draft) < m(target) - alpha, else draft.
    - "opt": pi = target where m(draft) < m(target) - alpha TV(draft, target), else draft.
    - "tok1", "tok2", "tok3": pi = draft on A, plus the draft's mass off A times the target. A holds the tokens with
      draft >= m(target) - alpha, target >= m(target) - alpha, and target >= (1 - alpha) m(target).

    The first three are on the TV front at every position, the token rules are not. alpha = 0 is not lossless.

    Parameters
    ----------
    variant
        One of the six.
    alpha
        Larger keeps more of the draft. Below -1 the target is always deferred to, which is lossless; "chow" needs 0.

    Notes
    -----
    Narasimhan et al., arXiv 2405.19261. "opt" and "tok3" follow public code (arXiv 2607.08690), "chow" and "diff"
    secondary sources; the sets of "tok1" and "tok2" are recalled, not checked against the paper. Gates read the laws
    given here; some code reads probabilities before temperature.
    """

    variant: Literal["chow", "diff", "opt", "tok1", "tok2", "tok3"] = "opt"
    alpha: float

    def __post_init__(self) -> None:
        one_of("variant", self.variant, ("chow", "diff", "opt", "tok1", "tok2", "tok3"))
        at_least("alpha", self.alpha, -sys.float_info.max, "larger keeps more of the draft")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return min(1, pi / draft), `[..., vocab]`."""
        return lenient_acceptance(draft, self.bonus(draft, target), 1.0)

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [pi - draft]_+, normalised, `[..., vocab]`."""
        return ordinary_residual(draft, self.bonus(draft, target))

    def bonus(self, draft: Array, target: Array) -> Array:
        """Return pi, `[..., vocab]`."""
        xp = array_namespace(draft, target)
        best = highest(target)
        if self.variant.startswith("tok"):
            known = {
                "tok1": draft >= best - self.alpha,
                "tok2": target >= best - self.alpha,
                "tok3": target >= (1.0 - self.alpha) * best,
            }[self.variant]
            kept = draft * indicator(known, draft)
            return kept + mass(draft - kept, keepdims=True) * target
        limit = {
            "chow": 1.0 - self.alpha + 0.0 * best,
            "diff": best - self.alpha,
            "opt": best - self.alpha * xp.expand_dims(total_variation(draft, target), axis=-1),
        }[self.variant]
        return xp.where(highest(draft) < limit, target, draft)
