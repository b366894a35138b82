"""Figures on the disk."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from decoding.evaluation.files.kept import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_png(drawn: "Figure", path: Path) -> None:
    """Write a figure as a PNG that is whole or as it was before.

    Raises
    ------
    InputError
        It cannot be written.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)  # an emoji in a name
        replace_file(path, lambda file: drawn.savefig(file, dpi=150, format="png"))
