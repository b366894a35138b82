"""Prompts come as people have them: lines of text, JSON lists, AlpacaEval's objects."""

import pytest

from decoding.evaluation.prompts import read_prompts
from solvers.errors import InputError


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prompts.txt", "Once upon a time\n\n  A fish named Finé \n"),
        ("prompts.json", '["Once upon a time", "", "A fish named Finé"]'),
        ("prompts.json", '[{"prompt": "Once upon a time", "story": "x"}, {"instruction": "A fish named Finé"}]'),
    ],
)
def test_prompts_are_read_in_order_without_blanks(tmp_path, name, text):
    path = written(tmp_path, name, text)
    assert read_prompts(path) == ["Once upon a time", "A fish named Finé"]
    assert read_prompts(path, limit=1) == ["Once upon a time"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.txt", "\n \n", "expected at least one prompt; got none"),
        ("empty.json", "[]", "expected at least one prompt; got none"),
        ("broken.json", "[", "expected a JSON list"),
        ("number.json", "3", "expected a JSON list"),
        ("object.json", '[{"text": "x"}]', "expected a JSON list"),
        ("entries.json", "[1]", "expected a JSON list"),
    ],
)
def test_files_without_prompts_are_a_clear_error(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message):
        read_prompts(written(tmp_path, name, text))


def test_a_missing_file_is_a_clear_error(tmp_path):
    with pytest.raises(InputError, match="expected a readable text or JSON file"):
        read_prompts(tmp_path / "nowhere.txt")
