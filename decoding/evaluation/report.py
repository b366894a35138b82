"""The comparison as people read it: a table, a figure, result rows."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from rich.box import SIMPLE_HEAD
from rich.table import Table

from decoding.evaluation.calibration import FAMILIES, LOSSLESS, Calibration
from decoding.evaluation.comparison import Settings
from decoding.evaluation.stamp import stamp
from decoding.evaluation.summary import Estimate, Result

COLOURS = {
    "DecodingUNO (draft)": "#8c2d19",
    "DecodingUNO": "#d9622b",
    "DecodingOPT": "#c9a227",
    "RatioClip": "#4f9d8f",
    "CommonPrice": "#1f5fa8",
}
SMALL: dict[str, Any] = {"ha": "center", "fontsize": 7}
MARKS = dict(zip(COLOURS, "vs^oD", strict=True))


def _spread(estimate: Estimate, digits: int) -> str:
    return f"{estimate.value:.{digits}f} ±{(estimate.high - estimate.low) / 2:.{digits}f}"


def _interval(estimate: Estimate | None, form: str) -> str:
    return "" if estimate is None else f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def table(results: Sequence[Result], settings: Settings) -> Table:
    """Lay the results out, one block per requested rejection, with 95 % bootstrap intervals over prompts."""
    drawn = Table(
        title=f"{settings.pair}: {len(settings.prompts)} prompts x {settings.samples} texts",
        caption="Exact divergences from the laws, along each rule's own text. KL / best: on the same positions for\n"
        "every rule, at exactly equal mean rejection. OPT wins: prompts on which Decoding-OPT's texts are\n"
        "likelier under the target than this rule's. ± and [ ]: 95 % bootstrap intervals over prompts.\n"
        f"Knobs: set on {settings.calibration_positions} real positions; the mean rejection there is met to "
        f"{_largest(results, lambda c: abs(c.rejection - c.requested)):.0e} and has a\n"
        f"standard error of at most {_largest(results, lambda c: c.standard_error):.3f} for other texts.",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    drawn.add_column("rule", no_wrap=True)
    drawn.add_column("knob", no_wrap=True)
    for name in ("rejection", "tokens\n/call", "TV", "KL, nats", "KL / best", "log-likelihood\nper token", "OPT wins"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for before, result in zip([None, *results], results, strict=False):
        calibration, means = result.cell.calibration, result.means
        if before is not None and before.cell.calibration.requested != calibration.requested:
            drawn.add_section()
        drawn.add_row(
            calibration.family,
            ", ".join(f"{name} {value:.4g}" for name, value in calibration.knob.items()),
            _spread(means["rejection"], 3),
            f"{means['tokens_per_target_call'].value:.2f}",
            f"{means['tv'].value:.3f}",
            _spread(means["kl"], 4),
            _interval(result.kl_over_best, ".2f"),
            _spread(means["log_likelihood"], 2),
            _interval(result.opt_wins, ".0%"),
        )
    return drawn


def _largest(results: Sequence[Result], of: Callable[[Calibration], float]) -> float:
    return max(of(result.cell.calibration) for result in results)


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
    exact = next(result for result in results if result.cell.calibration.family == LOSSLESS).means["rejection"].value
    left.plot(exact, 0, marker="*", markersize=13, color="#333333", clip_on=False, linestyle="none")
    left.annotate("lossless", (exact, 0), xytext=(0, 9), textcoords="offset points", ha="center", color="#333333")
    left.set(xlabel="mean rejection probability (less is faster)", ylabel="mean KL(output, target) per token, nats")
    left.set_xlim(0, 1.1 * exact)
    left.set_ylim(bottom=0)
    left.legend(frameon=False, fontsize=8, loc="upper right")
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
    for place, family in enumerate(families):
        group = [result for result in results if result.cell.calibration.family == family]
        ratios = [result.kl_over_best for result in group if result.kl_over_best is not None]
        at = np.arange(len(ratios)) + (place - (len(families) - 1) / 2) * width
        heights = [ratio.value for ratio in ratios]
        ax.bar(at, heights, width=width * 0.92, color=COLOURS[family])
        ax.errorbar(at, heights, yerr=_bars(ratios), fmt="none", ecolor="#222222", elinewidth=0.9)
        for x, ratio in zip(at, ratios, strict=True):
            ax.annotate(f"{ratio.value:.2f}", (x, ratio.high), xytext=(0, 2), textcoords="offset points", **SMALL)
    ax.axhline(1, color=COLOURS["CommonPrice"], linewidth=0.8)
    ax.set_xticks(range(len(settings.rejection)), [f"{rate:g}" for rate in settings.rejection])
    ax.set(xlabel="mean rejection, equal for all rules", ylabel="KL as a multiple of CommonPrice's")
    ax.set_title("The price of not choosing the best rule, same positions", fontsize=10)
