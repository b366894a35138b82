"""Raw logits at real positions in one compressed file: collected once, text by text, and read by many commands."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from decoding.evaluation.files.kept import make_folder, read_json, replace_file
from decoding.evaluation.files.plain_text import parse_json
from decoding.evaluation.front.law_file import LOGITS, checked_logits, read_arrays
from decoding.sampling.parameters import PLAIN, Sampling
from solvers.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.huggingface.pair import Pair


_PLAIN: dict[str, Any] = asdict(PLAIN)
"""What a file of positions means that was made before these were told."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What decides the positions; a file of them belongs to one of these.

    Parameters
    ----------
    pair
        Its name in tables.
    target, draft
        The models as they were named; None for the embedded pair.
    prompts
        The prompts themselves; the file keeps their number and a hash.
    positions
        How many positions in all.
    new_tokens
        Tokens per text.
    seed
        Decides the texts.
    sampling
        Temperature, top-p and top-k of the texts; the logits in the file are raw.
    dtype, device
        What the models compute in, and where.
    """

    pair: str
    target: str | None
    draft: str | None
    prompts: tuple[str, ...]
    positions: int
    new_tokens: int
    seed: int
    dtype: str
    device: str
    sampling: Sampling = PLAIN

    def __post_init__(self) -> None:
        for name, option in (("positions", "count"), ("new_tokens", "max_new_tokens")):
            if getattr(self, name) < 1:
                raise InputError(f"{option}: expected at least 1; got {getattr(self, name)}")

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the file."""
        text = json.dumps(self.prompts).encode()
        told = asdict(self) | {"prompts": len(self.prompts), "prompts_sha256": hashlib.sha256(text).hexdigest()[:16]}
        return told | told.pop("sampling")


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredLogits:
    """Raw logits at positions.

    Parameters
    ----------
    draft_logits, target_logits
        `[positions, vocab]`.
    prompt
        Which prompt each position belongs to, `[positions]`, numbered from 0 without gaps.
    settings
        What decided them, if the file tells.
    """

    draft_logits: np.ndarray
    target_logits: np.ndarray
    prompt: np.ndarray
    settings: dict[str, Any] | None

    def __len__(self) -> int:
        """Number of positions."""
        return len(self.prompt)

    @property
    def digest(self) -> str:
        """A hash of all numbers: results belong to these positions."""
        state = hashlib.sha256()
        for array in (self.draft_logits, self.target_logits, self.prompt):
            state.update(str((array.shape, array.dtype.str)).encode())
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()[:16]

    @property
    def sampling(self) -> Sampling | None:
        """How the texts were drawn; None if the file does not tell."""
        if self.settings is None or "seed" not in self.settings:
            return None
        told = _PLAIN | {name: self.settings[name] for name in _PLAIN.keys() & self.settings.keys()}
        if any(isinstance(each, bool) or not isinstance(each, int | float) for each in told.values()):
            return None
        try:
            return Sampling(**told)
        except InputError:
            return None

    def first(self, count: int) -> "StoredLogits":
        """Keep the first so many positions.

        Raises
        ------
        InputError
            More than there are, or none.
        """
        if not 1 <= count <= len(self):
            raise InputError(f"count: expected 1 to {len(self)}, the positions of this file; got {count}")
        return StoredLogits(
            draft_logits=self.draft_logits[:count],
            target_logits=self.target_logits[:count],
            prompt=_numbered(self.prompt[:count]),
            settings=self.settings,
        )


def read_logits(path: Path) -> StoredLogits:
    """Read any .npz file with arrays `draft_logits` and `target_logits`, `[..., vocab]`.

    An array `prompt`, `[...]`, tells which positions are of one text; without it each is a text of its own.

    Raises
    ------
    InputError
        No such file, other arrays, or logits of which a softmax is no law.
    """
    arrays = read_arrays(path, (*LOGITS, "prompt", "settings"))
    if not set(LOGITS) <= arrays.keys():
        found = ", ".join(arrays) or "none"
        raise InputError(f"{path}: expected arrays {' and '.join(LOGITS)}, for rules compare raw logits; got {found}")
    shapes = [arrays[name].shape for name in LOGITS]
    if shapes[0] != shapes[1] or len(shapes[0]) == 0 or 0 in shapes[0]:
        raise InputError(f"{path}: expected logits of equal shapes [..., vocab]; got {shapes[0]} and {shapes[1]}")
    draft, target = (checked_logits(arrays[name].reshape(-1, shapes[0][-1]), f"{path}: {name}") for name in LOGITS)
    owner = arrays.get("prompt", np.arange(len(draft))).reshape(-1)
    if owner.dtype.kind not in "iu" or len(owner) != len(draft):
        raise InputError(
            f"{path}: expected prompt to be {len(draft)} whole numbers, one a position; got {len(owner)} {owner.dtype}"
        )
    return StoredLogits(
        draft_logits=draft, target_logits=target, prompt=_numbered(owner), settings=_settings(arrays.get("settings"))
    )


