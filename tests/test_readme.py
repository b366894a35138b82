"""What the pages show runs as written: Python block by block, commands with their options, names, links, numbers."""

import ast
import builtins
import doctest
import importlib
import importlib.util
import json
import re
import shlex
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import typer
from accelerate.commands.launch import launch_command_parser
from typer.testing import CliRunner

import decoding
import tradeoff
from decoding.cli import app
from decoding.evaluation.study.configuration import read_configuration

ROOT = Path(__file__).parent.parent
LOG = ROOT / "docs" / "log.md"  # history: its commands are those of their day
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").glob("*.md") if page != LOG)]
WITH_COMMANDS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "decoding" / "embedded" / "MODEL_CARD.md"]
README = PAGES[0].read_text(encoding="utf-8")
NUMBERS = (ROOT / "docs" / "numbers.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in FENCED.findall(page.read_text(encoding="utf-8")) if found == language]


PYTHON = [
    pytest.param(page, block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "python"))
]

HOLDS = [
    ("README-0", "abs(point.certificate.gap) < 1e-12 and abs(point.rejection - 0.15) < 1e-12"),
    ("README-1", "0 < outcome.excess('kl') < outcome.kl and not report.passed"),
    ("README-3", "0 < output.statistics.mean['kl'] < 1 and output.statistics.generated == 40"),
    ("adding-a-rule-0", "0 < outcome.rejection < 0.3"),
    ("evaluation-0", "{each.judge for each in results.comparisons} == {'shortness'}"),
    ("evaluation-0", "results.comparisons[0].found.prompts == 2"),
    ("performance-0", "all(text.spent['kl'] <= 2 for text in output.texts)"),
]


@pytest.mark.parametrize(("page", "block"), PYTHON)
def test_a_block_of_python_runs_on_its_own(page, block, request, tmp_path, monkeypatch):
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    module = ModuleType("example")  # a dataclass looks up its module
    monkeypatch.setitem(sys.modules, "example", module)
    exec(compile(block, page.name, "exec"), module.__dict__)
    for name, statement in HOLDS:
        if request.node.callspec.id == name:
            assert eval(statement, module.__dict__), statement
    plt.close("all")


def test_every_block_of_python_is_found_and_what_holds_names_one():
    for page in PAGES:
        assert len(blocks(page, "python")) == page.read_text(encoding="utf-8").count("```python")
    assert {name for name, _ in HOLDS} <= {each.id for each in PYTHON}


def test_the_configuration_on_the_page_is_read(tmp_path):
    (configuration,) = blocks(ROOT / "docs" / "evaluation.md", "yaml")
    path = tmp_path / "study.yaml"
    path.write_text(configuration, encoding="utf-8")
    found = [judge.name for judge in read_configuration(str(path), {}).judges]
    assert found == ["log_likelihood", "sequence_kl", "RM-Mistral-7B", "gpt-4", "some-thinking-model"]


def shell_lines(text: str) -> list[str]:
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def commands(page: Path) -> list[str]:
    """Every line of a shell block, and what is set as code in a sentence and begins as a command does."""
    text = page.read_text(encoding="utf-8")
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCED.sub("", text))]
    begins = r"(\.venv/bin/)?(make|tradeoff|python -m|pytest|pip|accelerate) \S"
    return [line for block in blocks(page, "") for line in shell_lines(block)] + [
        span for span in spans if re.match(begins, span)
    ]


def option_stands_in(source: str, option: str) -> bool:
    """As argparse has it, or as a parameter of typer's: starting every benchmark for its --help would take minutes."""
    return f'"{option}"' in source or re.search(rf"\b{option[2:].replace('-', '_')}: Annotated\[", source) is not None


def check(command: str) -> None:
    """Fail for a command, or an option of one, that does not exist."""
    program, *words = shlex.split(command, comments=True)
    match Path(program).name:
        case "make":
            assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        case "tradeoff":
            group = typer.main.get_command(app)
            assert words[0] in group.commands  # type: ignore[attr-defined]
            if len(words) > 1:  # fewer name the command, and run nothing
                group.commands[words[0]].make_context(words[0], words[1:])  # type: ignore[attr-defined]
        case "python":
            assert words[0] == "-m"
            module = importlib.util.find_spec(words[1])
            assert module is not None
            assert module.origin is not None
            known = Path(module.origin).read_text(encoding="utf-8")
            assert all(option_stands_in(known, word) for word in words[2:] if word.startswith("--"))
        case "pytest":
            assert all((ROOT / word).exists() for word in words)
        case "pip":
            extra = re.fullmatch(r"tradeoff\[(\w+)\]", words[1])
            project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
            assert words[0] == "install"
            assert extra is not None
            assert extra[1] in project["optional-dependencies"]
        case "accelerate":
            assert words[0] == "launch"
            told = launch_command_parser().parse_args(words[1:])
            check(shlex.join([told.training_script, *told.training_script_args]))
        case other:
            raise AssertionError(f"no command that this test knows: {other}")


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_commands_and_their_options_exist(page):
    for command in commands(page):
        try:
            check(command)
        except Exception as error:
            raise AssertionError(f"{page.name}: {command}: {error!r}") from error


