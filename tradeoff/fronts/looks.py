"""How rules look in figures: one colour, marker and label to a rule, whichever figure it is in."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import cycle, islice

from solvers.errors import InputError
from tradeoff.rule import AnyRule
from tradeoff.rules import available
from tradeoff.rules.registry import family_from

FRONT, SHADE, QUIET = "#111111", "#e3e6eb", "#4a5160"
"""The best trade, what no rule reaches, and what is said beside them."""

MARKS = "osD^vPX<>ph"
"""Not the star, which is a published default, nor the point, which is a front of one point."""

NAMED = {
    "common_price": ("#1f5fa8", "D"),
    "ratio_clip": ("#4f9d8f", "o"),
    "decoding_opt": ("#c9a227", "^"),
    "decoding_uno": ("#d9622b", "s"),
    "decoding_uno:residual=draft": ("#8c2d19", "v"),
    "speculative_sampling": ("#333333", "P"),
}
"""Rules that stand in most figures; all others have the colour of their family."""

FAMILIES = {
    "lossless": ("meant to be lossless", "#333333"),
    "optimal": ("ratio clips", "#6f9bd1"),
    "ratio": ("softened ratio test", "#4c9a2a"),
    "yin": ("Decoding-OPT and UNO", "#e3a07c"),
    "mixture": ("mixtures and switches", "#7d5ba6"),
    "virtual": ("virtual target", "#d16ba5"),
    "threshold": ("thresholds", "#a63d57"),
    "blocks": ("blocks", "#5c6470"),
    "places": ("a price per place", "#47607f"),
    "multi_draft": ("several drafts", "#2b8cbe"),
}
"""Rules by the module they live in: what a reader calls the family, and its colour."""

OWN = ("rules of your own", "#8a6d3b")
TITLES = [title for title, _ in (*FAMILIES.values(), OWN)]


@dataclass(frozen=True, kw_only=True)
class Look:
    """A rule in a figure.

    Parameters
    ----------
    colour, marker
        As matplotlib has them; a rule has its own, wherever it is drawn and beside whatever.
    label
        Its short name: "cascade:variant=tok3" is "cascade tok3".
    family
        What a reader calls the rules it belongs to.
    legend
        What its colour means: the family, or the rule alone.
    """

    colour: str
    marker: str
    label: str
    family: str
    legend: str


def look_of(rule: AnyRule | str) -> Look:
    """Return the look of a rule, or of its spec; of a name that is no spec too, for figures are drawn of old files."""
    spec = rule if isinstance(rule, str) else _spec(rule)
    variant = spec.partition(":")[0] + (":residual=draft" if "residual=draft" in spec else "")
    place, family = _place(spec)
    title, shared = FAMILIES.get(family, OWN)
    colour, marker = NAMED.get(variant, (shared, MARKS[place % len(MARKS)]))
    label = _label(spec)
    return Look(colour=colour, marker=marker, label=label, family=title, legend=title if colour == shared else label)


def looks_of(rules: Iterable[AnyRule | str]) -> list[Look]:
    """Return the looks of the rules of one figure: what would look like an earlier one takes the next marker."""
    taken: set[tuple[str, str]] = set()
    found = []
    for look in map(look_of, rules):
        marks = islice(cycle(MARKS), MARKS.index(look.marker), MARKS.index(look.marker) + len(MARKS))
        free = next((mark for mark in marks if (look.colour, mark) not in taken), look.marker)
        taken.add((look.colour, free))
        found.append(replace(look, marker=free))
    return found


def _spec(rule: AnyRule) -> str:
    name = next((info.name for info in available() if info.rule is type(rule)), type(rule).__name__)
    return f"{name}:residual=draft" if getattr(rule, "residual_from", None) == "draft" else name


def _place(spec: str) -> tuple[int, str]:
    """Place of a rule among those of its module, and the module; 0 and nothing for one that is not shipped."""
    try:
        rule = family_from(spec).info.rule
    except InputError:
        return 0, ""
    relatives = [info.rule for info in available() if info.rule.__module__ == rule.__module__]
    shipped = rule.__module__.startswith("tradeoff.rules.")
    return (relatives.index(rule), rule.__module__.rpartition(".")[2]) if shipped else (0, "")


def _label(spec: str) -> str:
    name, _, rest = spec.partition(":")
    if rest and "=" not in rest.partition(":")[0]:  # package.module:Class, a rule of the user's own
        name, _, rest = rest.partition(":")
    words = []
    for part in rest.split(",") if rest else ():
        key, _, value = part.partition("=")
        if value in ("true", "false"):
            words.append(key if value == "true" else f"not {key}")
        else:
            words.append(f"{key} {value}" if value[:1].isdigit() else value)
    return " ".join([name, *words])
