"""The two lossy rules of Yin et al., NeurIPS 2024, arXiv 2411.00841, Section 4 and Table 1."""

import math
from dataclasses import dataclass
from typing import Literal

from array_api_compat import array_namespace

from solvers.arrays import Array, safe_divide
from solvers.closed_form import optimal_residual
from solvers.errors import InputError


def _additive_acceptance(draft: Array, target: Array, epsilon: float) -> Array:
    """b = min(1, (q + eps) / p); a token the draft never proposes is accepted."""
    xp = array_namespace(draft, target)
    return safe_divide(xp.minimum(target + epsilon, draft), draft, 1.0)


def _check_epsilon(epsilon: float) -> None:
    if not (epsilon >= 0 and math.isfinite(epsilon)):
        raise InputError(f"epsilon: expected a finite number >= 0; got {epsilon}; 0 is lossless")


@dataclass(frozen=True, kw_only=True)
class DecodingOPT:
    """Decoding-OPT: b = min(1, (target + epsilon) / draft) with Theorem 4's residual.

    The residual [target - b draft]_+ is that of lossless sampling, so this is the plain sampler with only the
    ratio changed. It is on the TV front; in every other divergence the ratio clip is better at equal R.

    Parameters
    ----------
    epsilon
        Added to the target's probability, in probability units; the paper uses 0.1, 0.2, 0.4, 0.8. Every
        token whose draft probability is at most epsilon is accepted, even where the target has no mass: this
        rule leaks through top-k and top-p masks.

    Notes
    -----
    Yin et al., arXiv 2411.00841, Theorem 4 and Section 4.
    """

    epsilon: float

    def __post_init__(self) -> None:
        _check_epsilon(self.epsilon)

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return min(1, (target + epsilon) / draft), `[..., vocab]`."""
        return _additive_acceptance(draft, target, self.epsilon)

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [target - b draft]_+, normalised, `[..., vocab]` (Theorem 4)."""
        return optimal_residual(draft, target, self.acceptance(draft, target))


@dataclass(frozen=True, init=False)
class DecodingUNO:
    """Decoding-UNO: Decoding-OPT's acceptance with a residual that is not optimal.

    Parameters
    ----------
    epsilon
        As in `DecodingOPT`; equal epsilons reject equally often, position by position.
    residual
        "target": the paper's text. "draft": what the code printed in its Appendix G samples, where the
        variable called q holds the draft's law.

    Notes
    -----
    Yin et al., arXiv 2411.00841, Section 4 and Appendix G.
    """

    epsilon: float
    residual_from: Literal["target", "draft"]

    # written out because the argument `residual` and the method `residual` share a name
    def __init__(self, *, epsilon: float, residual: Literal["target", "draft"] = "target") -> None:
        _check_epsilon(epsilon)
        if residual not in ("target", "draft"):
            raise InputError(f"residual: expected 'target' or 'draft'; got {residual!r}")
        object.__setattr__(self, "epsilon", epsilon)
        object.__setattr__(self, "residual_from", residual)

    def __repr__(self) -> str:
        return f"DecodingUNO(epsilon={self.epsilon!r}, residual={self.residual_from!r})"

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return min(1, (target + epsilon) / draft), `[..., vocab]`."""
        return _additive_acceptance(draft, target, self.epsilon)

    def residual(self, draft: Array, target: Array) -> Array:
        """Return the target's law, or the draft's, `[..., vocab]`."""
        return target if self.residual_from == "target" else draft