@pytest.mark.parametrize(
    "command",
    [
        "make tea",
        "tradeoff brew",
        "tradeoff map --leaves 3",
        "tradeoff compare --samples many",
        "python -m benchmarks.tea",
        "python -m benchmarks.thresholds --leaves",
        "pytest tests/test_tea.py",
        "pip install 'tradeoff[tea]'",
        "accelerate launch --no_python tradeoff map --leaves 3",
        "brew tea",
    ],
)
def test_a_command_that_does_not_exist_is_told(command):
    with pytest.raises((Exception, SystemExit)):
        check(command)


def test_the_cheap_command_of_the_readme_runs(tmp_path, monkeypatch):
    (command,) = [each for each in commands(PAGES[0]) if "tradeoff front" in each]
    monkeypatch.chdir(tmp_path)
    np.savez("LAWS.npz", draft=[0.7, 0.2, 0.1], target=[0.4, 0.4, 0.2])
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    assert "KL" in result.output
    assert (tmp_path / "front.png").stat().st_size > 0


MODULES = {"tradeoff": tradeoff, "decoding": decoding, "chains": tradeoff.chains, "rules": tradeoff.rules}


def unlisted(text: str) -> list[str]:
    """Names of a page's code that are in no `__all__` of the modules they are taken from."""
    code = "\n".join(re.findall(r"`([^`]+)`", FENCED.sub("", text)) + [block for _, block in FENCED.findall(text)])
    missing = []
    for path in re.findall(r"(?<![\w./-])((?:tradeoff|decoding|chains|rules)(?:\.[A-Za-z_]\w*)+)(?![\w/])", code):
        first, *names = path.split(".")
        owner = MODULES[first]
        for name in names:
            if name not in owner.__all__:
                missing.append(path)
                break
            owner = getattr(owner, name)
            if not isinstance(owner, ModuleType):
                break
    for language, block in FENCED.findall(text):
        missing += unlisted_in(block) if language == "python" else []
    return missing


def unlisted_in(block: str) -> list[str]:
    """The same for imports, and for what is called without a dot, comments of the block included."""
    tree = ast.parse(block)
    listed = {name for module in MODULES.values() for name in module.__all__}
    missing = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("tradeoff", "decoding", "solvers")
        for alias in node.names
        if alias.name not in getattr(importlib.import_module(node.module or ""), "__all__", ())
    ]
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    called = set(re.findall(r"(?<![\w.])([A-Za-z_]\w*)\(", block))
    return missing + sorted(called - own - listed - set(dir(builtins)))


