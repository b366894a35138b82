"""What a collection of positions gives away when its budget is not spent at a common price."""

import math
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from solvers.arrays import ROUNDING, like, mass, positive_part, to_numpy
from solvers.collection import split_rejection
from solvers.printing import lines, number
from solvers.roots import monotone_root
from solvers.sorted_front import SortedFront
from tradeoff.problem import Problem


@dataclass(frozen=True, kw_only=True, eq=False)
class Alternatives:
    """Mean divergence of three ways to spend the same mean rejection, each with the best law at every position.

    Parameters
    ----------
    rejection
        The mean rejection that each of them spends.
    common_price
        The optimum: one price per rejection at every position.
    equal_budgets
        The same rejection at every position, or the position's TV where that is smaller.
    common_ceiling
        One bound C of output / target at every position.
    """

    rejection: float
    common_price: float
    equal_budgets: float
    common_ceiling: float

    @property
    def gain(self) -> dict[str, float]:
        """How many times the optimum each of the others gives away; 1 where both are lossless, or both infinite."""
        return {
            name: _multiple(value, self.common_price)
            for name, value in (("equal_budgets", self.equal_budgets), ("common_ceiling", self.common_ceiling))
        }

    def to_dict(self) -> dict[str, list]:
        """One entry per way to spend the rejection, as columns: `pandas.DataFrame(ways.to_dict())`."""
        gain = {"common_price": 1.0} | self.gain
        divergence = [getattr(self, way) for way in gain]
        return {"way": list(gain), "divergence": divergence, "gain": list(gain.values())}

    def __repr__(self) -> str:
        others = (f"{way} {number(getattr(self, way))} ({number(gain)} times)" for way, gain in self.gain.items())
        return lines(
            f"{type(self).__name__} at mean rejection {number(self.rejection)}, by mean divergence:",
            f"common_price {number(self.common_price)} (the optimum), {', '.join(others)}",
        )


def _multiple(value: float, least: float) -> float:
    if math.isinf(least) or max(value, least) <= ROUNDING:
        return 1.0
    return value / least if least > 0 else math.inf


def alternatives_at(problem: Problem, rows: SortedFront, weights: np.ndarray, rejection: float) -> Alternatives:
    """Spend a mean rejection in the three ways; `weights` sum to 1, one per row."""
    shares, widest = weights.reshape(-1, 1), rows.total_variation
    vocab = problem.draft.shape[-1]
    xp = array_namespace(problem.draft)
    draft, target = (xp.reshape(law, (-1, vocab)) for law in (problem.draft, problem.target))

    def mean(values: np.ndarray) -> float:
        return float((shares * values).sum())

    def at_ceiling(log_ceiling: np.ndarray) -> np.ndarray:
        level = like(np.exp(log_ceiling), draft)
        return np.minimum(to_numpy(mass(positive_part(draft - level * target))).reshape(-1, 1), widest)

    wanted = min(rejection, mean(widest))
    equal = monotone_root(
        lambda each: np.asarray(mean(np.minimum(each, widest)) - wanted), low=np.asarray(0.0), high=np.asarray(1.0)
    )
    ceiling = monotone_root(
        lambda log_ceiling: np.asarray(wanted - mean(at_ceiling(log_ceiling))),
        low=np.asarray(0.0),
        high=np.asarray(700.0),
    )
    ceiled = at_ceiling(ceiling.value)
    overspent = mean(ceiled)
    if overspent > wanted:  # below the drafts' leak, which no ceiling lets through, all leaks are cut alike
        ceiled = ceiled * (wanted / overspent)
    spent = {
        "common_price": split_rejection(rows, shares, wanted),
        "equal_budgets": np.minimum(equal.value, widest),
        "common_ceiling": ceiled,
    }
    return Alternatives(
        rejection=wanted, **{name: mean(rows.least_divergence(rejections)) for name, rejections in spent.items()}
    )
