"""What several drafts for one position are worth: the best acceptance, and the exact front of any selection."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Never

import numpy as np
from array_api_compat import array_namespace

from solvers import multi_draft
from solvers.arrays import Array, like, to_numpy
from solvers.certificate import Certificate
from solvers.divergences import Divergence, divergence_named
from solvers.errors import InputError
from tradeoff.fronts.pareto import ParetoFront, solve_pareto
from tradeoff.fronts.point import ParetoPoint
from tradeoff.outcome.multi_draft import checked_drafts, evaluate_multi_draft
from tradeoff.problem import validated
from tradeoff.rule import AnyRule
from tradeoff.rules.registry import as_rule


def optimal_acceptance(
    draft: Array, target: Array, *, drafts: int, replacement: bool = True, normalise: bool = False
) -> Array:
    """Largest probability of emitting one of the drafts while the output is the target, exactly.

    1 + min over sets S of target(S) - Pr(all drafts in S).

    Parameters
    ----------
    draft, target
        Laws `[..., vocab]`, as in `solve_pareto`. With any other law in the target's place, such as the output of a
        lossy rule, it is the most that a selection with that output can accept.
    drafts
        Drafts K, at least 1.
    replacement
        Whether drafts are independent draws, or each is drawn from the draft off those before it (fewer where
        the draft has fewer tokens).
    normalise
        Accept rows of any positive sum and divide by it.

    Returns
    -------
    Array
        Probabilities `[...]`, float64, in the library of the laws.

    Raises
    ------
    InputError
        Arguments that cannot be used.

    Notes
    -----
    Hu et al., ICLR 2025, arXiv 2502.18779. docs/theory.md T10 proves that the best set is a prefix in the order of
    draft / target for both ways of drawing: one sort (20 ms at 152 000 tokens); without replacement, also one short
    sum over time for every token (20 microseconds each).
    """
    problem = validated(draft, target, normalise=normalise)
    least = multi_draft.least_rejection(problem.draft, problem.target, checked_drafts(drafts), replacement=replacement)
    return 1.0 - least


def effective_draft(
    draft: Array, target: Array, *, drafts: int, replacement: bool = True, normalise: bool = False
) -> Array:
    """Law of one token that is worth as much as all the drafts together.

    Of all laws that picking one of the drafts can have, it is the nearest to the target, in every f-divergence
    at once. A single draft from this law has the front of the K drafts: `solve_pareto(effective_draft(...),
    target, budget="mean")` shares a budget between positions, for example.

    Parameters
    ----------
    draft, target, drafts, replacement, normalise
        As in `optimal_acceptance`.

    Returns
    -------
    Array
        Laws `[..., vocab]`, float64, in the library of the laws.

    Raises
    ------
    InputError
        Arguments that cannot be used.

    Notes
    -----
    docs/theory.md T10: the left derivative of a least concave majorant, by one sort and one antitonic regression. That
    some picked token followed by single-draft verification is optimal when lossless is due to Khisti et al., ICLR
    2025, arXiv 2410.18234, and the polymatroid behind it to Thomas and Pal, arXiv 2511.15898.
    """
    problem = validated(draft, target, normalise=normalise)
    return multi_draft.effective_draft(problem.draft, problem.target, checked_drafts(drafts), replacement=replacement)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)  # it prints as its parent does
class MultiDraftPoint(ParetoPoint):
    """The best output law at one point of the front of several drafts.

    All of `ParetoPoint`, with the effective law as `draft`: once one of the drafts has been picked with that law,
    `acceptance` and `residual` are the best rule.

    Parameters
    ----------
    sampled_draft
        The law that each of the drafts comes from, `[..., vocab]`.
    drafts, replacement
        How many, and how they are drawn.
    """

    sampled_draft: Array
    drafts: int
    replacement: bool

    _hints: ClassVar[str] = ".acceptance and .residual of the picked draft, .certificate to prove it, .to_dict()"

    @cached_property
    def certificate(self) -> Certificate:
        """Proof of optimality, recomputed from the drafts' law, the target and the output law alone.

        The effective law plays no part: the bound is on every selection from the drafts, and `infeasibility`
        includes the largest excess of Pr(all drafts in S) - output(S) over the budget, S any set of tokens.
        """
        xp = array_namespace(self.draft)
        return multi_draft.certify_drafts(
            self.sampled_draft,
            self.target,
            output=self.output_law,
            budget=self.budget + xp.zeros_like(self.rejection),
            drafts=self.drafts,
            replacement=self.replacement,
            divergence=self.measure,
        )

    @property
    def rule(self) -> Never:
        """No rule with a name picks among the drafts in this way.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError(
            "rule: expected a point of one draft; got one of several, which decoding has no rule for; `acceptance` and "
            "`residual` judge the draft that was picked with the law `draft`"
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)  # it prints as its parent does
class MultiDraftFront(ParetoFront):
    """Least divergence as a function of the probability that no draft is emitted.

    All of `ParetoFront`, for one draft from the effective law, which is the front of the drafts. `total_variation`, its
    right end, is one minus `optimal_acceptance`.

    Parameters
    ----------
    sampled_draft
        The law that each of the drafts comes from, `[..., vocab]`.
    drafts, replacement
        How many, and how they are drawn.
    """

    sampled_draft: Array
    drafts: int
    replacement: bool

    @property
    def effective_draft(self) -> Array:
        """Law of one token that is worth as much as all the drafts, `[..., vocab]`."""
        return self.problem.draft

    @property
    def optimal_acceptance(self) -> Array:
        """Largest lossless acceptance, `[...]`: the front ends at one minus it."""
        return 1.0 - self.total_variation

    def at(self, *, rejection: Any = None, divergence: Any = None, price: Any = None) -> MultiDraftPoint:
        """Solve the front at one of three questions, as `ParetoFront.at`.

        Raises
        ------
        InputError
            Not exactly one of the three is given, or it is out of its range.
        """
        point = super().at(rejection=rejection, divergence=divergence, price=price)
        return MultiDraftPoint(**vars(point), **_how(self))

    def place(self, rule: AnyRule | str) -> tuple[Array, Array]:
        """Rejection and divergence of a multi-draft rule with as many drafts, `[...]`: where it is drawn.

        Raises
        ------
        InputError
            As `evaluate_multi_draft`.
        """
        target, vocab = self.problem.target, self.problem.target.shape[-1]
        rule = as_rule(rule, kind="multi_draft", taken_by="plot")
        rows = (to_numpy(law).reshape(-1, vocab) for law in (self.sampled_draft, target))
        outcomes = [evaluate_multi_draft(rule, *pair, drafts=self.drafts) for pair in zip(*rows, strict=True)]
        found = [[each.rejection for each in outcomes], [each.divergence_in(self.measure) for each in outcomes]]
        rejection, divergence = (like(np.reshape(each, tuple(target.shape[:-1])), target) for each in found)
        return rejection, divergence