def test_the_readme_mentions_nothing_that_is_in_no_all():
    assert unlisted(README) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`tradeoff.rule_kind`", ["tradeoff.rule_kind"]),
        ("`decoding.loop.decode`", ["decoding.loop.decode"]),
        ("`chains.solve_sequence_pareto`, `tradeoff.rules.available()` and `tradeoff front`", []),
        (
            "```python\nfrom tradeoff.rules.parts import between\n```",
            ["tradeoff.rules.parts", "tradeoff.rules.parts.between"],
        ),
        ("```python\nx = 1  # or Tea(x)\n```", ["Tea"]),
    ],
)
def test_a_name_in_no_all_is_told(text, found):
    assert unlisted(text) == found


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_links_lead_to_files_that_exist(page):
    for name in re.findall(r"\]\((?!http|#)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert (page.parent / name).exists(), name


def table_cells(text: str) -> list[str]:
    rows = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [cell.strip() for row in rows for cell in row.strip("|").split("|")]


def test_the_readme_keeps_five_numbers_of_the_page_and_a_cell_has_one_comparison():
    summary = README[README.index("## Numbers") : README.index("## The house")]
    assert len([line for line in summary.splitlines() if line.startswith("|")]) == 2 + 5
    for line in summary.splitlines()[4:9]:
        for number in re.findall(r"\d+(?:\.\d+)?", line.split("|")[2]):
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", NUMBERS), number
    for text in (summary, NUMBERS):
        for cell in table_cells(text):
            value = re.sub(r"(\d),(\d{3})\b", r"\1\2", cell)
            assert value.count("[") <= 1, cell
            assert not re.search(r"\d ?[%a-z]*[;,] ?\d", re.sub(r"\[.*?\]", "", value)), cell


def test_every_question_of_the_numbers_has_its_command():
    for section in NUMBERS.split("\n## ")[1:]:
        assert re.search(r"`(make demo|tradeoff |python\s+-m|pytest )", section), section.splitlines()[0]
    for name in re.findall(r"benchmarks/results/\w+\.jsonl", NUMBERS):
        assert (ROOT / name).exists(), name


def rows(name: str) -> list[dict]:
    text = (ROOT / "benchmarks" / "results" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


TITLES = {
    "ratio_clip": "ratio clip, one ceiling for all positions",
    "decoding_opt": "Decoding-OPT",
    "decoding_uno": "Decoding-UNO",
    "decoding_uno:residual=draft": "Decoding-UNO as its code is printed",
}
OLDER = {
    "RatioClip": "ratio_clip",
    "DecodingOPT": "decoding_opt",
    "DecodingUNO": "decoding_uno",
    "DecodingUNO (draft)": "decoding_uno:residual=draft",
}
"""What rows of `compare` called the rules before it was a study."""


def check_ratios(found: dict[tuple[str, float], dict], rejections: tuple[float, ...]) -> None:
    for rule, title in TITLES.items():
        cells = ["{value:.2f} [{low:.2f}, {high:.2f}]".format(**found[rule, rejection]) for rejection in rejections]
        assert f"| {title} | {' | '.join(cells)} |" in NUMBERS


def test_the_demos_numbers_on_the_page_are_those_of_the_rows():
    written = rows("evaluate_embedded_compare")
    cells = [row for row in written if row["kind"] == "cell" and row["level"]]
    check_ratios(
        {(row["rule"], float(row["level"].split()[1])): row["kl_over_best"] for row in cells}, (0.2, 0.1, 0.05)
    )
    duels = [row for row in written if row["kind"] == "comparison" and row["second"].startswith("common_price")]
    assert [row["adjusted_p"] < 0.05 for row in duels] == [True, True, False]
    for row in duels:
        won = row["found"]["majority"]
        share = f"{won['value']:.0%} [{100 * won['low']:.0f}, {100 * won['high']:.0f}]".replace("%", " %")
        assert f"| {row['level'].split()[1]} | {share} |" in NUMBERS


def test_the_second_pairs_numbers_on_the_page_are_those_of_the_rows():
    found = {
        (OLDER[row["rule"]], row["requested_rejection"]): row["kl_over_common_price"]
        for row in rows("compare_tinystories_llama")
        if row["rule"] in OLDER
    }
    check_ratios(found, (0.198, 0.132, 0.066))


def test_the_loops_speed_on_the_page_is_that_of_the_rows():
    speed = {
        (row["pair"], row["temperature"], row["batch"], row["decoder"]): row["speed_over_assisted"]["median"]
        for row in rows("decoding_speed")
    }
    for pair, title in (("embedded pair", "embedded"), ("8x512, V = 32000", "8x512, V = 32000")):
        single, eight = speed[pair, 1.0, 1, "ours"], speed[pair, 1.0, 8, "ours"]
        assert f"| {title} | {single:.2f} |" in NUMBERS
        assert f"| {title} | {eight:.1f} | {speed[pair, 1.0, 8, 'transformers, sampling']:.1f} |" in NUMBERS


def test_equal_mean_rejection_is_not_equal_speed():
    """The example of docs/theory.md: texts that reject 0 and 0.4, and texts that reject 0.2 everywhere."""

    def tokens_per_call(rejection):
        draft, target = [rejection, 1 - rejection], [0.0, 1.0]
        return float(tradeoff.evaluate("speculative_sampling", draft, target).round(draft_length=4).tokens)

    mixed = 2 / (1 / tokens_per_call(0.0) + 1 / tokens_per_call(0.4))  # equally many tokens of either kind
    assert (round(mixed, 2), round(tokens_per_call(0.2), 2)) == (3.16, 3.36)
    theory = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    assert "0.2 everywhere make 3.36 tokens per call" in " ".join(theory.split())
    assert "3.16" in theory


def test_the_packages_own_example_is_right():
    result = doctest.testmod(tradeoff)
    assert result.attempted > 0
    assert result.failed == 0
