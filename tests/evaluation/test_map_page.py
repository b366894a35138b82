"""The page of a map: one file without a network, and what a real browser makes of it."""

import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
from browser import browse, browser
from map_files import kind, logits_file, rows, run
from snapshots import assert_as_in_snapshot

from decoding.evaluation.rule_map.mapper import DIVERGENCES, RANKED
from decoding.evaluation.rule_map.options import MapSettings
from decoding.evaluation.rule_map.page import SYMBOLS, page_figure, write_page
from decoding.evaluation.rule_map.report import curve_rows, fronts_of, points_along
from solvers.shown import visible
from tradeoff.fronts.looks import MARKS
from tradeoff.rules import Knob, Lenience

RULES = ["speculative_sampling", "lenience", "typical", "mars", "cascade:variant=tok3", "common_price"]

HOSTILE = "</title></script><script>alert(1)</script>\u202e<img src=x onerror=alert(2)>"

REPORT = """<script>
window.addEventListener("load", () => setTimeout(async () => {
  const found = {}, pause = () => new Promise((done) => setTimeout(done, 300));
  const map = document.getElementById("map");
  const press = (part) => ["mousedown", "mouseup", "click"].forEach(
    (name) => part.dispatchEvent(new MouseEvent(name, {bubbles: true})));
  const state = () => ({
    traces: map.querySelectorAll(".scatterlayer .trace").length,
    title: map.querySelector(".ytitle").textContent,
    y: Array.from(map.data[2].y), scale: map._fullLayout.yaxis.type,
    visible: map._fullData.filter((trace) => trace.visible === true).map((trace) => trace.name)});
  try {
    found.first = state();
    found.names = Array.from(map.querySelectorAll(".legendtext"), (each) => each.textContent);
    press(map.querySelector(".updatemenu-header"));
    await pause();
    found.menu = Array.from(map.querySelectorAll(".updatemenu-dropdown-button"), (each) => each.textContent);
    press(map.querySelectorAll(".updatemenu-dropdown-button")[0]);
    await pause();
    found.switched = state();
    press(map.querySelector(".updatemenu-header"));
    await pause();
    press(map.querySelectorAll(".updatemenu-dropdown-button")[6]);
    await pause();
    found.multiples = state();
    press(map.querySelectorAll(".legendtoggle")[1]);
    await pause();
    await pause();
    found.alone = state();
    Plotly.Fx.hover(map, [{curveNumber: 2, pointNumber: 3}]);
    await pause();
    found.hover = map.querySelector(".hoverlayer").textContent;
    found.buttons = Array.from(map.querySelectorAll(".modebar-btn"), (each) => each.dataset.title);
    found.requests = performance.getEntriesByType("resource").map((each) => each.name);
  } catch (error) { window.failures.push("in the test: " + error); }
  found.failures = window.failures;
  document.body.innerHTML = "";
  const written = document.body.appendChild(document.createElement("pre"));
  written.id = "found";
  written.textContent = JSON.stringify(found);
}, 500));
</script></body>"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    file = logits_file(folder / "logits.npz")
    result = run(f"--positions={file}", f"--out={folder / 'out'}", f"--rules={','.join(RULES)}", "--rejection=0.1")
    assert result.exit_code == 0, result.output
    return folder / "out"


@pytest.fixture(scope="module")
def found(made, tmp_path_factory):
    return browse((made / "map.html").read_text(encoding="utf-8"), REPORT, tmp_path_factory.mktemp("browser"))


def figure_of(made) -> Any:
    found = rows(made)
    return page_figure(curve_rows(found, RULES), fronts_of(found))


def test_the_page_asks_nothing_of_a_network(made):
    page = (made / "map.html").read_text(encoding="utf-8")
    library = max(re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL), key=len)
    assert "plotly.js v" in library[:200]
    own = page.replace(library, "")
    assert len(own) < 300_000 < 1_000_000 < len(page) < 8_000_000
    for outside in ("http:", "https:", "src=", "href=", "@import", "url(", "<link", "<img", "<iframe"):
        assert outside not in own, outside
    assert "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:\">" in own
    # a button of plotly.js 4 uploads the figure: it must be off
    assert '"showSendToCloud": false' in own


def test_every_view_has_as_many_heights_and_texts_as_rejections(made):
    assert set(SYMBOLS) == set(MARKS)
    figure = figure_of(made)
    assert len(figure.data) == 1 + len(RULES)
    buttons = figure.layout.updatemenus[0].buttons
    assert len(buttons) == len(DIVERGENCES) + 1
    for button in buttons:
        columns, layout = button.args
        for x, y, texts in zip(columns["x"], columns["y"], columns["customdata"], strict=True):
            assert len(x) == len(y) == len(texts) > 0
            assert all(value is None or value >= -1e-12 for value in y)
        assert layout["yaxis.title.text"] == button.label
    active = buttons[figure.layout.updatemenus[0].active].args[0]
    assert [list(trace.y) for trace in figure.data] == active["y"]


def test_points_tell_rule_knob_and_multiple(made):
    figure = figure_of(made)
    by_name = {row["rule"]: row for row in kind(rows(made), "curve")}
    seen = set()
    for trace in figure.data[1:]:
        row = by_name[trace.customdata[0][0]]
        seen.add(row["rule"])
        for point, text, x, y in zip(points_along(row), trace.customdata, trace.x, trace.y, strict=True):
            assert (x, y) == (point["rejection"], float(point["divergences"][RANKED]))
            if row["knob"]:
                assert f"{row['knob']} = {point['value']:.4g}" in text[1]
            multiple = point["over_front"][RANKED]
            assert text[2] == ("" if multiple is None else f"<br>{multiple:.3g} times the least at this rejection")
        stars = [symbol == "star" for symbol in trace.marker.symbol]
        assert stars == [point["published"] for point in points_along(row)]
    assert seen == set(RULES)


def test_infinite_divergences_are_gaps(made):
    typical = [row for row in kind(rows(made), "curve") if row["rule"] == "typical"]
    assert any(point["divergences"]["reverse_kl"] == "inf" for point in typical[0]["points"])
    columns = figure_of(made).layout.updatemenus[0].buttons[DIVERGENCES.index("reverse_kl")].args[0]
    assert any(None in y for y in columns["y"])


@pytest.fixture(scope="module")
def hostile(made, tmp_path_factory):
    """A page whose file and whose rules, one of them of the user's own, have names that want to be markup."""
    path = tmp_path_factory.mktemp("hostile") / "page.html"
    found = [row | {"rule": row["rule"].replace("typical", HOSTILE)} if "rule" in row else row for row in rows(made)]
    settings = replace(MapSettings(**found[0]["settings"]), source=HOSTILE)
    write_page(found, [rule.replace("typical", HOSTILE) for rule in RULES], settings, path)
    return path.read_text(encoding="utf-8")


