"""What several drafts for one position are worth: the best acceptance, and the exact front of any selection."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from array_api_compat import array_namespace

from solvers import multi_draft
from solvers.arrays import Array
from solvers.certificate import Certificate
from solvers.divergences import Divergence, divergence_named
from tradeoff.multi_draft_outcome import checked_drafts
from tradeoff.pareto import ParetoFront, ParetoPoint, solve_pareto
from tradeoff.problem import validated


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


@dataclass(frozen=True, kw_only=True, eq=False)
class MultiDraftPoint:
    """The best output law at one point of the front of several drafts.

    Parameters
    ----------
    draft, target
        The laws, `[..., vocab]`, float64.
    drafts, replacement
        How drafts are drawn.
    single
        The same point for one draft from the effective law: its acceptance and residual are the optimal rule once a
        draft has been picked with that law.
    """

    draft: Array
    target: Array
    drafts: int
    replacement: bool
    single: ParetoPoint

    @property
    def rejection(self) -> Array:
        """Probability that no draft is emitted, `[...]`."""
        return self.single.rejection

    @property
    def divergence(self) -> Array:
        """Divergence of the output from the target, `[...]`; nats where logarithms occur."""
        return self.single.divergence

    @property
    def price(self) -> Array:
        """-d divergence / d rejection, `[...]`."""
        return self.single.price

    @property
    def output_law(self) -> Array:
        """Law of the emitted token, `[..., vocab]`."""
        return self.single.output_law

    @cached_property
    def certificate(self) -> Certificate:
        """Proof of optimality, recomputed from draft, target and output law alone.

        The effective law plays no part: the bound is on every selection from the drafts, and `infeasibility`
        includes the largest excess of Pr(all drafts in S) - output(S) over the budget, S any set of tokens.
        """
        xp = array_namespace(self.draft)
        return multi_draft.certify_drafts(
            self.draft,
            self.target,
            output=self.output_law,
            budget=self.single.budget + xp.zeros_like(self.rejection),
            drafts=self.drafts,
            replacement=self.replacement,
            divergence=self.single.measure,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class MultiDraftFront:
    """Least divergence as a function of the probability that no draft is emitted.

    Parameters
    ----------
    draft, target
        The laws, `[..., vocab]`, float64.
    drafts, replacement
        How drafts are drawn.
    single
        The front of one draft from the effective law, which is the front of the drafts.
    """

    draft: Array
    target: Array
    drafts: int
    replacement: bool
    single: ParetoFront

    @property
    def effective_draft(self) -> Array:
        """Law of one token that is worth as much as all the drafts, `[..., vocab]`."""
        return self.single.problem.draft

    @property
    def optimal_acceptance(self) -> Array:
        """Largest lossless acceptance, `[...]`: the front ends at one minus it."""
        return 1.0 - self.single.total_variation

    @property
    def rejection(self) -> Array:
        """The solved grid, `[points, ...]`."""
        return self.single.rejection

    @property
    def divergence(self) -> Array:
        """Least divergence there, `[points, ...]`; nats where logarithms occur."""
        return self.single.divergence

    @property
    def price(self) -> Array:
        """-d divergence / d rejection there, `[points, ...]`."""
        return self.single.price

    def at(self, *, rejection: Any = None, divergence: Any = None, price: Any = None) -> MultiDraftPoint:
        """Solve the front at one of three questions, as `ParetoFront.at`.

        Raises
        ------
        InputError
            None or several of the three, or one out of its range.
        """
        return MultiDraftPoint(
            draft=self.draft,
            target=self.target,
            drafts=self.drafts,
            replacement=self.replacement,
            single=self.single.at(rejection=rejection, divergence=divergence, price=price),
        )


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
    return MultiDraftFront(
        draft=problem.draft,
        target=problem.target,
        drafts=count,
        replacement=replacement,
        single=solve_pareto(law, problem.target, divergence=measure, rejection=rejection),
    )
