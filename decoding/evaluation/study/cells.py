"""A study's rules at their levels, calibrated on real positions."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

from decoding.evaluation.bootstrap import Bootstrap, Estimate
from decoding.evaluation.files.kept import Row, as_json, read_json, replace_file, sealed, unsealed
from decoding.evaluation.positions.calibration import (
    DIVERGENCE,
    NEAR,
    best_at,
    check_requested,
    clustered_error,
    over_best,
)
from decoding.evaluation.study.sections import REJECTION, At
from solvers.errors import InputError
from tradeoff.conversion import mean, set_knob
from tradeoff.outcome.positions import Positions, measure
from tradeoff.rule import Rule
from tradeoff.rules.registry import as_rule, family_from

KIND = "calibrated cell"
"""Of the rows of calibrated cells."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One rule at one level.

    Parameters
    ----------
    rule
        Its spec, with the knob free if it has one.
    level
        What it is matched at, "rejection 0.2" or "epsilon 0.1"; None without a knob.
    knob
        The knob's name and value; empty without one.
    calibrated, standard_error
        Mean rejection on the calibration positions, and its error as an estimate for other prompts.
    kl_over_best
        Mean KL on the calibration positions over the common price's at the same mean rejection; None without a knob,
        and where the common price gives away nothing, or infinity.
    """

    rule: str
    level: str | None
    knob: dict[str, float]
    calibrated: float
    standard_error: float
    kl_over_best: Estimate | None

    @property
    def label(self) -> str:
        """What rows and tables call it."""
        return self.rule if self.level is None else f"{self.rule} at {self.level}"

    def made(self) -> Rule:
        """The rule itself."""
        return _made(self.rule, self.knob)


def _made(rule: str, knob: dict[str, float]) -> Rule:
    return family_from(rule).at(*knob.values()) if knob else as_rule(rule, kind="token", taken_by="a study")


def calibrated_cells(
    positions: Positions, rules: Sequence[str], at: At, seed: int, progress: Callable[[int], object]
) -> list[Cell]:
    """Set every knob on real positions, or measure there the knobs that are given; rules without one come first.

    Parameters
    ----------
    positions
        Where.
    rules, at, seed
        As in `Configuration`; the seed is the bootstrap's.
    progress
        Told of every knob.

    Raises
    ------
    InputError
        A rejection that is above the lossless one, or below what a rule can reach.
    """
    name, wanted = at[0], _levels(at)
    bootstrap, best = Bootstrap(positions.prompts, seed), cache(partial(best_at, positions))
    cells = []
    for rule, level in _places(rules, at):
        knob = {} if level is None else _knob_at(rule, name, wanted[level], positions)
        columns = measure(_made(rule, knob), positions, (DIVERGENCE,))
        calibrated, least = float(columns["rejection"].mean()), None
        if level is not None:
            met = name == REJECTION and abs(calibrated - wanted[level]) <= NEAR
            least = best(wanted[level] if met else calibrated)
            progress(1)
        cells.append(
            Cell(
                rule=rule,
                level=level,
                knob=knob,
                calibrated=calibrated,
                standard_error=clustered_error(columns["rejection"], positions.prompt),
                kl_over_best=None if least is None else over_best(columns, least, positions, bootstrap),
            )
        )
    return cells


def _levels(at: At) -> dict[str, float]:
    """Values at which rules are compared, by their names."""
    return {f"{at[0]} {value!r}": value for value in at[1]}


def _places(rules: Sequence[str], at: At) -> list[tuple[str, str | None]]:
    """Rule and level of every cell, in their order."""
    free = [rule for rule in rules if _has_free_knob(rule)]
    fixed: list[tuple[str, str | None]] = [(rule, None) for rule in rules if rule not in free]
    return fixed + [(rule, level) for level in _levels(at) for rule in free]


def calibration_steps(rules: Sequence[str], at: At) -> int:
    """How much progress `calibrated_cells` reports."""
    return len(at[1]) * sum(_has_free_knob(rule) for rule in rules)


def _has_free_knob(rule: str) -> bool:
    family = family_from(rule)
    return family.info.knob is not None and family.info.knob.name not in family.fixed


def _knob_at(rule: str, name: str, value: float, positions: Positions) -> dict[str, float]:
    family = family_from(rule)
    if name != REJECTION:
        return {name: value}
    check_requested(value, positions)
    return {family.knob.name: set_knob(family, lambda each: mean(each, positions, "rejection"), value).value}


def write_cells(cells: Sequence[Cell], path: Path) -> None:
    """Keep calibrated cells."""
    rows = [sealed(as_json(asdict(cell)), KIND) for cell in cells]
    replace_file(path, lambda file: file.write(json.dumps(rows, indent=1).encode() + b"\n"))


def read_cells(path: Path, rules: Sequence[str], at: At) -> list[Cell]:
    """Read what `write_cells` wrote of these rules at these values.

    Raises
    ------
    InputError
        It is not as it was written, or does not hold these cells.
    """
    remedy = "delete it, and the same command sets the knobs again"
    try:
        found = read_json(path)
    except InputError as error:
        raise InputError(f"{error}; {remedy}") from None
    rows = [unsealed(each, KIND) for each in found] if isinstance(found, list) else [None]
    cells = [_read(row) for row in rows if row is not None]
    if len(cells) < len(rows) or [(cell.rule, cell.level) for cell in cells] != _places(rules, at):
        raise InputError(f"{path}: expected every rule's knobs as they were written; got something else; {remedy}")
    return cells


def _read(row: Row) -> Cell:
    ratio = row["kl_over_best"]
    read = None if ratio is None else Estimate(**{name: float(value) for name, value in ratio.items()})
    known: Row = row | {"kl_over_best": read}
    return Cell(**known)