def _how(front: MultiDraftFront) -> dict[str, Any]:
    return {name: getattr(front, name) for name in ("sampled_draft", "drafts", "replacement")}


def solve_multi_draft_pareto(
    draft: Array,
    target: Array,
    *,
    drafts: int,
    divergence: str | Divergence = "tv",
    rejection: Any = None,
    replacement: bool = True,
    normalise: bool = False,
) -> MultiDraftFront:
    """Find the least divergence to the target at every probability of emitting none of K drafts.

    minimise D(output, target) over laws with output(S) >= Pr(all drafts in S) - R for every set S of tokens: what
    any selection from the drafts, lossy or not, can reach. One law serves every f-divergence, the ratio clip of
    `effective_draft` and the target; for K = 1 it is `solve_pareto`'s.

    Parameters
    ----------
    draft, target
        Laws `[..., vocab]`, of any array-API library; results come back in it, in float64.
    drafts
        Drafts K, at least 1.
    divergence, rejection
        As in `solve_pareto`; the default grid goes from 0 to 1 - `optimal_acceptance`.
    replacement
        As in `optimal_acceptance`.
    normalise
        Accept rows of any positive sum and divide by it.

    Returns
    -------
    MultiDraftFront
        Query it with `.at(rejection=)`, `.at(divergence=)` or `.at(price=)`.

    Raises
    ------
    InputError
        Arguments that cannot be used.

    Notes
    -----
    docs/theory.md T10.
    """
    problem = validated(draft, target, normalise=normalise)
    count, measure = checked_drafts(drafts), divergence_named(divergence)
    law = multi_draft.effective_draft(problem.draft, problem.target, count, replacement=replacement)
    front = solve_pareto(law, problem.target, divergence=measure, rejection=rejection)
    return MultiDraftFront(**vars(front), sampled_draft=problem.draft, drafts=count, replacement=replacement)
