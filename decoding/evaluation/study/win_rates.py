"""How often one of two rules wins, and what that can settle."""

from dataclasses import dataclass

from decoding.evaluation.bootstrap import Estimate


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """The first rule's wins over the second.

    Parameters
    ----------
    prompts, comparisons
        How many prompts were judged, and how many comparisons of two texts in all.
    won, tied
        Prompts on which the first wins more than half of the comparisons, and exactly half.
    majority
        (won + tied / 2) / prompts with an exact interval: the paper's win rate.
    pairwise
        Mean over prompts of the fraction of comparisons won, ties half, with a bootstrap interval over prompts;
        None where only the majority is known.
    p_value
        Exact two-sided sign test of the prompts won against those lost.
    prompts_needed
        How many prompts would settle a true win rate as large as this one, at 5 % with power 80 %; None for one half.
    """

    prompts: int
    comparisons: int
    won: int
    tied: int
    majority: Estimate
    pairwise: Estimate | None
    p_value: float
    prompts_needed: int | None
