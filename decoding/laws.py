"""From logits to the laws that are really sampled: processors applied once, float64, checked for NaN."""

from collections.abc import Callable

import torch
from torch import Tensor

from solvers.errors import InputError

Processors = Callable[[Tensor, Tensor], Tensor]
"""`(tokens [1, length], logits [1, vocab]) -> logits [1, vocab]`, as Hugging Face's logits processors."""


def laws_from_logits(
    logits: Tensor, tokens: Tensor, *, processors: Processors | None, greedy: bool, name: str
) -> Tensor:
    """Turn logits into laws, `[n, vocab]` to `[n, vocab]` in float64.

    Parameters
    ----------
    logits
        Logits after each of the last n tokens, `[n, vocab]`.
    tokens
        The sequence, `[length]`; row i of `logits` follows `tokens[: length - n + 1 + i]`.
    processors
        Temperature, top-k, repetition penalty and the like; None for none.
    greedy
        Point masses on the largest processed logit instead of a softmax.
    name
        "draft" or "target", for messages.

    Raises
    ------
    InputError
        NaN logits, or a row that the processors masked completely.
    """
    scores = logits.to(device=tokens.device, dtype=torch.float32)
    if processors is not None:
        first = len(tokens) - len(scores) + 1
        rows = [processors(tokens[None, : first + row], scores[row : row + 1].clone()) for row in range(len(scores))]
        scores = torch.cat(rows)
    if bool(scores.isnan().any()) or not bool((scores.max(-1).values > -torch.inf).all()):
        raise InputError(
            f"{name} model: expected at least one finite logit and no NaN after {len(tokens)} tokens; check the "
            "weights' dtype and the logits processors"
        )
    if greedy:
        return torch.nn.functional.one_hot(scores.argmax(-1), scores.shape[-1]).to(torch.float64)
    return scores.to(torch.float64).softmax(-1)
