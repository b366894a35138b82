"""What a verification rule is: the three protocols of the map."""

from typing import Any, Protocol, runtime_checkable

from solvers.arrays import Array
from solvers.errors import InputError


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


def checked_rule(rule: Any, *methods: str) -> None:
    """Check that a rule is a value with these methods, by default those of `Rule`; all callers of rules ask here.

    Raises
    ------
    InputError
        A class, a text, or what has other methods.
    """
    if isinstance(rule, type):
        raise InputError(
            f"rule: expected a rule, a value; got the class {rule.__name__}; call it: {rule.__name__}(...)"
        )
    if isinstance(rule, str):
        raise InputError(f"rule: expected a rule; got the text {rule!r}; use tradeoff.rules.from_spec({rule!r})")
    methods = methods or ("acceptance", "residual")
    missing = [name for name in methods if not callable(getattr(rule, name, None))]
    if missing:
        raise InputError(
            f"rule: expected one with the methods {' and '.join(methods)}; got {type(rule).__name__} without "
            f"{' and '.join(missing)}; tradeoff.rules has rules of three kinds"
        )


def bonus_law(rule: Rule, draft: Array, target: Array) -> Array:
    """Law of the token after a fully accepted block: the rule's own `bonus` if it has one, else the target."""
    own = getattr(rule, "bonus", None)
    return target if own is None else own(draft, target)
