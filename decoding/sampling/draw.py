"""Laws from logits, and a token from a law and a uniform: what drafting and verification must do alike."""

import torch
from torch import Tensor


def law(logits: Tensor, temperature: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Law softmax(logits / temperature); at temperature 0 the point mass on the first largest logit.

    Parameters
    ----------
    logits
        `[..., vocab]`, any floating dtype; -inf for a masked token, no NaN, no +inf, at least one finite.
    temperature
        At least 0.
    dtype
        Of the law and of the arithmetic. Whoever draws from the law and whoever verifies must use the same.

    Returns
    -------
    Tensor
        `[..., vocab]`.
    """
    if temperature == 0:
        return torch.zeros_like(logits, dtype=dtype).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    scores = logits.to(dtype)
    if temperature != 1:
        # the largest becomes 0, so that no temperature, however small, overflows
        scores = (scores - scores.amax(-1, keepdim=True)).div_(temperature)
    return scores.softmax(-1)


def inverse_cdf(masses: Tensor, uniforms: Tensor) -> Tensor:
    """Draw tokens: the first whose cumulative mass, in float64, exceeds uniform x total.

    A token without mass is never drawn, not even at uniform 0, and the last token with mass ends the search however
    the sums are rounded.

    Parameters
    ----------
    masses
        `[..., vocab]`, at least 0, of positive sum, which need not be 1.
    uniforms
        In [0, 1), float64, `[...]`.

    Returns
    -------
    Tensor
        Tokens `[...]`, int64; of a row without mass, or with NaN, any token.
    """
    reach = masses.cumsum(-1, dtype=torch.float64)
    if on_host(masses):
        # added in order: a token without mass reaches no further than the one before it
        found = torch.searchsorted(reach, _threshold(uniforms[..., None], reach[..., -1:]), right=True)[..., 0]
        return found.clamp(max=masses.shape[-1] - 1)  # NaN masses have no token; the caller finds out, we give one
    # added in any order: sums may fall by a rounding, and move at a token without mass
    reach = reach.masked_fill_(masses <= 0, 0.0)
    threshold = _threshold(uniforms[..., None], reach.amax(-1, keepdim=True))
    return (reach > threshold).to(torch.uint8).argmax(-1)


def _threshold(uniforms: Tensor, total: Tensor) -> Tensor:
    """Uniform x total, below the total: the product may round up to it."""
    return torch.minimum(uniforms * total, total.nextafter(torch.full_like(total, -torch.inf)))


def unusable(logits: Tensor) -> Tensor:
    """Whether logits `[..., vocab]` have no law, `[...]` bool: NaN, +inf, or nothing finite."""
    # NaN wins every maximum
    return ~logits.amax(-1).isfinite()


def unusable_rows(logits: Tensor, needed: Tensor) -> Tensor:
    """Whether a row has unusable logits among its first `needed` positions, `[batch]` bool.

    Parameters
    ----------
    logits
        `[batch, n, vocab]`.
    needed
        `[batch]`, int64.
    """
    place = torch.arange(logits.shape[1], device=needed.device)
    return (unusable(logits) & (place < needed[:, None])).any(-1)


def on_host(values: Tensor) -> bool:
    """Whether values can be looked at without waiting for a device."""
    return values.device.type == "cpu"
