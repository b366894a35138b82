"""A causal language model with a key-value cache whose rows grow, and shrink, each at its own pace."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from decoding.models.architecture import rotary_switch, text_body, windows
from decoding.models.ragged_cache import RaggedCache, stored_columns
from decoding.models.wrappers import execution_device
from solvers.errors import InputError

_ARGUMENTS = ("input_ids", "attention_mask", "position_ids", "past_key_values")

PIECE = 1024
"""Prompt tokens fed at once: masks and activations of a longer piece grow with its square."""

BUCKET = 256
"""A static cache attends to a multiple of so many columns: work grows with the text, and graphs stay few."""

PROGRAMS = 64
"""Most compiled programs of one model class: batches, numbers of tokens and widths."""

_OTHER_POSITIONS = {"gpt_neo", "kosmos_2_text_model", "kosmos_2_5_text_model"}
"""GPT-Neo counts positions from the number of keys, Kosmos from its padding token, whatever it is given."""

_LAYER_TYPES = {"full_attention", "sliding_attention"}


class CachedModel:
    """Feed a model tokens at explicit columns; attention sees the columns up to a token's own.

    Token x of row b at column j attends to the columns i <= j of row b, in a layer with sliding window w to those
    with j - w < i <= j. Columns after a row's end may hold anything finite: they are hidden until overwritten. So a
    row is rewound by feeding an earlier column again, and rows need not be equally long.

    Parameters
    ----------
    model
        A Hugging Face causal LM with attention layers only; the masks are for its attention "sdpa" or "eager".
    name
        "draft" or "target", for messages.
    batch
        Rows.
    capacity
        Most columns: the longest text.
    static
        Allocate all columns at the first feed and never move them, for captured graphs; `select` is then
        refused. Otherwise memory follows the text.
    compiled
        Run the model's forward through torch.compile, one compilation per shape.

    Raises
    ------
    InputError
        A model whose state is not keys and values at columns, or whose attention takes no explicit mask.
    """

    def __init__(
        self, model: Any, name: str, *, batch: int, capacity: int, static: bool = False, compiled: bool = False
    ) -> None:
        _check_model(model, name)
        self.model, self.name = model, name
        # whole buckets where addresses are fixed: calls of other lengths then have the same shapes, compiled before
        capacity = -(-capacity // BUCKET) * BUCKET if static else capacity
        self.batch, self.capacity, self.static = batch, capacity, static
        self.device = execution_device(model)
        self._forward = _compiled(model) if compiled else model
        self.calls = 0
        config = model.config.get_text_config()
        self._windows = windows(model, name)
        self._context: int | None = getattr(config, "max_position_embeddings", None)
        self._switch = rotary_switch(model)
        self._last_position = self._last_before(self._context, self._switch)
        self._cache = RaggedCache(capacity=capacity, static=static)
        self._every_column = torch.arange(capacity, device=self.device)
        # logits of a whole prompt at a large vocabulary are gigabytes; most models can keep only the last ones
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.no_grad()
    def feed(self, tokens: Tensor, columns: Tensor, *, width: int, keep: int, start: int | None = None) -> Tensor:
        """Run the model on n tokens per row and return the logits after the last `keep` of them.

        Parameters
        ----------
        tokens
            `[batch, n]`, int64, on any device.
        columns
            Where they stand, `[batch, n]`, int64, all below `width`; they are the position ids too.
        width
            Attention sees the first `width` columns, at most `capacity`.
        keep
            1 to n.
        start
            First column if those of every row are start, start + 1, ...: faster. None otherwise.

        Returns
        -------
        Tensor
            Logits in the model's own dtype, `[batch, keep, vocab]`.

        Raises
        ------
        InputError
            Shapes that do not fit, or columns beyond the capacity; the model has not run then.
        """
        return self._run(self._forward, tokens, columns, width=width, keep=keep, start=start)

    def _run(
        self, forward: Callable[..., Any], tokens: Tensor, columns: Tensor, *, width: int, keep: int, start: int | None
    ) -> Tensor:
        count = tokens.shape[1]
        self._check_feed(tokens, columns, width, keep, start)
        columns = columns.to(self.device)
        self._cache.place(columns, width=width, start=start)
        extra = {"logits_to_keep": keep} if self._keeps else {}
        # whole prompts, and one token that sees all columns, are plainly causal: with no mask kernels are faster
        plain = start is not None and start + count == width and (start == 0 or count == 1)
        output = forward(
            input_ids=tokens.to(self.device),
            attention_mask=None if plain else self._masks(columns, width, start),
            position_ids=columns if self._last_position is None else columns.clamp(max=self._last_position),
            past_key_values=self._cache,
            use_cache=True,
            return_dict=True,
            **extra,
        )
        self.calls += 1
        return output.logits[:, -keep:]

    @torch.no_grad()
    def prefill(self, tokens: Tensor, *, first: int, last: int) -> None:
        """Feed columns `first` to `last` - 1 of every row, a piece at a time.

        Rows that end before get keys of whatever stands there: hidden, and overwritten when the row gets that far.

        Parameters
        ----------
        tokens
            `[batch, capacity]`.
        first, last
            Columns; nothing is fed if there are none.
        """
        piece_length = PIECE
        if self._switch is not None and last > self._switch:
            if 0 < first <= self._switch:
                raise InputError(
                    f"{self.name} model's past_key_values: expected more than {self._switch} columns, since the prompt "
                    f"is longer and rotary frequencies change there; got {first}; leave past_key_values out"
                )
            # keys of a long text are all rotated as its last position asks, which must be in their feed
            self._last_position, piece_length = self._last_before(self._context), max(last - first, 1)
        for start in range(first, last, piece_length):
            columns = torch.arange(start, min(start + piece_length, last), device=tokens.device)
            piece = tokens[:, start : start + len(columns)]
            width = start + len(columns)
            # every prompt has a length of its own: not worth a compilation
            # contiguous: some models view their position ids
            columns = columns.expand_as(piece).contiguous()
            self._run(self.model, piece, columns, width=width, keep=1, start=start)

    def width(self, columns: int) -> int:
        """Columns that attention should see for these to be among them: few values where graphs are captured."""
        return -(-columns // BUCKET) * BUCKET if self.static else columns

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, `[kept]`, in this order.

        Raises
        ------
        InputError
            A static cache.
        """
        self._check_moving("select")
        self._cache.batch_select_indices(rows)
        self.batch = rows.shape[0]

    def share(self, winner: Tensor, columns: Tensor) -> None:
        """Give every row of a group what the group's winner holds at some columns.

        Parameters
        ----------
        winner
            Which row of its group, from 0, `[groups]`; a group is batch / groups neighbouring rows.
        columns
            Which columns, all fed before, `[groups, n]`.

        Raises
        ------
        InputError
            The batch is not that many equal groups.
        """
        groups = winner.shape[0]
        if self.batch % groups or columns.shape[0] != groups:
            raise InputError(
                f"share: expected equal groups of the {self.batch} rows, and columns for each; got {groups} winners "
                f"and columns {tuple(columns.shape)}"
            )
        self._cache.share(winner, columns)

    def load(self, past_key_values: Any, pad: Tensor) -> int:
        """Start from a cache the model has filled before, and return how many columns it held.

        The cache of a left-padded batch is moved left by the padding of each row, so that row b's tokens stand at
        columns 0, ..., held - pad[b] - 1. Their position ids must have counted from each row's first real token, as
        `generate` counts them.

        Parameters
        ----------
        past_key_values
            A DynamicCache or StaticCache of this model.
        pad
            Padding of each row, `[batch]`, int64.

        Raises
        ------
        InputError
            Another kind of cache, one that has dropped columns, or one that does not fit.
        """
        layers = stored_columns(past_key_values, self.name)
        if not layers:
            return 0
        rows, _, held, _ = layers[0][0].shape
        if rows != self.batch or pad.shape != (rows,) or held > self.capacity:
            raise InputError(
                f"{self.name} model's past_key_values: expected {self.batch} rows of at most {self.capacity} columns, "
                f"and one padding for each; got {rows} rows of {held} and paddings {tuple(pad.shape)}"
            )
        self._cache.load(layers, pad)
        return held

    def stored(self, rows: Tensor, columns: Tensor) -> list[tuple[int, Tensor, Tensor]]:
        """Return copies of what `rows [n]` hold at `columns [n, m]`: layer, keys, values, `[n, heads, m, dim]`."""
        return self._cache.stored(rows, columns)

    def _masks(self, columns: Tensor, width: int, start: int | None) -> Tensor | dict[str, Tensor]:
        own = (columns if start is None else columns[:1])[:, None, :, None]
        masks = {kind: self._mask(own, width, window) for kind, window in self._windows.items()}
        # a model with one kind of layer may not know about dictionaries
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _mask(self, own: Tensor, width: int, window: int | None) -> Tensor:
        """Which columns a query at column `own [batch or 1, 1, n, 1]` sees, `[batch or 1, 1, n, width]`."""
        every = self._every_column[:width]
        hidden = every > own
        if window is not None:
            hidden |= every <= own - window
        # additive for sdpa too, which would make this of a boolean mask in every layer; minus infinity, because a stale
        # score in float16 may be as large as the minimum that transformers adds
        return torch.zeros(hidden.shape, dtype=self.model.dtype, device=own.device).masked_fill_(hidden, -torch.inf)

    def _last_before(self, *ends: int | None) -> int | None:
        """Position of the last token before the first of these ends; None if the cache ends before.

        Drafts behind a text that is nearly full stand beyond the model's last position, or would be the first behind
        its rotary switch: they are held back, and nobody reads their logits.
        """
        reached = [end for end in ends if end is not None and self.capacity > end]
        return min(reached) - 1 if reached else None

    def _check_feed(self, tokens: Tensor, columns: Tensor, width: int, keep: int, start: int | None) -> None:
        count = tokens.shape[1]
        if tokens.shape != columns.shape or tokens.shape[0] != self.batch or not 1 <= keep <= count:
            raise InputError(
                f"feed: expected tokens and columns [{self.batch}, n], and keep from 1 to n; got "
                f"{tuple(tokens.shape)}, {tuple(columns.shape)} and keep {keep}"
            )
        if width > self.capacity or (start is not None and not 0 <= start <= width - count):
            raise InputError(
                f"{self.name} model: expected columns within the first {width}, and these within the capacity of "
                f"{self.capacity}; got {count} tokens from column {start}; construct it with the longest text's length"
            )

    def _check_moving(self, method: str) -> None:
        if self.static:
            raise InputError(
                f"{method}: expected a cache that may move; got a static one, whose addresses graphs may have "
                "captured; construct the CachedModel with static=False"
            )


