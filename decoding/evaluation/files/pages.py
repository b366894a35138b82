"""Pages on the disk: HTML from templates, one file each that needs no network."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from decoding.evaluation.files.kept import replace_file
from solvers.shown import visible


def write_html(template: str, values: Mapping[str, Any], path: Path) -> None:
    """Write a page that is whole or as it was before.

    Parameters
    ----------
    template
        A file of `decoding/evaluation/templates`.
    values
        What it shows. Text is escaped, and characters that steer how others are shown are spelt out; only what a
        template marks as safe is taken as HTML: the figures, whose libraries escape the names in them.
    path
        The HTML file.

    Raises
    ------
    InputError
        It cannot be written.
    """
    page = _environment().get_template(template).render(values)
    replace_file(path, lambda file: file.write(page.encode()))


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("decoding.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
