"""Who sets the common price while texts are written: held at a mean rejection, at a mean KL, or under a hard total.

All three run the rule that is optimal at its price (docs/theory.md T4) and move the price alone. What they look at are
exact probabilities of the positions visited, not counts, so nothing is lost to the luck of acceptances.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from scipy.special import lambertw
from torch import Tensor

from solvers.closed_form import ClippedLaw, ratio_clip_at_price
from solvers.errors import InputError
from tradeoff.rule import Rule

LOWEST_PRICE, HIGHEST_PRICE = 1e-4, 1e2
"""Ends of a held price: KL <= 1.3e-9 nats a position at one; at the other only ratios beyond e^100 are clipped."""

SMALL_PRICE = 1e-2
"""Below it L^2 / 8 is the worst case to five digits, and its exact form loses digits to cancellation."""

MARGIN = 2e-11
"""Part of a budget that is not planned with: `worst_kl` and its inverse are off by at most 1.3e-11 (relative)."""

PRIOR_POSITIONS = 1.0
"""Before a text has shown what it costs, one position at the worst case stands for it."""

FORGETTING = 0.95
"""Weight a position keeps in the share per later position: about 20 positions count."""

LEAST_USED = 1e-9
"""Keeps the share above 0 where the draft is the target and nothing is ever spent."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Spent:
    """What one round spent, per live text: exact quantities at the verified positions of the text.

    Row i is the text of number `rows[i]`. Its verified positions of this round are its first `verified[i]` places; what
    stands at later places has no meaning. A position behind the end of the text does not count.

    Parameters
    ----------
    rows
        Numbers of the live texts in the batch that `start` began, `[live]`.
    rejection
        Exact probability of a rejection (`Outcome.rejection`), `[live, places]`.
    kl
        KL(output, target) in nats (`Outcome.kl`), `[live, places]`.
    verified
        Drafted tokens that were tested: those accepted and the one rejected, `[live]`.
    emitted
        Tokens the text gained: the verified positions, and a bonus token, `[live]`.
    """

    rows: Sequence[int]
    rejection: np.ndarray
    kl: np.ndarray
    verified: np.ndarray
    emitted: np.ndarray

    def per_text(self, quantity: np.ndarray) -> np.ndarray:
        """Sum of `rejection` or `kl` over the verified positions, `[live, places]` to `[live]`."""
        return np.where(np.arange(quantity.shape[1]) < self.verified[:, None], quantity, 0.0).sum(1)


