"""The best residual of a fixed acceptance: Theorem 4, and the one point of its set that serves every divergence."""

from solvers.arrays import Array
from solvers.closed_form import residual_fill
from tradeoff.outcome.token import Outcome, outcome_of
from tradeoff.problem import checked_probabilities, validated


def best_residual(draft: Array, target: Array, acceptance: Array, *, normalise: bool = False) -> Outcome:
    """Find the residual that loses least when the acceptance is given.

    minimise D(a + r, target) over r >= 0 with sum r = 1 - sum a, where a = acceptance draft. One answer, the
    residual masses [c target - a]_+, is optimal for every f-divergence at once; it lies in Theorem 4's set.

    Parameters
    ----------
    draft, target
        Laws `[..., vocab]`, as in `solve_pareto`.
    acceptance
        b(x) in [0, 1], `[..., vocab]`, of the laws' own kind.
    normalise
        Accept rows of any positive sum and divide by it.

    Returns
    -------
    Outcome
        With the residual, the output law and its divergences, float64.

    Raises
    ------
    InputError
        Laws that are not laws, an acceptance that is no array of real numbers, of another shape or outside [0, 1].

    Notes
    -----
    Yin et al., NeurIPS 2024, Theorem 4 (TV); docs/theory.md T3 (every f-divergence).
    """
    problem = validated(draft, target, normalise=normalise)
    chosen = checked_probabilities(acceptance, "acceptance", problem.draft)
    residual, _ = residual_fill(problem.draft, problem.target, chosen)
    return outcome_of(problem.draft, problem.target, chosen, residual, problem.target)
