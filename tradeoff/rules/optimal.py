"""The rules on the universal front: no rule at the same rejection is nearer to the target in any f-divergence."""

from dataclasses import dataclass
from numbers import Real

from array_api_compat import array_namespace

from solvers import closed_form
from solvers.arrays import Array, like
from solvers.divergences import DIVERGENCES, Divergence, divergence_named
from solvers.errors import InputError
from solvers.sorted_front import SortedFront
from tradeoff.rules.parts import at_least


@dataclass(frozen=True, kw_only=True)
class RatioClip:
    """The ratio clip: output law clip(draft, c target, C target), the optimum for every f-divergence.

    Accept with min(1, C target / draft), residual [c target - draft]_+ / R. Exactly one of the two knobs:

    Parameters
    ----------
    ceiling
        C >= 1, the same at every position; 1 is lossless, infinity accepts whatever the target knows.
    rejection
        R >= 0, the same at every position; a position whose TV is below R stays lossless.

    Notes
    -----
    Mentored decoding with alpha = 1/C, beta = 1/c (Tran-Thien 2023; Tran-Thien and Nock, arXiv 2609.30474).
    Leviathan's lenience l = 1/C has the same acceptance and the residual of lossless sampling instead.
    docs/theory.md T1.
    """

    ceiling: float | None = None
    rejection: float | None = None

    def __post_init__(self) -> None:
        if (self.ceiling is None) == (self.rejection is None):
            raise InputError("RatioClip: expected exactly one of ceiling= and rejection=")
        if self.ceiling is not None and not (isinstance(self.ceiling, Real) and self.ceiling >= 1):
            raise InputError(f"ceiling: expected a number >= 1; got {self.ceiling!s}; 1 is lossless")
        if self.rejection is not None and not (isinstance(self.rejection, Real) and 0 <= self.rejection <= 1):
            raise InputError(f"rejection: expected a probability in [0, 1]; got {self.rejection!s}")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return min(1, C target / draft), `[..., vocab]`."""
        if self.ceiling is not None:  # needs no sort, unlike the residual
            return closed_form.lenient_acceptance(draft, target, self.ceiling)
        return closed_form.ratio_clip_at_rejection(draft, target, self.rejection).acceptance

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [c target - draft]_+, normalised, `[..., vocab]`."""
        if self.ceiling is not None:
            return closed_form.residual_fill(draft, target, self.acceptance(draft, target))[0]
        return closed_form.ratio_clip_at_rejection(draft, target, self.rejection).residual


@dataclass(frozen=True, kw_only=True)
class CommonPrice:
    """The ratio clip that spends one price per rejection at every position: f'(C) - f'(c) = price everywhere.

    Position by position it minimises D(output, target) + price * rejection; over a collection of positions it
    therefore has the least total divergence at its own total rejection. For KL the price is log(C / c).

    Parameters
    ----------
    price
        Divergence per rejection, >= 0 (nats for KL); 0 is lossless, infinity the least rejection of finite KL.
    divergence
        A name, "alpha=<order>" or a `Divergence`, as in `solve_pareto`.

    Notes
    -----
    docs/theory.md T4.
    """

    price: float
    divergence: str | Divergence = "kl"

    def __post_init__(self) -> None:
        if not isinstance(self.price, Real) or not self.price >= 0:
            raise InputError(f"price: expected a number >= 0 (nats per rejection); got {self.price!s}; 0 is lossless")
        divergence_named(self.divergence)

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return min(1, C target / draft), `[..., vocab]`."""
        return self._clip(draft, target).acceptance

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [c target - draft]_+, normalised, `[..., vocab]`."""
        return self._clip(draft, target).residual

    def _clip(self, draft: Array, target: Array) -> closed_form.ClippedLaw:
        return closed_form.ratio_clip_at_price(draft, target, self.price, divergence_named(self.divergence))


@dataclass(frozen=True, kw_only=True)
class Mentored:
    """Mentored decoding: the least rejection within KL(target, output) <= kl at every position, a ratio clip.

    It leaks: mass on tokens that the target masks costs this divergence little or nothing.

    Parameters
    ----------
    kl
        Nats at each position, at least 0, which is lossless; published runs use 0.2 and more. A position whose draft is
        within it accepts everything. Equal budgets at unequal positions are not the cheapest way to a mean: see
        `CommonPrice(divergence="reverse_kl")`. A budget that needs a rejection below 1e-16 cannot be met in float64.

    Notes
    -----
    Tran-Thien 2023 (`vivien000/mentored_decoding`), which bisects to a tolerance of 20 %; here the root is exact. Any
    f-divergence: Tran-Thien and Nock, arXiv 2609.30474. A vLLM fork's `MentoredSampler` derives beta from alpha without
    solving for it and is another rule. docs/theory.md T1.
    """

    kl: float

    def __post_init__(self) -> None:
        at_least("kl", self.kl, 0.0, "0 is lossless")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return min(1, C target / draft), `[..., vocab]`."""
        return self._clip(draft, target).acceptance

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [c target - draft]_+, normalised, `[..., vocab]`."""
        return self._clip(draft, target).residual

    def _clip(self, draft: Array, target: Array) -> closed_form.ClippedLaw:
        xp, vocab = array_namespace(draft, target), draft.shape[-1]
        rows = xp.reshape(draft, (-1, vocab)), xp.reshape(target, (-1, vocab))
        front = SortedFront(*rows, DIVERGENCES["reverse_kl"])
        budget = 0.0 * front.total_variation + self.kl
        floor, ceiling = (
            like(level.reshape(tuple(draft.shape[:-1])), draft)
            for level in front.levels(front.rejection_at_divergence(budget))
        )
        return closed_form.ratio_clip(draft, target, floor, ceiling)
