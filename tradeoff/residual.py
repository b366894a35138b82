"""The best residual of a fixed acceptance: Theorem 4, and the one point of its set that serves every divergence."""

from array_api_compat import array_namespace

from solvers.arrays import Array
from solvers.closed_form import residual_fill
from solvers.errors import InputError
from tradeoff.outcome import Outcome, outcome_of
from tradeoff.problem import validated


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
        Laws that are not laws, an acceptance of another shape or outside [0, 1].

    Notes
    -----
    Yin et al., NeurIPS 2024, Theorem 4 (TV); docs/theory.md T3 (every f-divergence).
    """
    problem = validated(draft, target, normalise=normalise)
    xp = array_namespace(problem.draft)
    chosen = xp.asarray(acceptance, dtype=xp.float64)
    if chosen.shape != problem.draft.shape:
        raise InputError(
            f"acceptance: expected one probability per token, shape {tuple(problem.draft.shape)}; "
            f"got {tuple(chosen.shape)}"
        )
    if not bool(xp.all((chosen >= 0) & (chosen <= 1))):
        raise InputError("acceptance: expected probabilities in [0, 1]; got one outside, or NaN; clip them first")
    residual, _ = residual_fill(problem.draft, problem.target, chosen)
    return outcome_of(problem.draft, problem.target, chosen, residual, problem.target)
