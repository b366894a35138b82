"""Prompts come as people have them: lines of text, JSON, JSONL, CSV, Parquet, data sets, AlpacaEval's objects."""

import gc
import sys

import pytest

from decoding import embedded
from decoding.evaluation.prompts import load_prompts, read_prompts
from solvers.errors import InputError

WANTED = ["Once upon a time", "A fish named Finé"]


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """The package, cut off from the hub and with a cache of its own."""
    package = pytest.importorskip("datasets")
    import huggingface_hub

    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(package.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    yield package
    gc.collect()  # memory maps of the cache, before its folder goes


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prompts.txt", "Once upon a time\n\n  A fish named Finé \n"),
        ("prompts.json", '["Once upon a time", "", "A fish named Finé"]'),
        ("prompts.json", '[{"prompt": "Once upon a time", "story": "x"}, {"instruction": "A fish named Finé"}]'),
        ("prompts.jsonl", '"Once upon a time"\n\n" "\n{"x": 1, "prompt": "A fish named Finé"}\n'),
        ("prompts.JSONL", '{"instruction": "Once upon a time"}\r\n{"prompt": null}\r\n{"prompt": "A fish named Finé"}'),
        ("prompts.csv", "n,prompt\n1,Once upon a time\n2,\n3,  \n4\n5,A fish named Finé\n"),
        ("prompts.csv", '\ufeffinstruction\r\n"Once upon a time"\r\nA fish named Finé\r\n'),
    ],
)
def test_prompts_are_read_in_order_without_blanks(tmp_path, name, text):
    path = written(tmp_path, name, text)
    assert read_prompts(path) == WANTED
    assert read_prompts(path, limit=1) == ["Once upon a time"]
    assert load_prompts(str(path)) == WANTED
    assert load_prompts(str(path), limit=1) == ["Once upon a time"]


def test_prompts_of_several_lines_with_odd_characters_arrive_whole(tmp_path):
    hard = 'a, "b"\nc\u2028d {x} {prompt}'
    csv = written(tmp_path, "p.csv", 'prompt\n"a, ""b""\nc\u2028d {x} {prompt}"\n')
    lines = written(tmp_path, "p.jsonl", '{"prompt": "a, \\"b\\"\\nc\u2028d {x} {prompt}"}\n')
    assert read_prompts(csv) == read_prompts(lines) == [hard]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.json", '[{"prompt": "no", "question": "yes"}]'),
        ("p.jsonl", '{"prompt": "no", "question": "yes"}\n'),
        ("p.csv", "prompt,question\nno,yes\n"),
        ("p.txt", "yes\n"),
    ],
)
def test_a_named_column_is_taken_where_there_are_columns(tmp_path, name, text):
    path = written(tmp_path, name, text)
    assert read_prompts(path, column="question") == ["yes"]
    assert load_prompts(str(path), column="question") == ["yes"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.txt", "\n \n", "expected at least one prompt; got none"),
        ("empty.json", "[]", "expected at least one prompt; got none"),
        ("empty.jsonl", "\n", "expected at least one prompt; got none"),
        ("empty.csv", "prompt\n\n", "expected at least one prompt; got none"),
        ("nothing.csv", "", "expected a column prompt or instruction; got no columns in"),
        ("broken.json", "[", "expected a JSON list"),
        ("number.json", "3", "expected a JSON list"),
        ("mapping.json", '{"prompt": "x"}', "expected a JSON list of strings or objects; got dict"),
        ("object.json", '[{"text": "x"}]', "expected a JSON list .* with prompt or instruction; got text in"),
        ("entries.json", "[1]", "expected a JSON list"),
        ("numbers.json", '["a", {"prompt": 1}]', "expected text; got int in .*numbers.json, entry 2"),
        ("broken.jsonl", '"a"\n{"prompt"\n', "expected JSON in every line; got something else in .*, line 2"),
        ("columns.csv", "story,n\na,1\n", "expected a column prompt or instruction; got story, n in"),
        ("commas.csv", "prompt\none, two\n", "expected as many fields as in the header; got more in .*, line 2"),
        ("quotes.csv", 'prompt\n"one" two\n', "expected CSV; got something else in .*, line 2"),
    ],
)
def test_files_without_prompts_are_a_clear_error(tmp_path, name, text, message):
    path = written(tmp_path, name, text)
    for read in (read_prompts, lambda path: load_prompts(str(path))):
        with pytest.raises(InputError, match=message) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    path = written(tmp_path, "p.csv", "prompt,story\na,b\n")
    with pytest.raises(InputError, match="expected a column question; got prompt, story in"):
        load_prompts(str(path), column="question")


