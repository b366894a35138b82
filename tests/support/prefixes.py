"""Laws of the next token after every prefix, small enough to enumerate every text."""

import numpy as np


def prefix_laws(seed, *, vocab=3, horizon=4, concentration=0.7, zeros=0.0):
    """Random laws after every prefix; `zeros` of their entries are zero, and some rows one-hot."""
    rng = np.random.default_rng(seed)
    tables = []
    for length in range(horizon):
        law = rng.dirichlet(np.full(vocab, concentration), size=(vocab,) * length)
        law = np.where(rng.random(law.shape) < zeros, 0.0, law)
        law[..., 0] += law.sum(-1) == 0
        tables.append(law / law.sum(-1, keepdims=True))
    return tables


def iid(law, horizon):
    """One law after every prefix."""
    return [np.broadcast_to(law, (len(law),) * (length + 1)) for length in range(horizon)]
