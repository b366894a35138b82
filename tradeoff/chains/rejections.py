"""What a rule costs on a text: expected rejections, their variance, tokens per call of the target, exactly.

Every drafted token that is judged is accepted or rejected once, with a probability that depends on the text so far, and
what is emitted decides which texts come next. So all of it follows from one pass over the steps that carries, for
every state, its probability and the moments of the number of rejections on the way there.
"""

from dataclasses import dataclass

import numpy as np

from solvers.divergences import total_variation
from tradeoff.chains.chain import ChainPair, MarkovChain, next_state, paired, whole
from tradeoff.outcome.token import Outcome, evaluate
from tradeoff.rule import Rule
from tradeoff.rules.lossless import SpeculativeSampling
from tradeoff.rules.registry import as_rule


@dataclass(frozen=True, kw_only=True, eq=False)
class Rejections:
    """Mean and variance of the number of rejections over a text of T tokens.

    Parameters
    ----------
    per_step
        Probability that the drafted token is rejected at each step, `[T]`.
    variance
        Of the number of rejections in the whole text.
    state_laws
        Law of the state before each step and after the last, `[T + 1, states]`, under the text that is written.
    """

    per_step: np.ndarray
    variance: float
    state_laws: np.ndarray

    @property
    def mean(self) -> float:
        """Expected rejections over the text, E[N]; `float()` gives it too."""
        return float(self.per_step.sum())

    def __float__(self) -> float:
        return self.mean

    @property
    def standard_deviation(self) -> float:
        """Of the number of rejections."""
        return float(np.sqrt(max(self.variance, 0.0)))

    @property
    def acceleration(self) -> float:
        """T / E[N], the paper's measure of speed; infinite if nothing is ever rejected."""
        return acceleration(len(self.per_step), self.mean)


def acceleration(horizon: int, rejections: float) -> float:
    """T / E[N]: tokens per call of the target if only a rejection costs one."""
    return horizon / rejections if rejections > 0 else float("inf")


def expected_rejections(
    draft: MarkovChain, target: MarkovChain, rule: Rule | str | None = None, horizon: int | None = None
) -> Rejections:
    """Compute the expected number of rejections of Algorithm 2 with any rule, and its variance (Theorem 1).

    E[N] = sum over steps n of E[R_n(x_<n)], prefixes x_<n drawn from the text that the rule writes: the target's own
    text if the rule is lossless, where R is TV(draft, target) for speculative sampling.

    Parameters
    ----------
    draft, target
        Chains of one order over the same tokens, with the same law of the prompt.
    rule
        Any per-token rule or its spec, also with replacements that depend on the rejected token; by default speculative
        sampling, the paper's Algorithm 1.
    horizon
        Tokens of the text; by default as many as the chains have laws for.

    Returns
    -------
    Rejections

    Raises
    ------
    InputError
        Chains that do not belong together, a horizon that is missing or too long, a rule whose acceptance or residual
        is not one.

    Notes
    -----
    Yin et al., arXiv 2411.00841, Theorem 1, which the paper proves for the lossless rule; docs/theory.md has the
    general form. The variance is not in the paper: rejections at different steps are dependent, since a replaced token
    leads to other states than an accepted one.
    """
    pair = paired(draft, target, horizon)
    steps = judged(pair, rule, "expected_rejections")
    moments = start(pair.initial)
    per_step, laws = [], [pair.initial]
    for step in range(pair.horizon):
        outcome = steps[min(step, len(steps) - 1)]
        per_step.append(float(moments[0] @ outcome.rejection))
        kept, replaced = advance(moments, accepted_mass(outcome), rejected_mass(outcome))
        moments = kept + replaced
        laws.append(moments[0])
    return Rejections(per_step=np.array(per_step), variance=variance(moments), state_laws=np.stack(laws))


def rejection_lower_bound(draft: MarkovChain, target: MarkovChain, *, horizon: int | None = None) -> float:
    """Return sum over steps of E_target[TV(draft, target)]: no unbiased rule rejects less (Theorem 2).

    It binds every rule of Algorithm 2 whose text is the target's: one drafted token is judged per step. Several drafts
    for a step (Theorem 3) may reject less.

    Parameters
    ----------
    draft, target, horizon
        As in `expected_rejections`.

    Raises
    ------
    InputError
        As there.
    """
    pair = paired(draft, target, horizon)
    distance = np.stack([total_variation(*laws) for laws in pair.laws])  # [steps, states], one step if unchanging
    return float((target.state_laws(pair.horizon)[:-1] * distance).sum())


def output_chain(draft: MarkovChain, target: MarkovChain, rule: Rule | str | None = None) -> MarkovChain:
    """Return the law of the text that a rule writes without bonus tokens, which is a chain again.

    Parameters
    ----------
    draft, target, rule
        As in `expected_rejections`.

    Raises
    ------
    InputError
        As there.
    """
    ends = [chain.time for chain in (draft, target) if chain.time is not None]
    pair = paired(draft, target, None if ends else 1)
    laws = np.stack([outcome.output_law for outcome in judged(pair, rule, "output_chain")])
    return MarkovChain(transitions=laws if ends else laws[0], initial=pair.initial)


