"""The page of a study: one file without a network, hostile texts as they are, and what a real browser makes of it."""

import html
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from browser import browse, browser
from snapshots import assert_as_in_snapshot
from study_results import HOSTILE, STEERING, WON, made_up, refused, shapes, tokens

from decoding.evaluation.study.page import write_page
from decoding.evaluation.study.report import markdown
from decoding.evaluation.study.results import TokenCost
from solvers.errors import InputError
from solvers.shown import visible

SHAPES = shapes()
VOID = {"meta", "br", "img", "use", "path", "input"}

REPORT = """<script>
window.addEventListener("load", () => setTimeout(() => {
  const found = {}, all = (what) => Array.from(document.querySelectorAll(what));
  const state = () => ({
    sections: all("section.example").filter((each) => each.checkVisibility()).map((each) => each.dataset),
    none: document.getElementById("none").checkVisibility(),
    spans: all(".text span.t").filter((each) => each.checkVisibility()).length});
  const choose = (place, value) => {
    const select = all(".controls select")[place];
    select.value = value;
    select.dispatchEvent(new Event("change"));
    return state();
  };
  try {
    found.title = document.title;
    found.heading = document.querySelector("h1").textContent;
    found.menus = all(".controls select").map((each) => Array.from(each.options, (option) => option.textContent));
    found.first = state();
    const shown = all("section.example:not([hidden]) .text");
    found.tokens = shown.map((text) => Array.from(text.querySelectorAll("span.t"), (each) => {
      const look = getComputedStyle(each);
      return {text: each.textContent, title: each.title, background: look.backgroundColor,
        line: look.textDecorationLine, border: look.borderBottomStyle, colour: look.color,
        before: getComputedStyle(each, "::before").content};
    }));
    found.rejected = shown.map((text) => Array.from(text.querySelectorAll("s"),
      (each) => [each.textContent, each.title, getComputedStyle(each).textDecorationLine,
        getComputedStyle(each).backgroundColor, each.nextElementSibling.className]));
    found.legend = all(".legend .patch").map((each) => [each.textContent, getComputedStyle(each).backgroundColor]);
    found.level = choose(0, "1");
    found.prompt = choose(1, "1");
    found.missing = choose(1, "2");
    found.again = choose(0, "0");
    found.drawn = all("figure svg text").map((each) => each.textContent);
    found.images = all("img, iframe, object, embed, link").length;
    found.scripts = all("script").length;
    found.size = [document.documentElement.scrollWidth, window.innerWidth];
    found.requests = performance.getEntriesByType("resource").map((each) => each.name);
  } catch (error) { window.failures.push("in the test: " + error); }
  found.failures = window.failures;
  document.body.innerHTML = "";
  const written = document.body.appendChild(document.createElement("pre"));
  written.id = "found";
  written.textContent = JSON.stringify(found);
}, 300));
</script></body>"""


class Reader(HTMLParser):
    """Elements of a page as (name, attributes, text within), in the order of their starts."""

    def __init__(self, page):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        if tag not in VOID:
            self._open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for element in self._open:
            element[2] += data

    def named(self, tag, kind=None):
        """Elements of a name, and of a class."""
        found = [each for each in self.elements if each[0] == tag]
        return [each for each in found if kind is None or kind in (each[1].get("class") or "").split()]


def hostile():
    """Results whose names and texts all want to be markup, with one prompt that is missing at one level."""
    rules = ("decoding_opt", "decoding_uno", "r" * 90)
    won = {HOSTILE: WON["gpt-4"], "sequence_kl": WON["gpt-4"]}
    results = made_up(rules, prompts=(HOSTILE, "plain", "rare"), won=won)
    first, *others = results.examples
    label = next(iter(first.texts))
    odd = [
        TokenCost(text="free", fate="accepted", cost=0.0, divergence=0.0),
        TokenCost(text=" dear", fate="accepted", cost=np.inf, divergence=np.inf),
        TokenCost(text=HOSTILE, fate="replaced", cost=-4.0, divergence=0.1),
        TokenCost(text="\n", fate="bonus", cost=0.4, divergence=0.1),
        TokenCost(text="", fate="accepted", cost=np.nan, divergence=np.nan),
        TokenCost(text=STEERING, fate="accepted", cost=0.01, divergence=0.0),
    ]
    return replace(
        results,
        title=HOSTILE,
        configuration={"prompts": {"template": HOSTILE}, "hash": HOSTILE},
        provenance=[{"commit": HOSTILE}],
        comparisons=[replace(refused(results.comparisons[0]), refused=HOSTILE), *results.comparisons[1:]],
        examples=[replace(first, texts=first.texts | {label: odd}), *others[:-1]],
    )


