"""docs/theory.md and the code refer to each other by names that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
THEORY = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")


def test_every_test_that_the_theory_page_names_exists():
    named = set(re.findall(r"`(test_\w+)`", THEORY))
    written = {
        name
        for file in ROOT.glob("tests/**/test_*.py")
        for name in re.findall(r"def (test_\w+)\(", file.read_text("utf-8"))
    }
    assert len(named) > 30
    assert named <= written, sorted(named - written)


def test_every_statement_that_a_docstring_cites_is_on_the_theory_page():
    cited = set()
    for file in (file for floor in ("solvers", "tradeoff", "decoding") for file in ROOT.glob(f"{floor}/**/*.py")):
        text = file.read_text("utf-8")
        cited |= set(re.findall(r"\((T\d+)\)", text))
        for sentence in re.findall(r"docs/theory\.md ((?:T\d+(?:, | and )?)+)", text):
            cited |= set(re.findall(r"T\d+", sentence))
    assert {"T1", "T2", "T3", "T4", "T5"} <= cited
    assert cited <= set(re.findall(r"^## (T\d+)\.", THEORY, flags=re.MULTILINE)), cited


def test_every_statement_is_on_the_page_once_and_has_its_tests():
    assert "**T1** to **T12** and **T14** to **T16**" in THEORY
    stated = re.findall(r"^## (T\d+)\.", THEORY, flags=re.MULTILINE)
    assert stated == [f"T{number}" for number in range(1, 17) if number != 13]
    tested = {
        name for name, tests in re.findall(r"^\| (T\d+|Theorem \d)[^|]*\|(.*)\|$", THEORY, flags=re.MULTILINE) if tests
    }
    assert tested == {*stated, *(f"Theorem {number}" for number in range(1, 6))}
