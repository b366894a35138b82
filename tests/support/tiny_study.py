"""Studies of a pair so small that one takes less than a second, and a judge that keeps what it was asked."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from tiny import DRAFT, TARGET

from decoding.evaluation.judges import Judgement
from decoding.evaluation.study import configuration as settings
from decoding.evaluation.study.processes import Alone, Processes
from decoding.evaluation.study.run import Study
from decoding.huggingface.pair import Pair

OPT, UNO, DRAFTED, LOSSLESS = "decoding_opt", "decoding_uno", "decoding_uno:residual=draft", "speculative_sampling"
TEMPERATURE = 0.7
PLAIN = settings.Configuration(
    pair=settings.PairSettings(),
    prompts=settings.PromptSettings(),
    texts=settings.TextSettings(samples=2, max_new_tokens=6, temperature=TEMPERATURE, batch_size=2),
    rules=(OPT, UNO, DRAFTED, LOSSLESS),
    at=("epsilon", (0.1, 0.2)),
    against=OPT,
    calibration=settings.CalibrationSettings(positions=20, tolerance=0.04),
    judges=(),
    examples=1,
    seed=3,
    published=(),
)


class Letters:
    """A tokenizer of one letter a token."""

    chat_template = None

    def __call__(self, text, return_tensors, verbose, add_special_tokens):
        return SimpleNamespace(input_ids=torch.tensor([["abcde".index(letter) for letter in text]]))

    def decode(self, tokens, skip_special_tokens):
        return "".join("abcde"[token] for token in tokens)


PAIR = Pair(target=TARGET, draft=DRAFT, tokenizer=Letters(), name="tiny")


class Asked:
    """A judge that keeps what it was asked, and answers with a given list in turn, or always 1."""

    def __init__(self, *, pairwise, answers=(), name="asked", told=None):
        self.pairwise, self.name, self.settings = pairwise, name, told or {"kind": name}
        self.questions, self._answers = [], iter(answers)

    def judge(self, questions):
        self.questions += questions
        return [next(self._answers, Judgement(score=1.0)) for _ in questions]


def study_in(folder: Path, prompts: Path, processes: Processes | None = None) -> Study:
    """A study of two rules on three prompts."""
    prompts.write_text("bd\nbce\nd\n")
    configuration = replace(PLAIN, rules=(OPT, UNO), prompts=settings.PromptSettings(source=str(prompts)))
    return Study(configuration, folder, processes=processes or Alone(), load=lambda: PAIR)
