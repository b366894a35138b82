"""One round of a batch: what was proposed and decided, and its one transfer to the host."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from decoding.drafting import Proposal
from decoding.verification import Verified
from decoding.verification.account import EXACT


@dataclass(frozen=True, kw_only=True, eq=False)
class Fate:
    """What became of one row in one round, on the host.

    Parameters
    ----------
    drafted
        The tokens that were tested, or would have been but for an earlier rejection.
    accepted
        How many of them the rule kept.
    next_token
        The token it emitted after those.
    unusable
        Whether a model gave this row no law: NaN, or every token masked.
    exact
        `exact_columns` at every place of the block, `[k, columns]`; None if they were not computed.
    log_likelihood
        Of the kept tokens and the next one, `[accepted + 1]`; None if not asked for.
    """

    drafted: list[int]
    accepted: int
    next_token: int
    unusable: bool
    exact: np.ndarray | None
    log_likelihood: np.ndarray | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """A round on the device, k drafted tokens per row.

    Parameters
    ----------
    proposal
        At least k tokens per row.
    limit
        How many of them count, `[batch]`.
    logits, scores
        The target's logits, raw and processed, `[batch, k + 1, vocab]`.
    verified
        The decision.
    exact
        `exact_columns` at the drafted places, `[batch, k, columns]`; None if nobody asked.
    """

    proposal: Proposal
    limit: Tensor
    logits: Tensor
    scores: Tensor
    verified: Verified
    exact: Tensor | None

    @property
    def count(self) -> int:
        """Tokens drafted per row, k."""
        return self.scores.shape[1] - 1

    def read(self, *, log_likelihood: bool) -> list[Fate]:
        """Bring everything to the host at once: token numbers are exact in float64."""
        verified, drafted = self.verified, self.proposal.tokens[:, : self.count]
        facts = torch.stack([verified.accepted, verified.next_token, self.limit, verified.unusable.long()], dim=1)
        parts = [facts.double(), drafted.double()]
        if self.exact is not None:
            parts.append(self.exact.flatten(1))
        if log_likelihood:
            parts.append(self._log_likelihood())
        return [
            self._fate(row, exact=self.exact is not None, scored=log_likelihood)
            for row in torch.cat(parts, dim=1).cpu().numpy()
        ]

    def _fate(self, row: np.ndarray, *, exact: bool, scored: bool) -> Fate:
        accepted, next_token, limit, unusable = (int(each) for each in row[:4])
        columns = row[4 + self.count :]
        return Fate(
            drafted=row[4 : 4 + limit].astype(int).tolist(),
            accepted=accepted,
            next_token=next_token,
            unusable=bool(unusable),
            exact=columns[: self.count * len(EXACT)].reshape(self.count, -1) if exact else None,
            log_likelihood=columns[-self.count - 1 :][: accepted + 1] if scored else None,
        )

    def _log_likelihood(self) -> Tensor:
        """Log-probability, under the raw logits, of the kept tokens and the next, `[batch, k + 1]`, float64."""
        padded = torch.nn.functional.pad(self.proposal.tokens[:, : self.count], (0, 1))
        written = padded.scatter(1, self.verified.accepted[:, None], self.verified.next_token[:, None])
        logits = self.logits.float()
        return (logits.gather(-1, written[..., None])[..., 0] - logits.logsumexp(-1)).double()
