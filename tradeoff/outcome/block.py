"""The exact joint law of the text that a block rule writes, by enumeration; an ordinary rule is one of them."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from solvers.arrays import Array, to_numpy
from solvers.divergences import Divergence, divergence_named
from solvers.errors import InputError
from solvers.printing import counted, lines, number
from tradeoff.problem import SUM_TOLERANCE, validated
from tradeoff.rule import Block, BlockRule, Rule, TokenByToken, Tokens, Verdict
from tradeoff.rules.registry import as_rule

PrefixLaws: TypeAlias = Sequence[Array] | Callable[[Tokens], Array]
"""Law of the next token after every prefix: entry t `[vocab] * t + [vocab]`, or a function of the prefix."""

MOST_BLOCKS = 200_000
"""Blocks that `joint_law` may enumerate, 0.1 ms each or 20 s in all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class JointLaw:
    """The exact law of a text of fixed length, and what writing it costs.

    Parameters
    ----------
    law
        Of the text, `[vocab] * horizon`.
    target
        Of the target's own text, `[vocab] * horizon`: the product of its laws.
    target_calls
        Expected calls of the target, which is rounds.
    accepted
        Expected drafted tokens that are kept, over all rounds.
    rejections
        Expected rounds in which not all drafted tokens are kept.
    """

    law: np.ndarray
    target: np.ndarray
    target_calls: float
    accepted: float
    rejections: float

    def divergence_in(self, divergence: str | Divergence) -> float:
        """Divergence of the text's law from the target's: any of `solve_pareto`'s; infinite where it is."""
        return float(divergence_named(divergence).value(self.law.ravel(), self.target.ravel()))

    @property
    def tv(self) -> float:
        """TV(law, target)."""
        return self.divergence_in("tv")

    @property
    def kl(self) -> float:
        """KL(law, target) in nats; infinite where the rule writes what the target never would."""
        return self.divergence_in("kl")

    def __repr__(self) -> str:
        return lines(
            f"{type(self).__name__} ({counted(self.law.ndim, 'token')}): TV {number(self.tv)}, KL {number(self.kl)} "
            "nats from the target's text",
            f"{number(self.target_calls)} target calls, {number(self.accepted)} accepted tokens, "
            f"{number(self.rejections)} rejections expected; .divergence_in(name), .law",
        )


def joint_law(
    rule: Rule | BlockRule | str,
    draft: PrefixLaws,
    target: PrefixLaws,
    *,
    draft_length: int,
    horizon: int,
    target_logits: PrefixLaws | None = None,
) -> JointLaw:
    """Enumerate every text a block rule can write, with its probability.

    Each round drafts k = min(draft_length, room left) tokens, keeps the first n of them with the rule's probability,
    and emits one token after those; a full block that ends the text has none after it. This is the convention of
    `decoding`, so the result is the law of its texts.

    Parameters
    ----------
    rule
        A `BlockRule`, or an ordinary rule, which judges token by token; or the spec of either.
    draft, target
        Law of token t + 1 after every prefix of t tokens: sequences whose entry t has shape `[vocab] * t + [vocab]`,
        at least `horizon` of them, or functions from the prefix, a tuple of tokens, to a law `[vocab]`.
    draft_length
        Tokens drafted per round, at least 1.
    horizon
        Tokens of the text, at least 1.
    target_logits
        In the same form, raw logits for rules that compare them. Greedy decoding is one-hot `target` laws with the
        logits they came from; without logits, such rules see the logarithms of the laws.

    Raises
    ------
    InputError
        Laws that are not laws or have no common vocabulary, a length below 1, more than `MOST_BLOCKS` blocks, or a
        rule whose verdict is not one.
    """
    given = as_rule(rule, kind=("token", "block"), taken_by="joint_law")
    rule = given if isinstance(given, BlockRule) else TokenByToken(given)
    texts = _Texts.checked(draft, target, target_logits, draft_length=draft_length, horizon=horizon)
    law = np.zeros_like(texts.joint)
    waiting = [defaultdict[tuple[Tokens, Hashable], float](float) for _ in range(horizon)]
    waiting[0][(), rule.initial_state()] = 1.0
    calls = accepted = rejections = 0.0
    # a round lengthens its text, so by the time a length is reached nothing more arrives at it
    for length, arrived in enumerate(waiting):
        count = min(draft_length, horizon - length)
        for (prefix, state), reached in arrived.items():
            calls += reached
            for drafted, chance in texts.drafts(prefix, count):
                verdict = rule.verdict(texts.block(prefix, drafted), state)
                _check_verdict(rule, verdict, count, law.shape[0])
                for kept, emitted, carried, probability in _outcomes(verdict, drafted, room=horizon - length):
                    probability *= reached * chance
                    accepted += probability * kept
                    rejections += probability * (kept < count)
                    if length + len(emitted) == horizon:
                        law[prefix + emitted] += probability
                    else:
                        waiting[length + len(emitted)][prefix + emitted, carried] += probability
    return JointLaw(law=law, target=texts.joint, target_calls=calls, accepted=accepted, rejections=rejections)


