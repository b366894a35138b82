"""A study's configuration: defaults, what it refuses and in which words, what decides the texts, what is shipped."""

import inspect
from dataclasses import fields

import pytest
import yaml

from decoding.evaluation.judges import ChatJudge, RewardModel
from decoding.evaluation.study.configuration import CONFIGS, Configuration, read_configuration
from decoding.evaluation.study.judge_settings import AccountSettings, ChatSettings, RewardModelSettings
from decoding.sampling.parameters import Sampling
from solvers.errors import InputError

FULL = """
pair: {target: a/big, draft: a/small, dtype: bfloat16, device: cuda}
prompts: {source: b/data, column: text, name: c, split: eval, revision: main, limit: 7, template: "Q: {prompt} {x}",
  chat: true}
texts: {samples: 5, max_new_tokens: 11, temperature: 1, top_p: 0.9, top_k: 4, draft_length: 3, batch_size: 2}
rules: [decoding_opt, decoding_uno, "decoding_uno:residual=draft", speculative_sampling, "lenience:factor=0.5"]
at: {epsilon: [1e-3, 0.5]}
against: decoding_uno
calibration: {positions: 20, tolerance: 0.25}
judges:
  - {kind: sequence_kl}
  - {kind: reward_model, model: d/reward, batch_size: 3, template: "{prompt}|{text}"}
  - {kind: chat, model: e/chatty, base_url: "http://localhost:1/v1", name: "a judge", prices: [1, 2.5], cost_limit: 3}
examples: 0
seed: 9
published:
  - {judge: a judge, at: 0.001, rule: decoding_opt, win_rate: 0.53, prompts: 200, source: a table}
"""


@pytest.fixture
def read(tmp_path):
    def reader(text, **overrides):
        path = tmp_path / "study.yaml"
        path.write_text(text, encoding="utf-8")
        return read_configuration(str(path), {key.replace("__", "."): value for key, value in overrides.items()})

    return reader


def test_an_empty_file_is_the_embedded_study(read):
    found = read("")
    assert (found.pair.target, found.pair.draft, found.pair.device) == (None, None, "cpu")
    assert (found.prompts.source, found.prompts.template, found.prompts.limit) == ("embedded", "{prompt}", None)
    assert (found.texts.samples, found.texts.max_new_tokens, found.texts.batch_size) == (3, 40, 16)
    assert found.rules == ("common_price", "decoding_opt", "decoding_uno")
    assert found.at == ("rejection", (0.2, 0.1, 0.05))
    assert found.against == "common_price"
    assert (found.calibration.positions, found.calibration.tolerance) == (1500, 0.02)
    assert found.judges == (AccountSettings(kind="log_likelihood"), AccountSettings(kind="sequence_kl"))
    assert (found.examples, found.seed, found.published) == (4, 0, ())
    assert read("texts: null\nat:\njudges: null\n") == found


def test_every_setting_arrives(read):
    found = read(FULL)
    assert vars(found.pair) == {"target": "a/big", "draft": "a/small", "dtype": "bfloat16", "device": "cuda"}
    assert list(vars(found.prompts).values()) == ["b/data", "text", "c", "eval", "main", 7, "Q: {prompt} {x}", True]
    assert list(vars(found.texts).values()) == [5, 11, 1.0, 0.9, 4, 3, 2]
    assert isinstance(found.texts.temperature, float)
    assert found.texts.sampling == Sampling(temperature=1.0, top_p=0.9, top_k=4)
    assert found.at == ("epsilon", (0.001, 0.5))  # 1e-3 is text in YAML 1.1
    assert (found.against, found.examples, found.seed) == ("decoding_uno", 0, 9)
    assert found.judges[1] == RewardModelSettings(
        kind="reward_model", model="d/reward", name="reward", device="cuda", batch_size=3, template="{prompt}|{text}"
    )
    chat = found.judges[2]
    assert isinstance(chat, ChatSettings)
    assert (chat.name, chat.prices, chat.cost_limit, chat.comparisons) == ("a judge", (1.0, 2.5), 3.0, None)
    assert [judge.name for judge in found.judges] == ["sequence_kl", "reward", "a judge"]
    assert vars(found.published[0]) == {
        "judge": "a judge",
        "at": 0.001,
        "against": "decoding_uno",
        "rule": "decoding_opt",
        "win_rate": 0.53,
        "prompts": 200,
        "source": "a table",
    }


