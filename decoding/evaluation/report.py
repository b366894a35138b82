"""The comparison as people read it: a table, a figure, result rows."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from rich.table import Table

from decoding.evaluation.calibration import FAMILIES, LOSSLESS
from decoding.evaluation.comparison import Settings
from decoding.evaluation.stamp import stamp
from decoding.evaluation.summary import Estimate, Result

COLOURS = {
    "DecodingUNO (residual = draft)": "#8c2d19",
    "DecodingUNO": "#d9622b",
    "DecodingOPT": "#c9a227",
    "RatioClip": "#4f9d8f",
    "CommonPrice": "#1f5fa8",
}
MARKS = dict(zip(COLOURS, "vs^oD", strict=True))


def _half(estimate: Estimate) -> float:
    return (estimate.high - estimate.low) / 2


def _spread(estimate: Estimate, digits: int) -> str:
    return f"{estimate.value:.{digits}f} ±{_half(estimate):.{digits}f}"


def _knob(result: Result) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in result.cell.calibration.knob.items())


def table(results: Sequence[Result], settings: Settings) -> Table:
    """Lay the results out, one block per requested rejection; ± is half a 95 % bootstrap interval over prompts."""
    title = f"{settings.pair}: {len(settings.prompts)} prompts x {settings.samples} texts"
    caption = (
        "Rejection and divergences: exact, from the laws, along each rule's own text; ± half a 95 % bootstrap interval "
        "over prompts. KL same text: the same positions for every rule, at exactly equal mean rejection. "
        "OPT wins: prompts on which Decoding-OPT's texts are likelier under the target, with its interval."
    )
    drawn = Table(title=title, caption=caption, caption_justify="left")
    drawn.add_column("rule", no_wrap=True)
    drawn.add_column("knob", no_wrap=True)
    for name in ("rejection", "tokens/call", "TV", "KL, nats", "KL same text", "log-lik/token", "OPT wins"):
        drawn.add_column(name, justify="right", no_wrap=True)
    requested = None
    for result in results:
        calibration, means = result.cell.calibration, result.means
        if requested is not None and calibration.requested != requested:
            drawn.add_section()
        requested = calibration.requested
        wins = result.opt_wins
        drawn.add_row(
            calibration.family,
            _knob(result),
            _spread(means["rejection"], 3),
            _spread(means["tokens_per_target_call"], 2),
            _spread(means["tv"], 3),
            _spread(means["kl"], 4),
            f"{calibration.divergences['kl']:.4f}",
            _spread(means["log_likelihood"], 2),
            "" if wins is None else f"{wins.value:.0%} [{wins.low:.0%}, {wins.high:.0%}]",
        )
    return drawn


def write_rows(results: Sequence[Result], settings: Settings, path: Path) -> None:
    """Write one stamped JSONL row per cell."""
    stamped = stamp()
    configuration = asdict(settings) | {"prompts": len(settings.prompts)}
    with path.open("w", encoding="utf-8") as file:
        for result in results:
            calibration = result.cell.calibration
            row = {
                "rule": calibration.family,
                "knob": calibration.knob,
                "requested_rejection": calibration.requested,
                "calibration": {
                    "rejection": calibration.rejection,
                    "standard_error": calibration.standard_error,
                    "divergences": calibration.divergences,
                },
                "texts": result.texts,
                "means": {name: asdict(estimate) for name, estimate in result.means.items()},
                "kl_over_common_price": None if result.kl_over_best is None else asdict(result.kl_over_best),
                "opt_wins": None if result.opt_wins is None else asdict(result.opt_wins),
                "settings": configuration,
                "stamp": stamped,
            }
            file.write(json.dumps(row) + "\n")


def figure(results: Sequence[Result], settings: Settings, path: Path) -> None:
    """Draw KL against rejection along the generated text, and each rule's KL as a multiple of the best."""
    drawn, (left, right) = plt.subplots(1, 2, figsize=(10.0, 4.4), layout="constrained", width_ratios=(1.15, 1))
    families = [family.name for family in FAMILIES]
    for family in families:
        group = [result for result in results if result.cell.calibration.family == family]
        x, y = [result.means["rejection"] for result in group], [result.means["kl"] for result in group]
        left.errorbar(
            [estimate.value for estimate in x],
            [estimate.value for estimate in y],
            xerr=_bars(x),
            yerr=_bars(y),
            color=COLOURS[family],
            marker=MARKS[family],
            markersize=5,
            linewidth=1.4,
            elinewidth=0.9,
            label=family,
        )
    lossless = next(result for result in results if result.cell.calibration.family == LOSSLESS)
    left.axvline(lossless.means["rejection"].value, color="#6b7280", linestyle=":", linewidth=1)
    left.text(
        lossless.means["rejection"].value, 0.03, " lossless", transform=left.get_xaxis_transform(), color="#6b7280"
    )
    left.set(xlabel="mean rejection probability (less is faster)", ylabel="mean KL(output, target) per token, nats")
    left.set_yscale("log")
    left.set_xlim(left=0)
    left.legend(frameon=False, fontsize=8)
    left.set_title("What each rule gives away along its own text", fontsize=10)
    _bars_over_best(right, results, settings, families)
    drawn.suptitle(f"{settings.pair}, {len(settings.prompts)} prompts x {settings.samples} texts", fontsize=11)
    drawn.savefig(path, dpi=150)
    plt.close(drawn)


def _bars(estimates: Sequence[Estimate]) -> np.ndarray:
    return np.array([[each.value - each.low, each.high - each.value] for each in estimates]).T.clip(0)


def _bars_over_best(ax: Axes, results: Sequence[Result], settings: Settings, families: Sequence[str]) -> None:
    """Multiples of CommonPrice's KL on the same positions at exactly equal mean rejection."""
    width = 0.8 / len(families)
    by_key = {
        (result.cell.calibration.family, result.cell.calibration.requested): result.cell.calibration.divergences["kl"]
        for result in results
    }
    for place, family in enumerate(families):
        heights = [by_key[family, rate] / by_key["CommonPrice", rate] for rate in settings.rejection]
        at = np.arange(len(heights)) + (place - (len(families) - 1) / 2) * width
        bars = ax.bar(at, heights, width=width * 0.92, color=COLOURS[family], label=family)
        ax.bar_label(bars, [f"{height:.3g}" for height in heights], fontsize=7, padding=1)
    ax.axhline(1, color="#1f5fa8", linewidth=0.8)
    ax.set_yscale("log")
    ax.set_xticks(range(len(settings.rejection)), [f"{rate:g}" for rate in settings.rejection])
    ax.set(xlabel="mean rejection, equal for all rules", ylabel="KL as a multiple of CommonPrice's")
    ax.set_title("The price of not choosing the best rule, same positions", fontsize=10)
