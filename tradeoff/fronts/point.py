"""One point of a front: the best rule there, what it reaches, and its proof."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from array_api_compat import array_namespace

from solvers.arrays import Array, to_numpy
from solvers.certificate import Certificate, certify
from solvers.divergences import DIVERGENCES, Divergence
from solvers.errors import InputError
from solvers.printing import lines, quantity, sized, spread
from tradeoff.fronts.questions import Question
from tradeoff.rules.optimal import CommonPrice, RatioClip


@dataclass(frozen=True, kw_only=True, eq=False)
class ParetoPoint:
    """The best rule at one point of the front.

    minimise D(output, target) over acceptance b and residual law P with 1 - sum b draft <= budget.

    Parameters
    ----------
    draft, target
        The laws, `[..., vocab]`, float64.
    measure
        The divergence.
    question, asked
        Which of the three questions was asked, and with which numbers, `[...]`; one number if positions share a budget.
    budget
        The rejection that was asked for, or that the price or the divergence asked for leads to, `[...]`; a
        budget above TV(draft, target) is not spent, for at TV decoding is lossless. One number if the positions
        share it.
    weights
        `[...]`, of positions that share a budget; None if each has its own.
    rejection, divergence
        R and D at every position, `[...]`; nats where logarithms occur. Over positions that share a budget see
        `mean_rejection` and `mean_divergence`.
    acceptance
        b(x), the probability of accepting drafted token x, `[..., vocab]`.
    residual
        The law sampled after a rejection, `[..., vocab]`.
    output_law
        b draft + R residual, `[..., vocab]`.
    floor, ceiling
        Bounds of output / target, `[...]`: the law is clip(draft, floor target, ceiling target). The ceiling is
        infinite where the draft's mass off the target's support exceeds the rejection.
    price
        -d divergence / d rejection, what one more rejection would buy, `[...]`.
    solved_by
        "closed form", or the numerical solver, its version and how it ended.
    """

    draft: Array
    target: Array
    measure: Divergence
    question: Question
    asked: Array
    budget: Array
    weights: Array | None
    rejection: Array
    divergence: Array
    acceptance: Array
    residual: Array
    output_law: Array
    floor: Array
    ceiling: Array
    price: Array
    solved_by: str

    _hints: ClassVar[str] = ".rule to decode with it, .certificate to prove it, .to_dict()"

    @cached_property
    def certificate(self) -> Certificate:
        """Proof of optimality, recomputed from the laws, the rule and the two levels."""
        xp = array_namespace(self.draft)
        return certify(
            self.draft,
            self.target,
            acceptance=xp.astype(self.acceptance, xp.float64, copy=False),
            residual=xp.astype(self.residual, xp.float64, copy=False),
            budget=self.budget,
            floor=self.floor,
            ceiling=self.ceiling,
            divergence=self.measure,
            weights=self.weights,
        )

    @property
    def rule(self) -> RatioClip | CommonPrice:
        """The rule that reaches this point, for `evaluate`, `convert` and decoding: one knob for all positions.

        `RatioClip(rejection=...)` where all positions have one budget, `CommonPrice(price=...)` where they pay one
        price: for a price that was asked, or with `budget="mean"`.

        Raises
        ------
        InputError
            No rule of one knob reaches the point; the message says what to ask instead.
        """
        asked, rejection = (to_numpy(each).reshape(-1) for each in (self.asked, self.rejection))
        shared = (asked == asked[0]).all()
        if self.question == "price" and shared:
            return self._priced(float(asked[0]))
        if self.question == "rejection" and self.weights is None and shared:
            return RatioClip(rejection=float(asked[0]))
        if rejection.size == 1:
            return RatioClip(rejection=float(min(rejection[0], 1.0)))
        if self.weights is None:
            raise InputError(
                f"rule: expected one budget or one price for all positions; got one {self.question} to a position; ask "
                "for one at(price=...), or use budget='mean'"
            )
        price = float(to_numpy(self.price)[to_numpy(self.weights) > 0].max())
        if not (self.measure.strictly_convex and math.isfinite(price)):
            raise InputError(
                f"rule: expected a point that one finite price leads to; got {self.measure.name} at price {price:g}, "
                "where that leaves the split open; ask for one at(price=...), or for a strictly convex divergence, 'kl'"
            )
        return self._priced(price)

    def _priced(self, price: float) -> CommonPrice:
        known = DIVERGENCES.get(self.measure.name) is self.measure
        return CommonPrice(price=price, divergence=self.measure.name if known else self.measure)

    def to_dict(self) -> dict[str, list]:
        """One entry per position, as columns: `pandas.DataFrame(point.to_dict())`."""
        names = (
            "rejection",
            "divergence",
            "price",
            "floor",
            "ceiling",
            *(() if self.weights is None else ("weights",)),
        )
        columns = {name: to_numpy(getattr(self, name)).reshape(-1).tolist() for name in names}
        return {"position": list(range(len(columns["rejection"])))} | columns

    def __repr__(self) -> str:
        mean = (None, None) if self.weights is None else (self.mean_divergence, self.mean_rejection)
        shared = "" if self.weights is None else ", one budget together"
        where = "" if self.rejection.ndim == 0 else f" ({sized(self.draft.shape)}{shared})"
        return lines(
            f"{type(self).__name__}{where}: {quantity(self.measure.label, spread(self.divergence, mean[0]))} "
            f"at rejection {spread(self.rejection, mean[1])}",
            f"output / target from {spread(self.floor)} to {spread(self.ceiling)}; one more rejection buys "
            f"{spread(self.price)}",
            f"solved by {self.solved_by}; {self._hints}",
        )

    @property
    def mean_rejection(self) -> float:
        """Rejection over all positions, by their weights."""
        return self._mean(self.rejection)

    @property
    def mean_divergence(self) -> float:
        """Divergence over all positions, by their weights."""
        return self._mean(self.divergence)

    def _mean(self, values: Array) -> float:
        xp = array_namespace(values)
        return float(xp.mean(values) if self.weights is None else xp.sum(self.weights * values))
