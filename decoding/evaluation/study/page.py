"""A study as a page: one HTML file that needs no network, with every shown token coloured by what it cost."""

import io
import math
import re
import warnings
from collections.abc import Sequence
from html import escape
from pathlib import Path

from decoding.evaluation.files.kept import replace_file
from decoding.evaluation.sheets import WORDS, Sheet, flat
from decoding.evaluation.study.page_parts import (
    FIRST,
    REFUSED,
    SECOND,
    accounts_sheet,
    cells_sheet,
    configuration_yaml,
    judge_sheets,
    opening,
    provenance_lines,
    published_line,
    rule_names,
)
from decoding.evaluation.study.report import draw
from decoding.evaluation.study.results import Example, Results, TokenCost
from solvers.shown import visible

STEPS = (0.02, 0.1, 0.3, 0.6, 1.0, 2.0)
"""Costs, in nats, from which a colour deepens."""

WARM = ("#fdf0e6", "#fbdcc4", "#f7bf95", "#f19c63", "#e3763a", "#c9511f")
COOL = ("#eef3fa", "#d5e3f3", "#b0cbe9", "#86addb", "#5d8dc9", "#3a6cae")
FATES = {"accepted": "", "replaced": " r", "bonus": " b"}
KEYS = (-2.0, -0.6, -0.1, 0.0, 0.1, 0.6, 2.0)
"""Costs whose colours the legend shows."""

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2330; background: #fff; max-width: 1400px;
  margin: 1.2em auto; padding: 0 1em; }
