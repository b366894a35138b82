"""The comparison as people read it: a table, a figure, result rows."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from decoding.evaluation.bootstrap import Estimate
from decoding.evaluation.comparison.summary import Result
from decoding.evaluation.comparison.texts import Settings
from decoding.evaluation.files.kept import replace_file
from decoding.evaluation.files.pictures import write_png
from decoding.evaluation.files.stamp import origin
from decoding.evaluation.positions.calibration import FAMILIES, LOSSLESS, Calibration
from solvers.shown import literal, one_line

COLOURS = {
    "DecodingUNO (draft)": "#8c2d19",
    "DecodingUNO": "#d9622b",
    "DecodingOPT": "#c9a227",
    "RatioClip": "#4f9d8f",
    "CommonPrice": "#1f5fa8",
}
LONGEST = 120
"""Characters of a figure's title."""

SMALL: dict[str, Any] = {"ha": "center", "fontsize": 7}
MARKS = dict(zip(COLOURS, "vs^oD", strict=True))


def _spread(estimate: Estimate, digits: int) -> str:
    return f"{estimate.value:.{digits}f} ±{(estimate.high - estimate.low) / 2:.{digits}f}"


def _interval(estimate: Estimate | None, form: str) -> str:
    return "" if estimate is None else f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def print_table(results: Sequence[Result], settings: Settings, screen: Console) -> None:
    """Print the results, one block per requested rejection, leaving out what a narrow terminal has no room for."""
    columns = {
        "rule": [result.cell.calibration.family for result in results],
        "knob": [
            ", ".join(f"{name} {value:.4g}" for name, value in result.cell.calibration.knob.items())
            for result in results
        ],
        "rejection": [_spread(result.means["rejection"], 3) for result in results],
        "tokens\n/call": [f"{result.means['tokens_per_target_call'].value:.2f}" for result in results],
        "TV": [f"{result.means['tv'].value:.3f}" for result in results],
        "KL, nats": [_spread(result.means["kl"], 4) for result in results],
        "KL / best": [_interval(result.kl_over_best, ".2f") for result in results],
        "log-likelihood\nper token": [_spread(result.means["log_likelihood"], 2) for result in results],
        "OPT wins": [_interval(result.opt_wins, ".0%") for result in results],
    }
    roomy = Console(width=1000)
    left_out = []
    for name in ("log-likelihood\nper token", "knob", "TV", "OPT wins", "tokens\n/call"):
        if roomy.measure(_drawn(columns, results, settings, left_out)).maximum > screen.width:
            del columns[name]
            left_out.append(name.replace("\n", " "))
    drawn = _drawn(columns, results, settings, left_out)
    # at its own width a terminal that is narrower still folds the lines; squeezed, the table would lose digits
    Console(file=screen.file, width=roomy.measure(drawn).maximum).print(drawn)


def _drawn(
    columns: dict[str, list[str]], results: Sequence[Result], settings: Settings, left_out: Sequence[str]
) -> Table:
    caption = (
        "Exact divergences from the laws, along each rule's own text. KL / best: on the same positions for every rule, "
        "at exactly equal mean rejection. OPT wins: prompts on which Decoding-OPT's texts are likelier under the "
        "target than this rule's. ± and [ ]: 95 % bootstrap intervals over prompts. Knobs: set on "
        f"{settings.calibration_positions} real positions; the mean rejection there is met to "
        f"{_largest(results, lambda c: abs(c.rejection - c.requested)):.0e} and has a standard error of at most "
        f"{_largest(results, lambda c: c.standard_error):.3f} for other texts."
    )
    if left_out:
        caption += f" Left out of this narrow terminal, but in the rows: {', '.join(left_out)}."
    title = f"{settings.pair}: {len(settings.prompts)} prompts x {settings.samples} texts"
    drawn = empty_table(columns, title, caption)
    requested = [result.cell.calibration.requested for result in results]
    for index, cells in enumerate(zip(*columns.values(), strict=True)):
        drawn.add_row(*cells, end_section=requested[index : index + 1] != requested[index + 1 : index + 2])
    return drawn


def empty_table(columns: Iterable[str], title: str, caption: str | None) -> Table:
    """Make a table of rules without its rows: words to the left, numbers to the right, nothing folded."""
    drawn = Table(
        title=Text(one_line(title)), caption=caption, caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for name in columns:
        drawn.add_column(name, justify="left" if name in ("rule", "knob") else "right", no_wrap=True)
    return drawn


def _largest(results: Sequence[Result], of: Callable[[Calibration], float]) -> float:
    return max(of(result.cell.calibration) for result in results)


def write_rows(results: Sequence[Result], settings: Settings, path: Path) -> None:
    """Write one stamped JSONL row per cell."""
    stamped = origin()
    configuration = asdict(settings) | {"prompts": len(settings.prompts)}
    lines = []
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
        lines.append(json.dumps(row).encode() + b"\n")
    replace_file(path, lambda file: file.writelines(lines))


def figure(results: Sequence[Result], settings: Settings, path: Path) -> None:
    """Draw KL against rejection along the generated text, and each rule's KL as a multiple of the best."""
    drawn, (left, right) = plt.subplots(1, 2, figsize=(10.0, 4.4), layout="constrained", width_ratios=(1.15, 1))
    families = list(FAMILIES)
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
    drawn.suptitle(
        literal(f"{settings.pair}, {len(settings.prompts)} prompts x {settings.samples} texts", LONGEST), fontsize=11
    )
    write_png(drawn, path)
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
