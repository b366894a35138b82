"""What the README and the package's docstring show runs as written."""

import doctest
import re
from pathlib import Path

import matplotlib as mpl

import tradeoff
from decoding.evaluation.study.configuration import read_configuration

ROOT = Path(__file__).parent.parent


def test_the_readmes_python_runs_in_order():
    mpl.use("Agg")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    point, output = names["point"], names["output"]
    assert abs(point.certificate.gap) < 1e-12  # type: ignore[attr-defined]
    assert 0 < output.statistics.mean["kl"] < 1  # type: ignore[attr-defined]


def test_the_page_on_adding_a_rule_runs_as_written():
    page = (ROOT / "docs" / "adding-a-rule.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, object] = {"__name__": __name__}  # a dataclass looks up its module
    exec(compile(block, "adding-a-rule.md", "exec"), names)
    assert 0 < names["outcome"].rejection < 0.3  # type: ignore[attr-defined]


def test_the_page_on_evaluation_runs_as_written(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (configuration,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block, "evaluation.md", "exec"), names)
    assert {each.judge for each in names["results"].comparisons} == {"shortness"}  # type: ignore[attr-defined]
    assert names["results"].comparisons[0].found.prompts == 2  # type: ignore[attr-defined]
    (tmp_path / "study.yaml").write_text(configuration)
    read = read_configuration("study.yaml", {})
    found = [judge.name for judge in read.judges]
    assert found == ["log_likelihood", "sequence_kl", "RM-Mistral-7B", "gpt-4", "some-thinking-model"]


def test_the_readme_names_files_that_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"\]\(([^)h][^)]*)\)", text):
        assert (ROOT / name).exists(), name


def test_the_packages_own_example_is_right():
    result = doctest.testmod(tradeoff)
    assert result.attempted > 0
    assert result.failed == 0
