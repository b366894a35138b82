"""The main job: every rule at the same mean rejection, on the same prompts and seeds, row by row, resumable."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decoding.evaluation.calibration import FAMILIES, Calibration, calibrate, lossless
from decoding.evaluation.files import append_rows, check_settings, read_rows
from decoding.evaluation.positions import PLAIN_SAMPLING, collect_positions, seed_for
from decoding.evaluation.study.limits import MOST
from decoding.huggingface import generate
from decoding.pairs import Pair
from solvers.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the result; a folder of rows belongs to one of these.

    Parameters
    ----------
    pair, prompts
        The pair's name and the prompts themselves.
    rejection
        Mean rejection rates at which the rules are compared.
    samples, max_new_tokens, draft_length
        Texts per prompt, tokens per text, tokens drafted per round.
    calibration_positions
        Real positions on which the knobs are set.
    seed
        Decides every text; a prompt's n-th text has the same uniforms under every rule.
    dtype, device
        What the models compute in, and where.
    """

    pair: str
    prompts: tuple[str, ...]
    rejection: tuple[float, ...]
    samples: int
    max_new_tokens: int
    draft_length: int
    calibration_positions: int
    seed: int
    dtype: str
    device: str

    def __post_init__(self) -> None:
        for name in ("samples", "max_new_tokens", "draft_length", "calibration_positions"):
            if not 1 <= getattr(self, name) <= MOST:
                raise InputError(f"{name}: expected at least 1, and at most {MOST}; got {getattr(self, name)}")
        if self.seed < 0:
            raise InputError(f"seed: expected a whole number >= 0; got {self.seed}")
        if not self.rejection:
            raise InputError("rejection: expected at least one rate; got none; for example 0.2,0.1")
        if len(set(self.rejection)) < len(self.rejection):
            raise InputError(f"rejection: expected different rates; got {self.rejection}; name each once")
        if not all(0 < rate < 1 for rate in self.rejection):
            raise InputError(f"rejection: expected rates above 0 and below 1; got {self.rejection}")
        texts = len(self.prompts) * self.samples * (1 + len(self.rejection) * len(FAMILIES))
        if texts > MOST:
            raise InputError(f"samples: expected at most {MOST} texts in all; got {texts}; ask for fewer")


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """One line of the comparison: a calibrated rule."""

    calibration: Calibration

    @property
    def label(self) -> str:
        """What tells it apart in the rows: the family, and for rules with a knob the requested rejection."""
        family, requested = self.calibration.family, self.calibration.requested
        return f"{family} at {requested!r}" if self.calibration.knob else family


class Folder:
    """The output folder: settings, then one JSONL row per finished sample, never rewritten.

    Raises
    ------
    InputError
        The folder holds rows of other settings.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        check_settings(path, asdict(settings))
        self.samples = path / "samples.jsonl"
        self.results = path / "results.jsonl"
        self.figure = path / "comparison.png"

    def rows(self) -> list[dict[str, Any]]:
        """Samples written so far."""
        return read_rows(self.samples)

    def append(self, row: dict[str, Any]) -> None:
        """Add one finished sample."""
        append_rows(self.samples, [row])


def calibrate_cells(
    pair: Pair, prompts: Sequence[Tensor], settings: Settings, progress: Callable[[], None] = lambda: None
) -> list[Cell]:
    """Set every rule's knob at every requested rejection on real positions; lossless sampling comes first."""
    positions = collect_positions(
        pair,
        prompts,
        new_tokens=settings.max_new_tokens,
        limit=settings.calibration_positions,
        seed=settings.seed,
        progress=progress,
    )
    cells = [Cell(calibration=lossless(positions))]
    for rejection in settings.rejection:
        for calibration in calibrate(positions, rejection):
            cells.append(Cell(calibration=calibration))
            progress()
    return cells


def calibration_steps(settings: Settings) -> int:
    """How often `calibrate_cells` reports progress."""
    return settings.calibration_positions + len(settings.rejection) * len(FAMILIES)


def missing(cells: Sequence[Cell], settings: Settings, rows: Sequence[dict[str, Any]]) -> list[tuple[int, int, Cell]]:
    """(prompt, sample, cell) still to do; all cells of one text before the next, so a part is a fair part."""
    done = {(row["prompt"], row["sample"], row["cell"]) for row in rows}
    return [
        (prompt, sample, cell)
        for sample in range(settings.samples)
        for prompt in range(len(settings.prompts))
        for cell in cells
        if (prompt, sample, cell.label) not in done
    ]


def generate_rows(
    pair: Pair, prompts: Sequence[Tensor], settings: Settings, todo: Sequence[tuple[int, int, Cell]]
) -> Iterator[dict[str, Any]]:
    """Generate the missing texts, one row each."""
    for prompt, sample, cell in todo:
        output = generate(
            pair.target,
            pair.draft,
            prompts[prompt],
            attention_mask=torch.ones_like(prompts[prompt]),
            rule=cell.calibration.rule,
            draft_length=settings.draft_length,
            generator=seed_for(settings.seed, 2, prompt, sample),
            max_new_tokens=settings.max_new_tokens,
            **PLAIN_SAMPLING,
        )
        if output.interrupted:
            raise KeyboardInterrupt
        text = pair.tokenizer.decode(output.sequences[0, prompts[prompt].shape[1] :], skip_special_tokens=True)
        yield {"prompt": prompt, "sample": sample, "cell": cell.label} | output.statistics.to_dict() | {"text": text}
