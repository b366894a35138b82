"""Residuals that depend on the rejected token, in the space and time of a vocabulary, not of its square."""

import math
from dataclasses import dataclass

from array_api_compat import array_namespace, device

from solvers.arrays import Array, mass, normalised, positive_part, safe_divide


@dataclass(frozen=True, eq=False)
class WithoutRejected:
    """P(y | x) = law(y) 1[y != x] / (1 - law(x)): the target without the rejected token, a `ResidualKernel`."""

    law: Array

    def after(self, rejected: Array) -> Array:
        """Law after rejecting the tokens `[...]`: `[..., vocab]`."""
        xp = array_namespace(self.law)
        tokens = xp.arange(self.law.shape[-1], device=device(self.law))
        others = xp.where(tokens == xp.expand_dims(rejected, axis=-1), xp.zeros_like(self.law), self.law)
        return normalised(others, self.law)

    def mixture(self, weights: Array) -> Array:
        """Sum over x of weights[x] P(. | x), `[..., vocab]`."""
        others = positive_part(mass(self.law, keepdims=True) - self.law)
        shares = safe_divide(weights, others, 0.0)
        # a token that is certain leaves nothing to replace it: it stays
        certain = weights - shares * others
        kept = mass(certain, keepdims=True) * self.law
        return self.law * positive_part(mass(shares, keepdims=True) - shares) + positive_part(kept)


@dataclass(frozen=True, eq=False)
class ScaledResidual:
    """P(. | x) = [scale(x) target - draft]_+, normalised: a `ResidualKernel` that costs one sort, not vocab^2.

    Whether y receives mass from x depends on scale(x) > draft(y) / target(y) alone: with tokens and ratios in one
    order, sums over all x are running sums.
    """

    draft: Array
    target: Array
    scale: Array

    def after(self, rejected: Array) -> Array:
        """Law after rejecting the tokens `[...]`: `[..., vocab]`."""
        xp = array_namespace(self.draft)
        scale = xp.take_along_axis(self.scale, xp.expand_dims(rejected, axis=-1), axis=-1)
        return normalised(positive_part(scale * self.target - self.draft), self.target)

    def mixture(self, weights: Array) -> Array:
        """Sum over x of weights[x] P(. | x), `[..., vocab]`."""
        xp, vocab, none = array_namespace(weights), weights.shape[-1], array_namespace(weights).zeros_like(weights)
        keys = xp.concat([safe_divide(self.draft, self.target, math.inf), self.scale], axis=-1)
        order = xp.argsort(keys, axis=-1)
        place = xp.argsort(order, axis=-1)

        def below(values: Array) -> Array:
            """For every x: sum of values over the y that receive from it."""
            ordered = xp.take_along_axis(xp.concat([values, none], axis=-1), order, axis=-1)
            return xp.take_along_axis(xp.cumulative_sum(ordered, axis=-1), place[..., vocab:], axis=-1)

        def above(values: Array) -> Array:
            """For every y: sum of values over the x that give to it."""
            ordered = xp.flip(xp.take_along_axis(xp.concat([none, values], axis=-1), order, axis=-1), axis=-1)
            sums = xp.flip(xp.cumulative_sum(ordered, axis=-1), axis=-1)
            return xp.take_along_axis(sums, place[..., :vocab], axis=-1)

        totals = self.scale * below(self.target) - below(self.draft)
        shares = safe_divide(weights, totals, 0.0)
        replaced = positive_part(self.target * above(shares * self.scale) - self.draft * above(shares))
        return normalised(replaced, self.target) * mass(weights, keepdims=True)
