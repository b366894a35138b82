"""Rules that relax the ratio target / draft; all but one keep the residual of lossless sampling."""

from dataclasses import dataclass
from typing import Literal

from array_api_compat import array_namespace

from solvers.arrays import Array, normalised, positive_part, safe_divide
from solvers.closed_form import lenient_acceptance
from solvers.errors import InputError
from tradeoff.rules.parts import at_least, between, capped, highest, one_of, ordinary_residual, ratio


@dataclass(frozen=True, kw_only=True)
class Lenience:
    """Lenience: b = min(1, target / (factor draft)), residual [target - draft]_+ / TV.

    On the TV front. The acceptance is the ratio clip's with C = 1 / factor; only its residual costs more than it must.

    Parameters
    ----------
    factor
        In [0, 1]; 1 is lossless, smaller accepts more, 0 accepts all that the target knows. The output is at most
        target / factor everywhere and has no lower bound. It never leaks.

    Notes
    -----
    Leviathan et al., arXiv 2211.17192, Appendix A.5, which multiplies the draft's probability by l. The residual is
    not restated there; Algorithm 1's is used. Implementations differ: [target / l - draft]_+ is another rule
    (`LossySpeculative`). Some code bases call the factor epsilon, or its inverse lenience.
    """

    factor: float

    def __post_init__(self) -> None:
        between("factor", self.factor, 0.0, 1.0, "1 is lossless")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return min(1, target / (factor draft)), `[..., vocab]`."""
        return lenient_acceptance(draft, target, 1.0 / self.factor if self.factor > 0 else float("inf"))

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [target - draft]_+, normalised, `[..., vocab]`."""
        return ordinary_residual(draft, target)


@dataclass(frozen=True, kw_only=True)
class DistillSpec:
    """DistillSpec's lenience functions: b = min(1, f(target) / draft), residual [target - draft]_+ / TV.

    On the TV front, because f(target) >= target.

    Parameters
    ----------
    function
        "linear": f = target / epsilon, `Lenience` under another name. "square": target / epsilon^2. "exponential":
        target^epsilon, which is not scale free: what an epsilon does depends on the size of the vocabulary.
    epsilon
        In (0, 1]; 1 is lossless, smaller accepts more.

    Notes
    -----
    Zhou et al., arXiv 2310.08461, known to us from a secondary source. The residual is not stated; lossless sampling's
    is used.
    """

    function: Literal["linear", "square", "exponential"] = "linear"
    epsilon: float

    def __post_init__(self) -> None:
        one_of("function", self.function, ("linear", "square", "exponential"))
        between("epsilon", self.epsilon, 0.0, 1.0, "1 is lossless")
        if self.epsilon == 0:
            raise InputError("epsilon: expected a number in (0, 1]; got 0; 1 is lossless")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return min(1, f(target) / draft), `[..., vocab]`."""
        if self.function == "exponential":
            xp = array_namespace(draft, target)
            return safe_divide(xp.minimum(target**self.epsilon, draft), draft, 1.0)
        power = 1.0 if self.function == "linear" else 2.0
        return lenient_acceptance(draft, target, self.epsilon**-power)

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [target - draft]_+, normalised, `[..., vocab]`."""
        return ordinary_residual(draft, target)


@dataclass(frozen=True, kw_only=True)
class LossySpeculative:
    """Lossy speculative sampling: b = min(1, target / ((1 - alpha) draft)), residual [target / beta - draft]_+.

    Off the TV front unless beta is at least 1: below, the residual refills tokens that the ceiling already filled.

    Parameters
    ----------
    alpha
        In [0, 1); 0 is lossless if beta is 1. The ceiling is C = 1 / (1 - alpha).
    beta
        At least 1 - alpha, its default. 1 is `Lenience(factor=1 - alpha)`; the beta with sum [target / beta - draft]_+
        = R is `RatioClip(ceiling=C)`, the optimum: mentored decoding.

    Notes
    -----
    Narasimhan et al., arXiv 2405.19261, its baseline; Tran-Thien 2023.
    """

    alpha: float
    beta: float | None = None

    def __post_init__(self) -> None:
        between("alpha", self.alpha, 0.0, 1.0, "0 is the least lossy")
        if self.alpha == 1:
            raise InputError("alpha: expected a number in [0, 1); got 1; 0 is the least lossy")
        if self.beta is not None:
            at_least("beta", self.beta, 1.0 - self.alpha, "by default 1 - alpha")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return min(1, target / ((1 - alpha) draft)), `[..., vocab]`."""
        return lenient_acceptance(draft, target, 1.0 / (1.0 - self.alpha))

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [target / beta - draft]_+, normalised, `[..., vocab]`; the target where that has no mass."""
        beta = 1.0 - self.alpha if self.beta is None else self.beta
        return normalised(positive_part(target / beta - draft), target)


@dataclass(frozen=True, kw_only=True)
class EARS:
    """Entropy-aware slack: b = min(1, target / draft + beta (1 - max target)), residual [target - draft]_+ / TV.

    On the TV front. The slack accepts tokens to which the target gives nothing: it leaks through top-k and top-p masks.

    Parameters
    ----------
    beta
        At least 0, the default, which is lossless; published runs use 0.3 to 0.5.

    Notes
    -----
    Sun, arXiv 2512.13194, known to us from a secondary source; the acceptance is that of vLLM-Ascend pull requests
    5587 and 7845 (`VLLM_EARS_TOLERANCE`), which switch it off for greedy requests.
    """

    beta: float = 0.0

    def __post_init__(self) -> None:
        at_least("beta", self.beta, 0.0, "0 is lossless")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return min(1, target / draft + beta (1 - max target)), `[..., vocab]`."""
        return capped(ratio(draft, target) + self.beta * (1.0 - highest(target)))

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [target - draft]_+, normalised, `[..., vocab]`."""
        return ordinary_residual(draft, target)


@dataclass(frozen=True, kw_only=True)
class AdditiveSlack:
    """Additive slack on the ratio: b = min(1, target / draft + epsilon), residual [target - draft]_+ / TV.

    On the TV front. Every token, whatever the target thinks of it, is accepted with at least epsilon: it leaks through
    masks. `DecodingOPT` adds its epsilon to the target's probability instead.

    Parameters
    ----------
    epsilon
        At least 0, which is lossless.

    Notes
    -----
    `lossy_sd` of the SecureSD code. With one-hot laws: a match, or epsilon.
    """

    epsilon: float

    def __post_init__(self) -> None:
        at_least("epsilon", self.epsilon, 0.0, "0 is lossless")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return min(1, target / draft + epsilon), `[..., vocab]`."""
        return capped(ratio(draft, target) + self.epsilon)

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [target - draft]_+, normalised, `[..., vocab]`."""
        return ordinary_residual(draft, target)