@pytest.mark.parametrize(
    "text", ["", FULL, *((CONFIGS / f"{name}.yaml").read_text() for name in ("table1", "small", "compare"))]
)
def test_written_out_and_read_again_it_is_the_same(read, text):
    found = read(text)
    again = read(yaml.safe_dump(found.to_dict()))
    assert again == found
    assert again.texts_hash == found.texts_hash
    assert list(found.to_dict()) == [each.name for each in fields(Configuration)]


def test_a_judges_settings_are_its_constructors_arguments():
    arguments = set(inspect.signature(ChatJudge).parameters)
    assert {each.name for each in fields(ChatSettings)} == arguments | {"kind", "comparisons"}
    arguments = set(inspect.signature(RewardModel).parameters) - {"name_or_path"}
    assert {each.name for each in fields(RewardModelSettings)} == arguments | {"kind", "model"}
    for settings, constructor in ((ChatSettings, ChatJudge), (RewardModelSettings, RewardModel)):
        defaults = {name: each.default for name, each in inspect.signature(constructor).parameters.items()}
        ours = {each.name: each.default for each in fields(settings) if each.name in defaults}
        del ours["name"]  # filled in when it is read
        ours.pop("device", None)
        assert {name: value for name, value in ours.items() if isinstance(value, int | float | str)} == {
            name: defaults[name] for name, value in ours.items() if isinstance(value, int | float | str)
        }


def test_a_reward_model_goes_to_the_pairs_device_unless_it_names_one(read):
    judge = "judges: [{kind: reward_model, model: m%s}]"
    assert read(judge % "", pair__device="cuda:1").judges[0].device == "cuda:1"
    assert read(judge % ", device: cpu, name: null", pair__device="cuda:1").judges[0].device == "cpu"


def test_overrides_count_and_none_does_not(read):
    found = read("texts: {samples: 5}", texts__samples=3, pair__device="cuda", seed=7, texts__batch_size=None)
    assert (found.texts.samples, found.pair.device, found.seed, found.texts.batch_size) == (3, "cuda", 7, 16)
    assert found == read("texts: {samples: 3}\npair: {device: cuda}\nseed: 7\n")
    assert read("pair:", pair__device="cuda").pair.device == "cuda"
    assert read("", rules=["decoding_opt"], at={"epsilon": (0.1,)}).at == ("epsilon", (0.1,))


def test_an_override_does_not_reach_an_aliased_section(read):
    found = read("pair: &empty {}\nprompts: *empty\ntexts: *empty", pair__device="cuda", texts__samples=3)
    assert (found.pair.device, found.texts.samples, found.prompts.limit) == ("cuda", 3, None)


def test_a_rule_without_a_free_knob_takes_part_in_no_comparison(read):
    found = read("rules: [speculative_sampling, 'decoding_opt:epsilon=0.1', decoding_opt]\nat: {epsilon: [0.1]}")
    assert found.against == "decoding_opt"
    assert read("rules: [speculative_sampling]").against == "speculative_sampling"
    with pytest.raises(InputError, match="^against: expected one of decoding_opt; got 'speculative_sampling'"):
        read("rules: [speculative_sampling, decoding_opt]\nagainst: speculative_sampling")


def test_a_whole_numbered_knob_stays_whole(read):
    found = read("rules: [top_k_gate]\nat: {k: [5, 1e1]}")
    assert [type(value) for value in found.at[1]] == [int, int]
    with pytest.raises(InputError, match=r"^at\.k\.0: expected a whole number; got 2\.5"):
        read("rules: [top_k_gate]\nat: {k: [2.5]}")


