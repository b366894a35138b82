"""What a generation cost and gave away: counts, and exact quantities along the text."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

import numpy as np

from decoding.verification.account import EXACT, RECORDED
from solvers.printing import counted, html_table, lines, number


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """The account of one generated sequence, or of several put together.

    A position is *verified* if a drafted token was tested there. Arrays of positions hold the verified ones, in the
    order of the text. Rejection and divergences are computed from the laws there, not counted (Rao-Blackwellised), so
    they are exact given the text. Bonus tokens are not verified. Under most rules they follow the target and cost
    nothing; what a rule with its own bonus law gives away there is not in these columns. Exact columns are nan with
    `account="counts"`, and for rules that judge whole blocks, which have no law at one position.

    Parameters
    ----------
    position
        Index in the generated text of each verified position, `[verified]`.
    accepted
        Whether its drafted token was accepted, `[verified]`.
    drafted_token
        That token, `[verified]`; where it was rejected, the text has what the residual drew, which may be the same.
    draft_index
        Its place in the drafted block, 0 to draft_length - 1, `[verified]`.
    rejection
        Exact probability of a rejection there, `[verified]`.
    total_variation
        TV(draft, target) there, the rejection of lossless decoding, `[verified]`.
    divergences
        Exact divergence of the output law from the target there, by name, each `[verified]`: "tv", "kl",
        "reverse_kl", "chi2", "hellinger"; nats for the KLs.
    log_likelihood
        Log-probability of every generated token, bonus tokens too, under the target before any processor
        (temperature 1), nats, `[generated]`.
    drafted
        Tokens drafted in every round, including those after a rejection, `[rounds]`.
    kept
        Drafted tokens kept in every round, `[rounds]`.
    """

    position: np.ndarray
    accepted: np.ndarray
    drafted_token: np.ndarray
    draft_index: np.ndarray
    rejection: np.ndarray
    total_variation: np.ndarray
    divergences: dict[str, np.ndarray]
    log_likelihood: np.ndarray
    drafted: np.ndarray
    kept: np.ndarray

    @property
    def generated(self) -> int:
        """Number of generated tokens."""
        return len(self.log_likelihood)

    @property
    def verified(self) -> int:
        """Number of drafted tokens that were tested: accepted plus rejected."""
        return len(self.accepted)

    @property
    def rejected(self) -> int:
        """Number of rejections."""
        return int((~self.accepted).sum())

    @property
    def bonus(self) -> int:
        """Number of tokens sampled after a fully accepted block."""
        return self.generated - self.verified

    @property
    def target_calls(self) -> int:
        """Rounds: calls of the target that verified something; the prompt's own call is not one."""
        return len(self.kept)

    @property
    def tokens_per_target_call(self) -> float:
        """Generated tokens per round of a sequence."""
        return self.generated / self.target_calls if self.target_calls else float("nan")

    @property
    def acceptance_by_draft_index(self) -> np.ndarray:
        """Fraction accepted of the tokens tested at each place of the block, `[draft_length]`; nan if none."""
        tested = np.bincount(self.draft_index)
        kept = np.bincount(self.draft_index, weights=self.accepted, minlength=len(tested))
        return np.divide(kept, tested, out=np.full(len(tested), np.nan), where=tested > 0)

    @property
    def kept_histogram(self) -> np.ndarray:
        """How many rounds kept 0, 1, 2, ... drafted tokens, `[longest + 1]`."""
        return np.bincount(self.kept)

    @cached_property
    def mean(self) -> dict[str, float]:
        """Means over verified positions of "rejection", "total_variation" and every divergence; nan if none."""
        return {name: float(column.mean()) if len(column) else float("nan") for name, column in self._exact.items()}

    @cached_property
    def spent(self) -> dict[str, float]:
        """Sums over the text of the same; by the chain rule the expected "kl" is the KL of the texts' laws."""
        return {name: float(column.sum()) for name, column in self._exact.items()}

    def to_dict(self) -> dict[str, np.ndarray]:
        """Columns for `pandas.DataFrame`, a row to a verified position, each `[verified]`."""
        names = ("position", "accepted", "drafted_token", "draft_index")
        return {name: getattr(self, name) for name in names} | self._exact

    def totals(self) -> dict[str, float]:
        """Counts and sums, from which every mean over texts is a ratio of sums."""
        counts = {name: getattr(self, name) for name in ("generated", "verified", "rejected", "target_calls")}
        return counts | self.spent | {"log_likelihood": float(self.log_likelihood.sum())}

    def __repr__(self) -> str:
        """What was written, what a call of the target brought, what was given away."""
        head = (
            f"Statistics: {counted(self.generated, 'token')} in {counted(self.target_calls, 'target call')}, "
            f"{number(self.tokens_per_target_call)} tokens per call; {self.rejected} of {self.verified} drafted tokens "
            "rejected"
        )
        return lines(head, self._given_away, ".mean, .spent, .acceptance_by_draft_index, .to_dict() tell the rest")

    def _repr_html_(self) -> str:
        caption, *_ = repr(self).splitlines()
        rows = [(name, number(self.mean[name]), number(self.spent[name])) for name in self._exact]
        return html_table(["exact quantity", "mean per verified token", "sum"], rows, caption=caption)

    @property
    def _given_away(self) -> str:
        if not self.verified or np.isnan(self.mean["kl"]):
            return "no exact account: nothing was verified, nobody asked, or a rule judged whole blocks"
        return (
            f"per verified token: rejection {number(self.mean['rejection'])} (lossless "
            f"{number(self.mean['total_variation'])}), KL {number(self.mean['kl'])} nats from the target"
        )

    @property
    def _exact(self) -> dict[str, np.ndarray]:
        return {"rejection": self.rejection, "total_variation": self.total_variation} | self.divergences

    @classmethod
    def pooled(cls, parts: Sequence["Statistics"]) -> "Statistics":
        """Put sequences together, one after the other."""
        columns = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(cls)
            if field.name != "divergences"
        }
        return cls(
            divergences={name: np.concatenate([part.divergences[name] for part in parts]) for name in RECORDED},
            **columns,
        )


