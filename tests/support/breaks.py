"""Break the library on purpose, one line at a time, and see which test notices: `make breaks`, `make breaks ONLY=name`.

Every break is applied alone, in a copy of the tree; the named test files run there until the first failure. A break
that no test notices is a test that is missing; one whose text is no longer found exactly once is out of date. Both end
with exit code 1.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from break_table import SOLVERS, TRADEOFF, Break
from break_table_decoding import DECODING, EVALUATION

BREAKS = SOLVERS + TRADEOFF + DECODING + EVALUATION

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 900
"""Seconds for the tests of one break: a loop that never ends is noticed too."""

_LEFT = shutil.ignore_patterns(".*", "__pycache__", "runs")
_FAILURE = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a break: the first test that failed, or why there is none."""

    noticed: bool
    told: str


def copied(folder: Path) -> Path:
    """Copy what the tests need to another folder."""
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=_LEFT)
    return tree


def occurrences(tree: Path, each: Break) -> int:
    """How often the text to break stands in its file."""
    path = tree / each.file
    return path.read_text().count(each.old) if path.exists() else 0


def applied(tree: Path, each: Break) -> Verdict:
    """Break a copy, run the tests, and mend the copy."""
    found = occurrences(tree, each)
    if found != 1:
        return Verdict(noticed=False, told=f"OUT OF DATE: found {found} times in {each.file}")
    path = tree / each.file
    whole = path.read_text()
    path.write_text(whole.replace(each.old, each.new))
    try:
        return judged(tree, each.tests)
    finally:
        path.write_text(whole)


def judged(tree: Path, tests: tuple[str, ...]) -> Verdict:
    """Run test files of a tree until one test fails."""
    # no bytecode: a file that is changed within a second, to a text as long, would be taken for the old one
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=no", "-p", "no:cacheprovider", *tests]
    try:
        run = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        return Verdict(noticed=True, told=f"no end within {LONGEST} s")
    if run.returncode == 0:
        return Verdict(noticed=False, told="SURVIVED")
    failed = _FAILURE.search(run.stdout)
    if run.returncode in (1, 2) and failed:
        return Verdict(noticed=True, told=failed[1])
    return Verdict(noticed=False, told=f"pytest ended with {run.returncode}: {run.stdout.strip()[-200:]}")


def main(wanted: list[str]) -> int:
    """Apply the breaks of these names, or all; return the exit code."""
    unknown = set(wanted) - {each.name for each in BREAKS}
    if unknown:
        print(f"no such break: {', '.join(sorted(unknown))}; there are {', '.join(each.name for each in BREAKS)}")  # noqa: T201
        return 1
    chosen = [each for each in BREAKS if not wanted or each.name in wanted]
    width, missed = max(len(each.name) for each in chosen), 0
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(Path(folder))
        for each in chosen:
            start = time.monotonic()
            verdict = applied(tree, each)
            missed += not verdict.noticed
            print(f"{each.name:{width}}  {time.monotonic() - start:4.0f} s  {verdict.told}", flush=True)  # noqa: T201
            if not verdict.noticed:
                print(f"{'':{width}}  must be noticed: {each.why}", flush=True)  # noqa: T201
    print(f"{len(chosen) - missed} of {len(chosen)} breaks noticed")  # noqa: T201
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
