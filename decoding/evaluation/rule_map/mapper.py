"""The map: every rule's knob swept on the same real positions, the front below all, ranks at equal rejection."""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache

import numpy as np

from decoding.evaluation.bootstrap import Bootstrap
from decoding.evaluation.files.kept import as_json
from decoding.evaluation.files.stamp import origin
from decoding.evaluation.positions.calibration import NEAR, Best, best_at, clustered_error, over_best
from decoding.evaluation.rule_map.front import MapFront, solve_front
from decoding.evaluation.rule_map.options import Curve, MapSettings, Row
from solvers.errors import InputError
from tradeoff.conversion import mean, set_knob
from tradeoff.outcome.positions import Positions, measure, rejections
from tradeoff.rules.registry import Knob

DIVERGENCES = ("tv", "kl", "reverse_kl", "chi2", "hellinger", "js")
RANKED = "kl"
"""The divergence by which rules are ranked."""

POINTS = 12
"""Measured points of a curve, about evenly spaced in rejection."""

BEYOND = 0.25
"""What a step of rejection counts beyond the lossless one, where no rule is worth its cost."""

FINEST = 2.0**-14
"""Steps of a dial that are not halved any more: a rule that accepts sets of tokens moves in steps."""


def map_steps(curves: Sequence[Curve], rates: Sequence[float]) -> list[tuple[str, ...]]:
    """Keys of all rows of a map, in the order in which they are made."""
    steps: list[tuple[str, ...]] = [("front", name) for name in DIVERGENCES]
    for curve in curves:
        steps += [("curve", curve.spec), *(("rate", curve.spec, repr(rate)) for rate in rates)]
    return steps


class Mapper:
    """Makes rows, one after the other, from positions and the rows that are there.

    Parameters
    ----------
    positions
        The laws and logits.
    settings
        Stamped into every row.
    rows
        What was made before, by step.
    """

    def __init__(self, positions: Positions, settings: MapSettings, rows: Mapping[Hashable, Row]) -> None:
        self.positions = positions
        self.rows = dict(rows)
        self._common = {"settings": asdict(settings), "stamp": origin()}
        self._bootstrap = Bootstrap(positions.prompts, settings.seed)
        self._best_at = cache(self._solve_best)
        self._lossless = float(positions.total_variation.mean())

    def missing(self, curves: Sequence[Curve], rates: Sequence[float]) -> Iterator[Row]:
        """Make the rows that are not there yet."""
        by_spec = {curve.spec: curve for curve in curves}
        for kind, name, *rate in map_steps(curves, rates):
            if (kind, name, *rate) in self.rows:
                continue
            if kind == "front":
                made = {"kind": kind} | solve_front(self.positions, name).to_dict()
            elif kind == "curve":
                made = self._curve_row(by_spec[name])
            else:
                made = self._rate_row(by_spec[name], float(rate[0]))
            row = as_json(made | self._common)
            self.rows[kind, name, *rate] = row
            yield row

    def front(self, divergence: str) -> MapFront:
        """The front that was solved for a divergence."""
        return MapFront.from_dict(self.rows["front", divergence])

    def _curve_row(self, curve: Curve) -> Row:
        knob, info = curve.knob, curve.family.info
        known = [] if knob is None else traced(curve, self.positions, self._lossless)
        values = [None] if knob is None else [knob.value(dial) for dial in spread(known, POINTS, self._lossless)]
        points = [self._point(curve, value) for value in values]
        if curve.published is not None:
            points.append(self._point(curve, curve.published) | {"published": True})
        return {
            "kind": "curve",
            "rule": curve.spec,
            "group": info.rule.__module__.rpartition(".")[2],
            "source": info.source,
            "knob": None if knob is None else knob.name,
            "points": points,
            "traced": known,
        }

    def _rate_row(self, curve: Curve, rate: float) -> Row:
        row: Row = {"kind": "rate", "rule": curve.spec, "requested": rate, "reached": None}
        drawn = self.rows["curve", curve.spec]
        seen = [float(reached) for _, reached in drawn["traced"]] or [float(drawn["points"][0]["rejection"])]
        row |= {"knob": drawn["knob"], "range": [min(seen), max(seen)]}
        if curve.knob is None:
            return row
        known = tuple((float(dial), float(reached)) for dial, reached in drawn["traced"])
        try:
            setting = set_knob(curve.family, lambda rule: mean(rule, self.positions, "rejection"), rate, known=known)
        except InputError:
            return row
        columns = measure(curve.at(setting.value), self.positions, DIVERGENCES)
        at = rate if abs(setting.error) <= NEAR else setting.reached
        interval = self._over_front(columns, at)
        return row | {"reached": setting.reached, "over_best": interval} | self._point(curve, setting.value, columns)

    def _point(self, curve: Curve, value: float | None, columns: dict[str, np.ndarray] | None = None) -> Row:
        columns = columns or measure(curve.at(value), self.positions, DIVERGENCES)
        means = {name: float(values.mean()) for name, values in columns.items()}
        rejection = means["rejection"]
        fronts = {name: self.front(name) for name in DIVERGENCES}
        excess = {name: means[name] - float(front.bound(np.asarray(rejection))) for name, front in fronts.items()}
        return {
            "value": value,
            "published": False,
            "rejection": rejection,
            "gap": means["gap"],
            "leak": means["leak"],
            "divergences": {name: means[name] for name in DIVERGENCES},
            "errors": {name: self._error(columns[name]) for name in ("rejection", *DIVERGENCES)},
            "over_front": {name: front.multiple(rejection, means[name]) for name, front in fronts.items()},
            # relative where a divergence is large: chi-squares of thousands are rounded accordingly
            "excess": {name: each / max(1.0, means[name]) for name, each in excess.items() if math.isfinite(each)},
        }

    def _error(self, values: np.ndarray) -> float:
        return clustered_error(values, self.positions.prompt) if np.isfinite(values).all() else math.nan

    def _over_front(self, columns: dict[str, np.ndarray], rejection: float) -> Row | None:
        """KL over the least KL, with a bootstrap interval over prompts."""
        best = self._best_at(rejection)
        if best is None or not np.isfinite(columns[RANKED]).all():
            return None
        return asdict(over_best(columns, best, self.positions, self._bootstrap))

    def _solve_best(self, rejection: float) -> Best | None:
        """The best rule of this mean rejection; None where nothing finite is there, or lossless already."""
        front = self.front(RANKED)
        return best_at(self.positions, rejection) if front.rejection[0] < rejection <= front.rejection[-1] else None