SETTINGS = [
    ("sead: 1", r"sead: expected a known key; got 'sead'; did you mean 'seed'\?"),
    ("texts: {sampels: 1}", r"texts\.sampels: expected a known key; got 'sampels'; did you mean 'samples'\?"),
    ("texts: {xyz: 1}", r"texts\.xyz: .*; there are samples, max_new_tokens, temperature, top_p, top_k, .*"),
    ("on: 1", "True: expected a known key; got True"),
    ("texts: 3", "texts: expected keys with values; got 3; its keys are samples"),
    ("- 1", r"configuration: expected keys with values; got \[1\]"),
    ("texts: {samples: 0}", r"texts\.samples: expected a whole number >= 1 and <= 1000000; got 0"),
    ("texts: {samples: 1.5}", r"texts\.samples: expected a whole number >= 1 and <= 1000000; got 1\.5"),
    ("texts: {samples: two}", r"texts\.samples: expected a whole number >= 1 and <= 1000000; got 'two'"),
    ("texts: {samples: yes}", r"texts\.samples: expected a whole number >= 1 and <= 1000000; got True"),
    ("texts: {samples: [1]}", r"texts\.samples: expected a whole number >= 1 and <= 1000000; got \[1\]"),
    ("texts: {samples: null}", r"texts\.samples: expected a whole number >= 1 and <= 1000000; got None"),
    ("texts: {temperature: 0}", r"texts\.temperature: expected a finite number >= 0\.001; got 0"),
    ("texts: {temperature: .inf}", r"texts\.temperature: expected a finite number >= 0\.001; got inf"),
    ("texts: {temperature: .nan}", r"texts\.temperature: expected a finite number >= 0\.001; got nan"),
    ("texts: {max_new_tokens: 0}", r"texts\.max_new_tokens: expected"),
    ("texts: {draft_length: 0}", r"texts\.draft_length: expected"),
    ("texts: {batch_size: 0}", r"texts\.batch_size: expected"),
    ("pair: {dtype: float61}", r"pair\.dtype: expected one of float32, bfloat16, float16; got 'float61'; did you mean"),
    ("pair: {device: 0}", r"pair\.device: expected text; got 0; quotes make text"),
    ("pair: {device: ''}", r"pair\.device: expected text; got ''"),
    ("pair: {target: x}", "pair: expected both a target and a draft, or neither for the embedded pair; got 'x'"),
    ("prompts: {chat: 1}", r"prompts\.chat: expected true or false; got 1"),
    ("prompts: {limit: 0}", r"prompts\.limit: expected a whole number >= 1; got 0"),
    ("prompts: {template: hello}", r"prompts\.template: expected {prompt} in it, where the prompt goes; got 'hello'"),
    ("calibration: {positions: 0}", r"calibration\.positions: expected"),
    ("calibration: {tolerance: -0.1}", r"calibration\.tolerance: expected a finite number >= 0 and <= 1; got -0\.1"),
    ("calibration: {tolerance: 1.1}", r"calibration\.tolerance: expected a finite number >= 0 and <= 1; got 1\.1"),
    ("examples: -1", "examples: expected a whole number >= 0; got -1"),
    ("seed: -1", "seed: expected a whole number >= 0; got -1"),
]

