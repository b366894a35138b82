"""What a study found, as plain values: the reports read these and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from decoding.evaluation.bootstrap import Estimate
from decoding.evaluation.study.win_rates import WinRate


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One rule at one level: what its texts cost and gave away.

    Parameters
    ----------
    cell
        Its label in rows, such as "decoding_opt at epsilon 0.1".
    rule
        The rule's spec without its knob, such as "decoding_uno:residual=draft".
    level
        What it is matched at, such as "rejection 0.2" or "epsilon 0.1"; None for a rule without a knob.
    knob
        The knob's name and value; empty without one.
    calibrated
        Mean rejection on the calibration positions.
    kl_over_best
        Mean KL there over the common price's at the same mean rejection; None without a knob.
    texts, errors
        How many texts, and how many of them ended in an error before their time.
    means
        Along the generated text: "rejection", "total_variation" (the lossless rejection there), "tv" and "kl" per
        verified token, "kl_per_token" per generated token (bonus tokens too), "log_likelihood" per token,
        "tokens_per_target_call", "length" (tokens per text).
    """

    cell: str
    rule: str
    level: str | None
    knob: dict[str, float]
    calibrated: float
    kl_over_best: Estimate | None
    texts: int
    errors: int
    means: dict[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two cells before one judge.

    Parameters
    ----------
    judge
        Its name.
    level
        At which both are matched.
    first, second
        The cells' labels.
    mismatch
        Mean rejection of the first minus the second's, along their generated texts.
    refused
        Why there is no win rate: rejections too far apart; None if there is one.
    found
        How often the first wins; None if refused or nothing was judged.
    difference
        Mean score of the first minus the second's; None for a pairwise judge.
    adjusted_p
        `found.p_value` corrected over all comparisons of this judge (Holm); None without it.
    published
        The win rate of the first that was published for this comparison, with its prompts; None if none was.
    """

    judge: str
    level: str
    first: str
    second: str
    mismatch: Estimate
    refused: str | None
    found: WinRate | None
    difference: Estimate | None
    adjusted_p: float | None
    published: "Published | None"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published win rate.

    Parameters
    ----------
    win_rate
        Fraction of prompts won by the first.
    prompts
        How many prompts it rests on.
    source
        Where it stands.
    found
        Its exact interval and the sign test's p-value, from the two numbers above; `pairwise` is None.
    adjusted_p
        Holm's over all published comparisons of the judge.
    """

    win_rate: float
    prompts: int
    source: str
    found: WinRate
    adjusted_p: float


@dataclass(frozen=True, kw_only=True)
class TokenCost:
    """One token of a shown text.

    Parameters
    ----------
    text
        As it is written.
    fate
        "accepted", "replaced" (written after a rejection) or "bonus".
    cost
        log(output law / target) of this very token, nats: positive where the rule writes it too often.
    divergence
        KL(output, target) at its position, nats: the mean of `cost` there.
    rejected, rejected_cost
        The drafted token that was rejected there, and its cost: None unless the fate is "replaced".
    """

    text: str
    fate: str
    cost: float
    divergence: float
    rejected: str | None = None
    rejected_cost: float | None = None


@dataclass(frozen=True, kw_only=True)
class Example:
    """One prompt's first texts at one level, side by side.

    Parameters
    ----------
    prompt
        The prompt.
    level
        As in `CellResult`; rules without a knob are in every level.
    texts
        Tokens by cell label.
    """

    prompt: str
    level: str | None
    texts: dict[str, Sequence[TokenCost]]


@dataclass(frozen=True, kw_only=True)
class JudgeAccount:
    """What a judge did.

    Parameters
    ----------
    name, pairwise
        As in `Judge`.
    judgements, unreadable, missing
        Answers; answers from which nothing could be read; questions without an answer.
    details
        Sums of what the judge counts: calls, tokens, cost.
    """

    name: str
    pairwise: bool
    judgements: int
    unreadable: int
    missing: int
    details: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Results:
    """All of it.

    Parameters
    ----------
    title
        The pair, prompts and texts in a line.
    configuration
        The study's configuration as it was read, with its hash under "hash".
    provenance
        Distinct commits and versions under which rows were made, usually one.
    calibration
        "positions", "tolerance" and "forced" (whether comparisons outside it were made all the same).
    cells, comparisons, judges, examples
        The findings.
    """

    title: str
    configuration: dict[str, Any]
    provenance: Sequence[dict[str, Any]]
    calibration: dict[str, Any]
    cells: Sequence[CellResult]
    comparisons: Sequence[Comparison]
    judges: Sequence[JudgeAccount]
    examples: Sequence[Example]
