"""Scores of texts by a sequence-classification model with one label."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from decoding.huggingface.loading import context_length, load_tokenizer, load_weights, vocabulary_size
from solvers.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class RewardScorer:
    """A reward model with its tokenizer; a text's score is the logit the model gives to it alone.

    Parameters
    ----------
    name_or_path
        Hub name, or a folder made by save_pretrained.
    device, dtype
        Where the model runs, and "float32", "bfloat16" or "float16".
    template
        How a prompt and a text become what is scored, with {prompt} and {text}; None for the tokenizer's chat
        template, or the text right after the prompt if it has none.

    Raises
    ------
    InputError
        Nothing loadable there, a model that is no reward model, weights that are not the model's, or a device that is
        not there.
    """

    def __init__(self, name_or_path: str, *, device: str, dtype: str, template: str | None) -> None:
        self._tokenizer = load_tokenizer(name_or_path)
        self._model = _load(name_or_path, device, dtype)
        self._template = template

    def tokens(self, prompt: str, text: str) -> list[int]:
        """Tokens of what is scored."""
        if self._template is None and self._tokenizer.chat_template:
            messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
            return self._tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        return self._tokenizer((self._template or "{prompt}{text}").format(prompt=prompt, text=text)).input_ids

    @property
    def context(self) -> int:
        """Most tokens that are scored, as the model's config and its tokenizer have it."""
        stated = context_length(self._model)
        return min(self._tokenizer.model_max_length, stated or self._tokenizer.model_max_length)

    @torch.inference_mode()
    def scores(self, texts: Sequence[Sequence[int]], batch_size: int) -> list[float]:
        """Score texts of tokens, at least one each, longest first so that a batch has little padding."""
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        found = [0.0] * len(texts)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            for index, score in zip(chosen, self._batch([texts[index] for index in chosen]), strict=True):
                found[index] = score
        return found

    def _batch(self, texts: list[Sequence[int]]) -> list[float]:
        """Scores of one batch, padded on the right, longest text first."""
        padding = _padding(self._model, texts)
        if padding is None and len(texts) > 1:
            return [score for text in texts for score in self._batch([text])]
        inputs = torch.full((len(texts), len(texts[0])), 0 if padding is None else padding)
        mask = torch.zeros_like(inputs)
        for row, text in enumerate(texts):
            inputs[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        with _PaddingToken(self._model, padding):
            device = self._model.device
            logits = self._model(input_ids=inputs.to(device), attention_mask=mask.to(device)).logits
        return logits[:, 0].float().tolist()


class _PaddingToken:
    """A model's config with another padding token for a while."""

    def __init__(self, model: Any, token: int | None) -> None:
        self._configs = [model.config, model.config.get_text_config()]
        self._before = [getattr(config, "pad_token_id", None) for config in self._configs]
        self._token = token

    def __enter__(self) -> None:
        for config in self._configs:
            config.pad_token_id = self._token

    def __exit__(self, *_: object) -> None:
        for config, token in zip(self._configs, self._before, strict=True):
            config.pad_token_id = token


def _padding(model: Any, texts: Sequence[Sequence[int]]) -> int | None:
    """A token behind which transformers finds each text's last token as it does in the text alone.

    That is the model's own padding token, or without one any token that is in none of the texts: for then the last
    token of a text alone is its very last, whichever that is. None if the texts have every token.
    """
    own = getattr(model.config.get_text_config(), "pad_token_id", None)
    vocabulary = vocabulary_size(model)
    if own is not None and 0 <= own < vocabulary:
        return own
    used = set().union(*texts)
    return next((token for token in range(vocabulary) if token not in used), None)


def _load(name_or_path: str, device: str, dtype: str) -> Any:
    model = load_weights(
        AutoModelForSequenceClassification, name_or_path, what="reward model", dtype=DTYPES[dtype], device=device
    )
    if model.config.num_labels != 1:
        raise InputError(
            f"reward model {name_or_path!r}: expected one label, whose logit is the score; got "
            f"{model.config.num_labels}; choose another"
        )
    return model
