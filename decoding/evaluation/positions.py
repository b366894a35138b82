"""Real positions of a pair: the two laws after every prefix of texts the target itself writes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from decoding.huggingface import generate
from decoding.pairs import Pair
from solvers.arrays import mass
from solvers.divergences import total_variation

CHUNK = 128
"""Rows evaluated at once: in float64 at a vocabulary of 150k, two laws and their temporaries are about 1 GB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Positions:
    """Draft and target laws at real positions.

    Parameters
    ----------
    draft, target
        Laws `[positions, vocab]`, float32 to halve the memory; `chunks` gives them in float64, renormalised.
    prompt
        Which prompt each position belongs to, `[positions]`: positions of one text are not independent.
    prompts
        How many prompts there are.
    """

    draft: Tensor
    target: Tensor
    prompt: np.ndarray
    prompts: int

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (draft, target) in float64, at most `CHUNK` rows at a time."""
        for draft, target in zip(self.draft.split(CHUNK), self.target.split(CHUNK), strict=True):
            draft, target = draft.double(), target.double()
            yield draft / mass(draft, keepdims=True), target / mass(target, keepdims=True)

    @property
    def total_variation(self) -> np.ndarray:
        """TV(draft, target) at every position, `[positions]`: where lossless decoding rejects."""
        return np.concatenate([total_variation(draft, target).cpu().numpy() for draft, target in self.chunks()])


def seed_for(*keys: int) -> torch.Generator:
    """Make a generator whose stream depends on all keys and on nothing else."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> 1))


@torch.no_grad()
def collect_positions(
    pair: Pair,
    prompts: Sequence[Tensor],
    *,
    new_tokens: int,
    limit: int,
    seed: int,
    progress: Callable[[], None] = lambda: None,
) -> Positions:
    """Sample the target (losslessly, temperature 1) from each prompt and keep both laws at every new token.

    Parameters
    ----------
    prompts
        Token ids, each `[1, length]`.
    new_tokens
        Tokens per prompt.
    limit
        Positions in all; prompts are revisited with fresh texts until it is reached.
    seed
        Decides the texts.
    progress
        Called once per position.
    """
    drafts, targets, owners = [], [], []
    count, visit = 0, 0
    while count < limit:
        owner = visit % len(prompts)
        text = generate(
            pair.target,
            pair.draft,
            prompts[owner],
            generator=seed_for(seed, 1, visit),
            max_new_tokens=new_tokens,
            **PLAIN_SAMPLING,
        ).sequences
        fresh = min(text.shape[1] - prompts[owner].shape[1], limit - count)
        first = prompts[owner].shape[1] - 1
        for model, laws in ((pair.draft, drafts), (pair.target, targets)):
            logits = model(text[:, :-1].to(model.device)).logits[0, first : first + fresh]
            laws.append(logits.float().softmax(-1).cpu())
        owners += [owner] * fresh
        count, visit = count + fresh, visit + 1
        for _ in range(fresh):
            progress()
    return Positions(draft=torch.cat(drafts), target=torch.cat(targets), prompt=np.array(owners), prompts=len(prompts))


PLAIN_SAMPLING = {
    "do_sample": True,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": None,
    "repetition_penalty": 1.0,
}
"""The models' own laws, whatever their generation config says."""