RULES = [
    ("rules: decoding_opt", r"rules: expected a list; got 'decoding_opt'; such as \[a, b\]"),
    ("rules: []", r"rules: expected at least one rule; got \[\]"),
    ("rules: [decoding_uno: residual=draft]", r"rules\.0: expected text; got {'decoding_uno': 'residual=draft'}"),
    ("rules: [decoding_opt, decodin_uno]", r"rules\.1: rule: expected .*; did you mean 'decoding_uno'\?"),
    ("rules: [block_verification]", r"rules\.0: expected a rule of one token at a time, .*; got 'block_verification'"),
    ("rules: [recursive_rejection]", r"rules\.0: expected a rule of one token at a time"),
    ("rules: [judge]", r"rules\.0: judge: expected scores, which no text can hold"),
    ("rules: ['decoding_uno:residual=up']", r"rules\.0: residual: expected 'target' or 'draft'; got 'up'"),
    ("rules: ['lenience:factor=2']", r"rules\.0: factor: "),
    ("rules: [decoding_uno, 'decoding_uno:residual=target']", r"rules\.1: expected different rules; got"),
    ("rules: [decoding_opt, ' decoding_opt']", r"rules\.1: expected different rules; got"),
    ("against: mars", "against: expected one of common_price, decoding_opt, decoding_uno; got 'mars'"),
    ("at: 0.1", r"at: expected keys with values; got 0\.1"),
    ("at: {}", r"at: expected exactly one key; got {}; rejection, or the rules' knob \(price, epsilon\)"),
    ("at: {rejection: [0.1], price: [1]}", "at: expected exactly one key; got"),
    ("at: {rejecton: [0.1]}", r"at\.rejecton: expected a known key; got 'rejecton'; did you mean 'rejection'\?"),
    ("at: {rejection: 0.1}", r"at\.rejection: expected a list; got 0\.1"),
    ("at: {rejection: []}", r"at\.rejection: expected one value or more, all different; got \[\]"),
    ("at: {rejection: [0.1, 1e-1]}", r"at\.rejection: expected one value or more, all different"),
    ("at: {rejection: [0.1, 1]}", r"at\.rejection\.1: expected a rate above 0 and below 1; got 1\.0"),
    ("at: {rejection: [0.1, 0]}", r"at\.rejection\.1: expected a rate above 0 and below 1; got 0\.0"),
    ("at: {rejection: [a]}", r"at\.rejection\.0: expected a finite number; got 'a'"),
    (
        "at: {epsilon: [0.1]}",
        "at: expected the knob of common_price, price; got 'epsilon'; rejection fits rules of any",
    ),
    ("rules: [decoding_opt]\nat: {epsilon: [0.1, -1]}", r"at\.epsilon\.1: epsilon: expected a finite number >= 0"),
]

CHAT = "judges: [{kind: chat, model: m, base_url: 'http://h/v1', %s}]"
JUDGES = [
    ("judges: {kind: chat}", "judges: expected a list; got"),
    ("judges: [chat]", r"judges\.0\.kind: expected one of log_likelihood, sequence_kl, reward_model, chat; got 'chat'"),
    ("judges: [{kind: chatt}]", r"judges\.0\.kind: expected one of .*; got 'chatt'; did you mean 'chat'\?"),
    ("judges: [{kind: [chat]}]", r"judges\.0\.kind: expected one of "),
    ("judges: [{kind: sequence_kl, model: x}]", r"judges\.0\.model: expected a known key; got 'model'"),
    ("judges: [{kind: reward_model}]", r"judges\.0\.model: expected a value; got none; it has no default"),
    ("judges: [{kind: chat, model: m}]", r"judges\.0\.base_url: expected a value; got none"),
    ("judges: [{kind: chat, model: m, base_url: h}]", r"judges\.0\.base_url: expected an address such as"),
    ("judges: [{kind: reward_model, model: m, template: '{prompt}'}]", r"judges\.0\.template: expected {text} in it"),
    (CHAT % "api_key: secret", r"judges\.0\.api_key: expected a known key; got 'api_key'; did you mean"),
    (CHAT % "prices: [1]", r"judges\.0\.prices: expected 2 values; got \[1\]"),
    (CHAT % "prices: [1, -1]", r"judges\.0\.prices\.1: expected a finite number >= 0; got -1"),
    (CHAT % "cost_limit: 3", r"judges\.0\.prices: expected two prices beside a cost_limit; got None"),
    (CHAT % "comparisons: 0", r"judges\.0\.comparisons: expected a whole number >= 1; got 0"),
    (CHAT % "concurrency: 0", r"judges\.0\.concurrency: "),
    (CHAT % "requests_per_minute: 0", r"judges\.0\.requests_per_minute: expected a finite number > 0; got 0"),
    (CHAT % "max_retries: -1", r"judges\.0\.max_retries: expected a whole number >= 0; got -1"),
    (CHAT % "timeout: 0", r"judges\.0\.timeout: "),
    (CHAT % "max_tokens: 0", r"judges\.0\.max_tokens: "),
    ("judges: [{kind: sequence_kl}, {kind: sequence_kl}]", r"judges\.1\.name: expected a name of its own; got 'seq"),
    (
        "judges: [{kind: reward_model, model: a/m}, {kind: reward_model, model: b/M}]",
        r"judges\.1\.name: expected a name of its own; got 'M'; there is 'm' before",
    ),
]

