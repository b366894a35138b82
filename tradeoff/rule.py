"""What a verification rule is: the three protocols of the map."""

from typing import Protocol, runtime_checkable

from solvers.arrays import Array


class Rule(Protocol):
    """Accept a drafted token x with probability acceptance[x], else sample the residual law.

    Both methods take trusted laws `[..., vocab]` (float64, summing to 1, any array library) and run on every
    drafted position alike. A rule may have a third, `bonus(draft, target)`: the law after a fully accepted block,
    `[..., vocab]`, from the laws at that position. A rule without it samples the target there; see `bonus_law`.
    """

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Probability of accepting each token, `[..., vocab]`, in [0, 1]."""
        ...

    def residual(self, draft: Array, target: Array) -> "Array | ResidualKernel":
        """Law of the replacement after a rejection, `[..., vocab]`.

        A rule whose replacement depends on the rejected token returns `[..., vocab, vocab]`, row x being the law
        after rejecting x, or a `ResidualKernel`, which a large vocabulary needs.
        """
        ...


@runtime_checkable
class ResidualKernel(Protocol):
    """A law for every rejected token, without the vocab x vocab array."""

    def after(self, rejected: Array) -> Array:
        """Law after rejecting the tokens `[...]` (indices): `[..., vocab]`."""
        ...

    def mixture(self, weights: Array) -> Array:
        """Sum over x of weights[x] P(. | x), `[..., vocab]`: weights `[..., vocab]` are masses of rejected tokens."""
        ...


@runtime_checkable
class LogitRule(Protocol):
    """A rule that compares raw logits, which laws determine only up to a shift and a temperature.

    Its `acceptance` and `residual` work on laws as far as these go; where they do not, they raise `InputError`.
    """

    def with_logits(self, draft_logits: Array | None, target_logits: Array | None) -> Rule:
        """The rule at positions with these logits, `[..., vocab]`, before temperature and masks."""
        ...


def bonus_law(rule: Rule, draft: Array, target: Array) -> Array:
    """Law of the token after a fully accepted block: the rule's own `bonus` if it has one, else the target."""
    own = getattr(rule, "bonus", None)
    return target if own is None else own(draft, target)
