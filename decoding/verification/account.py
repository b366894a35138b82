"""The exact quantities that are recorded at every verified position."""

import torch
from torch import Tensor

from solvers.divergences import total_variation
from tradeoff.outcome.token import Outcome

RECORDED = ("tv", "kl", "reverse_kl", "chi2", "hellinger")
"""Divergences of the output law from the target."""

EXACT = ("rejection", "total_variation", *RECORDED)


def exact_columns(outcome: Outcome) -> Tensor:
    """Every quantity of `EXACT` at every position of an outcome, `[..., len(EXACT)]`, float64, on its device."""
    columns = [outcome.rejection, total_variation(outcome.draft, outcome.target)]
    return torch.stack([*columns, *(outcome.divergence_in(name) for name in RECORDED)], dim=-1)
