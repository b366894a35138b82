"""Algorithms 1 to 4 run many times at once: what the exact formulas are checked against.

Runs are advanced together, one token at a time. A drafted token that the algorithms throw away together with a
rejected one before it is never looked at, so it is not drawn here: that changes neither the text nor the rejections.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from solvers.arrays import safe_divide
from solvers.errors import InputError
from solvers.multi_draft import left_after
from tradeoff.chains.batch import Version, judge_root
from tradeoff.chains.chain import ChainPair, MarkovChain, paired
from tradeoff.chains.rejections import acceleration, judged
from tradeoff.outcome.token import Outcome
from tradeoff.rule import Rule

Progress: TypeAlias = Callable[[int, int], None]
"""Called after every step with the steps done and the steps in all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulation:
    """What happened in many independent runs.

    Parameters
    ----------
    rejections
        Rejections in each run, `[runs]`.
    rejected
        In how many runs the drafted token was rejected at each step, `[T]`.
    counts
        In how many runs each token was emitted at each step, `[T, tokens]`.
    """

    rejections: np.ndarray
    rejected: np.ndarray
    counts: np.ndarray

    @property
    def runs(self) -> int:
        """Number of runs."""
        return len(self.rejections)

    @property
    def mean(self) -> float:
        """Mean rejections of a run."""
        return float(self.rejections.mean())

    @property
    def variance(self) -> float:
        """Sample variance of the rejections of a run."""
        return float(self.rejections.var(ddof=1))

    @property
    def standard_error(self) -> float:
        """Of `mean`."""
        return float(np.sqrt(self.variance / self.runs))

    @property
    def per_step(self) -> np.ndarray:
        """Share of the runs that rejected, at each step, `[T]`."""
        return self.rejected / self.runs

    @property
    def per_step_error(self) -> np.ndarray:
        """Standard error of `per_step`, `[T]`."""
        return np.sqrt(self.per_step * (1.0 - self.per_step) / self.runs)

    @property
    def token_laws(self) -> np.ndarray:
        """Share of the runs that emitted each token, at each step, `[T, tokens]`."""
        return self.counts / self.runs

    @property
    def acceleration(self) -> float:
        """T over the mean rejections, the paper's measure of speed."""
        return acceleration(len(self.rejected), self.mean)


def simulate(
    draft: MarkovChain,
    target: MarkovChain,
    rule: Rule | str | None = None,
    *,
    runs: int,
    seed: int | np.random.Generator,
    horizon: int | None = None,
    progress: Progress | None = None,
) -> Simulation:
    """Run Algorithm 2 with any rule, or Algorithm 1 without one: speculative sampling.

    Parameters
    ----------
    draft, target, rule, horizon
        As in `expected_rejections`.
    runs
        Independent texts, at least 2.
    seed
        A whole number, or a generator to go on with.
    progress
        Called after every step with the steps done and the steps in all.

    Returns
    -------
    Simulation

    Raises
    ------
    InputError
        As in `expected_rejections`, or fewer than 2 runs.
    """
    pair = paired(draft, target, horizon)
    outcomes = judged(pair, rule, "simulate")

    def step(texts: "_Texts", number: int) -> tuple[np.ndarray, np.ndarray]:
        outcome = outcomes[min(number, len(outcomes) - 1)]
        tokens = texts.draw(outcome.draft, texts.states)
        refused = ~texts.happens(outcome.acceptance[texts.states, tokens])
        tokens[refused] = _replacements(texts, outcome, texts.states[refused], tokens[refused])
        return tokens, refused

    return _simulate(pair, step, runs, seed, progress)


def simulate_autoregressive(
    target: MarkovChain,
    *,
    runs: int,
    seed: int | np.random.Generator,
    horizon: int | None = None,
    progress: Progress | None = None,
) -> Simulation:
    """Run Algorithm 3: every token comes from the target, and costs a call as a rejection does.

    So every step counts as rejected, and the acceleration is 1.

    Parameters
    ----------
    target
        The chain.
    runs, seed, horizon, progress
        As in `simulate`.

    Raises
    ------
    InputError
        As in `simulate`.
    """
    pair = paired(target, target, horizon)

    def step(texts: "_Texts", number: int) -> tuple[np.ndarray, np.ndarray]:
        return texts.draw(target.laws(number), texts.states), np.ones(texts.states.shape, dtype=bool)

    return _simulate(pair, step, runs, seed, progress)


