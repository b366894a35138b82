"""How many tokens to draft: as many as make the most tokens per second, from what the rounds so far showed."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from decoding.policies.stopwatch import Seconds
from solvers.errors import InputError

FORGETTING = 0.95
"""Weight that counts keep from round to round: about 20 rounds count."""

PRIOR_COUNTS = 4.0
"""Tokens that the place before stands for."""

FIRST_ACCEPTANCE = 0.7
"""What place 1 is taken for before it was seen."""

FIRST_LENGTH = 4
"""Drafted before any round was measured."""

ROUNDS = 64
"""Rounds whose seconds count."""

TICK = 1e-12
"""No round is free, even on a clock that says so."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StepCosts:
    """Seconds of a round of k drafted tokens: k draft + target + k target_per_token + rest.

    Only ratios matter, so any unit will do.

    Parameters
    ----------
    draft
        One drafted token, for all texts of the batch.
    target
        One call of the target, without what more tokens add to it.
    target_per_token
        What every drafted token adds to that call.
    rest
        Verification and everything else in a round.

    Raises
    ------
    InputError
        A negative cost, or none at all.
    """

    draft: float
    target: float
    target_per_token: float = 0.0
    rest: float = 0.0

    def __post_init__(self) -> None:
        costs = [getattr(self, field.name) for field in fields(self)]
        if not (min(costs) >= 0 and 0 < sum(costs) < float("inf")):
            raise InputError(f"costs: expected seconds, at least 0 and one above; got {', '.join(map(str, costs))}")

    def of_round(self, drafted: np.ndarray) -> np.ndarray:
        """Seconds of rounds of so many drafted tokens, `[...]`."""
        return drafted * (self.draft + self.target_per_token) + self.target + self.rest


class DraftLength:
    """Chooses the draft length before every round: the k in 1..most with the most expected tokens per second.

    With a_j the probability that place j is accepted once all before it are,

        tokens(k) = 1 + sum over i = 1..k of a_1 ... a_i,
        seconds(k) = k draft + target + k target_per_token + rest.

    A round costs one target call for all texts of a batch and their tokens add up; pooled over texts, a_1 ... a_i is
    the share of texts that keep i tokens, however different they are, so the best k is the batch's.

    a_j is a ratio of exponentially forgotten counts, drawn towards a_(j-1) by a few prior counts: a place that was not
    tried, or not for long, is taken to be like the one before it. So no exploration is needed: place 1 is tested in
    every round, and what made k small is forgotten unless it is seen again. Seconds are medians over the last rounds,
    which a graph capture or a pause does not move; target and target_per_token are the median line (Theil-Sen).

    k is fixed before the round draws anything, from earlier rounds alone, and no rule of this library looks at k
    when it judges a position: under a lossless rule every position follows the target whatever k is, so the law of the
    text stays the target's. Under a lossy one k changes the share of bonus tokens, which are the target's. Measured
    seconds differ from run to run, and k and the text of a seed with them; with `costs` given a seed reproduces.

    What was learnt is kept from call to call; make a new object to begin anew.

    Parameters
    ----------
    most
        Greatest length, at least 1; an attribute too.
    costs
        Known costs; by default they are measured.

    Raises
    ------
    InputError
        `most` below 1.

    Notes
    -----
    Peers: transformers' "heuristic" schedule adds 2 after a full block and takes 1 off otherwise, whatever the costs;
    its confidence threshold and SpecDec++ (Huang et al., arXiv 2405.19715) stop inside a block, by the draft's
    confidence or a trained head. The criterion is the one of Leviathan et al. (arXiv 2211.17192, section 3.5) and
    goodput (Liu et al., arXiv 2406.14066), with one acceptance per place.
    """

    def __init__(self, *, most: int, costs: StepCosts | None = None) -> None:
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise InputError(f"most: expected a draft length, a whole number of at least 1; got {most!r}")
        self.most, self._costs = most, costs
        self._tested, self._kept = np.zeros(most), np.zeros(most)
        self._rounds: deque[tuple[int, Seconds]] = deque(maxlen=ROUNDS)

    @property
    def acceptance(self) -> np.ndarray:
        """What is believed of a_1, a_2, ..., `[most]`."""
        believed, before = np.empty(self.most), FIRST_ACCEPTANCE
        for place in range(self.most):
            before = (self._kept[place] + PRIOR_COUNTS * before) / (self._tested[place] + PRIOR_COUNTS)
            believed[place] = before
        return believed

    @property
    def costs(self) -> StepCosts | None:
        """The costs, given or measured; None before the first round was measured."""
        if self._costs is not None:
            return self._costs
        return _fitted(self._rounds) if self._rounds else None

    def choose(self) -> int:
        """Return the length of the next round, 1 to `most`; 4 at most as long as no round was measured."""
        costs = self.costs
        if costs is None:
            return min(FIRST_LENGTH, self.most)
        tokens = 1.0 + np.cumsum(np.cumprod(self.acceptance))
        return 1 + int(np.argmax(tokens / costs.of_round(np.arange(1, self.most + 1))))

    def observe(self, *, drafted: int, accepted: Sequence[int], seconds: Seconds) -> None:
        """Learn from a round.

        Parameters
        ----------
        drafted
            Its k, 1 to `most`.
        accepted
            How many of them every live text kept. One whose drafter proposed fewer than k counts as rejected behind
            its last: it emits as few tokens.
        seconds
            What this round took.
        """
        reached = np.array([sum(kept >= place for kept in accepted) for place in range(drafted + 1)], dtype=np.float64)
        self._tested *= FORGETTING
        self._kept *= FORGETTING
        self._tested[:drafted] += reached[:-1]
        self._kept[:drafted] += reached[1:]
        self._rounds.append((drafted, seconds))


def _fitted(rounds: Sequence[tuple[int, Seconds]] | deque[tuple[int, Seconds]]) -> StepCosts:
    """Medians of what rounds took, and the median line of the target's seconds over k."""
    drafted = np.array([k for k, _ in rounds], dtype=np.float64)
    draft, target, rest = np.array([[s.draft, s.target, s.verify + s.rest] for _, s in rounds]).T
    first, second = np.nonzero(drafted[:, None] > drafted[None, :])
    slopes = (target[first] - target[second]) / (drafted[first] - drafted[second])
    slope = max(float(np.median(slopes)), 0.0) if len(slopes) else 0.0
    return StepCosts(
        draft=float(np.median(draft / drafted)),
        target=max(float(np.median(target - slope * drafted)), 0.0),
        target_per_token=slope,
        rest=max(float(np.median(rest)), TICK),
    )
