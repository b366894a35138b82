"""Markov chains as the paper's model of a language model, and a draft and a target over the same texts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from solvers.arrays import to_numpy
from solvers.errors import InputError
from tradeoff.problem import SMALLEST_MASS, SUM_TOLERANCE

MOST_STEPS = 1_000_000
"""Tokens of a text: every one is a pass over the states."""

MOST_ENTRIES = 100_000_000
"""Probabilities that `MarkovChain.from_sequences` may estimate: 0.8 GB of counts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MarkovChain:
    """A law of texts in which the next token depends on the last few tokens, and possibly on time.

    The state is the last `order` tokens, oldest first, read as one number in base `tokens`; with order 1 it is the
    last token itself. There are tokens ** order states, so the shape of the transitions tells the order; one row of
    transitions is order 0, independent tokens.

    Parameters
    ----------
    transitions
        Law of the next token in every state, `[states, tokens]`, or `[time, states, tokens]` if it changes with time.
    initial
        Law of the state before the first step, `[states]`: of the prompt's last tokens, which are given and not
        counted in any text.

    Raises
    ------
    InputError
        Transitions or initial probabilities that are not laws, or shapes that do not fit.
    """

    transitions: np.ndarray
    initial: np.ndarray

    def __post_init__(self) -> None:
        transitions = _numbers(self.transitions, "transitions")
        if transitions.ndim not in (2, 3) or 0 in transitions.shape:
            raise InputError(
                "transitions: expected [states, tokens] or [time, states, tokens], such as [7, 7]; got shape "
                f"{transitions.shape}; a chain of a higher order goes in through MarkovChain.of_order"
            )
        order = _order(*transitions.shape[-2:])
        initial = _numbers(self.initial, "initial")
        if initial.shape != transitions.shape[-2:-1]:
            raise InputError(
                f"initial: expected one probability per state, {transitions.shape[-2:-1]}; got shape {initial.shape}"
            )
        object.__setattr__(self, "transitions", _laws(transitions, "transitions", order))
        object.__setattr__(self, "initial", _laws(initial, "initial", order))

    @classmethod
    def of_order(cls, order: int, *, transitions: Any, initial: Any) -> "MarkovChain":
        """Make a chain whose next token depends on the last `order` tokens, one axis per token, oldest first.

        Parameters
        ----------
        order
            Tokens remembered, at least 1.
        transitions
            `[tokens] * order + [tokens]`, or with an axis of time before these.
        initial
            Law of the prompt's last `order` tokens, `[tokens] * order`.

        Raises
        ------
        InputError
            An order below 1, axes of unequal length, what is not a law.
        """
        whole("order", order)
        laws, prompt = _numbers(transitions, "transitions"), _numbers(initial, "initial")
        if laws.ndim not in (order + 1, order + 2) or len(set(laws.shape[-order - 1 :])) != 1:
            raise InputError(
                f"transitions: expected {order + 1} axes of one length, and at most one of time before them; got "
                f"shape {laws.shape}"
            )
        tokens = laws.shape[-1]
        if prompt.shape != (tokens,) * order:
            raise InputError(f"initial: expected shape {(tokens,) * order}; got {prompt.shape}")
        return cls(transitions=laws.reshape(*laws.shape[: -order - 1], -1, tokens), initial=prompt.reshape(-1))

    @classmethod
    def from_sequences(
        cls,
        sequences: Iterable[Any],
        *,
        vocab: int,
        order: int = 1,
        smoothing: float = 0.0,
        initial: Any = None,
    ) -> "MarkovChain":
        """Estimate a chain that does not change with time by counting.

        P(x | s) = (count of x after s + smoothing) / (count of s + vocab * smoothing).

        Parameters
        ----------
        sequences
            Texts of tokens 0 .. vocab - 1, of any lengths; one text alone goes in as `[text]`.
        vocab
            Number of tokens.
        order
            Tokens remembered, at least 1.
        smoothing
            Added to every count, at least 0. Any positive number makes a state that never occurred uniform.
        initial
            Law of the state before the first step, `[vocab ** order]`; by default how often each state occurs, which
            is a prompt cut at a random place.

        Raises
        ------
        InputError
            Tokens that are not in the vocabulary, texts that are all too short, a state that never occurred and no
            smoothing.
        """
        whole("vocab", vocab)
        whole("order", order)
        if vocab ** (order + 1) > MOST_ENTRIES:
            raise InputError(
                f"vocab and order: expected at most {MOST_ENTRIES} probabilities, vocab ** (order + 1); got "
                f"{vocab} ** {order + 1}; lower one of them"
            )
        if not (isinstance(smoothing, int | float) and 0 <= smoothing < math.inf):
            raise InputError(f"smoothing: expected a finite number >= 0; got {smoothing!r}")
        counts = np.zeros(vocab ** (order + 1))
        for index, sequence in enumerate(sequences):
            tokens = _tokens(sequence, vocab, index)
            windows = max(len(tokens) - order, 0)
            numbers = sum(tokens[place : place + windows] * vocab ** (order - place) for place in range(order + 1))
            counts += np.bincount(numbers, minlength=counts.size)
        if counts.sum() == 0:
            raise InputError(f"sequences: expected a text of more than {order} tokens; got none")
        counts = counts.reshape(-1, vocab)
        total = counts.sum(axis=-1)
        if smoothing == 0 and (total == 0).any():
            state = int(np.argmin(total))
            raise InputError(
                f"sequences: expected every state to occur; nothing comes {_after(state, vocab, order)}; pass "
                "smoothing= a positive number"
            )
        return cls(
            transitions=(counts + smoothing) / (total + vocab * smoothing)[:, None],
            initial=total / total.sum() if initial is None else initial,
        )

    @property
    def tokens(self) -> int:
        """Size of the vocabulary."""
        return self.transitions.shape[-1]

    @property
    def states(self) -> int:
        """tokens ** order."""
        return self.transitions.shape[-2]

    @property
    def order(self) -> int:
        """Tokens that the next one depends on."""
        return _order(self.states, self.tokens)

    @property
    def time(self) -> int | None:
        """Steps for which there are laws; None if these do not change, so that texts can have any length."""
        return self.transitions.shape[0] if self.transitions.ndim == 3 else None

    @property
    def successors(self) -> np.ndarray:
        """State after emitting each token in each state, `[states, tokens]`."""
        return np.arange(self.states * self.tokens).reshape(self.states, self.tokens) % self.states

    def laws(self, step: int) -> np.ndarray:
        """Law of the token that step `step` = 0, 1, ... emits, `[states, tokens]`.

        Raises
        ------
        InputError
            A step beyond the chain's time.
        """
        if self.time is None:
            return self.transitions
        if not 0 <= step < self.time:
            raise InputError(f"step: expected 0 to {self.time - 1}; got {step}")
        return self.transitions[step]

    def state_laws(self, horizon: int | None = None) -> np.ndarray:
        """Law of the state before each step and after the last, `[horizon + 1, states]`.

        Raises
        ------
        InputError
            No horizon and a chain that does not change with time, or one beyond its time.
        """
        laws = [self.initial]
        for step in range(common_horizon((self,), horizon)):
            laws.append(next_state(laws[-1][:, None] * self.laws(step)))
        return np.stack(laws)