def _compiled(model: Any) -> Callable[..., Any]:
    """Compile the model's forward, a program for every shape."""
    forward = torch.compile(model.forward, dynamic=False)

    def run(**arguments: Any) -> Any:
        # 8 by default, for both models of a pair together: beyond it torch falls back to eager without a word
        with torch._dynamo.config.patch(recompile_limit=PROGRAMS):
            return forward(**arguments)

    return run


def _check_model(model: Any, name: str) -> None:
    """Refuse models that keep anything but keys and values by column, or that count columns themselves."""
    kind = type(model).__name__
    expected = f"{name} model: expected a Hugging Face causal LM with attention layers only"
    remedy = "choose a decoder such as GPT-NeoX, Llama, Qwen or Gemma"
    if not hasattr(model, "config") or not hasattr(model, "forward") or model.config.is_encoder_decoder:
        raise InputError(f"{expected}; got {kind}; {remedy}")
    config = model.config.get_text_config()
    parameters = inspect.signature(model.forward).parameters
    missing = [argument for argument in _ARGUMENTS if argument not in parameters]
    if missing:
        raise InputError(f"{expected} whose forward takes {', '.join(_ARGUMENTS)}; got {kind} without {missing[0]}")
    other = sorted(set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES)
    if other or getattr(model, "_is_stateful", False):
        raise InputError(f"{expected}; got {kind} with {', '.join(other) or 'recurrent'} layers; {remedy}")
    # ALiBi counts distances from the mask
    if getattr(config, "alibi", False) or config.model_type in _OTHER_POSITIONS:
        raise InputError(f"{expected} and position ids; got {kind}, which derives positions otherwise; {remedy}")
    if any(getattr(module, "is_causal", True) is False for module in text_body(model).modules()):
        raise InputError(f"{expected}, causal ones; got {kind}, which attends to later tokens; {remedy}")
    attention = config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise InputError(
            f"{name} model: expected attention that takes an explicit mask; got {kind} with {attention!r}; "
            'load it with attn_implementation="sdpa"'
        )
