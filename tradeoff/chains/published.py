"""The paper's own examples: the chains of its simulations, and laws whose batch improvement has a closed form."""

import numpy as np

from solvers.errors import InputError
from tradeoff.chains.chain import MarkovChain, whole

STATES, SEED = 7, 10
"""Appendix F: seven states, random seed 10, a uniform prompt."""


def published_chains(horizon: int) -> tuple[MarkovChain, MarkovChain]:
    """Draft and target of the simulations in Appendix F, as far as these can be reconstructed.

    Uniform numbers from numpy's legacy generator with seed 10, divided by their row sums; the draft is drawn first.
    Theorem 1 gives 33.5348 rejections at T = 100, where the paper plots 33.535, and 16.4049 at T = 50, where it plots
    16.41: very probably the same instance, but not to the last digit.

    Parameters
    ----------
    horizon
        Tokens of the text: 50 in Figure 2, 100 in Figure 5. The target is drawn after the whole draft, so the two
        horizons are two instances.

    Raises
    ------
    InputError
        A horizon below 1.
    """
    whole("horizon", horizon)
    draft, target = np.random.RandomState(SEED).rand(2, horizon, STATES, STATES)  # draft first
    return _published_chain(draft), _published_chain(target)


def _published_chain(weights: np.ndarray) -> MarkovChain:
    return MarkovChain(transitions=weights / weights.sum(axis=-1, keepdims=True), initial=np.full(STATES, 1.0 / STATES))


def bernoulli_pair(draft: float, target: float) -> tuple[np.ndarray, np.ndarray]:
    """Laws `[2]` of two coins with these probabilities of token 1 (Figure 3).

    Raises
    ------
    InputError
        A number outside [0, 1].
    """
    _check_probabilities(draft=draft, target=target)
    return np.array([1.0 - draft, draft]), np.array([1.0 - target, target])


def bernoulli_improvement(draft: float, target: float, *, drafts: float) -> float:
    """Batch improvement of two coins, |u - v| (1 - w^{M-1}), with draft u and target v.

    After one rejection only the token that the target has more of is left. It is missed with the probability w that
    the draft proposes the other one: w = u if u >= v, the case the paper states, and 1 - u if not.

    Parameters
    ----------
    draft, target
        Probabilities u and v of token 1.
    drafts
        Drafts M, at least 1, or infinity.

    Raises
    ------
    InputError
        A probability outside [0, 1].
    """
    _check_probabilities(draft=draft, target=target)
    other = draft if draft >= target else 1.0 - draft
    return abs(draft - target) * (1.0 - other ** (drafts - 1.0))


def uniform_pair(tokens: int, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Draft uniform on all tokens, target uniform on the first `kept` of them, `[tokens]` each (Figure 3).

    Raises
    ------
    InputError
        Numbers that are not whole, or more kept than there are.
    """
    whole("tokens", tokens)
    whole("kept", kept)
    if kept > tokens:
        raise InputError(f"kept: expected at most {tokens} tokens; got {kept}")
    return np.full(tokens, 1.0 / tokens), np.where(np.arange(tokens) < kept, 1.0 / kept, 0.0)


def uniform_improvement(ratio: float, *, drafts: float) -> float:
    """Batch improvement of a uniform draft on `ratio` times as many tokens as the target, s - s^M with s = 1 - 1/ratio.

    Every residual law is the target again, and every draft misses it with probability s.

    Parameters
    ----------
    ratio
        At least 1.
    drafts
        Drafts M, at least 1, or infinity.

    Raises
    ------
    InputError
        A ratio below 1.
    """
    if not ratio >= 1:
        raise InputError(f"ratio: expected a number >= 1; got {ratio}")
    missed = 1.0 - 1.0 / ratio
    return missed - missed**drafts


def _check_probabilities(**values: float) -> None:
    for name, value in values.items():
        if not 0.0 <= value <= 1.0:
            raise InputError(f"{name}: expected a probability in [0, 1]; got {value}")
