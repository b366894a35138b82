"""The randomness of a call: uniforms, a stream of its own for every text if wanted."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Uniforms:
    """Float64 uniforms in [0, 1), a stream per row or one for the batch; coarser ones return 0 every few million draws.

    Parameters
    ----------
    generator
        One per row, whose text then does not depend on the rest of the batch; or one for all; or None, torch's own.
    batch, device
        Rows, and where the numbers are needed.
    """

    def __init__(
        self, generator: torch.Generator | Sequence[torch.Generator] | None, batch: int, device: torch.device
    ) -> None:
        self._generator, self._batch, self._device = generator, batch, device

    def draw(self, rows: Sequence[int], counts: Sequence[int], places: int) -> Tensor:
        """Draw `[rows, 2 places + 1]`: for `places` drafted tokens, their acceptance, and the token that follows.

        Parameters
        ----------
        rows
            The rows that are left; what a row gets does not depend on which they are.
        counts
            Tokens that each of them can use, at most `places`: with a stream of its own it draws 2 count + 1 numbers.
        places
            Tokens drafted in this round.
        """
        if isinstance(self._generator, Sequence):
            drawn = [
                _placed(self._one(self._generator[row], (2 * count + 1,)), places)
                for row, count in zip(rows, counts, strict=True)
            ]
            return torch.stack(drawn).to(self._device)
        drawn = _placed(self._one(self._generator, (self._batch, 2 * max(counts) + 1)), places).to(self._device)
        return drawn if len(rows) == self._batch else drawn[list(rows)]

    def _one(self, generator: torch.Generator | None, shape: tuple[int, ...]) -> Tensor:
        device = self._device if generator is None else generator.device
        return torch.rand(shape, generator=generator, dtype=torch.float64, device=device)


def _placed(drawn: Tensor, places: int) -> Tensor:
    """Spread 2 c + 1 numbers, `[..., 2 c + 1]`, over the columns of c <= `places` tokens."""
    count = drawn.shape[-1] // 2
    if count == places:
        return drawn
    wide = drawn.new_zeros(*drawn.shape[:-1], 2 * places + 1)
    wide[..., :count] = drawn[..., :count]
    wide[..., places : places + count] = drawn[..., count:-1]
    wide[..., -1] = drawn[..., -1]
    return wide
