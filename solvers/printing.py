"""How results print: numbers of four digits, what lies between positions, a table, a small curve.

What prints must be cheap at 1000 positions of 150 000 tokens: only row quantities `[...]` are looked at here, and
whoever prints leaves out what would need a pass over the laws.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from solvers.arrays import ROUNDING, to_numpy

MOST_ENTRIES = 1_000_000
"""Probabilities that may be looked at to print a result: some 20 ms to a divergence."""

WIDTH, HEIGHT = 220, 90
"""Of a small curve, in pixels."""


def number(value: Any) -> str:
    """Four significant digits; what only a rounding keeps from 0 is 0."""
    value = float(value)
    return "0" if abs(value) < ROUNDING else f"{value:.4g}"


def spread(values: Any, mean: float | None = None) -> str:
    """One number as it is; of several the mean, the least and the largest.

    Parameters
    ----------
    values
        Numbers `[...]` of any library.
    mean
        Their mean if it is a weighted one.
    """
    numbers = np.asarray(to_numpy(values) if hasattr(values, "shape") else values, dtype=np.float64).reshape(-1)
    if numbers.size == 0:
        return "none"
    if number(numbers.min()) == number(numbers.max()):
        return number(numbers[0])
    with np.errstate(invalid="ignore"):  # the mean of infinities may be no number
        middle = numbers.mean() if mean is None else mean
        return f"mean {number(middle)} ({number(numbers.min())} to {number(numbers.max())})"


def quantity(label: str, text: str) -> str:
    """A number behind its name and before its unit, from the label of an axis, "KL(output, target), nats"."""
    name, _, unit = label.partition("), ")
    return f"{name}{')' if unit else ''} {text} {unit}".rstrip()


def counted(count: int, what: str) -> str:
    """A number of things: "1 position", "12 positions"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def sized(shape: Sequence[int]) -> str:
    """What laws of a shape `[..., vocab]` are: "3 tokens", "12 positions of 150000 tokens"."""
    tokens = counted(shape[-1], "token")
    return tokens if len(shape) == 1 else f"{counted(int(np.prod(shape[:-1])), 'position')} of {tokens}"


def lines(head: str, *rest: str) -> str:
    """A result on two or three lines."""
    return "\n  ".join([head, *rest])


def html_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str) -> str:
    """A small table; a first column of words is on the left, numbers are on the right."""
    head = "".join(f"<th>{escape(each)}</th>" for each in columns)
    body = "".join(
        "<tr>"
        + "".join(f'<td style="text-align:{"right" if i else "left"}">{escape(each)}</td>' for i, each in row)
        + "</tr>"
        for row in (list(enumerate(row)) for row in rows)
    )
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def svg_curve(x: Any, y: Any) -> str:
    """A front as a small picture: one line, both axes from 0; infinite points are left out."""
    across, up = (np.asarray(to_numpy(each), dtype=np.float64).reshape(-1) for each in (x, y))
    finite = np.isfinite(across) & np.isfinite(up)
    across, up = across[finite], up[finite]
    order = np.argsort(across, kind="stable")
    width, height = max(across.max(initial=0.0), 1e-300), max(up.max(initial=0.0), 1e-300)
    points = " ".join(
        f"{4 + (WIDTH - 8) * a / width:.1f},{HEIGHT - 4 - (HEIGHT - 8) * b / height:.1f}"
        for a, b in zip(across[order], up[order], strict=True)
    )
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="divergence against rejection">'
        f'<path d="M4 4V{HEIGHT - 4}H{WIDTH - 4}" fill="none" stroke="#9aa1ab"/>'
        f'<polyline points="{points}" fill="none" stroke="#1f5fa8" stroke-width="2"/></svg>'
    )
