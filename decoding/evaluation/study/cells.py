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
from decoding.evaluation.study.configuration import REJECTION, Configuration
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


def levels(configuration: Configuration) -> list[str]:
    """Names of the values at which rules are compared."""
    knob, values = configuration.at
    return [f"{knob} {value!r}" for value in values]


def calibrated_cells(
    positions: Positions, configuration: Configuration, progress: Callable[[int], object]
) -> list[Cell]:
    """Set every knob on real positions, or measure there the knobs that are given; rules without one come first.

    Raises
    ------
    InputError
        A rejection that is above the lossless one, or below what a rule can reach.
    """
    name, values = configuration.at
    at = dict(zip(levels(configuration), values, strict=True))
    bootstrap, best = Bootstrap(positions.prompts, configuration.seed), cache(partial(best_at, positions))
    cells = []
    for rule, level in _places(configuration):
        knob = {} if level is None else _knob_at(rule, name, at[level], positions)
        columns = measure(_made(rule, knob), positions, (DIVERGENCE,))
        calibrated, least = float(columns["rejection"].mean()), None
        if level is not None:
            met = name == REJECTION and abs(calibrated - at[level]) <= NEAR
            least = best(at[level] if met else calibrated)
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


def _places(configuration: Configuration) -> list[tuple[str, str | None]]:
    """Rule and level of every cell, in their order."""
    free = [rule for rule in configuration.rules if _has_free_knob(rule)]
    fixed: list[tuple[str, str | None]] = [(rule, None) for rule in configuration.rules if rule not in free]
    return fixed + [(rule, level) for level in levels(configuration) for rule in free]


def calibration_steps(configuration: Configuration) -> int:
    """How much progress `calibrated_cells` reports."""
    return len(configuration.at[1]) * sum(_has_free_knob(rule) for rule in configuration.rules)


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


def read_cells(path: Path, configuration: Configuration) -> list[Cell]:
    """Read what `write_cells` wrote.

    Raises
    ------
    InputError
        It is not as it was written, or does not hold the cells of this configuration.
    """
    remedy = "delete it, and the same command sets the knobs again"
    try:
        found = read_json(path)
    except InputError as error:
        raise InputError(f"{error}; {remedy}") from None
    rows = [unsealed(each, KIND) for each in found] if isinstance(found, list) else [None]
    cells = [_read(row) for row in rows if row is not None]
    if len(cells) < len(rows) or [(cell.rule, cell.level) for cell in cells] != _places(configuration):
        raise InputError(f"{path}: expected every rule's knobs as they were written; got something else; {remedy}")
    return cells


def _read(row: Row) -> Cell:
    ratio = row["kl_over_best"]
    read = None if ratio is None else Estimate(**{name: float(value) for name, value in ratio.items()})
    known: Row = row | {"kl_over_best": read}
    return Cell(**known)