class Recorder:
    """Collects the rounds of one sequence and closes them into `Statistics`."""

    def __init__(self) -> None:
        self._rounds: list[_Round] = []

    def add(
        self,
        *,
        drafted: Sequence[int],
        accepted: int,
        emitted: int,
        exact: np.ndarray | None,
        log_likelihood: np.ndarray | None,
    ) -> None:
        """Record one round.

        Parameters
        ----------
        drafted
            The tokens.
        accepted, emitted
            How many of them the rule kept, and how many tokens made it into the text (fewer than the rule gave if the
            text ended inside the block).
        exact
            `exact_columns` at the drafted positions, `[>= drafted, columns]`; None if not asked for.
        log_likelihood
            Of the emitted tokens, `[>= emitted]`; None if not asked for.
        """
        # a rejected token was tested too, a bonus was not
        tested = min(emitted, len(drafted))
        exact = np.full((tested, len(EXACT)), np.nan) if exact is None else exact[:tested]
        scored = np.full(emitted, np.nan) if log_likelihood is None else log_likelihood[:emitted]
        # one append: whoever interrupts finds whole rounds
        self._rounds.append(_Round(list(drafted), min(accepted, emitted), tested, accepted, exact, scored))

    def statistics(self) -> Statistics:
        """Close the account."""
        rounds = self._rounds
        starts = np.cumsum([0, *(len(each.log_likelihood) for each in rounds)])
        index = [np.arange(each.tested) for each in rounds]
        exact = np.concatenate([np.empty((0, len(EXACT))), *(each.exact for each in rounds)])
        columns = dict(zip(EXACT, exact.T, strict=True))
        return Statistics(
            position=_joined([start + places for start, places in zip(starts, index, strict=False)], np.int64),
            accepted=_joined([places < each.accepted for places, each in zip(index, rounds, strict=True)], np.bool_),
            drafted_token=_joined([np.array(each.drafted[: each.tested]) for each in rounds], np.int64),
            draft_index=_joined(index, np.int64),
            rejection=columns["rejection"],
            total_variation=columns["total_variation"],
            divergences={name: columns[name] for name in RECORDED},
            log_likelihood=_joined([each.log_likelihood for each in rounds], np.float64),
            drafted=np.array([len(each.drafted) for each in rounds], dtype=np.int64),
            kept=np.array([each.kept for each in rounds], dtype=np.int64),
        )


class _Round(NamedTuple):
    drafted: list[int]
    kept: int
    tested: int
    accepted: int
    exact: np.ndarray  # [tested, columns]
    log_likelihood: np.ndarray  # [emitted]


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=dtype), *(part.astype(dtype, copy=False) for part in parts)])