def checked_tree(draft: PrefixLaws, target: PrefixLaws, *, draft_length: int) -> dict[str, list[np.ndarray]]:
    """Draft and target laws after every prefix of a block, checked as `joint_law` checks them."""
    texts = _Texts.checked(draft, target, None, draft_length=draft_length, horizon=draft_length)
    return {"draft": texts.draft, "target": texts.target}


def _outcomes(verdict: Verdict, drafted: Tokens, room: int) -> Iterator[tuple[int, Tokens, Hashable, float]]:
    """Every (kept, emitted tokens, next state) with its probability."""
    for kept in np.flatnonzero(verdict.accepted).tolist():
        probability = float(verdict.accepted[kept])
        if kept == room:  # the block ends the text
            yield kept, drafted, (), probability
            continue
        for token in np.flatnonzero(verdict.following[kept]).tolist():
            state = verdict.state(kept, token)
            yield kept, (*drafted[:kept], token), state, probability * float(verdict.following[kept, token])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Texts:
    """Laws after every prefix, entry t `[vocab] * t + [vocab]`."""

    draft: list[np.ndarray]
    target: list[np.ndarray]
    logits: list[np.ndarray] | None
    joint: np.ndarray  # law of the target's text, [vocab] * horizon

    @classmethod
    def checked(
        cls, draft: PrefixLaws, target: PrefixLaws, logits: PrefixLaws | None, *, draft_length: int, horizon: int
    ) -> "_Texts":
        for name, value in (("draft_length", draft_length), ("horizon", horizon)):
            if not isinstance(value, int | np.integer) or value < 1:
                raise InputError(f"{name}: expected a whole number of tokens, at least 1; got {value!r}")
        vocab = _vocabulary(draft, "draft laws")
        _check_size(vocab, draft_length, horizon)
        tables = [_table(laws, name, vocab, horizon) for laws, name in ((draft, "draft laws"), (target, "target laws"))]
        problems = [validated(*pair) for pair in zip(*tables, strict=True)]
        joint = np.ones(())
        for problem in problems:
            joint = joint[..., None] * problem.target
        scores = None if logits is None else _table(logits, "target_logits", vocab, horizon)
        scores = None if scores is None else [each.astype(np.float64) for each in scores]
        if any((np.isnan(each) | (each == np.inf)).any() or (each.max(-1) == -np.inf).any() for each in scores or []):
            raise InputError("target_logits: expected numbers or -inf, one finite in every row; check the model")
        return cls(
            draft=[each.draft for each in problems],
            target=[each.target for each in problems],
            logits=scores,
            joint=joint,
        )

    def drafts(self, prefix: Tokens, count: int) -> Iterator[tuple[Tokens, float]]:
        """Every block of `count` tokens that the draft can draw after a prefix, with its probability."""
        if count == 0:
            yield (), 1.0
            return
        law = self.draft[len(prefix)][prefix]
        for token in np.flatnonzero(law).tolist():
            for rest, chance in self.drafts((*prefix, token), count - 1):
                yield (token, *rest), float(law[token]) * chance

    def block(self, prefix: Tokens, drafted: Tokens) -> Block:
        """The block and its laws."""
        path = [prefix + drafted[:kept] for kept in range(len(drafted) + 1)]
        if len(path[-1]) == len(self.target):
            path[-1] = path[-2]  # nothing is emitted after the last token: any law fills its row
        draft, target = (np.stack([table[len(each)][each] for each in path]) for table in (self.draft, self.target))
        logits = None if self.logits is None else np.stack([self.logits[len(each)][each] for each in path])
        return Block(drafted=drafted, draft=draft, target=target, raw_logits=logits)


