"""Text that comes from outside: read within bounds, as JSON if wanted, and shown without steering what shows it."""

import json
import reprlib
from pathlib import Path
from typing import Any

from solvers.errors import InputError
from solvers.shown import visible

PIECE = 2**20
"""Bytes read at once."""


def read_text(path: Path, *, where: str, expected: str, most: int) -> str:
    """Read a file of UTF-8.

    Parameters
    ----------
    path
        The file, or whatever else can be read from beginning to end.
    where, expected
        For messages.
    most
        Bytes: what is longer, endless files among them, is refused.

    Raises
    ------
    InputError
        It cannot be read, is too long or no UTF-8.
    """
    try:
        content = bytearray()
        with path.open("rb") as file:
            # piece by piece: asked for `most` at once, Python sets so much memory aside
            while len(content) <= most and (piece := file.read(PIECE)):
                content += piece
        if len(content) > most:
            raise InputError(f"{where}: expected {expected} of at most {most} bytes; got more; make it shorter")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: expected {expected}; got something else: {error}; save it as UTF-8") from None
    except OSError as error:
        raise InputError(
            f"{where}: expected {expected}; got something else: {error.strerror or type(error).__name__}"
        ) from None


def parse_json(text: str | bytes, *, where: str, expected: str = "expected JSON") -> Any:
    """Read JSON whose objects have every key once and whose texts can be written again.

    Parameters
    ----------
    text
        Of any origin; bytes are UTF-8.
    where, expected
        For messages.

    Raises
    ------
    InputError
        It is something else, or nested or with numbers beyond what Python reads.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        read = json.loads(text, object_pairs_hook=_once)
        if "\\ud" in text.lower():  # only so half of a surrogate pair gets in
            json.dumps(read, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InputError(f"{expected}; got something else in {where} ({shown(str(error))})") from None
    return read


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return read


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 3, 200, 200, 60

    def repr_int(self, x: int, level: int) -> str:
        """As others, but Python refuses to write very long ones at all."""
        return super().repr_int(x, level) if x.bit_length() < 1000 else f"a number of {x.bit_length()} bits"


def shown(value: object) -> str:
    """A value as messages show it: on one line, of bounded length however much it holds, steering nothing."""
    text = value if isinstance(value, str) else _Short().repr(value)
    flat = visible(" ".join(text.split()))
    return flat if len(flat) <= 300 else f"{flat[:300]}..."


def quoted(value: object) -> str:
    """A value as `shown`, text in quotes."""
    return shown(_Short().repr(value))
