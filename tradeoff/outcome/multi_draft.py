"""Several drafts for one position: the exact output law of a rule that chooses among them."""

from dataclasses import dataclass

import numpy as np

from solvers.arrays import Array, to_numpy
from solvers.divergences import Divergence, divergence_named
from solvers.errors import InputError
from solvers.printing import counted, lines, number, sized
from tradeoff.problem import SUM_TOLERANCE, validated
from tradeoff.rule import MultiDraftRule, Selection
from tradeoff.rules.registry import as_rule

MOST_PROPOSALS = 100_000
"""Tuples of drafts that `evaluate_multi_draft` may enumerate, at 0.06 to 0.25 ms each, half a minute at worst."""

MOST_DRAFTS = 1_000_000
"""Drafts of one position."""

MOST_ENUMERATED = 500
"""Drafts that `evaluate_multi_draft` may propose: tuples are made token after token, each inside the last."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MultiDraftOutcome:
    """The exact effect of a multi-draft rule on one pair of laws.

    Parameters
    ----------
    draft, target
        The laws, `[vocab]`, float64.
    drafts
        Drafts asked for.
    rejection
        Probability that no draft is emitted.
    output_law
        Law of the token that is emitted, `[vocab]`.
    """

    draft: np.ndarray
    target: np.ndarray
    drafts: int
    rejection: float
    output_law: np.ndarray

    def divergence_in(self, divergence: str | Divergence) -> float:
        """Divergence of the output from the target: any of `solve_pareto`'s; infinite where it is."""
        return float(divergence_named(divergence).value(self.output_law, self.target))

    @property
    def tv(self) -> float:
        """TV(output, target)."""
        return self.divergence_in("tv")

    @property
    def kl(self) -> float:
        """KL(output, target) in nats; infinite where the rule leaks."""
        return self.divergence_in("kl")

    def __repr__(self) -> str:
        return lines(
            f"{type(self).__name__} ({counted(self.drafts, 'draft')}, {sized(self.draft.shape)}): rejection "
            f"{number(self.rejection)}, TV {number(self.tv)}, KL {number(self.kl)} nats from the target",
            ".divergence_in(name), .output_law",
        )


def evaluate_multi_draft(
    rule: MultiDraftRule | str, draft: Array, target: Array, *, drafts: int, normalise: bool = False
) -> MultiDraftOutcome:
    """Evaluate a multi-draft rule exactly, by enumeration of its drafts.

    output = sum over tuples of Pr(tokens) (accepted + replaced), rejection = sum over tuples of Pr(tokens) times the
    mass of replaced.

    Parameters
    ----------
    rule
        Any `MultiDraftRule`, such as those of `tradeoff.rules.multi_draft`, or its spec.
    draft, target
        One pair of laws `[vocab]`, as in `evaluate`.
    drafts
        Drafts to propose, at least 1.
    normalise
        Accept laws of any positive sum and divide by it.

    Raises
    ------
    InputError
        What is no multi-draft rule, laws that are not laws or come in a batch, `drafts` below 1, more than
        `MOST_PROPOSALS` tuples, or a rule whose drafts or selections are not laws.
    """
    rule = as_rule(rule, kind="multi_draft", taken_by="evaluate_multi_draft")
    problem = validated(draft, target, normalise=normalise)
    p, q = to_numpy(problem.draft), to_numpy(problem.target)
    if p.ndim != 1:
        raise InputError(f"laws: expected one pair of laws [vocab]; got shape {p.shape}; evaluate the rows one by one")
    drafts = checked_drafts(drafts)
    if drafts > MOST_ENUMERATED:
        raise InputError(f"drafts: expected at most {MOST_ENUMERATED} drafts to enumerate; got {drafts}")
    output, rejection, total = np.zeros_like(p), 0.0, 0.0
    for count, (tokens, probability) in enumerate(rule.proposals(p, drafts), start=1):
        if count > MOST_PROPOSALS:
            raise InputError(
                f"{rule!r}: expected at most {MOST_PROPOSALS} tuples of drafts; got more from {p.size} tokens and "
                f"{drafts} drafts; lower one of them"
            )
        selection = rule.selection(p, q, tokens)
        _check_selection(rule, selection, tokens, p.shape)
        output += probability * (selection.accepted + selection.replaced)
        rejection += probability * float(selection.replaced.sum())
        total += probability
    if not abs(total - 1.0) <= SUM_TOLERANCE:
        raise InputError(f"{rule!r}: expected drafts whose probabilities sum to 1; got {total:.6g}")
    return MultiDraftOutcome(draft=p, target=q, drafts=drafts, rejection=rejection, output_law=output)


def checked_drafts(drafts: int) -> int:
    """Check a number of drafts.

    Raises
    ------
    InputError
        Not a whole number, or below 1.
    """
    if isinstance(drafts, bool) or not isinstance(drafts, int | np.integer) or not 1 <= drafts <= MOST_DRAFTS:
        raise InputError(f"drafts: expected a whole number, 1 to {MOST_DRAFTS}; got {repr(drafts)[:80]}")
    return int(drafts)


def _check_selection(
    rule: MultiDraftRule, selection: Selection, tokens: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    """A rule is the user's own code: its output is input to us."""
    accepted, replaced = selection.accepted, selection.replaced
    if np.shape(accepted) != shape or np.shape(replaced) != shape:
        raise InputError(
            f"{rule!r}: expected accepted and replaced masses of shape {shape}; got {np.shape(accepted)} and "
            f"{np.shape(replaced)}"
        )
    if not ((accepted >= 0).all() and (replaced >= 0).all()):
        raise InputError(f"{rule!r}: expected masses >= 0 for drafts {tokens}; got a negative one, or NaN")
    if not abs(accepted.sum() + replaced.sum() - 1.0) <= SUM_TOLERANCE:
        raise InputError(f"{rule!r}: expected masses that sum to 1 for drafts {tokens}; normalise them in the rule")
    if np.delete(accepted, list(tokens)).any():
        raise InputError(f"{rule!r}: expected accepted mass on the drafts {tokens} only; call the rest replaced")
