"""What a generation cost and gave away: counts, and exact quantities along the text."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from decoding.verify import Verified
from solvers.divergences import total_variation

DIVERGENCES = ("tv", "kl", "reverse_kl", "chi2", "hellinger")


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """The account of one generated sequence.

    Per-position arrays cover the verified positions in the order of the text, those at which a drafted token
    was tested; they come from the laws there, not from counts (Rao-Blackwellised), so they are exact given the
    text. Bonus tokens are not verified positions: under most rules they follow the target and cost nothing, and what
    a rule with a bonus law of its own gives away there is not in these columns.

    Parameters
    ----------
    position
        Index in the generated text of each verified position, `[verified]`.
    accepted
        Whether its drafted token was accepted, `[verified]`.
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
        Tokens drafted, including those after a rejection.
    target_calls, draft_calls
        Forward passes of each model; the target's first includes the prompt.
    """

    position: np.ndarray
    accepted: np.ndarray
    draft_index: np.ndarray
    rejection: np.ndarray
    total_variation: np.ndarray
    divergences: dict[str, np.ndarray]
    log_likelihood: np.ndarray
    drafted: int
    target_calls: int
    draft_calls: int

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
    def tokens_per_target_call(self) -> float:
        """Generated tokens per forward pass of the target."""
        return self.generated / self.target_calls

    @property
    def acceptance_by_draft_index(self) -> np.ndarray:
        """Fraction accepted of the tokens tested at each place of the block, `[draft_length]`; nan if none."""
        tested = np.bincount(self.draft_index)
        kept = np.bincount(self.draft_index, weights=self.accepted, minlength=len(tested))
        return np.divide(kept, tested, out=np.full(len(tested), np.nan), where=tested > 0)

    @cached_property
    def mean(self) -> dict[str, float]:
        """Means over verified positions of "rejection", "total_variation" and every divergence; nan if none."""
        columns = {"rejection": self.rejection, "total_variation": self.total_variation} | self.divergences
        return {name: float(column.mean()) if len(column) else float("nan") for name, column in columns.items()}


class Recorder:
    """Collects what the loop sees and closes it into `Statistics`."""

    def __init__(self) -> None:
        self._columns: dict[str, list[np.ndarray]] = {}
        self._log_likelihood: list[np.ndarray] = []
        self._generated = 0
        self._drafted = 0

    def add(self, verified: Verified, log_likelihood: torch.Tensor, drafted: int) -> None:
        """Record one step, of which the first `len(log_likelihood)` tokens were kept."""
        kept = len(log_likelihood)
        tested = min(kept, drafted)  # a bonus was not drafted
        outcome = verified.outcome
        columns = {"rejection": outcome.rejection, "total_variation": total_variation(outcome.draft, outcome.target)}
        columns |= {name: outcome.divergence(name) for name in DIVERGENCES}
        for name, column in columns.items():
            self._columns.setdefault(name, []).append(column[:tested].cpu().numpy())
        index = np.arange(tested)
        for name, values in (
            ("position", self._generated + index),
            ("draft_index", index),
            ("accepted", index < verified.accepted),
        ):
            self._columns.setdefault(name, []).append(values)
        self._log_likelihood.append(log_likelihood.cpu().numpy())
        self._generated += kept
        self._drafted += drafted

    def statistics(self, *, target_calls: int, draft_calls: int) -> Statistics:
        """Close the account."""
        columns = {name: np.concatenate(parts) for name, parts in self._columns.items()}
        return Statistics(
            divergences={name: columns.pop(name) for name in DIVERGENCES},
            log_likelihood=np.concatenate(self._log_likelihood),
            drafted=self._drafted,
            target_calls=target_calls,
            draft_calls=draft_calls,
            **columns,
        )