def next_state(joint: np.ndarray) -> np.ndarray:
    """Mass of the next state, `[..., states]`, from the joint mass of state and emitted token, `[..., states, tokens]`.

    The next state drops the oldest token, the most significant digit, so that states with equal remainders merge.
    """
    states, tokens = joint.shape[-2:]
    return joint.reshape(*joint.shape[:-2], tokens, states).sum(axis=-2)


@dataclass(frozen=True, kw_only=True, eq=False)
class ChainPair:
    """A draft and a target over the same states, for texts of one length; trusted.

    Parameters
    ----------
    draft, target
        The chains.
    horizon
        Tokens of the text.
    """

    draft: MarkovChain
    target: MarkovChain
    horizon: int

    @property
    def initial(self) -> np.ndarray:
        """Law of the state before the first step, `[states]`: the same prompt for both."""
        return self.target.initial

    @property
    def laws(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Draft and target laws `[states, tokens]`, one pair to a step, or one pair in all if they do not change."""
        steps = 1 if self.draft.time is None and self.target.time is None else self.horizon
        return [(self.draft.laws(step), self.target.laws(step)) for step in range(steps)]


def paired(draft: MarkovChain, target: MarkovChain, horizon: int | None) -> ChainPair:
    """Check that two chains speak of the same texts.

    Raises
    ------
    InputError
        What is not a chain, unlike vocabularies, orders or prompts, a horizon that is missing or too long.
    """
    for name, chain in (("draft", draft), ("target", target)):
        if not isinstance(chain, MarkovChain):
            raise InputError(f"{name}: expected a MarkovChain; got {type(chain).__name__}")
    if draft.transitions.shape[-2:] != target.transitions.shape[-2:]:
        raise InputError(
            "draft and target: expected chains of the same order over the same tokens; got [states, tokens] = "
            f"{draft.transitions.shape[-2:]} and {target.transitions.shape[-2:]}"
        )
    if np.abs(draft.initial - target.initial).max() > SUM_TOLERANCE:
        raise InputError(
            "draft and target: expected one law of the prompt, which both are given; got two initial laws; "
            "use dataclasses.replace(draft, initial=target.initial)"
        )
    return ChainPair(draft=draft, target=target, horizon=common_horizon((draft, target), horizon))


def common_horizon(chains: Sequence[MarkovChain], horizon: int | None) -> int:
    """Tokens of a text: what was asked for, or as many as there are laws for.

    Raises
    ------
    InputError
        None asked for where no chain ends or two end at different steps, or more than there are laws for.
    """
    ends = [chain.time for chain in chains if chain.time is not None]
    if horizon is None:
        if len(set(ends)) > 1:
            raise InputError(
                f"horizon: expected chains of one length; got {' and '.join(map(str, ends))} steps; pass horizon="
            )
        if not ends:
            raise InputError("horizon: expected the number of tokens, as the chains do not end; pass horizon=")
        return min(ends)
    whole("horizon", horizon)
    if horizon > MOST_STEPS:
        raise InputError(f"horizon: expected at most {MOST_STEPS} tokens; got {repr(horizon)[:80]}")
    if ends and horizon > min(ends):
        raise InputError(f"horizon: expected at most {min(ends)} tokens, as many as there are laws for; got {horizon}")
    return int(horizon)


def _numbers(values: Any, name: str) -> np.ndarray:
    try:
        plain = np.asarray(to_numpy(values) if hasattr(values, "shape") else values)
        real = not np.iscomplexobj(plain)
        numbers = np.array(plain, dtype=np.float64) if real else np.zeros(0)
    except (TypeError, ValueError):
        raise InputError(f"{name}: expected an array of probabilities; got {type(values).__name__}") from None
    if not real:
        raise InputError(f"{name}: expected real numbers; got {plain.dtype}; pass probabilities")
    return numbers


def _order(states: int, tokens: int) -> int:
    """Order n of a chain with tokens ** n states."""
    order = 1 if tokens == 1 else round(math.log(states) / math.log(tokens))
    if tokens**order != states:
        raise InputError(
            "transitions: expected as many states as tokens, or for order n tokens ** n; got "
            f"[states, tokens] = {(states, tokens)}"
        )
    return order


def _laws(values: np.ndarray, name: str, order: int) -> np.ndarray:
    """Check that rows are laws and rescale them to sum 1; a message names the first row that is not."""
    total = values.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        good = np.isfinite(values).all(axis=-1) & (values >= 0).all(axis=-1) & (np.abs(total - 1) <= SUM_TOLERANCE)
    if not good.all():
        row = tuple(int(each) for each in np.argwhere(~good)[0])
        where = name
        if values.ndim > 1:
            where += f" {_after(row[-1], values.shape[-1], order)}" + (f" at step {row[0]}" if len(row) == 2 else "")
        got = f"probabilities that sum to {total[row]:.8g}"
        if not np.isfinite(values[row]).all():
            got = "NaN or infinity"
        elif (values[row] < 0).any():
            got = f"{values[row].min():.3g}"
        raise InputError(f"{where}: expected probabilities >= 0 that sum to 1 within {SUM_TOLERANCE:.0e}; got {got}")
    laws = values / total[..., None]
    return np.where(laws < SMALLEST_MASS, 0.0, laws)


def _after(state: int, tokens: int, order: int) -> str:
    history = [int(each) for each in np.unravel_index(state, (tokens,) * order)] if order else []
    return f"after token{'s' if order > 1 else ''} {', '.join(map(str, history))}" if history else "of the token"


def _tokens(sequence: Any, vocab: int, index: int) -> np.ndarray:
    """One text as whole numbers below `vocab`."""
    tokens = np.asarray(to_numpy(sequence) if hasattr(sequence, "shape") else sequence)
    if tokens.ndim != 1:
        raise InputError(f"sequences: expected texts of tokens, each [length]; got shape {tokens.shape} at {index}")
    if tokens.size == 0:
        return np.zeros(0, dtype=np.int64)
    if tokens.dtype.kind not in "iu" or tokens.min() < 0 or tokens.max() >= vocab:
        raise InputError(f"sequences: expected whole numbers from 0 to {vocab - 1}; text {index} has others")
    return tokens.astype(np.int64)


def whole(name: str, value: Any) -> None:
    """Check a whole number >= 1.

    Raises
    ------
    InputError
        Another number, or none.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name}: expected a whole number, at least 1; got {value!r}")