@dataclass(frozen=True, kw_only=True, eq=False)
class TokensPerCall:
    """What writing a text in blocks takes, on average.

    Parameters
    ----------
    horizon
        Tokens of the text.
    target_calls
        Expected calls of the target, one to a block.
    accepted
        Expected drafted tokens that are kept.
    rejections
        Expected drafted tokens that are judged and rejected.
    bonus
        Expected bonus tokens, after fully accepted blocks; with `accepted` and `rejections` they sum to the horizon.
    """

    horizon: int
    target_calls: float
    accepted: float
    rejections: float
    bonus: float

    @property
    def mean(self) -> float:
        """Tokens per call of the target: the horizon over the expected calls."""
        return self.horizon / self.target_calls


def tokens_per_call(
    draft: MarkovChain,
    target: MarkovChain,
    rule: Rule | str | None = None,
    *,
    draft_length: int,
    horizon: int | None = None,
) -> TokensPerCall:
    """Compute the tokens per call of the target with blocks of drafted tokens and bonus tokens, as engines decode.

    A call judges k = min(draft_length, room) drafted tokens. A rejection ends its block; after a fully accepted block
    one more token comes from the rule's bonus law, if there is room. So the place in the block is part of the state,
    and the text follows the rule's output law at judged places and its bonus law at the others.

    Parameters
    ----------
    draft, target, rule, horizon
        As in `expected_rejections`.
    draft_length
        Tokens drafted per call, at least 1.

    Returns
    -------
    TokensPerCall

    Raises
    ------
    InputError
        As there, or a draft length below 1.

    Notes
    -----
    The convention of `tradeoff.outcome.block.joint_law`, which enumerates texts; here time and memory grow with
    horizon * draft_length * states * tokens.
    """
    whole("draft_length", draft_length)
    pair = paired(draft, target, horizon)
    steps = judged(pair, rule, "tokens_per_call")
    # row t: probability that a block starts before step t, by state
    starts = np.zeros((pair.horizon + 1, pair.initial.size))
    starts[0] = pair.initial
    accepted = rejections = bonus = 0.0
    for begin in range(pair.horizon):
        reached = starts[begin]
        end = min(begin + draft_length, pair.horizon)
        for step in range(begin, end):
            outcome = steps[min(step, len(steps) - 1)]
            refused = reached[:, None] * rejected_mass(outcome)
            starts[step + 1] += next_state(refused)
            rejections += float(refused.sum())
            reached = next_state(reached[:, None] * accepted_mass(outcome))
            accepted += float(reached.sum())
        if end < pair.horizon:
            law = steps[min(end, len(steps) - 1)].bonus_law
            starts[end + 1] += next_state(reached[:, None] * law)
            bonus += float(reached.sum())
    return TokensPerCall(
        horizon=pair.horizon,
        target_calls=float(starts[:-1].sum()),
        accepted=accepted,
        rejections=rejections,
        bonus=bonus,
    )


def judged(pair: ChainPair, rule: Rule | str | None, taken_by: str) -> list[Outcome]:
    """Outcome of a rule in every state, one to a step, or one in all if the laws do not change."""
    rule = SpeculativeSampling() if rule is None else as_rule(rule, kind="token", taken_by=taken_by)
    return [evaluate(rule, *laws) for laws in pair.laws]


def accepted_mass(outcome: Outcome) -> np.ndarray:
    """Probability of drafting and keeping each token, `[states, tokens]`."""
    return outcome.acceptance * outcome.draft


def rejected_mass(outcome: Outcome) -> np.ndarray:
    """Probability that each token replaces a rejected one, `[states, tokens]`."""
    return np.maximum(outcome.output_law - accepted_mass(outcome), 0.0)


def start(law: np.ndarray) -> np.ndarray:
    """Moments before the first step, `[3, states]`: nothing has been rejected.

    Row i is E[N^i 1{state}] for the number N of rejections so far, i = 0, 1, 2.
    """
    return np.stack([law, np.zeros_like(law), np.zeros_like(law)])


def advance(moments: np.ndarray, kept: np.ndarray, replaced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moments `[3, states]` after one step, split by what happened: the token was kept, or it replaced a rejected one.

    (N + 1)^2 = N^2 + 2 N + 1 where a token was replaced.
    """
    zeroth, first, second = moments
    counted = np.stack([zeroth, first + zeroth, second + 2.0 * first + zeroth])
    return next_state(moments[..., None] * kept), next_state(counted[..., None] * replaced)


def variance(moments: np.ndarray) -> float:
    """Variance of the number of rejections from its moments, `[3, states]`."""
    _, first, second = moments.sum(axis=-1)
    return float(second - first**2)
