"""What a study is told about its judges."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from decoding.evaluation.judges.doors import check_name, is_endpoint
from decoding.evaluation.study.strict_yaml import (
    Count,
    Dtype,
    Natural,
    Positive,
    Range,
    hint,
    placed,
    read_settings,
    wrong,
)


@dataclass(frozen=True, kw_only=True)
class AccountSettings:
    """A judge that reads the account of a text's generation.

    Parameters
    ----------
    kind
        Which one, and its name.
    """

    kind: Literal["log_likelihood", "sequence_kl"]

    @property
    def name(self) -> str:
        """The kind."""
        return self.kind


@dataclass(frozen=True, kw_only=True)
class RewardModelSettings:
    """A reward model.

    Parameters
    ----------
    kind
        "reward_model".
    model
        Hub name or folder.
    name
        What tables call it; by default the last part of `model`.
    device, dtype
        Of the model; by default the pair's device.
    batch_size
        Texts at once.
    template
        With {prompt} and {text}; None for the tokenizer's chat template, or one after the other.
    """

    kind: Literal["reward_model"]
    model: str
    name: str
    device: str
    dtype: Dtype = "float32"
    batch_size: Count = 16
    template: str | None = None


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """A chat model behind an endpoint that speaks OpenAI's protocol.

    Parameters
    ----------
    kind
        "chat".
    model, base_url
        The model's name there, and the endpoint.
    name
        What tables call it; by default the last part of `model`.
    api_key_variable
        The environment variable that holds the key.
    comparisons
        How many of a prompt's samples it is asked about; None for all.
    concurrency, requests_per_minute
        Requests at once, and at most in a minute.
    max_retries, timeout
        Of a request up to the last byte of its reply; seconds.
    max_tokens, max_completion_tokens
        Of a reply, under the name that the endpoint wants; 16 as max_tokens if neither is given.
    temperature
        None to send none.
    prices
        USD per million tokens of prompts and of replies.
    cost_limit
        USD.
    instruction
        What it is told to do, if not the usual.
    """

    kind: Literal["chat"]
    model: str
    base_url: str
    name: str
    api_key_variable: str = "OPENAI_API_KEY"
    comparisons: Count | None = None
    concurrency: Count = 4
    requests_per_minute: Positive | None = None
    max_retries: Natural = 6
    timeout: Positive = 60.0
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, Range(least=0)] | None = 0.0
    prices: tuple[Annotated[float, Range(least=0)], Annotated[float, Range(least=0)]] | None = None
    cost_limit: Positive | None = None
    instruction: str | None = None


JudgeSettings = AccountSettings | RewardModelSettings | ChatSettings
"""A judge's kind and its constructor's arguments."""

_KINDS: dict[str, type[JudgeSettings]] = {
    "log_likelihood": AccountSettings,
    "sequence_kl": AccountSettings,
    "reward_model": RewardModelSettings,
    "chat": ChatSettings,
}


def file_name(judge: str) -> str:
    """A judge's name, made fit for a file's."""
    return re.sub(r"[^\w.-]+", "_", judge)


def read_judge(given: object, path: str, device: str) -> JudgeSettings:
    """Read one judge; `device` is a reward model's unless it names one.

    Raises
    ------
    InputError
        No such kind, or settings that it does not take.
    """
    kind = given.get("kind") if isinstance(given, Mapping) else None
    if not isinstance(given, Mapping) or not isinstance(kind, str) or kind not in _KINDS:
        wrong(f"{path}.kind", f"one of {', '.join(_KINDS)}", kind or given, hint(kind, _KINDS))
    defaults: dict[str, Any] = {"device": device} if kind == "reward_model" else {}
    if kind in ("reward_model", "chat"):
        model = given.get("model")
        defaults["name"] = model.rstrip("/").split("/")[-1] if isinstance(model, str) else kind
    kept = {key: value for key, value in given.items() if value is not None or key not in defaults}
    judge = read_settings(_KINDS[kind], defaults | kept, path)
    with placed(path):
        check_name(judge.name)
    if isinstance(judge, RewardModelSettings) and judge.template is not None and "{text}" not in judge.template:
        wrong(f"{path}.template", "{text} in it, where the text goes", judge.template)
    if isinstance(judge, ChatSettings):
        if not is_endpoint(judge.base_url):
            wrong(f"{path}.base_url", "an address such as https://api.openai.com/v1", judge.base_url)
        if judge.max_tokens is not None and judge.max_completion_tokens is not None:
            wrong(f"{path}.max_tokens", "none beside max_completion_tokens", judge.max_tokens, "keep one of the two")
        if judge.cost_limit is not None and judge.prices is None:
            wrong(f"{path}.prices", "two prices beside a cost_limit", None, "USD per million tokens, such as [30, 60]")
    return judge
