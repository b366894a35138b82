"""Whole texts: the least KL + price * expected rejections on a Markov chain, by an exact dynamic programme.

Letters, as in docs/theory.md T9: p draft law and q target law of the next token in a state, pi output law, V cost of
the rest of the text. One backward pass solves

    V_T = 0,   V_t(s) = min over pi of KL(pi, q) + price TV(p, pi) + sum_x pi(x) V_{t+1}(state after x).

Since KL(pi, q) + sum pi V = KL(pi, qt) - log Z with the *tilted* target qt = q e^-V / Z, every step is the price form
of one position (T4) against qt, and its answer is a ratio clip again: clip(p, c qt, c e^price qt).

Memory is linear in states * tokens: only row quantities are kept for every step, and a step's laws are made again from
them when they are asked for.
"""

from dataclasses import dataclass

import numpy as np

from solvers.arrays import mass, positive_part
from solvers.certificate import dual_line
from solvers.closed_form import ClippedLaw, ratio_clip
from solvers.divergences import DIVERGENCES
from solvers.sort_free import levels_at_price

LARGEST_PRICE = 600.0
"""Nats per rejection. Tilted masses below e^-708 are beyond float64 and count as zero; up to this price, that changes
an output law by at most e^(600 - 708). A higher price would change the rejections by the order of e^-600."""

_KL = DIVERGENCES["kl"]
_SMALLEST = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, kw_only=True, eq=False)
class ChainProblem:
    """A draft and a target over the states of a chain, trusted.

    Parameters
    ----------
    draft, target
        Laws of the next token in every state, `[states, tokens]`, or `[time, states, tokens]` with at least `horizon`
        steps; float64.
    successors
        State after emitting each token in each state, `[states, tokens]`.
    initial
        Law of the state before the first step, `[states]`.
    horizon
        Tokens T of the text.
    """

    draft: np.ndarray
    target: np.ndarray
    successors: np.ndarray
    initial: np.ndarray
    horizon: int

    def laws(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Draft and target of a step, `[states, tokens]`."""
        return tuple(law if law.ndim == 2 else law[step] for law in (self.draft, self.target))  # type: ignore[return-value]

    def arrived(self, masses: np.ndarray) -> np.ndarray:
        """Mass of every next state, `[states]`, from masses of state and emitted token, `[states, tokens]`."""
        return np.bincount(self.successors.reshape(-1), weights=masses.reshape(-1), minlength=self.initial.shape[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class ChainSolution:
    """The optimal policy at a price, as far as row quantities tell it.

    Parameters
    ----------
    price
        Nats per rejection.
    values
        V: least KL + price * rejections of the rest of the text, before each step and after the last,
        `[horizon + 1, states]`.
    floor, ceiling
        c and C of the clip against the tilted target, `[horizon, states]`.
    kl, rejection
        KL(output, target) in nats, the target being the real one, and probability of a rejection,
        `[horizon, states]`.
    state_laws
        Law of the state before each step and after the last under the policy, `[horizon + 1, states]`.
    """

    price: float
    values: np.ndarray
    floor: np.ndarray
    ceiling: np.ndarray
    kl: np.ndarray
    rejection: np.ndarray
    state_laws: np.ndarray


def solve_chain(problem: ChainProblem, price: float) -> ChainSolution:
    """Minimise KL(text, target's text) + price * expected rejections over all policies (T9).

    A policy may look at the whole text so far; the optimal one looks at the state and the step.

    Parameters
    ----------
    problem
        The chain.
    price
        Nats per rejection, 0 (lossless) to `LARGEST_PRICE` (the least expected rejections of finite KL).
    """
    steps, states = problem.horizon, problem.initial.shape[0]
    values, state_laws = np.zeros((2, steps + 1, states))
    floor, ceiling, kl, rejection = np.zeros((4, steps, states))
    for step in reversed(range(steps)):
        draft, target = problem.laws(step)
        later = values[step + 1][problem.successors]
        tilted, _ = tilt(target, later)
        floor[step], ceiling[step] = levels_at_price(draft, tilted, np.full(states, price), _KL)
        law = _clip(draft, tilted, floor[step], ceiling[step])
        kl[step], rejection[step] = _KL.value(law, target), mass(positive_part(draft - law))
        values[step] = kl[step] + price * rejection[step] + mass(law * later)
    state_laws[0] = problem.initial
    for step in range(steps):
        tilted, _ = tilt(problem.laws(step)[1], values[step + 1][problem.successors])
        law = _clip(problem.laws(step)[0], tilted, floor[step], ceiling[step])
        state_laws[step + 1] = problem.arrived(state_laws[step][:, None] * law)
    return ChainSolution(
        price=price,
        values=values,
        floor=floor,
        ceiling=ceiling,
        kl=kl,
        rejection=rejection,
        state_laws=state_laws,
    )


def rule_at(problem: ChainProblem, solution: ChainSolution, step: int) -> ClippedLaw:
    """Acceptance min(1, C qt / p) and residual [c qt - p]_+ of a step, `[states, tokens]`."""
    draft, target = problem.laws(step)
    tilted, _ = tilt(target, solution.values[step + 1][problem.successors])
    return ratio_clip(draft, tilted, solution.floor[step], solution.ceiling[step])


def tilt(target: np.ndarray, later: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tilted target q e^-V / Z, `[states, tokens]`, and log Z, `[states]`.

    Parameters
    ----------
    target
        q, `[states, tokens]`.
    later
        V after each token, `[states, tokens]`, of any size: the largest q e^-V of a row is scaled to 1.
    """
    with np.errstate(divide="ignore"):
        logarithm = np.log(target)
    logarithm -= later
    largest = np.max(logarithm, axis=-1, keepdims=True)
    logarithm -= largest
    weights = np.exp(logarithm)
    total = mass(weights, keepdims=True)
    weights /= total
    weights[weights < _SMALLEST] = 0.0  # the reciprocal would overflow
    return weights, (largest + np.log(total))[:, 0]


def bellman_bound(problem: ChainProblem, floor: np.ndarray, price: float) -> float:
    """A number that KL + price * rejections of no policy is below, whatever the floors (T9).

    T5's line at any c and C = c e^price bounds one step of the programme from below:
    W_t(s) = -log Z + intercept of (p, qt; c, C) with qt tilted by W_{t+1}, W_T = 0. One step is monotone in V, so
    W <= V throughout. No root is sought: floors that are not the optimal ones make the bound lower, never wrong.

    Parameters
    ----------
    problem
        The chain.
    floor
        c > 0, `[horizon, states]`.
    price
        Nats per rejection.

    Returns
    -------
    float
        sum over s of initial(s) W_0(s), nats.
    """
    bound = np.zeros(problem.initial.shape[0])
    for step in reversed(range(problem.horizon)):
        draft, target = problem.laws(step)
        tilted, log_total = tilt(target, bound[problem.successors])
        ceiling = np.exp(np.log(floor[step]) + price)
        bound = dual_line(draft, tilted, floor=floor[step], ceiling=ceiling, divergence=_KL)[0] - log_total
    return float(problem.initial @ bound)


def _clip(draft: np.ndarray, tilted: np.ndarray, floor: np.ndarray, ceiling: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(draft, floor[:, None] * tilted), ceiling[:, None] * tilted)
