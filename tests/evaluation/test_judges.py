"""Scores of judges that need no server: accounts of generation and reward models."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from judge_models import (
    CONTEXT,
    ONE_LABEL,
    REWARD_CONFIGS,
    VALUES,
    WORDS,
    save_last_word_reward,
    save_random_reward,
    save_words,
)

from decoding.evaluation.judges import Judge, LogLikelihood, Question, RewardModel, SequenceKL
from solvers.errors import InputError

ROUNDING = 1e-5
"""Of float32 logits below 30 in another batch."""


def account(**row: Any) -> Question:
    return Question(prompt="p", texts=({"text": "t", **row},))


def pair(prompt: str, text: str) -> Question:
    return Question(prompt=prompt, texts=({"text": text},))


def scores(judge: Judge, questions: list[Question]) -> list[float | None]:
    found = judge.judge(questions)
    assert all(each is not None for each in found)
    return [each.score for each in found if each is not None]


def random_texts(count: int, seed: int = 0) -> list[Question]:
    """Texts of one to `CONTEXT` words, so that a batch has much padding."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, CONTEXT + 1, (count,), generator=generator).tolist()
    words = [torch.randint(0, len(WORDS), (length,), generator=generator).tolist() for length in lengths]
    return [pair("", " ".join(WORDS[word] for word in text)) for text in words]


def test_log_likelihood_is_that_of_one_token():
    questions = [account(log_likelihood=-6.0, generated=4), account(log_likelihood=-1.0, generated=1)]
    assert scores(LogLikelihood(), questions) == [-1.5, -1.0]


def test_sequence_kl_counts_the_divergence_of_one_token_against_the_rule():
    questions = [account(kl=6.0, generated=4), account(kl=0.0, generated=3)]
    found = scores(SequenceKL(), questions)
    assert found == [-1.5, 0.0]
    assert all(math.copysign(1, score) == sign for score, sign in zip(found, (-1, 1), strict=True) if score is not None)


@pytest.mark.parametrize("total", [None, "inf", "-inf", math.inf, -math.inf, math.nan])
def test_infinite_sums_are_unreadable_in_every_way_a_row_may_hold_them(total):
    assert scores(SequenceKL(), [account(kl=total, generated=3)]) == [None]
    assert scores(LogLikelihood(), [account(log_likelihood=total, generated=3)]) == [None]


def test_a_text_without_tokens_is_unreadable():
    assert scores(SequenceKL(), [account(kl=0.0, generated=0)]) == [None]
    assert scores(LogLikelihood(), [account(log_likelihood=0.0, generated=0)]) == [None]


def test_accounts_say_what_they_are():
    assert [judge.settings for judge in (LogLikelihood(), SequenceKL())] == [
        {"kind": "log_likelihood"},
        {"kind": "sequence_kl"},
    ]
    assert not LogLikelihood().pairwise
    assert not SequenceKL().pairwise


@pytest.mark.parametrize("padding", [None, "zero", "seven"])
def test_the_score_is_the_models_logit_at_the_last_word_and_padding_is_not_taken_for_it(tmp_path, padding):
    judge = RewardModel(str(save_last_word_reward(tmp_path, padding=padding)), batch_size=4)
    # every word comes last once; a model's own padding token is never read as the last word, not even written
    questions = [pair("one two " * (place % 4), f"three {word}") for place, word in enumerate(WORDS)]
    expected = [float(VALUES[WORDS.index("three" if word == padding else word)]) for word in WORDS]
    assert scores(judge, questions) == pytest.approx(expected, abs=ROUNDING)


def test_without_a_padding_token_a_batch_with_every_word_is_scored_too(tmp_path):
    judge = RewardModel(str(save_last_word_reward(tmp_path)), batch_size=len(WORDS))
    questions = [pair("one " * place, word) for place, word in enumerate(WORDS)]
    assert scores(judge, questions) == pytest.approx(VALUES.tolist(), abs=ROUNDING)


@pytest.mark.parametrize("family", REWARD_CONFIGS)
@pytest.mark.parametrize("padding", [None, "three"])
def test_scores_in_batches_are_those_of_texts_alone(tmp_path, family, padding):
    folder = str(save_random_reward(tmp_path, family, padding=padding))
    questions = random_texts(23)
    model = hf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        tokens = [[WORDS.index(word) for word in question.texts[0]["text"].split()] for question in questions]
        alone = [float(model(torch.tensor([row])).logits) for row in tokens]
    assert torch.tensor(alone).std() > 0.1
    assert scores(RewardModel(folder, batch_size=3), questions) == pytest.approx(alone, abs=ROUNDING)
    assert scores(RewardModel(folder, batch_size=8), questions) == pytest.approx(alone, abs=ROUNDING)


def test_a_chat_template_makes_the_prompt_the_users_and_the_text_the_assistants(tmp_path):
    judge = RewardModel(str(save_last_word_reward(tmp_path, chat=True)))
    found = judge.judge([pair("one", "two three")])[0]
    assert found.score == pytest.approx(float(VALUES[WORDS.index("end")]), abs=ROUNDING)
    assert found.details == {"tokens": 6, "too_long": 0}  # user one assistant two three end


