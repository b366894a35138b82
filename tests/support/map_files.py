"""Rules at random positions of logits, and the command that maps them: shared by the tests of `tradeoff map`."""

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
from typer.testing import CliRunner

from decoding import cli

mpl.use("Agg")

ROWS, VOCAB = 48, 20


def logits_file(path: Path) -> Path:
    """Laws as different from row to row as a language model's, six of them to a text."""
    rng = np.random.default_rng(0)
    target = rng.normal(size=(ROWS, VOCAB)) * np.linspace(0.5, 4, ROWS)[:, None]
    draft = target + rng.normal(size=(ROWS, VOCAB)) * np.resize(np.linspace(0.2, 2, 5), ROWS)[:, None]
    np.savez(path, draft_logits=draft, target_logits=target, prompt=np.arange(ROWS) // 6)
    return path


def run(*arguments, columns=200):
    """`tradeoff map` on a terminal of so many columns."""
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(cli.app, ["map", *map(str, arguments)])


def rows(out: Path):
    """Rows of a finished map; anything that strict JSON does not allow fails."""

    def refuse(literal):
        raise AssertionError(f"{literal} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (out / "map.jsonl").read_text().splitlines()]


def kind(found, name):
    """Rows of one kind."""
    return [row for row in found if row["kind"] == name]
