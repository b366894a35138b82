"""Real positions of a pair: the two laws after every prefix of texts the target itself writes."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from decoding.huggingface import check_context, context_length, generate_plainly, vocabulary_size
from decoding.huggingface.pair import Pair
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


@torch.no_grad()
def sampled_texts(
    pair: Pair,
    prompts: Sequence[Tensor],
    *,
    new_tokens: int,
    limit: int,
    seed: int,
    finished: Sequence[int] = (),
) -> Iterator[Text]:
    """Sample the target (losslessly, temperature 1) from each prompt in turn; one text in memory at a time.

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
    finished
        Positions of the texts that are there already, to go on behind them.
    """
    count, visit = sum(finished), len(finished)
    while count < limit:
        owner = visit % len(prompts)
        output = generate_plainly(
            prompts[owner],
            target=pair.target,
            draft=pair.draft,
            attention_mask=torch.ones_like(prompts[owner]),
            generator=seed_for(seed, 1, visit),
            account="counts",
            max_new_tokens=new_tokens,
        )
        if output.interrupted:
            raise KeyboardInterrupt
        start = prompts[owner].shape[1]
        fresh = min(output.sequences.shape[1] - start, limit - count)
        draft_logits, target_logits = raw_logits(pair, output.sequences, start)
        yield Text(owner, draft_logits[:fresh], target_logits[:fresh])
        count, visit = count + fresh, visit + 1


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
    progress: Callable[[], object] = lambda: None,
) -> Positions:
    """Keep both laws at every new token of `sampled_texts`; `progress` is called once per position."""
    drafts, targets, owners = [], [], []
    for text in sampled_texts(pair, prompts, new_tokens=new_tokens, limit=limit, seed=seed):
        drafts.append(text.draft_logits.softmax(-1).cpu())
        targets.append(text.target_logits.softmax(-1).cpu())
        owners += [text.prompt] * len(text.draft_logits)
        for _ in range(len(text.draft_logits)):
            progress()
    return Positions(draft=torch.cat(drafts), target=torch.cat(targets), prompt=np.array(owners), prompts=len(prompts))