def test_a_name_from_outside_is_no_markup(hostile):
    assert "alert(1)</script>" not in hostile
    assert "<img src=x" not in hostile
    assert hostile.partition("<div")[0].count("&lt;script&gt;alert(1)") == 2  # title and heading
    assert "\u202e" not in hostile


@browser
def test_a_browser_runs_no_name_and_shows_it_as_it_is(hostile, tmp_path):
    found = browse(hostile, REPORT, tmp_path)
    assert found["failures"] == []
    assert found["first"]["traces"] == 1 + len(RULES)
    assert visible(HOSTILE) in found["names"]


def test_the_page_is_as_in_its_snapshot(made, tmp_path):
    settings = replace(MapSettings(**rows(made)[0]["settings"]), source="logits.npz", greedy_draft=True)
    write_page(rows(made), RULES, settings, tmp_path / "page.html")
    assert_as_in_snapshot((tmp_path / "page.html").read_text(encoding="utf-8"), "map.html")


@dataclass(frozen=True, kw_only=True)
class Own(Lenience):
    """A rule that is in no list."""

    knob: ClassVar[Knob] = Knob(name="factor", strict=1.0, loose=1e-30, scale="log")


def test_a_rule_of_ones_own_is_on_the_page_and_in_the_figure(tmp_path):
    file = logits_file(tmp_path / "logits.npz")
    spec = f"{__name__}:Own"
    result = run(f"--positions={file}", f"--out={tmp_path / 'out'}", f"--rules=lenience,{spec}", "--rejection=0.1")
    assert result.exit_code == 0, result.output
    found = rows(tmp_path / "out")
    drawn: Any = page_figure(curve_rows(found, ["lenience", spec]), fronts_of(found))
    assert [trace.name for trace in drawn.data][1:] == ["lenience", "Own"]


@browser
def test_a_browser_draws_one_trace_to_a_curve_and_reports_no_error(found):
    assert found["failures"] == []
    assert found["requests"] == []
    assert found["first"]["traces"] == 1 + len(RULES)
    assert found["first"]["title"] == "mean KL(output, target), nats"
    assert not [title for title in found["buttons"] if "hare" in title or "loud" in title]


@browser
def test_the_menu_switches_the_divergence(found, made):
    assert len(found["menu"]) == len(DIVERGENCES) + 1
    assert found["switched"]["title"] == "mean TV(output, target)"
    buttons = figure_of(made).layout.updatemenus[0].buttons
    for view, index in (("first", 1), ("switched", 0), ("multiples", 6)):
        assert found[view]["y"] == pytest.approx(buttons[index].args[0]["y"][2])
        assert found[view]["scale"] == ("log" if view == "multiples" else "linear")
        assert found[view]["traces"] == 1 + len(RULES)


@browser
def test_a_click_in_the_legend_leaves_one_rule_and_the_front(found, made):
    names = [trace.name for trace in figure_of(made).data]
    assert found["first"]["visible"] == names
    assert found["alone"]["visible"] == [names[0], names[2]]
    assert "mean rejection" in found["hover"]
    assert "times the least at this rejection" in found["hover"]


@browser
def test_a_broken_page_is_noticed(made, tmp_path):
    text = (made / "map.html").read_text(encoding="utf-8")
    broken = text.replace("</h1>", "</h1><script>nothing.there()</script>")
    failures = browse(broken, REPORT, tmp_path)["failures"]
    assert failures
    assert "nothing is not defined" in failures[0]