def stored_logits(path: Path, collection: Collection) -> StoredLogits | None:
    """Positions collected before, of exactly these settings; None if there is no such file yet.

    Raises
    ------
    InputError
        The file, or what an interrupted run left of it, is of other settings; or it cannot be read.
    """
    if not path.exists():
        _check_settings(_parts(path), _written_settings(_parts(path)), collection)
        return None
    found = read_logits(path)
    _check_settings(path, found.settings or {}, collection)
    shutil.rmtree(_parts(path), ignore_errors=True)  # an interruption after the merge may have left them
    return found


def collect_logits(
    pair: "Pair",
    prompts: "Sequence[Tensor]",
    collection: Collection,
    path: Path,
    progress: Callable[[int], object] = lambda positions: None,
) -> StoredLogits:
    """Collect positions and write the file; interrupted, it goes on behind the last finished text.

    One text at a time is in memory; finished ones are parts in a folder beside the file, merged at the end.

    Parameters
    ----------
    pair, prompts
        As in `sampled_texts`.
    collection
        The settings, written into the file.
    path
        The file, which must not be there.
    progress
        Called with the number of positions of every text, at once for those that are there already.

    Raises
    ------
    InputError
        Parts of other settings, or the folder cannot be written.
    """
    from decoding.evaluation.positions.collect import sampled_texts  # torch loads on use

    parts = _parts(path)
    _check_settings(parts, _written_settings(parts), collection)
    make_folder(parts)
    replace_file(parts / "settings.json", lambda file: file.write(json.dumps(collection.to_dict(), indent=1).encode()))
    sizes = _finished(parts)
    for size in sizes:
        progress(size)
    texts = sampled_texts(
        pair,
        prompts,
        new_tokens=collection.new_tokens,
        limit=collection.positions,
        seed=collection.seed,
        sampling=collection.sampling,
        finished=sizes,
    )
    for number, text in enumerate(texts, start=len(sizes)):
        arrays = {name: getattr(text, name).cpu().numpy() for name in LOGITS}
        arrays["prompt"] = np.full(len(text.draft_logits), text.prompt)
        replace_file(_part(parts, number), lambda file, arrays=arrays: np.savez(file, **arrays))
        sizes.append(len(text.draft_logits))
        progress(sizes[-1])
    arrays = _merged(parts, sizes)
    written: dict[str, Any] = arrays | {"settings": np.array(json.dumps(collection.to_dict()))}
    replace_file(path, lambda file: np.savez_compressed(file, **written))
    shutil.rmtree(parts, ignore_errors=True)  # `stored_logits` tries again
    return StoredLogits(
        **{name: arrays[name] for name in LOGITS}, prompt=_numbered(arrays["prompt"]), settings=collection.to_dict()
    )


def _parts(path: Path) -> Path:
    return path.with_suffix(".parts")


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.npz"


def _finished(parts: Path) -> list[int]:
    """Positions of every finished text, up to the first that is missing or torn."""
    sizes: list[int] = []
    while (arrays := _read_part(_part(parts, len(sizes)))) is not None:
        sizes.append(len(arrays["prompt"]))
    return sizes


def _read_part(path: Path) -> dict[str, np.ndarray] | None:
    wanted = (*LOGITS, "prompt")
    try:
        found = read_arrays(path, wanted)
    except InputError:
        return None
    return {name: found[name] for name in wanted} if set(wanted) <= found.keys() else None


def _merged(parts: Path, sizes: Sequence[int]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for number, size in enumerate(sizes):
        part = _read_part(_part(parts, number))
        if part is None:
            raise InputError(f"{_part(parts, number)}: expected a text's logits; it cannot be read; run again")
        for name, values in part.items():
            whole = arrays.setdefault(name, np.empty((sum(sizes), *values.shape[1:]), values.dtype))
            whole[start : start + size] = values
        start += size
    return arrays


def _written_settings(parts: Path) -> dict[str, Any] | None:
    """Of parts an interrupted run left; None if there are none, empty if they do not tell."""
    written = parts / "settings.json"
    if not written.exists():
        return {} if any(parts.glob("*.npz")) else None
    try:
        found = read_json(written)
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}


def _settings(array: np.ndarray | None) -> dict[str, Any] | None:
    try:
        found = parse_json(str(array), where="settings")
    except InputError:
        return None
    return found if isinstance(found, dict) else None


def _check_settings(path: Path, found: dict[str, Any] | None, collection: Collection) -> None:
    wanted = collection.to_dict()
    if found is None:
        return
    found = _PLAIN | found
    if found == wanted:
        return
    other = [name for name in wanted if found.get(name) != wanted[name]]
    shown = ", ".join(f"{name} {found.get(name)!r}, not {wanted[name]!r}" for name in other[:3])
    raise InputError(
        f"{path}: expected positions of these settings; it holds others ({shown}); choose another --out, or delete it"
    )


def _numbered(owner: np.ndarray) -> np.ndarray:
    return np.unique(owner, return_inverse=True)[1].reshape(-1)