def _vocabulary(laws: PrefixLaws, name: str) -> int:
    """Length of the first law: what the others are compared with."""
    if isinstance(laws, type) or not (callable(laws) or hasattr(laws, "__len__")):
        raise InputError(f"{name}: expected a sequence of laws or a function of the prefix; got {repr(laws)[:80]}")
    if not callable(laws) and len(laws) == 0:
        raise InputError(f"{name}: expected one entry per token of the text; got none")
    first = laws(()) if callable(laws) else laws[0]
    shape = np.shape(first)
    if len(shape) != 1 or shape[0] == 0:
        raise InputError(f"{name}: expected a law [vocab] of the first token; got shape {shape}")
    return shape[0]


def _table(laws: PrefixLaws, name: str, vocab: int, horizon: int) -> list[np.ndarray]:
    """Laws of either form as arrays of the promised shapes."""
    if not callable(laws):
        if len(laws) < horizon:
            raise InputError(f"{name}: expected {horizon} entries, one per token of the text; got {len(laws)}")
        entries = [np.asarray(to_numpy(each) if hasattr(each, "shape") else each) for each in laws[:horizon]]
    else:
        entries = [_tabulated(laws, name, vocab, length) for length in range(horizon)]
    for length, entry in enumerate(entries):
        wanted = (vocab,) * (length + 1)
        if entry.shape != wanted:
            raise InputError(f"{name}: expected shape {wanted} after {length} tokens; got {entry.shape}")
    return entries


def _tabulated(law_after: Callable[[Tokens], Array], name: str, vocab: int, length: int) -> np.ndarray:
    rows = []
    for prefix in itertools.product(range(vocab), repeat=length):
        law = law_after(prefix)
        rows.append(np.asarray(to_numpy(law) if hasattr(law, "shape") else law))
        if rows[-1].shape != (vocab,):
            raise InputError(f"{name}: expected a law of {vocab} tokens after {prefix}; got shape {rows[-1].shape}")
    return np.stack(rows).reshape((vocab,) * (length + 1))


def _check_size(vocab: int, draft_length: int, horizon: int) -> None:
    if max(draft_length, horizon) > MOST_BLOCKS:
        raise InputError(
            f"joint_law: expected lengths up to {MOST_BLOCKS}; got {repr(max(draft_length, horizon))[:80]}"
        )
    blocks = sum(vocab ** (length + min(draft_length, horizon - length)) for length in range(horizon))
    if blocks > MOST_BLOCKS:
        raise InputError(
            f"joint_law: expected at most {MOST_BLOCKS} blocks to enumerate; got {blocks} from {vocab} tokens, "
            f"draft_length {draft_length} and horizon {horizon}; lower one of them"
        )


def _check_verdict(rule: BlockRule, verdict: Verdict, count: int, vocab: int) -> None:
    """A rule is the user's own code: its output is input to us."""
    accepted, following = verdict.accepted, verdict.following
    if np.shape(accepted) != (count + 1,) or np.shape(following) != (count + 1, vocab):
        raise InputError(
            f"{rule!r}: expected accepted of shape {(count + 1,)} and following of shape {(count + 1, vocab)}; got "
            f"{np.shape(accepted)} and {np.shape(following)}"
        )
    if not ((accepted >= 0).all() and abs(accepted.sum() - 1.0) <= SUM_TOLERANCE):
        raise InputError(f"{rule!r}: expected probabilities of keeping 0 to {count} tokens, >= 0 and summing to 1")
    used = following[accepted > 0]
    if not ((used >= 0).all() and (np.abs(used.sum(axis=-1) - 1.0) <= SUM_TOLERANCE).all()):
        raise InputError(f"{rule!r}: expected laws of the following token, >= 0 and summing to 1")