PUBLISHED = "rules: [decoding_opt, decoding_uno]\npublished: [{%s}]"
ROW = "judge: sequence_kl, at: 0.2, rule: decoding_uno, win_rate: 0.53, prompts: 200, source: x"
RATES = [
    (PUBLISHED % ROW.replace("sequence_kl", "gpt"), r"published\.0\.judge: expected one of a comparison \(log_lik"),
    (PUBLISHED % ROW.replace("0.2,", "0.3,"), r"published\.0\.at: expected one of a comparison \(0\.2, 0\.1, 0\.05\)"),
    (PUBLISHED % ROW.replace("_uno", "_opt"), r"published\.0\.rule: expected one of a comparison \(decoding_uno\)"),
    (PUBLISHED % (ROW + ", against: decoding_uno"), r"published\.0\.against: expected .* \(decoding_opt\); got"),
    (PUBLISHED % ROW.replace("0.53", "53"), r"published\.0\.win_rate: expected a finite number >= 0 and <= 1; got 53"),
    (PUBLISHED % ROW.replace("0.53", "0.5324"), r"published\.0: win_rate: expected a whole number of prompts"),
    (PUBLISHED % ROW.replace("200", "0"), r"published\.0\.prompts: expected a whole number >= 1; got 0"),
    (PUBLISHED % ROW.replace(", source: x", ""), r"published\.0\.source: expected a value; got none"),
    (PUBLISHED % f"{ROW}}}, {{{ROW}", r"published\.1: expected one rate for a comparison; got 0\.53"),
    ("published: [1]", r"published\.0: expected keys with values; got 1"),
    ("rules: [decoding_uno]\n" + PUBLISHED.partition("\n")[2] % ROW, r"published\.0\.rule: .* \(there is none\)"),
]


@pytest.mark.parametrize(("text", "message"), SETTINGS + RULES + JUDGES + RATES)
def test_a_wrong_setting_is_one_line_that_names_its_place(read, text, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        read(text)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nrules: [a\n", ", line 3: expected YAML; got something else: expected ',' or ']'"),
        ("seed: 1\n\tat: 2\n", ", line 2: expected YAML"),
        ("seed: 1\n---\nseed: 2\n", ", line 2: expected YAML; got something else: but found another document"),
        ("seed: !!python/name:os.system\n", ", line 1: expected YAML; got something else: could not determine"),
        ("seed: 1\nexamples: 2\nseed: 3\n", ", line 3: expected every key once; got 'seed'; keep one of the two"),
        ("texts:\n  samples: 1\n  samples: 1\n", ", line 3: expected every key once; got 'samples'"),
        ("judges:\n  - {kind: chat, kind: chat}\n", ", line 2: expected every key once; got 'kind'"),
        ("seed: 2024-13-45\n", ": expected readable YAML; got something else: month must be in 1..12"),
        ("seed: \x01\n", ": expected readable YAML"),
        ("[" * 2000, ": expected readable YAML"),
    ],
)
def test_what_is_not_yaml_is_one_line_with_its_line_number(read, tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        read(text)
    assert str(caught.value).startswith(f"{tmp_path / 'study.yaml'}{message}")
    assert "\n" not in str(caught.value)


def test_aliases_may_repeat_and_never_contain_themselves(read):
    assert (
        read("rules: &r [decoding_opt]\nagainst: decoding_opt\nprompts: {source: &s x, name: *s}").prompts.name == "x"
    )
    with pytest.raises(InputError, match="expected at most 10000 values with all aliases written out; got more"):
        read("rules: &r [*r]")


def test_a_file_that_is_not_there_lists_the_shipped_ones(tmp_path):
    with pytest.raises(
        InputError, match="^configuration: expected a YAML file, or one of compare, small, table1; got 'tabel1'"
    ):
        read_configuration("tabel1", {})
    with pytest.raises(InputError, match="^configuration: expected a YAML file"):
        read_configuration(str(tmp_path), {})
    (tmp_path / "latin.yaml").write_bytes(b"seed: \xe9")
    with pytest.raises(InputError, match="expected readable YAML; got something else: 'utf-8'"):
        read_configuration(str(tmp_path / "latin.yaml"), {})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"texts.sampels": 2}, r"texts\.sampels: expected a known key; got 'sampels'; did you mean 'samples'\?"),
        ({"text.samples": 2}, r"text: expected a known key; got 'text'; did you mean 'texts'\?"),
        ({"seed.x": 2}, r"seed\.x: expected keys and values under seed; got 3"),
        ({"texts.samples": 0}, r"texts\.samples: expected a whole number >= 1 and <= 1000000; got 0"),
    ],
)
def test_wrong_overrides_are_named_as_settings_are(read, overrides, message):
    with pytest.raises(InputError, match=f"^{message}"):
        read("seed: 3", **overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        {"judges": [{"kind": "log_likelihood"}], "published": []},
        {"against": "decoding_opt", "published": []},
        {"calibration.tolerance": 0.5},
    ],
)
def test_what_comes_after_the_texts_does_not_decide_them(read, overrides):
    assert read(FULL, **overrides) != read(FULL)
    assert read(FULL, **overrides).texts_hash == read(FULL).texts_hash


