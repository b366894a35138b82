"""Text from outside, such as names of models, rules and judges, made fit for a terminal, a file or a figure."""

import re
import unicodedata

BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str) -> str:
    """Text in which characters that steer terminals, files or the direction of writing are spelt out."""
    return "".join(_spelt(each) for each in text)


def _spelt(character: str) -> str:
    steers = unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"
    return f"\\u{ord(character):04x}" if steers or character in BIDIRECTIONAL else character


def one_line(text: str, longest: int | None = None) -> str:
    """Visible text on one line, cut at a number of characters."""
    line = re.sub(r"\s*[\n\t]\s*", " ", visible(text).strip())
    return line if longest is None or len(line) <= longest else f"{line[: longest - 1]}…"


def literal(text: str, longest: int | None = None) -> str:
    """Text as matplotlib draws it character by character, in a legend too; every label from outside passes here.

    It would read mathematics between dollars, and leaves names that begin with an underscore out of legends.
    """
    line = one_line(text, longest).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line
