"""Keys and values at columns that differ from row to row; the second room that imports transformers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from solvers.errors import InputError


class RaggedLayer:
    """Buffers of one attention layer, its heads and widths those of the first keys and values.

    Parameters
    ----------
    keys, values
        Like what will be stored: `[batch, heads, any, key_dim]` and `[batch, heads, any, value_dim]`.
    size
        Columns to allocate.
    """

    def __init__(self, keys: Tensor, values: Tensor, size: int) -> None:
        self.keys, self.values = _zeros(keys, size), _zeros(values, size)

    @property
    def size(self) -> int:
        """Columns allocated."""
        return self.keys.shape[2]

    def write(self, keys: Tensor, values: Tensor, start: int) -> None:
        """Store `[batch, heads, n, dim]` at columns start, ..., start + n - 1 of every row."""
        count = keys.shape[2]
        self.keys.narrow(2, start, count).copy_(keys)
        self.values.narrow(2, start, count).copy_(values)

    def scatter(self, keys: Tensor, values: Tensor, rows: Tensor, columns: Tensor) -> None:
        """Store `[batch, heads, n, dim]` at `columns [batch, n]` of `rows [batch, 1]`."""
        # models split heads from [batch, n, heads, dim]: these transposes undo that and copy nothing
        self.keys.transpose(1, 2).index_put_((rows, columns), keys.transpose(1, 2))
        self.values.transpose(1, 2).index_put_((rows, columns), values.transpose(1, 2))

    def replace(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace both buffers by what `change` makes of them."""
        self.keys, self.values = change(self.keys), change(self.values)


