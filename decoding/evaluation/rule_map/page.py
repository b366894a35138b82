"""The map as a page: one HTML file that needs no network, with a menu of divergences and a hover text to a point."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go

from decoding.evaluation.files.pages import write_html
from decoding.evaluation.rule_map.front import MapFront
from decoding.evaluation.rule_map.mapper import DIVERGENCES, RANKED
from decoding.evaluation.rule_map.options import MapSettings, Row
from decoding.evaluation.rule_map.report import curve_rows, fronts_of, limits, looks_by_rule, points_along
from solvers.divergences import DIVERGENCES as MEASURES
from solvers.shown import visible
from tradeoff.fronts.looks import FRONT

FRONT_NAME = "least of any rule"
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle-up",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
    "<": "triangle-left",
    ">": "triangle-right",
    "p": "pentagon",
    "h": "hexagon2",
}
HOVER = (
    "<b>%{customdata[0]}</b>%{customdata[1]}<br>mean rejection %{x:.4f}<br>%{customdata[3]} %{y:.4g}"
    "%{customdata[2]}<extra></extra>"
)

CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d"],
    # plotly.js 4 has a button that uploads the figure, with no question asked: not from here
    "showSendToCloud": False,
}


def write_page(rows: Sequence[Row], specs: Sequence[str], settings: MapSettings, path: Path) -> None:
    """Write the page.

    Parameters
    ----------
    rows, specs
        All rows, and the rules to show.
    settings
        For title and note.
    path
        The HTML file: about 5 MB, nearly all of it plotly.js, which stands in the file so that the page opens without
        a network, today and in ten years.
    """
    drawn = page_figure(curve_rows(rows, specs), fronts_of(rows))
    values = {
        "title": f"Rejection against divergence: {settings.source}",
        "settings": settings,
        "figure": drawn.to_html(full_html=False, include_plotlyjs=True, div_id="map", config=CONFIG),
    }
    write_html("map.html", values, path)


def page_figure(curves: Sequence[Row], fronts: dict[str, MapFront]) -> go.Figure:
    """One trace to a curve, the front first, and a menu that exchanges what is drawn."""
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            name=FRONT_NAME,
            showlegend=False,  # it stays when a rule is seen alone
            mode="lines",
            line={"color": FRONT, "width": 3},
            fill="tozeroy",
            fillcolor="rgba(120, 130, 150, 0.25)",
            hovertemplate=HOVER,
        )
    )
    looks, by_rule = looks_by_rule(curves), {row["rule"]: row for row in curves}
    order = [by_rule[spec] for spec in looks]
    dashes: defaultdict[str, Iterator[str]] = defaultdict(lambda: cycle(DASHES))
    for row, look in zip(order, looks.values(), strict=True):
        stars = ["star" if point["published"] else SYMBOLS[look.marker] for point in points_along(row)]
        figure.add_trace(
            go.Scatter(
                name=_escaped(look.label),
                legendgroup=look.family,
                legendgrouptitle={"text": look.family, "font": {"size": 12}},
                mode="lines+markers",
                line={"color": look.colour, "width": 1.6, "dash": next(dashes[look.family])},
                marker={
                    "symbol": stars,
                    "size": [13 if star == "star" else 6 for star in stars],
                    "color": look.colour,
                },
                hovertemplate=HOVER,
            )
        )
    views = [_view(order, fronts[name]) for name in DIVERGENCES]
    views.append(_multiples_view(order, fronts[RANKED]))
    shown = DIVERGENCES.index(RANKED)
    for trace, x, y, data in zip(figure.data, *views[shown].columns.values(), strict=True):
        trace.update(x=x, y=y, customdata=data)
    figure.update_layout(**_layout(views, shown))
    return figure


class _View(NamedTuple):
    """What the menu chooses: a name, one entry to a trace of every column, and the y axis."""

    name: str
    columns: dict[str, list]
    right: float
    axis: dict[str, Any]


def _layout(views: Sequence[_View], shown: int) -> dict[str, Any]:
    def update(view: _View) -> dict[str, Any]:
        flat = {f"yaxis.{name}": value for name, value in view.axis.items()} | {"yaxis.title.text": view.name}
        return {"label": view.name, "method": "update", "args": [view.columns, flat]}

    return {
        "template": "plotly_white",
        "height": 760,
        "margin": {"l": 70, "r": 10, "t": 60, "b": 55},
        "hovermode": "closest",
        "xaxis": {"title": {"text": "mean rejection probability (less is faster)"}, "range": [0, views[shown].right]},
        "yaxis": {"title": {"text": views[shown].name}, **views[shown].axis},
        "legend": {
            "itemclick": "toggleothers",
            "itemdoubleclick": "toggle",
            "groupclick": "toggleitem",
            "font": {"size": 11},
            "tracegroupgap": 4,
        },
        "updatemenus": [
            {
                "buttons": [update(view) for view in views],
                "active": shown,
                "x": 0,
                "xanchor": "left",
                "y": 1.02,
                "yanchor": "bottom",
                "bgcolor": "#ffffff",
            }
        ],
    }


def _view(curves: Sequence[Row], front: MapFront) -> _View:
    """Means of one divergence."""
    right, top = limits(front, curves)
    least = [front.rejection.tolist(), front.least.tolist()]
    wall = float(front.rejection[0])
    if wall > 0:  # left of it every rule is infinite
        least = [[0.0, wall, *least[0]], [top, top, *least[1]]]
    unit = MEASURES[front.divergence].label.removesuffix(", nats")
    values = [[float(point["divergences"][front.divergence]) for point in points_along(row)] for row in curves]
    columns = _columns(curves, front.divergence, unit, values, least)
    return _View(f"mean {MEASURES[front.divergence].label}", columns, right, {"type": "linear", "range": [0, top]})


def _multiples_view(curves: Sequence[Row], front: MapFront) -> _View:
    """A divergence over the least at the same rejection, on a logarithmic axis."""
    values = []
    for row in curves:
        multiples = [point["over_front"][front.divergence] for point in points_along(row)]
        values.append([math.inf if each is None else float(each) for each in multiples])
    unit = MEASURES[front.divergence].label.removesuffix(", nats")
    columns = _columns(curves, front.divergence, unit + " over the least", values, [[0.0, front.rejection[-1]], [1, 1]])
    axis = {"type": "log", "range": [-0.03, 1.5]}  # powers of ten
    return _View(f"mean {unit} as a multiple of the least at that rejection", columns, limits(front, curves)[0], axis)


def _columns(
    curves: Sequence[Row], divergence: str, unit: str, values: Sequence[Sequence[float]], least: Sequence[list]
) -> dict[str, list]:
    """What the traces show, the front first; infinite values are gaps."""
    columns = {"x": [least[0]], "y": [least[1]], "customdata": [[[FRONT_NAME, "", "", unit]] * len(least[0])]}
    for row, heights in zip(curves, values, strict=True):
        points = points_along(row)
        columns["x"].append([float(point["rejection"]) for point in points])
        columns["y"].append([value if math.isfinite(value) else None for value in heights])
        columns["customdata"].append([_texts(row, point, divergence, unit) for point in points])
    return columns


def _texts(row: Row, point: Row, divergence: str, unit: str) -> list[str]:
    knob = "" if row["knob"] is None else f"<br>{row['knob']} = {point['value']:.4g}"
    knob += ", the published default" if point["published"] else ""
    multiple = point["over_front"][divergence]
    times = "" if multiple is None else f"<br>{float(multiple):.3g} times the least at this rejection"
    return [_escaped(row["rule"]), knob, times, unit]


def _escaped(name: str) -> str:
    """A name in the figure, where plotly.js reads some HTML."""
    return escape(visible(name))