h1 { font-size: 1.45em; margin: 0 0 .4em; overflow-wrap: anywhere; }
h2 { font-size: 1.15em; margin: 1.8em 0 .4em; }
h3 { font-size: 1em; margin: 1.2em 0 .4em; }
h4 { font: 600 .85em ui-monospace, monospace; margin: 0; overflow-wrap: anywhere; }
p { max-width: 68em; margin: .35em 0; overflow-wrap: anywhere; }
.small { font-size: .87em; color: #4a5160; }
.key { padding: .5em .8em; background: #f5f6f9; border-left: 3px solid #1f5fa8; }
figure { margin: 1em 0; }
figure svg { max-width: 100%; height: auto; display: block; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8em; font-variant-numeric: tabular-nums; margin: .3em 0 .5em; }
caption { text-align: left; font-weight: 600; padding: .3em 0; }
th, td { padding: .22em .45em .22em 0; text-align: right; font-weight: 400; vertical-align: top; }
td { white-space: pre; }
thead th { color: #4a5160; vertical-align: bottom; border-bottom: 1px solid #9aa3b2; white-space: pre; }
tbody th { white-space: pre; }
.w { text-align: left; }
td.why { white-space: normal; min-width: 15em; max-width: 22em; }
.end > * { border-bottom: 1px solid #e0e3e9; }
.yes { font-weight: 700; color: #1f5fa8; }
.no { font-weight: 700; color: #a63d57; }
.controls { margin: .6em 0; }
.controls label { margin-right: 1.2em; }
select { font: inherit; max-width: 34em; }
.prompt { white-space: pre-wrap; overflow-wrap: anywhere; background: #f5f6f9; padding: .5em .8em; margin: .3em 0 .7em;
  max-height: 14em; overflow-y: auto; }
.texts { display: grid; grid-template-columns: repeat(auto-fit, minmax(255px, 1fr)); gap: .9em; }
.texts article { border: 1px solid #dfe2e8; border-radius: 4px; padding: .55em .7em; min-width: 0; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.75; margin-top: .4em; unicode-bidi: isolate; }
.text span, .text s, .legend span { padding: .1em 0; border-radius: 2px; -webkit-print-color-adjust: exact;
  print-color-adjust: exact; }
.text s { font-size: .8em; text-decoration: line-through 1px #1c2330; user-select: none; }
.r { text-decoration: underline 2px #1c2330; text-underline-offset: 3px; }
.b { border-bottom: 1px dotted #6b7485; }
.n::before { content: "\\21b5"; color: #6b7485; }
.legend { color: #1c2330; display: flex; flex-wrap: wrap; gap: .3em 1.3em; align-items: baseline; margin: .5em 0; }
.legend .patch { padding: .1em .5em; }
pre { font-size: .82em; background: #f5f6f9; padding: .7em .9em; white-space: pre-wrap; overflow-wrap: anywhere; }
footer { border-top: 1px solid #9aa3b2; margin-top: 2.5em; }
@page { size: landscape; margin: 12mm; }
@media print {
  body { max-width: none; margin: 0; font-size: 11px; }
  .controls { display: none; }
  .wide { overflow: visible; }
  .prompt { max-height: none; }
  table { font-size: 8px; }
  article, figure, tr { break-inside: avoid; }
}
"""

SCRIPT = """
const selects = Array.from(document.querySelectorAll(".controls select"));
const shown = document.getElementById("none");
function show() {
  const wanted = selects.map((select) => select.value);
  let found = false;
  for (const each of document.querySelectorAll("section.example")) {
    each.hidden = each.dataset.level !== wanted[0] || each.dataset.prompt !== wanted[1];
    found = found || !each.hidden;
  }
  shown.hidden = found;
}
selects.forEach((select) => select.addEventListener("change", show));
document.querySelector(".controls").hidden = false;
show();
"""

CAPTION = (
    "KL(output, target) per generated token, exact, along each rule's own texts; bars: 95 % bootstrap intervals over "
    "prompts. The tables below hold the numbers."
)
WINS = " Where there is a judge: prompts won by the first of two rules, exact 95 % intervals; hollow: published."

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{opening}
<figure>
{figure}
<figcaption class="small">{caption}</figcaption>
</figure>
<h2>Rules</h2>
{cells}
<h2>Judges</h2>
{judges}
{examples}
</main>
<footer>
<h2>How this was made</h2>
{provenance}
<p>To make it again, save the configuration below as <code>study.yaml</code> and run, with the same versions:</p>
<pre>{commands}</pre>
<h3>Configuration</h3>
<p class="small">Hash: <code>{hash}</code></p>
<pre>{configuration}</pre>
</footer>
</body>
</html>
"""


def write_page(results: Results, path: Path) -> None:
    """Write the page.

    Parameters
    ----------
    results
        What to show.
    path
        The HTML file.

    Raises
    ------
    InputError
        It cannot be written.
    """
    line = published_line(results)
    judges = [f'<p class="key">{_shown(line)}</p>'] if line else []
    judges += map(_table, [*judge_sheets(results), accounts_sheet(results)])
    commits = [str(each["commit"]).removesuffix("-dirty") for each in results.provenance if each.get("commit")]
    forced = " --force" if results.calibration["forced"] else ""
    commands = [f"git checkout {commit}" for commit in commits[:1]] + [f"tradeoff evaluate study.yaml{forced}"]
    page = PAGE.format(
        title=_shown(flat(results.title)),
        style=STYLE + _colours(),
        opening="\n".join(f"<p>{_shown(sentence)}</p>" for sentence in opening(results)),
        figure=_svg(results),
        caption=CAPTION + WINS if results.comparisons else CAPTION,
        cells=_table(cells_sheet(results)),
        judges="\n".join(judges) or "<p>No judge was asked.</p>",
        examples=_examples(results),
        provenance="\n".join(f'<p class="small">{_shown(each)}</p>' for each in provenance_lines(results)),
        commands=_shown("\n".join(commands)),
        hash=_shown(str(results.configuration.get("hash", "none"))),
        configuration=_shown(configuration_yaml(results)),
    )
    replace_file(path, lambda file: file.write(page.encode()))


def _shown(text: str) -> str:
    return escape(visible(text))


def _svg(results: Results) -> str:
    """The figure as an element of the page, its text as text."""
    import matplotlib as mpl

    file = io.StringIO()
    blank = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "study"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)  # the browser has other fonts
        draw(results).savefig(file, format="svg", metadata=blank)
    drawn = file.getvalue()
    drawn = re.sub(r' xmlns(:xlink)?="[^"]*"', "", drawn[drawn.index("<svg") :])  # HTML knows them
    label = "Divergence against rejection of every rule, and win rates with their intervals"
    return drawn.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _table(sheet: Sheet) -> str:
    if not sheet.rows:
        return ""
    classes = [' class="w"' if name in WORDS else "" for name in sheet.columns]
    head = "".join(
        f'<th scope="col"{look}>{_shown(name)}</th>' for name, look in zip(sheet.columns, classes, strict=True)
    )
    body = []
    for index, row in enumerate(sheet.rows):
        cells = [f'<th scope="row" class="w">{_shown(row[0])}</th>']
        for name, kind, cell in list(zip(sheet.columns, classes, row, strict=True))[1:]:
            mark = {FIRST: "yes", SECOND: "no"}.get(cell, "why" if cell.startswith(REFUSED) else "")
            look = f' class="w {mark}"' if name == "verdict" else kind
            cells.append(f"<td{look}>{_shown(cell)}</td>")
        end = ' class="end"' if index in sheet.sections else ""
        body.append(f"<tr{end}>{''.join(cells)}</tr>")
    notes = "\n".join(f'<p class="small">{_shown(note)}</p>' for note in sheet.notes)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{_shown(flat(sheet.title))}"><table>'
        f"<caption>{_shown(sheet.title)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(body)
        + f"\n</tbody></table></div>\n{notes}"
    )


def _examples(results: Results) -> str:
    """Texts side by side, with menus of levels and prompts; without a script all of them stand below each other."""
    if not results.examples:
        return ""
    levels = list(dict.fromkeys(example.level for example in results.examples))
    prompts = list(dict.fromkeys(example.prompt for example in results.examples))
    names = rule_names(results)
    sections = [
        _example(example, levels.index(example.level), prompts.index(example.prompt), names)
        for example in results.examples
    ]
    menus = _menu("Level", [_level(each) for each in levels]) + _menu(
        "Prompt", [f"{place}: {_start(each)}" for place, each in enumerate(prompts, start=1)]
    )
    return (
        "<h2>Texts, token by token</h2>\n<p>Each token is coloured by log(output law / target) of this very token, in "
        "nats: warm where the rule writes it more often than the target would, cool where less often. Its "
        "mean over all that a rule writes is the rule's KL. Point at a token to read its numbers.</p>\n"
        f'{_legend()}\n<div class="controls" hidden>{menus}</div>\n'
        '<p id="none" hidden>There are no texts of this prompt at this level.</p>\n'
        + "\n".join(sections)
        + f"\n<script>{SCRIPT}</script>"
    )


def _level(level: str | None) -> str:
    return level if level is not None else "no level"


def _start(prompt: str) -> str:
    words = " ".join(prompt.split())
    return words if len(words) <= 70 else words[:69] + "…"


def _menu(name: str, options: Sequence[str]) -> str:
    listed = "".join(f'<option value="{place}">{_shown(each)}</option>' for place, each in enumerate(options))
    return f'<label>{name} <select autocomplete="off">{listed}</select></label>'


def _legend() -> str:
    patches = "".join(f'<span class="patch{_depth(cost)}">{cost:{"+g" if cost else "g"}}</span>' for cost in KEYS)
    return (
        f'<div class="legend small"><div>under-accepted {patches} over-accepted</div>'
        '<div><span class="r">underlined</span>: written after a rejection</div>'
        "<div><s>struck</s>: drafted and rejected there</div>"
        '<div><span class="b">dotted</span>: bonus token, written by the target</div></div>'
    )


def _example(example: Example, level: int, prompt: int, names: dict[str, str]) -> str:
    columns = "\n".join(
        f"<article><h4>{_shown(names.get(cell, cell))}</h4>{_text(tokens)}</article>"
        for cell, tokens in example.texts.items()
    )
    heading = f"Prompt {prompt + 1}" + ("" if example.level is None else f" at {example.level}")
    return (
        f'<section class="example" data-level="{level}" data-prompt="{prompt}"><h3>{_shown(heading)}</h3>\n'
        f'<div class="prompt" dir="auto">{_shown(example.prompt)}</div>\n<div class="texts">{columns}</div></section>'
    )


def _text(tokens: Sequence[TokenCost]) -> str:
    if not tokens:
        return '<p class="small">no tokens</p>'
    replaced = sum(token.fate == "replaced" for token in tokens)
    total = sum(token.cost for token in tokens)
    account = f"{len(tokens)} tokens, {replaced} after a rejection, {_nats(total)} in all"
    return f'<p class="small">{account}</p><div class="text" dir="auto">{"".join(map(_token, tokens))}</div>'


def _token(token: TokenCost) -> str:
    look = _depth(token.cost) + FATES[token.fate] + (" n" if "\n" in token.text else "")
    about = f"cost {_nats(token.cost)}, divergence here {_nats(token.divergence)}, {token.fate}"
    return f'{_rejected(token)}<span class="t{look}" title="{about}">{_shown(token.text)}</span>'


def _rejected(token: TokenCost) -> str:
    if token.rejected is None or token.rejected_cost is None:
        return ""
    about = f"drafted and rejected, cost {_nats(token.rejected_cost)}"
    return f'<s class="t{_depth(token.rejected_cost)}" title="{about}">{_shown(token.rejected)}</s>'


def _nats(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:+.3f} nats"


def _depth(cost: float) -> str:
    """Class of a cost's colour: none near zero, nor for a cost that is not known."""
    depth = 0 if math.isnan(cost) else sum(abs(cost) >= step for step in STEPS)
    return f" {'p' if cost > 0 else 'm'}{depth}" if depth else ""


def _colours() -> str:
    lines = []
    for sign, scale in (("p", WARM), ("m", COOL)):
        for depth, colour in enumerate(scale, start=1):
            light = "; color: #fff" if depth == len(scale) else ""
            lines.append(f".{sign}{depth} {{ background: {colour}{light}; }}")
    return "\n".join(lines) + "\n"