class RaggedCache(Cache):
    """Keys and values of a batch whose rows grow by different numbers of tokens.

    The token at column j of row b has its key at keys[b, :, j]. How much of a row is valid is recorded nowhere: masks
    hide the columns after a query's own, and what was rejected is overwritten, so rewinding costs nothing.

    Parameters
    ----------
    capacity
        Most columns.
    static
        Allocate all columns at first use and keep the addresses, for captured graphs. Otherwise sizes double, so that
        all copying together is linear in the longest text.
    """

    def __init__(self, *, capacity: int, static: bool) -> None:
        # own buffers instead of transformers' layers, whose abstract methods change with the release
        super().__init__(layers=[])
        self.capacity, self.static = capacity, static
        self._buffers: dict[int, RaggedLayer] = {}
        self._columns = self._rows = torch.empty(0, 1, dtype=torch.int64)
        self._width, self._start = 0, None

    def place(self, columns: Tensor, *, width: int, start: int | None) -> None:
        """Say where the next tokens go.

        Parameters
        ----------
        columns
            `[batch, n]`, int64.
        width
            Attention sees the first `width` columns.
        start
            First column if those of every row are start, start + 1, ...; None otherwise.
        """
        if self._rows.shape[0] != columns.shape[0] or self._rows.device != columns.device:
            self._rows = torch.arange(columns.shape[0], device=columns.device)[:, None]
        self._columns, self._width, self._start = columns, width, start

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values and return all; every attention layer of the model calls it.

        Parameters
        ----------
        key_states, value_states
            `[batch, heads, n, key_dim]` and `[batch, heads, n, value_dim]`.
        layer_idx
            Which layer.
        args, kwargs
            What some models pass besides; not needed.

        Returns
        -------
        keys, values
            `[batch, heads, width, key_dim]` and `[batch, heads, width, value_dim]`, views of the buffers.
        """
        layer = self._allocated(layer_idx, key_states, value_states)
        if self._start is not None:
            layer.write(key_states, value_states, self._start)
        else:
            # layers of one model may live on several devices
            device = key_states.device
            layer.scatter(key_states, value_states, self._rows.to(device), self._columns.to(device))
        return layer.keys.narrow(2, 0, self._width), layer.values.narrow(2, 0, self._width)

    def _allocated(self, index: int, keys: Tensor, values: Tensor) -> RaggedLayer:
        layer = self._buffers.get(index)
        if layer is None:
            layer = self._buffers[index] = RaggedLayer(keys, values, self.capacity if self.static else self._width)
        elif layer.size < self._width:
            size = min(max(self._width, 2 * layer.size), self.capacity)
            layer.replace(lambda buffer: _grown(buffer, size))
        return layer

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """First column of the feed, where all rows share it: what a model that makes its own mask asks."""
        return 0 if self._start is None else self._start

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Columns attention sees, and the first of them: what a model that makes its own mask asks."""
        return self._width, 0

    @property
    def is_compileable(self) -> bool:
        """Whether addresses stay the same from feed to feed."""
        return self.static

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, `[kept]`, in this order."""
        for layer in self._buffers.values():
            layer.replace(lambda buffer: buffer.index_select(0, indices.to(buffer.device)))

    def share(self, winner: Tensor, columns: Tensor) -> None:
        """Copy columns of each group's winner to its whole group.

        Parameters
        ----------
        winner
            Which row of its group, `[groups]`; a group is batch / groups neighbouring rows.
        columns
            Which columns, `[groups, n]`.
        """
        groups = winner.shape[0]
        for layer in self._buffers.values():
            members = torch.arange(layer.keys.shape[0], device=layer.keys.device).view(groups, -1)
            won = members.gather(1, winner.to(members.device)[:, None])
            at = columns.to(members.device)
            for buffer in (layer.keys, layer.values):
                by_column = buffer.transpose(1, 2)
                by_column.index_put_((members[:, :, None], at[:, None]), by_column[won, at][:, None])

    def load(self, layers: Sequence[tuple[Tensor, Tensor]], pad: Tensor) -> None:
        """Store the first columns of every layer, each row moved left by its padding.

        Parameters
        ----------
        layers
            Keys `[batch, heads, length, key_dim]` and values `[batch, heads, length, value_dim]` of each layer.
        pad
            Padding of each row, `[batch]`.
        """
        for index, (keys, values) in enumerate(layers):
            length = keys.shape[2]
            columns = torch.arange(length, device=keys.device) + pad.to(keys.device)[:, None]
            # past a row's end its last column is repeated: finite, hidden and overwritten
            source = columns.clamp(max=length - 1)[:, None, :, None]
            layer = RaggedLayer(keys, values, self.capacity if self.static else length)
            layer.write(*(states.gather(2, source.expand_as(states)) for states in (keys, values)), start=0)
            self._buffers[index] = layer

    def stored(self, rows: Tensor, columns: Tensor) -> list[tuple[int, Tensor, Tensor]]:
        """Return copies of what `rows [n]` hold at `columns [n, m]`: layer, keys, values, `[n, heads, m, dim]`."""
        stored = []
        for index, layer in sorted(self._buffers.items()):
            device = layer.keys.device
            states = [buffer.index_select(0, rows.to(device)) for buffer in (layer.keys, layer.values)]
            at = columns.to(device)[:, None, :, None]
            keys, values = (each.gather(2, at.expand(*each.shape[:2], -1, each.shape[3])) for each in states)
            stored.append((index, keys, values))
        return stored


def stored_columns(past_key_values: Any, name: str) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of every layer of a user's cache, `[batch, heads, length, dim]`; none if it is empty.

    Parameters
    ----------
    past_key_values
        A DynamicCache or StaticCache.
    name
        "draft" or "target", for messages.

    Raises
    ------
    InputError
        Columns were dropped, packed, moved to another device or never were there.
    """
    kind = type(past_key_values).__name__
    expected = f"{name} model's past_key_values: expected a DynamicCache or StaticCache"
    remedy = "leave past_key_values out, and the prompt is read again"
    if not isinstance(past_key_values, Cache) or not hasattr(past_key_values, "layers"):
        raise InputError(f"{expected}; got {kind}; {remedy}")
    if past_key_values.offloading:
        raise InputError(f"{expected} on the model's device; got one that is offloaded; {remedy}")
    length = int(past_key_values.get_seq_length())
    if length == 0:
        return []
    stored = []
    for index, layer in enumerate(past_key_values.layers):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None or keys.ndim != 4 or keys.shape[2] < length:
            raise InputError(
                f"{expected} that holds all {length} columns; got {kind} whose layer {index}, a "
                f"{type(layer).__name__}, does not; {remedy}"
            )
        stored.append((keys[:, :, :length], values[:, :, :length]))
    return stored


def _zeros(like: Tensor, size: int) -> Tensor:
    # zeros, not what memory holds: a hidden column has weight 0, and 0 times NaN would still be NaN
    return like.new_zeros(like.shape[0], like.shape[1], size, like.shape[3])


def _grown(buffer: Tensor, size: int) -> Tensor:
    grown = _zeros(buffer, size)
    grown.narrow(2, 0, buffer.shape[2]).copy_(buffer)
    return grown
