"""Real positions of a pair: the two laws after every prefix of texts the target itself writes."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from decoding.huggingface import (
    SpeculativeOutput,
    check_context,
    context_length,
    generate_plainly,
    measured_law,
    vocabulary_size,
)
from decoding.huggingface.pair import Pair
from decoding.sampling.parameters import PLAIN, Sampling
from decoding.sampling.warping import as_known_to, over_vocabulary
from solvers.errors import InputError
from tradeoff.outcome.positions import Positions

CHARACTERS = 16
"""Of a token that is not short: a prompt of more, times the context, hardly fits."""


def seed_for(*keys: int) -> torch.Generator:
    """Make a generator whose stream depends on all keys and on nothing else."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> 1))


def encode_prompts(pair: Pair, prompts: Sequence[str], max_new_tokens: int, *, chat: bool = False) -> list[Tensor]:
    """Tokenise prompts, `[1, length]` each, and check that prompt and text fit both contexts.

    Parameters
    ----------
    pair, prompts, max_new_tokens
        What writes what.
    chat
        Make every prompt a user's message in the tokenizer's chat template.

    Raises
    ------
    InputError
        Names the first prompt that does not fit, or has no token; or the tokenizer has no chat template.
    """
    if chat and pair.tokenizer.chat_template is None:
        raise InputError(
            f"prompts.chat: expected a tokenizer with a chat template; {pair.name} has none; set chat to false"
        )

    def tokens(prompt: str) -> Tensor:
        text = prompt
        if chat:
            message = [{"role": "user", "content": prompt}]
            text = pair.tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        # a template writes its special tokens itself; verbose: the tokenizer would warn of a long prompt, in other
        # words, just before we refuse it
        return pair.tokenizer(text, return_tensors="pt", verbose=False, add_special_tokens=not chat).input_ids

    encoded = []
    for number, prompt in enumerate(prompts, start=1):
        try:
            _check_length(pair, prompt, tokens)
            ids = tokens(prompt)
            check_context(pair.target, pair.draft, [ids.shape[1]], max_new_tokens)
            if ids.max() >= vocabulary_size(pair.target):
                raise InputError(
                    f"expected tokens below {vocabulary_size(pair.target)}, the target's vocabulary; got "
                    f"{int(ids.max())}; the tokenizer is another model's"
                )
        except InputError as error:
            raise InputError(f"prompt {number}: {error}") from error
        encoded.append(ids.to(pair.target.device))
    return encoded


def _check_length(pair: Pair, prompt: str, tokens: Callable[[str], Tensor]) -> None:
    """Refuse a huge prompt by its beginning: tokens of all of it would take a minute.

    More text only adds tokens, but for those at the end that join into one: hence twice the context.
    """
    context = context_length(pair.target)
    if context is not None and len(prompt) > CHARACTERS * context:
        found = tokens(prompt[: CHARACTERS * context]).shape[1]
        if found > 2 * context:
            raise InputError(
                f"prompt: expected at most {context} tokens, the target model's context; got {found} in the first "
                f"{CHARACTERS * context} of {len(prompt)} characters; shorten the prompt"
            )


class Text(NamedTuple):
    """Both models' raw logits, `[new tokens, vocab]`, where one text has its new tokens, and the text's prompt."""

    prompt: int
    draft_logits: Tensor
    target_logits: Tensor


Write = Callable[[range], list[list[int]]]
"""From the numbers of some texts to their tokens."""

Kept = Callable[[range, Write], list[list[int]]]
"""The same, of texts that may be there; those that are not can be written."""


def written_afresh(numbers: range, write: Write) -> list[list[int]]:
    """Keep no text: all are written."""
    return write(numbers)