def test_a_missing_file_is_a_clear_error(tmp_path):
    with pytest.raises(InputError, match="expected a readable text or JSON file"):
        read_prompts(tmp_path / "nowhere.txt")
    for ending in ("txt", "json", "jsonl", "csv"):  # not looked for on the hub
        with pytest.raises(InputError, match="expected a readable text or JSON file"):
            load_prompts(str(tmp_path / f"nowhere.{ending}"))


def test_a_path_is_relative_to_the_current_folder_and_goes_before_the_hub(tmp_path, monkeypatch):
    written(tmp_path, "prompts", "Once upon a time\n")
    monkeypatch.chdir(tmp_path)
    assert load_prompts("prompts") == ["Once upon a time"]


def test_the_embedded_prompts_have_a_name():
    assert load_prompts("embedded") == read_prompts(embedded.PROMPTS)
    assert load_prompts("embedded", limit=3, column="instruction") == read_prompts(embedded.PROMPTS, 3)


def test_a_template_goes_around_every_prompt_and_braces_stay(tmp_path):
    path = written(tmp_path, "p.txt", "f = {x: 1}\n{prompt} {0}\n")
    assert load_prompts(str(path), template="{a} {prompt}!") == ["{a} f = {x: 1}!", "{a} {prompt} {0}!"]
    assert load_prompts(str(path), template="{prompt}{prompt}", limit=1) == ["f = {x: 1}f = {x: 1}"]


def test_a_template_without_a_place_and_a_limit_of_none_are_clear_errors():
    with pytest.raises(InputError, match="^template: expected {prompt} in it, where the prompt goes; got '{x}'"):
        load_prompts("embedded", template="{x}")
    with pytest.raises(InputError, match="^limit: expected at least 1; got 0"):
        load_prompts("embedded", limit=0)


def test_parquet_and_folders_of_data_files_are_read(tmp_path, datasets):
    data = datasets.Dataset.from_dict({"n": [1, 2, 3], "prompt": [WANTED[0], None, WANTED[1]], "other": ["a", "b", ""]})
    folder = tmp_path / "data"
    folder.mkdir()
    data.to_parquet(folder / "train.parquet")
    for source in (folder, folder / "train.parquet"):
        assert load_prompts(str(source)) == WANTED
        assert load_prompts(str(source), limit=1) == WANTED[:1]
        assert load_prompts(str(source), column="other") == ["a", "b"]
        with pytest.raises(InputError, match="expected a column question; got n, prompt, other in"):
            load_prompts(str(source), column="question")
        with pytest.raises(InputError, match="expected text; got int in"):
            load_prompts(str(source), column="n")
    assert read_prompts(folder / "train.parquet") == WANTED


def test_a_folder_of_jsonl_has_splits_of_which_test_is_the_usual_one(tmp_path, datasets):
    folder = tmp_path / "data"
    folder.mkdir()
    written(folder, "train.jsonl", '{"instruction": "a"}\n{"instruction": "b"}\n')
    assert load_prompts(str(folder)) == ["a", "b"]
    written(folder, "validation.jsonl", '{"instruction": "v"}\n')
    assert load_prompts(str(folder)) == ["a", "b"]
    written(folder, "test.jsonl", '{"instruction": "t"}\n')
    assert load_prompts(str(folder)) == ["t"]
    assert load_prompts(str(folder), split="validation") == ["v"]
    with pytest.raises(InputError, match='got .*: Unknown split "nope". Should be one of'):
        load_prompts(str(folder), split="nope")
    with pytest.raises(InputError, match="BuilderConfig 'odd' not found"):
        load_prompts(str(folder), name="odd")