def written(results, folder):
    write_page(results, folder / "page.html")
    return (folder / "page.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    return browse(written(hostile(), folder), REPORT, folder)


def test_the_page_is_small_and_asks_nothing_of_a_network(tmp_path):
    page = written(made_up(), tmp_path)
    assert len(page) < 200_000
    for outside in ("http:", "https:", "src=", "@import", "<link", "<img", "<iframe"):
        assert outside not in page, outside
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', page))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert "default-src 'none'" in page
    assert written(made_up(), tmp_path) == page


def test_the_page_is_as_in_its_snapshot(tmp_path):
    results = made_up()
    results = replace(results, examples=results.examples[:1])
    assert_as_in_snapshot(written(results, tmp_path), "study.html")


@pytest.mark.parametrize("name", ["plain", *SHAPES])
def test_the_page_says_what_markdown_says_for_every_kind_of_results(name, tmp_path):
    results = made_up() if name == "plain" else SHAPES[name]
    page = Reader(written(results, tmp_path))
    rows = [line for line in markdown(results).split("## Texts side")[0].splitlines() if line.startswith("| ")]
    rows = [[html.unescape(re.sub(r"\\(.)", r"\1", cell.strip())) for cell in row[1:-1].split(" | ")] for row in rows]
    ours = []
    for tag, _, text in page.elements:
        if tag == "tr":
            ours.append([])
        elif tag in ("th", "td"):
            ours[-1].append(text.replace("\n", " "))
    assert ours == [row for row in rows if set(row) - {"---", "---:"}]
    spans = page.named("span", "t")
    shown = [token for example in results.examples for text in example.texts.values() for token in text]
    assert [each[2] for each in spans] == [token.text for token in shown]
    assert len(page.named("section", "example")) == len(results.examples)
    assert len(page.named("svg")) == 1


def test_every_token_tells_its_cost_its_divergence_and_its_fate(tmp_path):
    results = made_up()
    spans = Reader(written(results, tmp_path)).named("span", "t")
    shown = [token for example in results.examples for text in example.texts.values() for token in text]
    assert {token.fate for token in shown} == {"accepted", "replaced", "bonus"}
    for (_, attributes, _), token in zip(spans, shown, strict=True):
        numbers = re.fullmatch(r"cost (\S+) nats, divergence here (\S+) nats, (\w+)", attributes["title"])
        assert numbers
        assert [float(numbers[1]), float(numbers[2])] == pytest.approx([token.cost, token.divergence], abs=6e-4)
        assert numbers[3] == token.fate
        classes = attributes["class"].split()
        assert ("r" in classes, "b" in classes) == (token.fate == "replaced", token.fate == "bonus")
        warm, cool = (any(re.fullmatch(sign + r"\d", each) for each in classes) for sign in "pm")
        assert (warm, cool) == (token.cost >= 0.02, token.cost <= -0.02)


def test_colours_deepen_with_the_cost_and_are_given_to_every_class(tmp_path):
    costs = [0.0, 0.019, 0.02, 0.1, 0.3, 0.6, 1.0, 2.0, 9.0]
    line = [TokenCost(text="x", fate="accepted", cost=sign * cost, divergence=0) for sign in (1, -1) for cost in costs]
    results = made_up()
    results = replace(results, examples=[replace(results.examples[0], texts={"one": line})])
    page = written(results, tmp_path)
    colours = dict(re.findall(r"\.([pm]\d) \{ background: (#\w{6})", page))
    classes = [each[1]["class"].split()[1:] for each in Reader(page).named("span", "t")]
    assert classes[:9] == [[], [], ["p1"], ["p2"], ["p3"], ["p4"], ["p5"], ["p6"], ["p6"]]
    assert classes[9:] == [[each.replace("p", "m") for each in kind] for kind in classes[:9]]
    for sign, side in (("p", 0), ("m", 2)):
        scale = [[int(colours[f"{sign}{depth}"][at : at + 2], 16) for at in (1, 3, 5)] for depth in range(1, 7)]
        assert all(colour[side] == max(colour) for colour in scale)  # red is the most of a warm one, blue of a cool one
        light = [sum(colour) for colour in scale]
        assert light == sorted(set(light), reverse=True)


def test_hostile_texts_stay_texts(tmp_path):
    results = hostile()
    results = replace(results, cells=[replace(results.cells[0], rule=HOSTILE), *results.cells[1:]])
    page = written(results, tmp_path)
    read = Reader(page)
    assert "<script>alert" not in page
    assert "<img" not in page
    assert len(read.named("script")) == 1
    assert not set(page) & set("\x1b\u202e\u2066\ud800\x00")
    assert read.named("title")[0][2] == HOSTILE.replace("\n", " ")
    shown = [token for example in results.examples for text in example.texts.values() for token in text]
    assert [each[2] for each in read.named("span", "t")] == [visible(token.text) for token in shown]
    assert [each[2] for each in read.named("div", "prompt")][:3] == [HOSTILE, "plain", "rare"]
    assert f"refused: {HOSTILE}" in [each[2] for each in read.named("td", "why")]


def test_the_foot_holds_what_it_takes_to_make_the_page_again(tmp_path):
    results = replace(made_up(), provenance=[{"commit": "v0.1-3-gabc-dirty", "versions": {"torch": "2.11.0"}}])
    commands, configuration = (each[2] for each in Reader(written(results, tmp_path)).named("pre"))
    assert commands.splitlines() == ["git checkout v0.1-3-gabc", "tradeoff evaluate study.yaml"]
    assert yaml.safe_load(configuration) == {k: v for k, v in results.configuration.items() if k != "hash"}
    forced = replace(results, calibration=results.calibration | {"forced": True}, provenance=[{"commit": None}])
    assert Reader(written(forced, tmp_path)).named("pre")[0][2] == "tradeoff evaluate study.yaml --force"


def test_a_page_that_cannot_be_written_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_page(made_up(), tmp_path / "missing" / "page.html")


@browser
def test_a_browser_runs_no_text_and_reports_no_error_and_no_request(found):
    assert found["failures"] == []
    assert found["requests"] == []
    assert found["images"] == 0
    assert found["scripts"] == 3  # the page's own and the two of this test
    assert found["heading"] == HOSTILE.replace("\n", " ")
    assert "".join(found["title"].split()) == "".join(HOSTILE.split())
    assert found["size"][0] <= found["size"][1] == 1300  # wide tables scroll by themselves
    assert {"decoding_opt", "refused"} <= {text.strip() for text in found["drawn"]}


@browser
def test_a_browser_colours_the_dear_and_marks_the_replaced(found):
    results = hostile()
    texts = list(results.examples[0].texts.values())
    assert [[token["text"] for token in text] for text in found["tokens"]] == [
        [visible(token.text) for token in text] for text in texts
    ]
    free, dear, replaced, bonus, unknown, small = found["tokens"][0]
    none = "rgba(0, 0, 0, 0)"
    assert free["background"] == unknown["background"] == small["background"] == none
    legend = dict(found["legend"])
    assert (legend["0"], legend["+2"], legend["-2"]) == (none, dear["background"], replaced["background"])
    assert len({legend[key] for key in ("-2", "-0.6", "-0.1", "0", "+0.1", "+0.6", "+2")}) == 7
    assert [each["line"] for each in (free, replaced, bonus)] == ["none", "underline", "none"]
    assert [each["border"] for each in (free, replaced, bonus)] == ["none", "none", "dotted"]
    assert bonus["before"] == '"\u21b5"'  # a newline would show no colour
    assert (dear["title"], unknown["title"]) == (
        "cost +inf nats, divergence here +inf nats, accepted",
        "cost unknown, divergence here unknown, accepted",
    )
    plain = [token for text in found["tokens"][1:] for token in text]
    costs = [token.cost for text in texts[1:] for token in text]
    assert plain[int(np.argmax(costs))]["background"] == legend["+2"]
    assert all((token["background"] == none) == (abs(cost) < 0.02) for token, cost in zip(plain, costs, strict=True))


@browser
def test_a_rejected_token_is_struck_before_the_one_that_replaced_it_and_coloured_by_its_cost(found):
    texts = list(hostile().examples[0].texts.values())[1:]
    assert sum(token.rejected is not None for text in texts for token in text) > 0
    for text, struck in zip(texts, found["rejected"][1:], strict=True):
        assert [token.rejected for token in text if token.rejected is not None] == [each[0] for each in struck]
        for _, title, line, background, after in struck:
            assert title == "drafted and rejected, cost +0.700 nats"
            assert line == "line-through"
            assert background == dict(found["legend"])["+0.6"]
            assert " r" in after


@browser
def test_the_menus_switch_level_and_prompt(found):
    results = hostile()
    assert found["menus"][0] == ["epsilon 0.1", "epsilon 0.4"]
    assert found["menus"][1][1:] == ["2: plain", "3: rare"]
    counts = {}
    for example in results.examples:
        prompt = [HOSTILE, "plain", "rare"].index(example.prompt)
        counts[example.level, prompt] = sum(map(len, example.texts.values()))
    for name, level, prompt in (
        ("first", 0, 0),
        ("level", 1, 0),
        ("prompt", 1, 1),
        ("again", 0, 2),
    ):
        assert found[name]["sections"] == [{"level": str(level), "prompt": str(prompt)}]
        assert found[name]["spans"] == counts[f"epsilon {(0.1, 0.4)[level]}", prompt]
        assert not found[name]["none"]
    assert found["missing"] == {"sections": [], "none": True, "spans": 0}
    assert len(tokens(0)) * 4 == counts["epsilon 0.1", 2]


@browser
def test_a_broken_page_is_noticed(tmp_path):
    page = written(made_up(), tmp_path)
    failures = browse(page.replace("</h1>", "</h1><script>nothing.there()</script>"), REPORT, tmp_path)["failures"]
    assert "nothing is not defined" in failures[0]


@browser
def test_a_page_that_asks_the_network_is_noticed(tmp_path):
    page = written(made_up(), tmp_path)
    failures = browse(page.replace("</h1>", '</h1><img src="missing.png">'), REPORT, tmp_path)["failures"]
    assert "img-src" in failures