@runtime_checkable
class Controller(Protocol):
    """Chooses the rule of every round of a batch of texts: `start`, then `rule` and `observe` in turn.

    The rule of a round is chosen before the round draws anything, from what earlier rounds showed.
    """

    def start(self, batch: int, max_new_tokens: int) -> None:
        """Begin with `batch` new texts of at most `max_new_tokens` new tokens each."""
        ...

    def rule(self, rows: Sequence[int], draft_length: int) -> Rule:
        """Rule of the next round.

        Parameters
        ----------
        rows
            Numbers, 0 to batch - 1, of the texts whose laws come, in this order. Finished ones may still be among
            them; `observe` then leaves them out.
        draft_length
            Each text has at most so many positions verified under the rule.
        """
        ...

    def observe(self, spent: Spent) -> None:
        """Take account of the round, before the next `rule`."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class PricedRows:
    """`CommonPrice` in KL with a price of its own for every text of a batch.

    Parameters
    ----------
    price
        Nats per rejection, at least 0, `[batch]`, float64; laws come as `[batch, ..., vocab]`.
    """

    price: Tensor

    def acceptance(self, draft: Tensor, target: Tensor) -> Tensor:
        """Return min(1, C target / draft), `[batch, ..., vocab]`."""
        return self._clip(draft, target).acceptance

    def residual(self, draft: Tensor, target: Tensor) -> Tensor:
        """Return [c target - draft]_+, normalised, `[batch, ..., vocab]`."""
        return self._clip(draft, target).residual

    def _clip(self, draft: Tensor, target: Tensor) -> ClippedLaw:
        if len(draft) != len(self.price):
            raise InputError(f"laws: expected {len(self.price)} texts, one per price, first; got {len(draft)}")
        price = self.price.to(draft.device).reshape(-1, *[1] * (draft.ndim - 2))
        return ratio_clip_at_price(draft, target, price)


class _Held:
    """A price that answers for a mean: log price moves by a constant step on the accumulated relative error."""

    def __init__(self, *, price: float, step: float) -> None:
        if not LOWEST_PRICE <= price <= HIGHEST_PRICE:
            raise InputError(
                f"price: expected a start of {LOWEST_PRICE:g} to {HIGHEST_PRICE:g} nats per rejection; got {price}"
            )
        if not 0 < step < math.inf:
            raise InputError(f"step: expected a number above 0; got {step}; the default suits most pairs")
        self._log_price, self._step, self._step_per_text = math.log(price), step, step

    @property
    def price(self) -> float:
        """Price of the next round, nats per rejection; the state itself may be beyond an end."""
        return math.exp(self._inside)

    @property
    def attained(self) -> bool:
        """Whether the price is inside its range; at an end the target cannot be met, or not yet."""
        return self._log_price == self._inside

    @property
    def _inside(self) -> float:
        return min(max(self._log_price, math.log(LOWEST_PRICE)), math.log(HIGHEST_PRICE))

    def start(self, batch: int, max_new_tokens: int) -> None:
        """Begin new texts at the price reached so far; what earlier texts still owed is forgiven."""
        del max_new_tokens
        self._log_price, self._step_per_text = self._inside, self._step / batch

    def rule(self, rows: Sequence[int], draft_length: int) -> PricedRows:
        """Return the common price, the same for every text."""
        del draft_length
        return PricedRows(price=torch.full((len(rows),), self.price, dtype=torch.float64))

    def _move(self, error: float) -> None:
        self._log_price += self._step_per_text * error


class HoldRejection(_Held):
    """Holds the mean exact rejection probability over the verified positions at a target.

    After a round, log price += (step / batch) sum of (R / target - 1) over its verified positions: rejecting too much
    makes a rejection dearer. After T positions of all texts, while the price is inside its range,

        mean R / target - 1 = batch (log price - log price at the start) / (step T)        exactly,

    whatever the laws: the price itself tells the error, and it lies in a range of log(1e6). Where the range does not
    reach the target (more than lossless decoding rejects, or less than the draft must) the price stays at its end
    and `attained` is False; a stretch of this kind is made up for later. Texts of one batch share the price, and the
    next call goes on from it.

    Parameters
    ----------
    rejection
        The target, in (0, 1).
    price
        Start, nats per rejection, 1e-4 to 1e2; 1 is the middle of the range: useful rejections lie at prices of
        0.1 to 10.
    step
        Change of log price per position and unit of relative error, above 0. A larger one settles sooner and wavers
        more.

    Raises
    ------
    InputError
        A number outside its range.

    Notes
    -----
    docs/theory.md T11, after adaptive conformal inference (Gibbs and Candes, NeurIPS 2021, arXiv 2106.00170).
    """

    def __init__(self, *, rejection: float, price: float = 1.0, step: float = 0.1) -> None:
        super().__init__(price=price, step=step)
        if not 0 < rejection < 1:
            raise InputError(f"rejection: expected a number in (0, 1); got {rejection}; `CommonPrice` needs no target")
        self._target = rejection

    def observe(self, spent: Spent) -> None:
        """Move the price by the round's accumulated error."""
        self._move(float(spent.per_text(spent.rejection).sum()) / self._target - float(spent.verified.sum()))


class HoldKL(_Held):
    """Holds the mean KL per generated token at a target, nats; a bonus token follows the target and costs nothing.

    After a round, log price += (step / batch) (tokens - sum of KL / target). After T tokens of all texts, while the
    price is inside its range,

        mean KL / target - 1 = batch (log price at the start - log price) / (step T)        exactly,

    whatever the laws. Where even the draft itself costs less than the target, the price stays at its upper end and
    `attained` is False. Texts of one batch share the price, and the next call goes on from it. The start is the highest
    price at which no position, whatever its laws, costs more than the target.

    Parameters
    ----------
    kl_per_token
        The target in nats, from 1.3e-9 to 94.
    step
        Change of log price per token and unit of relative error, above 0. A larger one settles sooner and wavers more.

    Raises
    ------
    InputError
        A number outside its range.

    Notes
    -----
    docs/theory.md T11 and T12.
    """

    def __init__(self, *, kl_per_token: float, step: float = 0.1) -> None:
        least, most = worst_kl(np.array([LOWEST_PRICE, HIGHEST_PRICE]))
        if not least <= kl_per_token <= most:
            raise InputError(
                f"kl_per_token: expected {least:.2g} to {most:.2g} nats; got {kl_per_token}; "
                "lossless decoding is SpeculativeSampling"
            )
        super().__init__(price=float(price_within(np.array([kl_per_token]))[0]), step=step)
        self._target = kl_per_token

    def observe(self, spent: Spent) -> None:
        """Move the price by the round's accumulated error."""
        self._move(float(spent.emitted.sum()) - float(spent.per_text(spent.kl).sum()) / self._target)