def test_a_template_wins_over_the_chat_template_and_braces_in_texts_are_text(tmp_path):
    folder = str(save_last_word_reward(tmp_path, chat=True))
    judge = RewardModel(folder, template="user {prompt} {{x}} assistant {text} six")
    found = judge.judge([pair("{text} {", "} {0}")])[0]
    assert found.score == pytest.approx(float(VALUES[WORDS.index("six")]), abs=ROUNDING)
    assert found.details["tokens"] == 8


def test_without_any_template_the_text_comes_right_after_the_prompt(tmp_path):
    found = RewardModel(str(save_last_word_reward(tmp_path))).judge([pair("one tw", "o")])[0]
    assert found.details["tokens"] == 2
    assert found.score == pytest.approx(float(VALUES[WORDS.index("two")]), abs=ROUNDING)


def test_texts_beyond_the_context_or_empty_are_unreadable_and_the_others_scored(tmp_path):
    judge = RewardModel(str(save_last_word_reward(tmp_path)))
    full, longer = "one " * (CONTEXT - 1) + "two", "one " * CONTEXT + "two"
    found = judge.judge([pair("", longer), pair("", full), pair("", "")])
    assert [each.score for each in found] == [None, pytest.approx(float(VALUES[2]), abs=ROUNDING), None]
    assert [each.details for each in found] == [
        {"tokens": CONTEXT + 1, "too_long": 1},
        {"tokens": CONTEXT, "too_long": 0},
        {"tokens": 0, "too_long": 0},
    ]


def test_a_limit_of_the_tokenizer_counts_as_well(tmp_path):
    save_last_word_reward(tmp_path)
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.model_max_length = 2
    tokenizer.save_pretrained(tmp_path)
    assert scores(RewardModel(str(tmp_path)), [pair("", "one two three")]) == [None]


def test_a_logit_that_is_no_number_is_unreadable(tmp_path):
    folder = save_last_word_reward(tmp_path)
    model = hf.AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.score.weight[0, WORDS.index("six")] = math.inf
    model.save_pretrained(folder)
    assert scores(RewardModel(str(folder)), [pair("", "six")]) == [None]


def test_no_questions_have_no_answers(tmp_path):
    assert RewardModel(str(save_last_word_reward(tmp_path))).judge([]) == []


def test_the_model_is_loaded_when_it_is_first_asked(tmp_path):
    judge = RewardModel(str(tmp_path / "later" / "rm"))
    assert (judge.name, judge.pairwise) == ("rm", False)
    save_last_word_reward(tmp_path / "later" / "rm")
    assert scores(judge, [pair("", "one")]) == pytest.approx([float(VALUES[1])], abs=ROUNDING)


def test_settings_hold_what_decides_scores_and_not_how_they_are_computed():
    plain = RewardModel("a/model")
    assert plain.settings == {"kind": "reward_model", "name_or_path": "a/model", "dtype": "float32", "template": None}
    assert RewardModel("a/model", device="cuda", batch_size=2, name="other").settings == plain.settings
    assert RewardModel("a/model", dtype="bfloat16").settings != plain.settings
    assert RewardModel("a/model", template="{text}").settings != plain.settings


def test_a_model_of_several_labels_is_no_reward_model(tmp_path):
    judge = RewardModel(str(save_random_reward(tmp_path, "llama", labels=2)))
    with pytest.raises(InputError, match="expected one label, whose logit is the score; got 2; choose"):
        judge.judge([pair("", "one")])


def test_a_model_without_a_trained_head_is_no_reward_model(tmp_path):
    hf.LlamaForCausalLM(hf.LlamaConfig(**ONE_LABEL)).save_pretrained(tmp_path)
    save_words(tmp_path, padding=None, chat=False)
    with pytest.raises(InputError, match=r"expected the weights .*; got score\.weight missing, which would be random"):
        RewardModel(str(tmp_path)).judge([pair("", "one")])


def test_nothing_loadable_is_said_in_a_line(tmp_path):
    for folder in (tmp_path / "nowhere", _words_only(tmp_path)):
        with pytest.raises(InputError) as error:
            RewardModel(str(folder)).judge([pair("", "one")])
        assert "\n" not in str(error.value)
        assert str(folder) in str(error.value)


def _words_only(folder: Path) -> Path:
    save_words(folder, padding=None, chat=False)
    return folder


def test_a_device_that_is_not_there_is_said(tmp_path):
    judge = RewardModel(str(save_last_word_reward(tmp_path)), device="cuda:77")
    with pytest.raises(InputError, match="device: expected one this torch can use; got 'cuda:77'"):
        judge.judge([pair("", "one")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int8"}, "dtype: expected float32, bfloat16 or float16; got 'int8'"),
        ({"batch_size": 0}, "batch_size: expected at least 1; got 0"),
        ({"template": "{prompt}"}, "template: expected a text with {text}"),
        ({"template": "{text} {answer}"}, "template: expected a text with {text}"),
        ({"template": "{text} {"}, "template: expected a text with {text}"),
        ({"template": "{{text}}"}, "template: expected a text with {text}"),
    ],
)
def test_bad_arguments_are_refused_when_the_judge_is_made(arguments, message):
    with pytest.raises(InputError) as error:
        RewardModel("somewhere", **arguments)
    assert message in str(error.value)
