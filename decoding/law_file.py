"""Laws in a file: one pair of arrays in an .npz."""

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from solvers.errors import InputError

LAWS = ("draft", "target")
LOGITS = ("draft_logits", "target_logits")


def read_laws(path: Path, temperature: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read a draft law and a target law.

    Parameters
    ----------
    path
        An .npz file with arrays `draft` and `target`, laws `[..., vocab]`, or `draft_logits` and `target_logits`.
    temperature
        Of the softmax, > 0, for logits only; None is 1.

    Returns
    -------
    draft, target
        `[vocab]` for one position, `[positions, vocab]` for several. From logits: float64. The laws are not checked
        here; `solve_pareto` does.

    Raises
    ------
    InputError
        A file that cannot be read, other arrays, logits that give no law.
    """
    arrays = read_arrays(path, (*LAWS, *LOGITS))
    has_laws, has_logits = (set(names) <= arrays.keys() for names in (LAWS, LOGITS))
    if has_laws == has_logits:
        found = ", ".join(arrays) or "none"
        raise InputError(f"{path}: expected arrays {' and '.join(LAWS)}, or {' and '.join(LOGITS)}; got {found}")
    if has_laws:
        if temperature is not None:
            raise InputError(f"temperature: expected only with {' and '.join(LOGITS)}; got laws")
        draft, target = (_flat(arrays[name], name) for name in LAWS)
    else:
        draft, target = (_softmax(arrays[name], name, 1.0 if temperature is None else temperature) for name in LOGITS)
    if draft.shape != target.shape:
        shapes = " and ".join(str(arrays[name].shape) for name in (LAWS if has_laws else LOGITS))
        raise InputError(f"{path}: expected equal shapes [..., vocab]; got {shapes}")
    return draft, target


def read_arrays(path: Path, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read some arrays of an .npz file; others are there by name, and empty.

    Raises
    ------
    InputError
        No such file, or not arrays in an .npz.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise InputError(f"{path}: expected an .npz file, as of numpy.savez; it is none")
        with np.load(path, allow_pickle=False) as stored:
            # the others are named, not read
            arrays = {name: stored[name] if name in wanted else np.empty(0) for name in stored.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: expected arrays of numbers in an .npz file; {_first_line(error)}") from None
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise InputError(f"{path}: expected arrays in an .npz file, as of numpy.savez; it holds other files")
    return arrays


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _flat(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 0 or 0 in array.shape:
        raise InputError(f"{name}: expected at least one token, [..., vocab]; got shape {array.shape}")
    rows = array.reshape(-1, array.shape[-1])
    return rows[0] if rows.shape[0] == 1 else rows


def _softmax(logits: np.ndarray, name: str, temperature: float) -> np.ndarray:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise InputError(f"temperature: expected a finite number > 0; got {temperature}")
    logits = checked_logits(_flat(logits, name), name).astype(np.float64)
    highest = logits.max(axis=-1, keepdims=True)
    # the highest is subtracted first: a tiny temperature must not overflow
    with np.errstate(over="ignore"):
        masses = np.exp((logits - highest) / temperature)
    return masses / masses.sum(axis=-1, keepdims=True)


def checked_logits(logits: np.ndarray, name: str) -> np.ndarray:
    """Give logits `[..., vocab]` back if a softmax of them is a law.

    Raises
    ------
    InputError
        Not real numbers, NaN, +inf, or a row of -inf only.
    """
    if logits.dtype.kind not in "iuf":
        raise InputError(f"{name}: expected real numbers; got {logits.dtype}")
    if np.isnan(logits).any() or np.isposinf(logits).any():
        raise InputError(f"{name}: expected finite logits, or -inf for tokens that are masked; got NaN or +inf")
    if np.isneginf(logits.max(axis=-1)).any():
        raise InputError(f"{name}: expected at least one token above -inf in every row; got a row of -inf only")
    return logits
