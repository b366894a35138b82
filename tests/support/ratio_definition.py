"""Rules in numbers by their definition, in float64 and by bisection: an oracle for verification steps that reduce."""

import itertools
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from decoding.verification.ratio_form import RatioForm

ROUNDING = 4e-6
"""A few float32 roundings of logits below 40: how near to a boundary a uniform must be to fall on its other side."""

LAST = 1 - 2.0**-53

FORMS = {
    "lossless": RatioForm(),
    "lenient": RatioForm(target_weight=2.0),
    "slack": RatioForm(slack=0.1),
    "slack, draft": RatioForm(slack=0.1, residual="draft"),
    "slack, target": RatioForm(slack=0.05, residual="target"),
    "ensemble": RatioForm(target_weight=0.7, draft_weight=0.3),
    "synthetic": RatioForm(target_weight=0.0, draft_weight=0.6),
    "ceiling": RatioForm(target_weight=1.5, residual="fill"),
    "no ceiling": RatioForm(target_weight=float("inf"), residual="fill"),
    "rejection": RatioForm(level="rejection", knob=0.15, residual="fill"),
    "price": RatioForm(level="price", knob=0.7, residual="fill"),
    "high price": RatioForm(level="price", knob=40.0, residual="fill"),
    "infinite price": RatioForm(level="price", knob=float("inf"), residual="fill"),
    "price 0": RatioForm(level="price", knob=0.0, residual="fill"),
}


class Step(NamedTuple):
    draft: Tensor
    target: Tensor
    drafted: Tensor
    uniforms: Tensor
    tested: Tensor
    temperature: float = 1.0


def root(function: Any, low: float, high: float) -> float:
    """Where a nondecreasing function crosses 0, by bisection."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return high


def fill_of(p: np.ndarray, q: np.ndarray, lost: Any) -> float:
    """The c in [0, 1] with sum [c q - p]_+ = lost(c)."""
    return root(lambda c: np.maximum(c * q - p, 0).sum() - lost(c), 0.0, 1.0)


def lost_at(p: np.ndarray, q: np.ndarray, ceiling: float) -> float:
    with np.errstate(invalid="ignore"):
        return float(np.maximum(p - np.where(q > 0, ceiling * q, 0.0), 0.0).sum())


def ceiling_and_floor(form: RatioForm, p: np.ndarray, q: np.ndarray, knob: float) -> tuple[float, float]:
    if form.level == "fixed":
        return form.target_weight, fill_of(p, q, lambda _: lost_at(p, q, form.target_weight))
    if form.level == "price":
        # infinity times 0 is 0 here: a ratio beyond every other stands for it
        quotient = np.exp(min(knob, 600.0))
        floor = fill_of(p, q, lambda c: lost_at(p, q, c * quotient))
        return floor * quotient, floor
    rejection = min(knob, np.maximum(p - q, 0.0).sum())
    known = q > 0
    highest = float(np.max(np.where(known, p / np.where(known, q, 1.0), 0.0)))
    # what is left when nothing of the target's support is rejected
    ceiling = root(lambda c: rejection - lost_at(p, q, c), 1.0, max(highest, 1.0))
    if p[~known].sum() > knob:
        ceiling = float("inf")
    return ceiling, fill_of(p, q, lambda _: rejection)


def accepts(form: RatioForm, p: np.ndarray, q: np.ndarray, x: int, u: float, knob: float) -> bool:
    if form.level == "fixed":
        most = form.target_weight * q[x] if q[x] > 0 else 0.0
        return u * p[x] < most + form.draft_weight * p[x] + form.slack
    off = p[q == 0].sum()
    if q[x] == 0:
        return form.level == "rejection" and off > knob and u < 1 - knob / off
    return u * p[x] < ceiling_and_floor(form, p, q, knob)[0] * q[x]


def masses_after(form: RatioForm, p: np.ndarray, q: np.ndarray, knob: float) -> np.ndarray:
    match form.residual:
        case "difference":
            masses = np.maximum(q - p, 0.0)
        case "target":
            masses = q
        case "draft":
            masses = p
        case "fill":
            masses = np.maximum(ceiling_and_floor(form, p, q, knob)[1] * q - p, 0.0)
    return masses if masses.sum() > 1e-15 else q


def drawn(masses: np.ndarray, u: float) -> int:
    running = np.cumsum(masses)
    above = (running > u * running[-1]) & (masses > 0)
    return int(np.argmax(above)) if above.any() else int(np.flatnonzero(masses)[-1])


def expected(form: RatioForm, step: Step, text: int, uniforms: np.ndarray) -> tuple[int, int]:
    """Accepted tokens and the next token of a text by the rule's definition, float64."""
    knob = float(form.knob[text] if isinstance(form.knob, Tensor) else form.knob)
    with np.errstate(over="ignore"):
        p, q = ((each[text].double() / step.temperature).softmax(-1).numpy() for each in step[:2])
        for place in range(int(step.tested[text])):
            if not accepts(form, p[place], q[place], int(step.drafted[text, place]), uniforms[place], knob):
                return place, drawn(masses_after(form, p[place], q[place], knob), uniforms[-1])
        return int(step.tested[text]), drawn(q[int(step.tested[text])], uniforms[-1])


def near(form: RatioForm, step: Step, text: int) -> set[tuple[int, int]]:
    """What rounding may make of a text: the outcomes of uniforms moved by a few roundings."""
    given = step.uniforms[text].numpy()
    outcomes = set()
    for accept, draw in itertools.product((-1, 0, 1), repeat=2):
        moved = given * (1 + ROUNDING * np.array([accept] * (len(given) - 1) + [draw]))
        moved[-1] += draw * ROUNDING
        outcomes.add(expected(form, step, text, np.clip(moved, 0.0, LAST)))
    return outcomes