def traced(curve: Curve, positions: Positions, lossless: float) -> list[tuple[float, float]]:
    """(dial, mean rejection) along a curve, by halving the largest step of rejection."""
    knob = curve.knob
    assert knob is not None

    @cache
    def rejection(dial: float) -> float:
        return float(rejections(curve.at(knob.value(dial)), positions).mean())

    dials = [0.0, 0.25, 0.5, 0.75, 1.0]
    while len(dials) < 4 * POINTS:
        steps = _steps([rejection(dial) for dial in dials], lossless)
        finer = [high - low > FINEST and _between(knob, low, high) for low, high in zip(dials, dials[1:], strict=False)]
        wide = np.where(finer, steps, 0.0)
        place = int(np.argmax(wide))
        if wide[place] <= steps.sum() / (POINTS - 1):
            break
        dials.insert(place + 1, (dials[place] + dials[place + 1]) / 2)
    return [(dial, rejection(dial)) for dial in dials]


def spread(known: Sequence[tuple[float, float]], points: int, lossless: float) -> list[float]:
    """Dials, both ends and others, between which a curve moves by about equal steps of rejection."""
    dials, reached = zip(*known, strict=True)
    along = np.concatenate([[0.0], np.cumsum(_steps(reached, lossless))])
    wanted = np.linspace(0.0, along[-1], points)
    chosen = {0, len(dials) - 1, *(int(np.argmin(np.abs(along - each))) for each in wanted)}
    return [dials[index] for index in sorted(chosen)]


def _steps(rejection: Sequence[float], lossless: float) -> np.ndarray:
    reached = np.asarray(rejection)
    return np.abs(np.diff(np.minimum(reached, lossless) + BEYOND * np.maximum(reached - lossless, 0.0)))


def _between(knob: Knob, low: float, high: float) -> bool:
    """Whether a knob has a value of its own half way: whole numbers may not."""
    return knob.value((low + high) / 2) not in (knob.value(low), knob.value(high))