@torch.no_grad()
def sampled_texts(
    pair: Pair,
    prompts: Sequence[Tensor],
    *,
    new_tokens: int,
    limit: int,
    seed: int,
    sampling: Sampling = PLAIN,
    draft_length: int = 4,
    batch_size: int = 1,
    finished: Sequence[int] = (),
    kept: Kept = written_afresh,
) -> Iterator[Text]:
    """Sample the target losslessly from each prompt in turn; logits of one text in memory at a time.

    Parameters
    ----------
    prompts
        Token ids, each `[1, length]`.
    new_tokens
        Tokens per text.
    limit
        Positions in all; prompts are revisited with fresh texts until it is reached.
    seed
        Decides the texts, each by its number alone.
    sampling
        Temperature, top-p and top-k of the texts.
    draft_length, batch_size
        Tokens drafted per round, and texts written at once.
    finished
        Positions of the texts that are there already, to go on behind them.
    kept
        Gives the tokens of these texts: those it has kept, or what it is given writes.
    """

    def write(numbers: range) -> list[list[int]]:
        input_ids, mask = padded([prompts[number % len(prompts)] for number in numbers])
        output = generate_plainly(
            input_ids,
            target=pair.target,
            draft=pair.draft,
            attention_mask=mask,
            draft_length=draft_length,
            generator=[seed_for(seed, 1, number) for number in numbers],
            account="counts",
            max_new_tokens=new_tokens,
            sampling=sampling,
        )
        if output.interrupted:
            raise KeyboardInterrupt
        return [written_tokens(output, place) for place in range(len(numbers))]

    left, start = limit - sum(finished), len(finished)
    while left > 0:
        numbers = range(start, start + batch_size)
        for number, tokens in zip(numbers, kept(numbers, write), strict=True):
            if left > 0:
                prompt = prompts[number % len(prompts)]
                text = torch.cat([prompt, prompt.new_tensor([tokens[:left]])], dim=1)
                yield Text(number % len(prompts), *raw_logits(pair, text, prompt.shape[1]))
                left -= len(tokens)
        start += batch_size


def padded(prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Prompts, `[1, length]` each, padded on the left, `[batch, longest]`, and their mask."""
    longest = max(prompt.shape[1] for prompt in prompts)
    input_ids = prompts[0].new_zeros((len(prompts), longest))
    mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - prompt.shape[1] :] = prompt[0]
        mask[row, longest - prompt.shape[1] :] = 1
    return input_ids, mask


def written_tokens(output: SpeculativeOutput, place: int) -> list[int]:
    """Tokens of one text of a batch, without prompt and padding."""
    start = output.sequences.shape[1] - max(text.generated for text in output.texts)
    return output.sequences[place, start : start + output.texts[place].generated].tolist()


@torch.no_grad()
def raw_logits(pair: Pair, text: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Draft's and target's logits, `[length - start, vocab]`, at the tokens of a text `[1, length]` from `start` on."""
    draft, target = (
        over_vocabulary(
            model(as_known_to(model, text[:, :-1].to(model.device), pair.vocab)).logits[0, start - 1 :], pair.vocab
        )
        for model in (pair.draft, pair.target)
    )
    return draft, target


def collect_positions(
    pair: Pair,
    prompts: Sequence[Tensor],
    *,
    new_tokens: int,
    limit: int,
    seed: int,
    sampling: Sampling = PLAIN,
    draft_length: int = 4,
    batch_size: int = 1,
    kept: Kept = written_afresh,
    progress: Callable[[int], object] = lambda positions: None,
) -> Positions:
    """Keep both laws at every new token of `sampled_texts`.

    Parameters
    ----------
    pair, prompts, new_tokens, limit, seed, draft_length, batch_size, kept
        As in `sampled_texts`.
    sampling
        Of the texts, and how logits become laws.
    progress
        Called with the number of positions of every text.
    """
    texts = sampled_texts(
        pair,
        prompts,
        new_tokens=new_tokens,
        limit=limit,
        seed=seed,
        sampling=sampling,
        draft_length=draft_length,
        batch_size=batch_size,
        kept=kept,
    )
    laws: list[list[Tensor]] = [[], []]
    owners: list[int] = []
    for text in texts:
        for each, logits in zip(laws, text[1:], strict=True):
            each.append(measured_law(logits, sampling).cpu())
        owners += [text.prompt] * len(text.draft_logits)
        progress(len(text.draft_logits))
    draft, target = (torch.cat(each) for each in laws)
    return Positions(draft=draft, target=target, prompt=np.array(owners), prompts=len(prompts))
