"""The front of one drafted block: the least nats at an expected accepted length, whatever verifies it jointly."""

from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

from solvers.errors import InputError
from solvers.printing import lines, number
from tradeoff.outcome.block import PrefixLaws, checked_tree

if TYPE_CHECKING:
    from solvers.block_program import BlockOptimum, BlockTree


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

    def at(self, *, length: float | None = None, price: float | None = None) -> BlockPoint:
        """The point at an expected accepted length, or at a price in nats per accepted token: one of the two."""
        if (length is None) == (price is None):
            raise InputError("at: expected length= or price=; got both or neither; give one of them")
        name, value = ("length", length) if price is None else ("price", price)
        most = float(len(self.tree.draft)) if price is None else 100.0
        if not (isinstance(value, Real) and 0 <= value <= most):
            raise InputError(f"{name}: expected a number from 0 to {most:g}; got {value!r}; choose one in that range")
        from solvers.block_program import solve_block  # cvxpy loads on use

        return BlockPoint(optimum=solve_block(self.tree, length=length, price=price))


def solve_block_pareto(draft: PrefixLaws, target: PrefixLaws, *, draft_length: int) -> BlockFront:
    """The front of a block of `draft_length` tokens, for laws after every prefix as in `joint_law`.

    Raises
    ------
    InputError
        Laws that are not laws, lengths below 1, or a tree that is too large.
    """
    from solvers.block_program import BlockTree  # cvxpy loads on use

    return BlockFront(tree=BlockTree(**checked_tree(draft, target, draft_length=draft_length)))
