"""Figures of fronts; the only room of this floor that draws."""

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from array_api_compat import is_numpy_array

from solvers.arrays import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tradeoff.pareto import ParetoFront

LABELS = {
    "tv": "TV(output, target)",
    "kl": "KL(output, target), nats",
    "reverse_kl": "KL(target, output), nats",
    "chi2": "chi-square(output, target)",
    "hellinger": "squared Hellinger(output, target)",
}


def draw_front(front: "ParetoFront", ax: "Axes | None" = None) -> "Axes":
    """Draw divergence against rejection, one line per pair of laws; shade what no rule can reach."""
    if ax is None:
        _, ax = plt.subplots(figsize=(5.0, 3.6), layout="constrained")
    rejection, divergence = _columns(front.rejection), _columns(front.divergence)
    alone = rejection.shape[1] == 1
    for x, y in zip(rejection.T, divergence.T, strict=True):
        ax.plot(x, y, color="#1f5fa8", linewidth=1.8 if alone else 0.8, alpha=1.0 if alone else 0.5)
    if alone:
        ax.fill_between(rejection[:, 0], 0, divergence[:, 0], color="#b0b7c3", alpha=0.4, linewidth=0)
        ax.text(0.04, 0.06, "no rule reaches this region", transform=ax.transAxes, color="#4a5160")
    ax.set_xlabel("rejection probability")
    ax.set_ylabel(LABELS[front.divergence_name])
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    return ax


def _columns(values: Array) -> np.ndarray:
    array = values if is_numpy_array(values) else values.cpu().numpy()
    return np.where(np.isfinite(array), array, np.nan).reshape(array.shape[0], -1)