def test_what_save_to_disk_wrote_is_read_with_and_without_splits(tmp_path, datasets):
    one, two = (datasets.Dataset.from_dict({"prompt": [text]}) for text in WANTED)
    one.save_to_disk(tmp_path / "one")
    assert load_prompts(str(tmp_path / "one")) == WANTED[:1]
    datasets.DatasetDict({"eval": one}).save_to_disk(tmp_path / "single")
    assert load_prompts(str(tmp_path / "single")) == WANTED[:1]
    datasets.DatasetDict({"eval": one, "dev": two}).save_to_disk(tmp_path / "both")
    assert load_prompts(str(tmp_path / "both"), split="dev") == WANTED[1:]
    with pytest.raises(InputError, match="^split: expected one of eval, dev; got none for .*both; name one"):
        load_prompts(str(tmp_path / "both"))
    with pytest.raises(InputError, match="^split: expected one of eval, dev; got nope for .*both"):
        load_prompts(str(tmp_path / "both"), split="nope")


def test_addresses_go_to_the_builder_of_their_ending_at_their_revision(tmp_path, datasets, monkeypatch):
    asked = []

    def load(*arguments, **more):
        asked.append((*arguments, more))
        return datasets.Dataset.from_dict({"instruction": ["x"]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    address = "hf://datasets/tatsu-lab/alpaca_eval/alpaca_eval.json"
    for source, revision in ((address, None), (address, "refs/pr/1"), ("https://h.org/a.csv?raw=1", None)):
        assert load_prompts(source, revision=revision, split="eval") == ["x"]
    assert load_prompts("a/b", name="c", split="d", revision="e") == ["x"]
    assert asked == [
        ("json", {"data_files": address, "split": "train"}),
        ("json", {"data_files": address.replace("eval/", "eval@refs%2Fpr%2F1/"), "split": "train"}),
        ("csv", {"data_files": "https://h.org/a.csv?raw=1", "split": "train"}),
        ("a/b", {"name": "c", "split": "d", "revision": "e"}),
    ]
    for source, message in (
        ("https://h.org/a.csv", "^revision: expected none beside https://h.org/a.csv; got 'main'; put it into"),
        ("hf://datasets/a/b@c/d.json", "^revision: expected none beside"),
    ):
        with pytest.raises(InputError, match=message):
            load_prompts(source, revision="main")
    with pytest.raises(InputError, match="expected an address that ends in .json, .jsonl, .csv, .parquet; got hf://"):
        load_prompts("hf://datasets/a/b/c.zip")


@pytest.mark.parametrize(
    "source",
    [
        "nobody/nothing",
        "no such thing",
        "hf://datasets/nobody/nothing/prompts.json",
        "https://localhost:1/prompts.json",
    ],
)
def test_what_cannot_be_reached_is_one_line(datasets, source):
    with pytest.raises(
        InputError, match="expected a file, a folder or a data set on the Hugging Face hub; got"
    ) as caught:
        load_prompts(source)
    assert source in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_data_files_are_one_line_too(tmp_path, datasets):
    folder = tmp_path / "data"
    folder.mkdir()
    with pytest.raises(InputError, match="doesn't contain any data files"):
        load_prompts(str(folder))
    broken = written(folder, "train.parquet", "no parquet")
    for source in (folder, broken):
        with pytest.raises(InputError, match=f"got '{source}': .*Parquet magic bytes not found"):
            load_prompts(str(source))


def test_without_the_datasets_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"expected the datasets package to read a/b; got none; pip install 'tra"):
        load_prompts("a/b")
