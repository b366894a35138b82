"""The stories that the pair is trained on: read from one text file, and cut into the windows of a step."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from solvers.errors import InputError

SEPARATOR = "<|endoftext|>"
SEPARATOR_ID = 0
WINDOW = 512
WINDOWS_PER_STEP = 4
SHORTEST_TEXT = 200

Stories = dict[str, list[np.ndarray]]  # "training" and "held_out"; each story ends with the separator


def read_stories(path: Path) -> tuple[list[str], str]:
    """Return the stories of a text file and the SHA-256 of its bytes.

    Raises
    ------
    InputError
        If the file cannot be read or holds fewer than ``SHORTEST_TEXT`` stories.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the training text {path}: {error.strerror}; check --text") from error
    # What follows the last separator is dropped: in a sample cut by size it is the torso of a story.
    pieces = raw.decode("utf-8", errors="ignore").split(SEPARATOR)[:-1]
    stories = [piece.strip() for piece in pieces if piece.strip()]
    if len(stories) < SHORTEST_TEXT:
        found = f"{path} holds {len(stories)} stories ended by a {SEPARATOR} line"
        raise InputError(f"{found}; at least {SHORTEST_TEXT} are needed; give a longer text with --text")
    return stories, hashlib.sha256(raw).hexdigest()


def batch_at(stories: list[np.ndarray], step: int, seed: int) -> torch.Tensor:
    """Return the windows of one step, shape (WINDOWS_PER_STEP, WINDOW), a function of its arguments alone.

    Every epoch joins the stories in a new order and cuts the stream into windows, so a window may start
    anywhere, and stories follow one another after a separator.
    """
    tokens = sum(len(story) for story in stories)
    steps_per_epoch = (tokens - WINDOW) // (WINDOW * WINDOWS_PER_STEP)
    epoch, index = divmod(step, steps_per_epoch)
    draw = np.random.default_rng([seed, epoch])
    stream = np.concatenate([stories[i] for i in draw.permutation(len(stories))])
    shift = int(draw.integers(WINDOW))
    windows = draw.permutation(steps_per_epoch * WINDOWS_PER_STEP).reshape(steps_per_epoch, -1)
    return torch.from_numpy(np.stack([stream[shift + w * WINDOW :][:WINDOW] for w in windows[index]]))