@pytest.mark.parametrize(
    "overrides",
    [
        {"seed": 10},
        {"examples": 1},
        {"pair.target": "a/bigger"},
        {"pair.device": "cpu"},
        {"prompts.limit": 8},
        {"prompts.template": "{prompt}"},
        {"texts.samples": 6},
        {"texts.batch_size": 3},
        {"rules": ["decoding_uno", "decoding_opt"]},
        {"at": {"epsilon": [0.001]}},
        {"calibration.positions": 21},
    ],
)
def test_what_decides_the_texts_changes_their_hash(read, overrides):
    assert read(FULL, **overrides).texts_hash != read(FULL).texts_hash


def test_the_hash_is_of_values_not_of_how_they_are_written(read):
    assert read("seed: 0\ntexts: {temperature: 1}").texts_hash == read("texts: {temperature: '1.0'}").texts_hash
    assert len(read("").texts_hash) == 16
    assert set(read("").texts_hash) <= set("0123456789abcdef")


def test_the_small_configuration_is_the_embedded_pairs():
    found = read_configuration("small", {})
    assert (found.pair.target, found.prompts.source, found.prompts.limit) == (None, "embedded", 12)
    assert (found.texts.samples, found.texts.max_new_tokens) == (3, 24)
    assert found.rules == ("decoding_opt", "decoding_uno", "decoding_uno:residual=draft", "common_price")
    assert found.at == ("rejection", (0.2, 0.1))


def test_table_1_holds_the_papers_setting_and_all_its_cells_for_both_readings_of_uno():
    found = read_configuration("table1", {})
    assert (found.pair.target, found.pair.draft) == ("EleutherAI/pythia-2.8b", "EleutherAI/pythia-70m")
    assert (found.prompts.limit, found.prompts.column, found.texts.samples) == (200, "instruction", 500)
    assert found.at == ("epsilon", (0.1, 0.2, 0.4, 0.8))
    assert found.against == "decoding_opt"
    assert [judge.name for judge in found.judges] == ["log_likelihood", "sequence_kl", "RM-Mistral-7B", "gpt-4"]
    table = {"RM-Mistral-7B": (53, 53.5, 57.5, 52.5), "gpt-4": (54.5, 53, 53.5, 55)}
    wanted = {
        (judge, at, rule): rate
        for judge, rates in table.items()
        for at, rate in zip(found.at[1], rates, strict=True)
        for rule in ("decoding_uno", "decoding_uno:residual=draft")
    }
    assert {(each.judge, each.at, each.rule): 100 * each.win_rate for each in found.published} == pytest.approx(wanted)
    assert {each.prompts for each in found.published} == {200}
    assert {each.source for each in found.published} == {"Yin et al., NeurIPS 2024, Table 1"}
