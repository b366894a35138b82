"""What a verification rule is: one position at a time, a whole drafted block, or several drafts of one position.

A `Rule` sees one position. Some rules look ahead along the drafted block, couple its positions, or carry a state from
one round to the next: they are a `BlockRule`, and `TokenByToken` reads every ordinary rule as one of them. A
`MultiDraftRule` chooses among several drafts of one position.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from solvers.arrays import Array, to_numpy
from solvers.errors import InputError

Tokens: TypeAlias = tuple[int, ...]


@runtime_checkable
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """One round's drafted tokens and the laws around them, trusted float64 on the host.

    Parameters
    ----------
    drafted
        The k drafted tokens.
    draft
        The laws they were drawn from, `[k, vocab]`; `[k + 1, vocab]` where the draft's law after the block is known.
    target
        The target's laws at the same positions and after the block, `[k + 1, vocab]`.
    raw_logits
        The target's logits before temperature and masks, `[k + 1, vocab]`; None where only laws are known.
    """

    drafted: Tokens
    draft: np.ndarray
    target: np.ndarray
    raw_logits: np.ndarray | None = None

    @property
    def target_logits(self) -> np.ndarray:
        """Logits of the target, `[k + 1, vocab]`: raw, else log-probabilities, with the same differences."""
        if self.raw_logits is not None:
            return self.raw_logits
        with np.errstate(divide="ignore"):  # minus infinity is the logit of a token without mass
            return np.log(self.target)


def _no_state(kept: int, token: int) -> Hashable:
    return ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """What a rule does with one block.

    Parameters
    ----------
    accepted
        Probability that exactly the first n drafted tokens are kept, `[k + 1]`.
    following
        Law of the token emitted after n kept ones, `[k + 1, vocab]`.
    state
        `(kept, token) -> state` of the next round, after `kept` drafted tokens and the following `token`; asked only
        where both have positive probability. A function, because Consultant Decoding's average includes the following
        token, and a row of states for every token of a large vocabulary would cost more than the verdict.
    """

    accepted: np.ndarray
    following: np.ndarray
    state: Callable[[int, int], Hashable] = _no_state


@runtime_checkable
class BlockRule(Protocol):
    """Keep the first n drafted tokens with probability accepted[n], then emit one token of law following[n]."""

    def initial_state(self) -> Hashable:
        """State before the first round, () for a rule that carries none."""
        ...

    def verdict(self, block: Block, state: Hashable) -> Verdict:
        """Judge a block drafted after a round that left `state`."""
        ...


@dataclass(frozen=True)
class TokenByToken:
    """An ordinary rule as a block rule: tokens are judged in turn, and the first rejected one ends the block.

    accepted[n] = b_1 ... b_n (1 - b_{n+1}), following[n] is the residual at position n + 1 (of the rejected token, if
    the rule's residual depends on it), and following[k] the bonus law.

    Parameters
    ----------
    rule
        Any `Rule`. If it has a `bonus` of its own, blocks must hold the draft's law after the block; if
        it compares logits, it gets the block's raw ones.
    """

    rule: Rule

    def initial_state(self) -> Hashable:
        """Return (): the tokens are judged independently."""
        return ()

    def verdict(self, block: Block, state: Hashable) -> Verdict:
        """Return the law of the first rejection and the residuals of the drafted tokens."""
        count, tokens = len(block.drafted), np.array(block.drafted, dtype=np.intp)
        rule = _with_logits(self.rule, block, slice(count))
        draft, target = block.draft[:count], block.target[:count]
        kept = to_numpy(rule.acceptance(draft, target))[np.arange(count), tokens]
        reached = np.append(1.0, np.cumprod(kept))
        residual = rule.residual(draft, target)
        if hasattr(residual, "after"):
            replaced = to_numpy(residual.after(tokens))
        else:
            replaced = to_numpy(residual)
            replaced = replaced[np.arange(count), tokens] if replaced.ndim == 3 else replaced
        return Verdict(
            accepted=reached * np.append(1.0 - kept, 1.0),
            following=np.concatenate([replaced, self._bonus(block)[None]]),
        )

    def _bonus(self, block: Block) -> np.ndarray:
        count = len(block.drafted)
        if not hasattr(self.rule, "bonus"):
            return block.target[count]
        if len(block.draft) == count:
            raise InputError(
                f"{self.rule!r}: expected the draft's law after the block, draft of shape [{count + 1}, vocab], for "
                f"its bonus; got {block.draft.shape}; add that row"
            )
        return to_numpy(bonus_law(_with_logits(self.rule, block, count), block.draft[count], block.target[count]))


def _with_logits(rule: Rule, block: Block, rows: slice | int) -> Rule:
    if block.raw_logits is None or not isinstance(rule, LogitRule):
        return rule
    return rule.with_logits(None, block.raw_logits[rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """What a rule emits when it is shown certain drafts; both masses together sum to 1.

    Parameters
    ----------
    accepted
        Probability of emitting each token as one of the drafts, `[vocab]`.
    replaced
        Probability of emitting each token after all drafts are rejected, `[vocab]`.
    """

    accepted: np.ndarray
    replaced: np.ndarray


@runtime_checkable
class MultiDraftRule(Protocol):
    """Propose several tokens for one position, emit one of them or a replacement.

    Both methods take one pair of trusted laws `[vocab]`, float64 on the host.
    """

    def proposals(self, draft: np.ndarray, drafts: int) -> Iterable[tuple[tuple[int, ...], float]]:
        """Every tuple of drafts that can be proposed, in the order proposed, with its probability."""
        ...

    def selection(self, draft: np.ndarray, target: np.ndarray, tokens: tuple[int, ...]) -> Selection:
        """What is emitted when `tokens` are proposed."""
        ...


AnyRule: TypeAlias = Rule | BlockRule | MultiDraftRule
Kind = Literal["token", "block", "multi_draft"]

_METHODS: dict[Kind, tuple[str, str]] = {
    "token": ("acceptance", "residual"),
    "block": ("verdict", "initial_state"),
    "multi_draft": ("proposals", "selection"),
}


def kind_of(rule: object) -> Kind | None:
    """Which kind of rule a value, or a class of rules, is by its methods; None for what is no rule."""
    for kind, methods in _METHODS.items():
        if all(callable(getattr(rule, name, None)) for name in methods):
            return kind
    return None
