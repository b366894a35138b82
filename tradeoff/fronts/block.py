"""The front of one drafted block: the least nats at an expected accepted length, whatever verifies it jointly."""

from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

from solvers.arrays import ROUNDING
from solvers.errors import InputError
from solvers.printing import lines, number
from tradeoff.outcome.block import PrefixLaws, checked_tree

if TYPE_CHECKING:
    from solvers.block_program import BlockOptimum, BlockTree

DEAREST = 100.0
"""Nats per accepted token; beyond, exp(-price) is nothing to the solver."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockPoint:
    """A point of the front; `optimum` holds the policy's masses and the bound that proves it."""

    optimum: "BlockOptimum"

    @property
    def nats(self) -> float:
        """Nats of a round (docs/theory.md T15)."""
        return self.optimum.nats

    @property
    def length(self) -> float:
        """Expected accepted tokens of a round."""
        return self.optimum.length

    @property
    def tokens_per_call(self) -> float:
        """Accepted tokens and the one that follows them."""
        return self.length + 1.0

    def to_dict(self) -> dict[str, float | str]:
        """The point's numbers."""
        found = self.optimum
        return {
            "nats": found.nats,
            "length": found.length,
            "tokens_per_call": self.tokens_per_call,
            "price": found.price,
            "bound": found.bound,
            "gap": found.gap,
            "status": found.status.value,
        }

    def __repr__(self) -> str:
        return lines(
            f"{type(self).__name__}: {number(self.nats)} nats a round at {number(self.length)} accepted tokens",
            f"one more accepted token costs {number(self.optimum.price)} nats; proved to {number(self.optimum.gap)}",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockFront:
    """Least nats against expected accepted tokens of one block; `at` gives its points."""

    tree: "BlockTree"

    @property
    def longest(self) -> float:
        """Most expected accepted tokens at finite nats: of what is drafted, all that the target may write."""
        return self.tree.longest

    def at(self, *, length: float | None = None, price: float | None = None) -> BlockPoint:
        """The point at an expected accepted length, or at a price in nats per accepted token: one of the two.

        Raises
        ------
        InputError
            Both or neither; a length that no policy of finite nats reaches; a price below 0 or above `DEAREST`.
        """
        if (length is None) == (price is None):
            raise InputError("at: expected length= or price=; got both or neither; give one of them")
        name, value = ("length", length) if price is None else ("price", price)
        most = self.longest if price is None else DEAREST
        if not (isinstance(value, Real) and 0 <= value <= most + ROUNDING):
            raise InputError(f"{name}: expected a number from 0 to {most:.6g}; got {value!r}; choose one in that range")
        from solvers.block_program import solve_block  # cvxpy loads on use

        return BlockPoint(optimum=solve_block(self.tree, length=length, price=price))

    def __repr__(self) -> str:
        vocab, places = self.tree.draft[-1].shape[-1], len(self.tree.draft)
        return lines(
            f"{type(self).__name__} ({places} drafted, {vocab} tokens): least nats of a round at any accepted length",
            f"up to {number(self.longest)} accepted tokens; .at(length= or price=)",
        )


def solve_block_pareto(draft: PrefixLaws, target: PrefixLaws, *, draft_length: int) -> BlockFront:
    """The front of a block of `draft_length` tokens, for laws after every prefix as in `joint_law`.

    Raises
    ------
    InputError
        Laws that are not laws, lengths below 1, or a tree that is too large.
    """
    from solvers.block_program import BlockTree  # cvxpy loads on use

    return BlockFront(tree=BlockTree(**checked_tree(draft, target, draft_length=draft_length)))
