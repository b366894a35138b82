"""Laws in a file: one pair of arrays in an .npz."""

import math
import os
import zipfile
from pathlib import Path

import numpy as np

from decoding.sampling.parameters import check_temperature
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
        Of the softmax, for logits only; None is 1.

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

    Headers are read before anything is unpacked: what they claim must be plain numbers or text, as much as the archive
    holds, and fit this machine's memory.

    Raises
    ------
    InputError
        No such file, or not arrays in an .npz.
    """
    if not path.is_file() and not path.is_dir():
        raise InputError(f"{path}: no such file" if not path.exists() else f"{path}: expected a file; got a device")
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise InputError(f"{path}: expected an .npz file, as of numpy.savez; it is none")
            with zipfile.ZipFile(file) as archive:
                return _arrays(archive, path, wanted)
    except InputError:
        raise
    # numpy, zipfile and the packers below them raise whatever Python does about broken bytes
    except Exception as error:  # noqa: BLE001
        raise InputError(f"{path}: expected arrays of numbers in an .npz file; {_first_line(error)}") from None


def _arrays(archive: zipfile.ZipFile, path: Path, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    members = archive.infolist()
    names = [each.filename.removesuffix(".npy") for each in members]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: expected every array once; got one name twice in the .npz file; write it again")
    if any(each.filename == name for each, name in zip(members, names, strict=True)):
        raise InputError(f"{path}: expected arrays in an .npz file, as of numpy.savez; it holds other files")
    chosen = [each for each, name in zip(members, names, strict=True) if name in wanted]
    claimed, most = sum(each.file_size for each in chosen), _memory() // 4
    if claimed > most:
        raise InputError(
            f"{path}: expected arrays that leave this machine room to work, at most {most:.1e} bytes; got "
            f"{claimed:.1e}; split the file"
        )
    for each in chosen:
        _check_header(archive, each, path)
    arrays = {name: np.empty(0) for name in names}
    for each in chosen:
        with archive.open(each) as packed:
            arrays[each.filename.removesuffix(".npy")] = np.lib.format.read_array(packed, allow_pickle=False)
    return arrays


def _check_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    with archive.open(member) as packed:
        version = np.lib.format.read_magic(packed)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise InputError(f"{path}: expected an array of format 1, 2 or 3; got {version[0]}.{version[1]}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(packed)
        held = member.file_size - packed.tell()
    place = f"{path}: {member.filename.removesuffix('.npy')}"
    if kind.hasobject:
        raise InputError(f"{place}: expected numbers; got Python objects, which are never loaded (allow_pickle=False)")
    if kind.fields is not None or kind.subdtype is not None or kind.kind not in "biufcU":
        raise InputError(f"{place}: expected plain numbers; got {kind}"[:300])
    if math.prod(shape) * kind.itemsize != held or min(shape, default=0) < 0:
        raise InputError(f"{place}: expected as many numbers as its header claims, {shape}; got {held} bytes")


def _memory() -> int:
    """Bytes of this machine's memory; where no system tells, those of a small one."""
    if not hasattr(os, "sysconf"):
        return 2**34
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _flat(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 0 or 0 in array.shape:
        raise InputError(f"{name}: expected at least one token, [..., vocab]; got shape {array.shape}")
    rows = array.reshape(-1, array.shape[-1])
    return rows[0] if rows.shape[0] == 1 else rows


def _softmax(logits: np.ndarray, name: str, temperature: float) -> np.ndarray:
    check_temperature(temperature)
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
