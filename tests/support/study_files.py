"""A small study on the embedded pair, and the command that makes it: shared by the tests of `tradeoff evaluate`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
from typer.testing import CliRunner

from decoding.cli import app

mpl.use("Agg")

RULES = ["decoding_opt", "decoding_uno", "decoding_uno:residual=draft", "speculative_sampling"]
SMALL = f"""
prompts: {{limit: 5}}
texts: {{samples: 2, max_new_tokens: 12, batch_size: 3}}
rules: [{", ".join(f'"{rule}"' for rule in RULES)}]
at: {{rejection: [0.2, 0.1]}}
calibration: {{positions: 120, tolerance: 0.2}}
examples: 2
"""
CELLS = len(RULES) - 1
TEXTS = 5 * 2 * (2 * CELLS + 1)

FILES = (
    "calibration_texts.jsonl",
    "calibration.json",
    "texts.jsonl",
    "tokens.jsonl",
    "judgements/log_likelihood.jsonl",
    "judgements/sequence_kl.jsonl",
)
"""What must not depend on interruptions or on the number of processes."""

COMMAND = [sys.executable, "-c", "from decoding.cli import main; main()", "evaluate"]
ALONE = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
ALONE |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


def written(path: Path, text: str = SMALL) -> str:
    """A configuration as a file."""
    path.write_text(text, encoding="utf-8")
    return str(path)


def evaluate(*arguments, columns=300):
    """`tradeoff evaluate` in this process."""
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, ["evaluate", *map(str, arguments)])


def finished(folder: Path) -> tuple[str, Path, str]:
    """A small study: its configuration, its folder, and what the command said."""
    configuration = written(folder / "small.yaml")
    result = evaluate(configuration, f"--out={folder / 'out'}")
    assert result.exit_code == 0, result.output
    return configuration, folder / "out", result.output


def started(*arguments) -> subprocess.Popen:
    """`tradeoff evaluate` in a process of its own."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], env=ALONE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def rows(path: Path):
    """Rows of a file; anything that strict JSON does not allow fails."""

    def refuse(literal):
        raise AssertionError(f"{literal} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(out: Path) -> dict[str, bytes]:
    """Bytes of everything that a study's texts and judges decide."""
    return {name: (out / name).read_bytes() for name in FILES}
