"""Real positions of a pair: the two laws after every prefix of texts the target itself writes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from decoding.huggingface import check_context, generate
from decoding.laws import as_known_to, over_vocabulary
from decoding.pairs import Pair
from solvers.errors import InputError
from tradeoff.positions import Positions


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

    rows = map(tokens, prompts)
    encoded = [ids.to(pair.target.device) for ids in rows]
    for number, ids in enumerate(encoded, start=1):
        try:
            check_context(pair.target, pair.draft, ids.shape[1], ids.shape[1] + max_new_tokens)
        except InputError as error:
            raise InputError(f"prompt {number}: {error}") from error
    return encoded


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
        output = generate(
            pair.target,
            pair.draft,
            prompts[owner],
            attention_mask=torch.ones_like(prompts[owner]),
            generator=seed_for(seed, 1, visit),
            account="counts",
            max_new_tokens=new_tokens,
            **PLAIN_SAMPLING,
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


PLAIN_SAMPLING: dict[str, Any] = {
    "do_sample": True,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": None,
    "repetition_penalty": 1.0,
}
"""The models' own laws, whatever their generation config says."""


def sampling_at(temperature: float) -> dict[str, Any]:
    """The models' own laws at a temperature."""
    return PLAIN_SAMPLING | {"temperature": temperature}
