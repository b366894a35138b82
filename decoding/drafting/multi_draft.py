"""Several independent drafts of one model, of which the first accepted one is followed."""

from typing import Any

from torch import Tensor

from decoding.drafting.model import ModelDrafter
from solvers.errors import InputError


class MultiDraft(ModelDrafter):
    """K independent drafts per text: recursive rejection chooses among their first tokens, then one chain is verified.

    The first tokens x_1 .. x_K are drawn from one law and judged in turn (`tradeoff.rules.RecursiveRejection`), which
    is lossless; the rest of the chosen chain is judged by the rule. Every text takes K lines of both models' batches.

    Parameters
    ----------
    model
        A causal LM over the target's vocabulary.
    drafts
        K, at least 2.
    static, compiled
        As in `ModelDrafter`.

    Notes
    -----
    Algorithm 4 of Yin et al., arXiv 2411.00841, with its residual corrected; Theorem 3 counts its rejections.
    """

    def __init__(self, model: Any, *, drafts: int, static: bool = False, compiled: bool = False) -> None:
        if isinstance(drafts, bool) or not isinstance(drafts, int):
            raise InputError(f"drafts: expected a whole number of at least 2; got {drafts!r}")
        if drafts < 2:
            raise InputError(f"drafts: expected at least 2; got {drafts}; for one, give the model itself")
        super().__init__(model, static=static, compiled=compiled)
        self.drafts = drafts

    def share(self, winner: Tensor, columns: Tensor) -> None:
        """Let all drafts of a text go on from the winner's: keys and values at columns `[texts, n]`."""
        self._cache.share(winner, columns)
