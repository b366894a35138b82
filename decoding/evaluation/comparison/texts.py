"""The main job: every rule at the same mean rejection, on the same prompts and seeds, row by row, resumable."""

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from decoding.evaluation.files.kept import Row, append_rows, check_settings, read_keyed
from decoding.evaluation.positions.calibration import FAMILIES, Calibration, calibrate, lossless
from decoding.evaluation.positions.collect import collect_positions, seed_for
from decoding.evaluation.study.limits import MOST
from decoding.huggingface import generate_plainly
from decoding.huggingface.pair import Pair
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


Key = tuple[int, int, str]
"""Prompt, sample and cell of a text."""


def row_key(row: Row) -> Key:
    """Which text a row is of."""
    return row["prompt"], row["sample"], row["cell"]


class Folder:
    """The output folder, which `locked` keeps for one run: settings, then one JSONL row per finished sample.

    Raises
    ------
    InputError
        The folder holds rows of other settings.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.samples = path / "samples.jsonl"
        self.results = path / "results.jsonl"
        self.figure = path / "comparison.png"
        self.stamp = path / "stamp.json"
        check_settings(path, asdict(settings), [self.samples])

    def rows(self, wanted: Collection[Key]) -> dict[Hashable, Row]:
        """Samples written so far.

        Raises
        ------
        InputError
            A row is not as it was written, is there twice, or is of no text that is wanted.
        """
        found = read_keyed(self.samples, "samples", row_key)
        for key in found:
            if key not in wanted:
                raise InputError(
                    f"{self.samples}: expected texts of this comparison; got one of {key}; delete its line"
                )
        return found

    def append(self, row: Row) -> None:
        """Add one finished sample."""
        append_rows(self.samples, [row], "samples")


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


def texts_of(cells: Sequence[Cell], settings: Settings) -> dict[Key, Cell]:
    """All texts and the cells that write them; every cell's before the next text, so a part is a fair part."""
    return {
        (prompt, sample, cell.label): cell
        for sample in range(settings.samples)
        for prompt in range(len(settings.prompts))
        for cell in cells
    }


def generate_rows(pair: Pair, prompts: Sequence[Tensor], settings: Settings, todo: Mapping[Key, Cell]) -> Iterator[Row]:
    """Generate the missing texts, one row each."""
    for (prompt, sample, _), cell in todo.items():
        output = generate_plainly(
            prompts[prompt],
            target=pair.target,
            draft=pair.draft,
            attention_mask=torch.ones_like(prompts[prompt]),
            rule=cell.calibration.rule,
            draft_length=settings.draft_length,
            generator=seed_for(settings.seed, 2, prompt, sample),
            max_new_tokens=settings.max_new_tokens,
        )
        if output.interrupted:
            raise KeyboardInterrupt
        text = pair.tokenizer.decode(output.sequences[0, prompts[prompt].shape[1] :], skip_special_tokens=True)
        yield {"prompt": prompt, "sample": sample, "cell": cell.label} | output.statistics.totals() | {"text": text}
