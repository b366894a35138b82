"""Drafts for one position by brute force: every set of tokens, and the chance that all drafts are in it."""

import itertools

import numpy as np


def members(vocab):
    """Every set of tokens, `[2^vocab, vocab]`."""
    return np.array(list(itertools.product([False, True], repeat=vocab)))


def set_chances(draft, drafts, replacement):
    """Probability that all drafts are in each set, one draft at a time: sets of tokens drawn so far."""
    drawn = {frozenset(): 1 + 0 * draft[0]}
    for _ in range(drafts):
        following = dict.fromkeys(drawn, 0 * draft[0]) if replacement else {}
        for tokens, chance in drawn.items():
            left = [x for x in np.flatnonzero(draft) if replacement or x not in tokens]
            if not left:
                following[tokens] = following.get(tokens, 0) + chance
            for x in left:
                more = tokens | {x}
                following[more] = following.get(more, 0) + chance * draft[x] / sum(draft[left])
        drawn = following
    sets = [frozenset(np.flatnonzero(row)) for row in members(len(draft))]
    return np.array([sum(chance for tokens, chance in drawn.items() if tokens <= inside) for inside in sets])


def needed_rejection(draft, output, drafts, replacement):
    """Largest excess of a set's chance over its output mass."""
    return (set_chances(draft, drafts, replacement) - members(len(draft)) @ output).max()