def simulate_batch(
    draft: MarkovChain,
    target: MarkovChain,
    *,
    drafts: int,
    runs: int,
    seed: int | np.random.Generator,
    horizon: int | None = None,
    version: Version = "corrected",
    progress: Progress | None = None,
) -> Simulation:
    """Run Algorithm 4: batches of drafted sequences.

    Parameters
    ----------
    draft, target, horizon, drafts, version
        As in `batch_algorithm`.
    runs, seed, progress
        As in `simulate`.

    Returns
    -------
    Simulation

    Raises
    ------
    InputError
        As in `batch_algorithm` and `simulate`.
    """
    pair = paired(draft, target, horizon)
    judge_root(*pair.laws[0], drafts=drafts, version=version)  # checks both arguments
    judged_count = 1 if version == "printed" else drafts
    steps = [(p, _left(p, q, judged_count + (version != "corrected"))) for p, q in pair.laws]

    def step(texts: "_Texts", number: int) -> tuple[np.ndarray, np.ndarray]:
        law, left = steps[min(number, len(steps) - 1)]
        tokens, refused = np.zeros_like(texts.states), np.ones(texts.states.shape, dtype=bool)
        for turn in range(judged_count):
            # behind a root there is one sequence, judged against the target itself
            judged_now = np.flatnonzero(refused & (texts.replaced | (turn == 0)))
            states = texts.states[judged_now]
            drafted = texts.draw(law, states)
            kept = texts.happens(safe_divide(left[turn], law, 1.0)[states, drafted])
            tokens[judged_now[kept]] = drafted[kept]
            refused[judged_now[kept]] = False
        for place, residual in ((texts.replaced, left[-1]), (~texts.replaced, left[1])):
            tokens[refused & place] = texts.draw(residual, texts.states[refused & place])
        return tokens, refused

    return _simulate(pair, step, runs, seed, progress)


class _Texts:
    """The state of every run, whether its last token replaced a rejected one, and the random numbers.

    A text begins as if its prompt had replaced something: with a batch.
    """

    def __init__(self, initial: np.ndarray, runs: int, seed: int | np.random.Generator) -> None:
        self.generator = np.random.default_rng(seed)
        self.states = self.draw(initial[None], np.zeros(runs, dtype=np.int64))
        self.replaced = np.ones(runs, dtype=bool)

    def happens(self, probability: np.ndarray) -> np.ndarray:
        """Toss a coin for every probability, `[n]`."""
        return self.generator.random(probability.shape) < probability

    def draw(self, laws: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Draw a token from each of the rows `[n]` of `laws [rows, tokens]`: `[n]`.

        All rows become one increasing sequence, row s between s and s + 1, and every draw is one look-up in it. Tokens
        without mass add no step, so they are never drawn.
        """
        cumulative = np.cumsum(laws, axis=-1)
        ladder = (cumulative / cumulative[:, -1:] + np.arange(len(laws))[:, None]).ravel()
        # a sum that is rounded up to the next row must not reach it
        level = np.minimum(rows + self.generator.random(rows.shape), np.nextafter(rows + 1.0, 0.0))
        return np.searchsorted(ladder, level, side="right") - rows * laws.shape[-1]


_Step: TypeAlias = Callable[[_Texts, int], tuple[np.ndarray, np.ndarray]]
"""Texts and step -> the tokens emitted and whether each replaced a rejected one, `[runs]` both."""


def _simulate(
    pair: ChainPair, step: _Step, runs: int, seed: int | np.random.Generator, progress: Progress | None
) -> Simulation:
    if not isinstance(runs, int | np.integer) or runs < 2:
        raise InputError(f"runs: expected a whole number, at least 2, as one has no standard error; got {runs!r}")
    texts, successors = _Texts(pair.initial, int(runs), seed), pair.target.successors
    rejections = np.zeros(int(runs), dtype=np.int64)
    rejected, counts = [], []
    for number in range(pair.horizon):
        tokens, texts.replaced = step(texts, number)
        rejections += texts.replaced
        rejected.append(int(texts.replaced.sum()))
        counts.append(np.bincount(tokens, minlength=pair.target.tokens))
        texts.states = successors[texts.states, tokens]
        if progress is not None:
            progress(number + 1, pair.horizon)
    return Simulation(rejections=rejections, rejected=np.array(rejected), counts=np.stack(counts))


def _replacements(texts: _Texts, outcome: Outcome, states: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """What replaces the rejected tokens `[n]` in these states, `[n]`."""
    residual = outcome.residual
    if isinstance(residual, np.ndarray) and residual.ndim == outcome.draft.ndim:
        return texts.draw(residual, states)
    tokens = rejected.copy()
    for token in np.unique(rejected):  # one law per state at a time: states x tokens numbers, not tokens times as many
        chosen = rejected == token
        laws = outcome.residual_after(np.full(len(outcome.draft), token))
        tokens[chosen] = texts.draw(laws, states[chosen])
    return tokens


def _left(draft: np.ndarray, target: np.ndarray, rejected: int) -> list[np.ndarray]:
    """q^1 to q^{rejected + 1}, each `[states, tokens]`."""
    laws = [target]
    for _ in range(rejected):
        laws.append(left_after(draft, laws[-1]))
    return laws