class SequenceBudget:
    """A hard total for every text: the exact KLs along it never sum to more than `kl` nats, whatever the laws.

    At price L no position costs more than B(L) (`worst_kl`), whatever its laws, so a round of k positions is safe at
    every price with k B(L) <= left. Below that the text spends evenly: B(L) = left / (tokens left * share), with share
    the part of B that the text's own positions cost so far. What a round did not use is left for the next.

    By the chain rule the KL of the law of the whole text from the target's is at most the expected sum, so it is within
    the budget too. The texts of a batch do not influence each other.

    Parameters
    ----------
    kl
        Nats per text, at least 0; 0 is lossless.

    Raises
    ------
    InputError
        A negative budget, or one that is not a number.

    Notes
    -----
    docs/theory.md T12. "Never" holds for the exact KLs of float64 laws: prices stay `MARGIN` below the highest that is
    safe, which is more than all rounding. Laws in float32 add their own rounding, 1e-6 of what was spent.
    """

    def __init__(self, *, kl: float) -> None:
        if not 0 <= kl < math.inf:
            raise InputError(f"kl: expected nats per text, at least 0; got {kl}; 0 is lossless")
        self._kl = kl
        self.start(0, 0)

    @property
    def left(self) -> np.ndarray:
        """Nats every text of the batch has left, `[batch]`."""
        return self._left.copy()

    def start(self, batch: int, max_new_tokens: int) -> None:
        """Give every one of `batch` new texts the whole budget."""
        self._left = np.full(batch, float(self._kl))
        self._tokens = np.full(batch, float(max_new_tokens))
        self._price = np.zeros(batch)
        self._used, self._seen = np.full(batch, PRIOR_POSITIONS), np.full(batch, PRIOR_POSITIONS)

    def rule(self, rows: Sequence[int], draft_length: int) -> PricedRows:
        """Return a price for each of `rows`: even spending, capped by what is safe for `draft_length` positions."""
        index = np.asarray(rows, dtype=np.int64)
        left, tokens = self._left[index], np.maximum(self._tokens[index], 1.0)
        even = left / tokens * self._seen[index] / self._used[index]
        safe = left / np.minimum(draft_length, tokens)
        self._price[index] = price_within(np.minimum(even, safe))
        return PricedRows(price=torch.from_numpy(self._price[index]))

    def observe(self, spent: Spent) -> None:
        """Take what the round cost off every text's budget, and learn what part of the worst case that was."""
        index = np.asarray(spent.rows, dtype=np.int64)
        cost, worst = spent.per_text(spent.kl), worst_kl(self._price[index])
        self._left[index] = np.maximum(self._left[index] - cost, 0.0)
        self._tokens[index] -= spent.emitted
        part = np.divide(cost, worst, out=np.zeros_like(cost), where=worst > 0)
        kept = FORGETTING**spent.verified
        used = self._used[index] * kept + np.minimum(part, spent.verified)
        self._used[index] = np.maximum(used, LEAST_USED)
        self._seen[index] = self._seen[index] * kept + spent.verified


def worst_kl(price: np.ndarray) -> np.ndarray:
    """The most any position can cost at a price L: max over all laws of KL = g - 1 - log g, g = L / (1 - e^-L).

    It is about L^2 / 8 for small prices and never more, and about L - 1 - log L for large ones.

    Parameters
    ----------
    price
        Nats per rejection, at least 0, `[...]`.

    Notes
    -----
    docs/theory.md T12.
    """
    above_one = np.maximum(price, SMALL_PRICE)
    above_one = above_one / -np.expm1(-above_one) - 1.0
    return np.where(price < SMALL_PRICE, price**2 / 8, above_one - np.log1p(above_one))


def price_within(kl: np.ndarray) -> np.ndarray:
    """The highest price, at most 1e2, at which no position costs more than `kl` nats: the inverse of `worst_kl`.

    Parameters
    ----------
    kl
        Nats, at least 0, `[...]`.
    """
    kl = np.asarray(kl) * (1.0 - MARGIN)
    highest = worst_kl(np.array(HIGHEST_PRICE))
    within = np.clip(kl, SMALL_PRICE**2 / 8, highest)
    # both equations are y e^y = z: -g e^-g = -e^(-1 - kl) above 1, then L - g between -1 and 0
    ratio = -lambertw(-np.exp(-1.0 - within), -1).real
    exact = ratio + lambertw(-ratio * np.exp(-ratio), 0).real
    return np.where(kl < SMALL_PRICE**2 / 8, np.sqrt(8.0 * kl), np.minimum(exact, HIGHEST_PRICE))
