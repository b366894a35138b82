"""Figures show the numbers of the front, nothing else."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from solvers.divergences import DIVERGENCES
from tradeoff import solve_pareto
from tradeoff.plotting import LABELS

DRAFT = np.array([0.7, 0.2, 0.1])
TARGET = np.array([0.4, 0.4, 0.2])


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_line_is_the_front(name):
    front = solve_pareto(DRAFT, TARGET, divergence=name)
    ax = front.plot()
    (line,) = ax.get_lines()
    assert np.asarray(line.get_xdata()).tolist() == front.rejection.tolist()
    assert np.asarray(line.get_ydata()).tolist() == front.divergence.tolist()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("rejection probability", LABELS[name])
    assert ax.get_xlim()[0] == ax.get_ylim()[0] == 0
    assert len(ax.collections) == 1, "the unattainable region is shaded"
    ax.figure.canvas.draw()


def test_a_front_is_drawn_into_the_given_axes():
    _, axes = plt.subplots(1, 2)
    assert solve_pareto(DRAFT, TARGET).plot(axes[1]) is axes[1]
    assert len(axes[1].get_lines()) == 1
    assert not axes[0].get_lines()


def test_a_batch_is_one_line_per_pair():
    rng = np.random.default_rng(0)
    draft, target = torch.asarray(rng.dirichlet(np.ones(5), size=(2, 2, 3)))
    front = solve_pareto(draft, target, divergence="kl", rejection=[0.0, 0.01])
    lines = front.plot().get_lines()
    assert len(lines) == 6
    for line, (i, j) in zip(lines, np.ndindex(2, 3), strict=True):
        assert np.asarray(line.get_xdata()).tolist() == front.rejection[:, i, j].tolist()
        assert np.asarray(line.get_ydata()).tolist() == front.divergence[:, i, j].tolist()


def test_infinite_divergences_are_left_out_of_the_line():
    front = solve_pareto(np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.4, 0.6]), divergence="kl")
    assert np.isinf(front.divergence[0])
    ax = front.plot()
    drawn = np.asarray(ax.get_lines()[0].get_ydata())
    assert np.isnan(drawn[np.isinf(front.divergence)]).all()
    assert drawn[np.isfinite(front.divergence)].tolist() == front.divergence[np.isfinite(front.divergence)].tolist()
    ax.figure.canvas.draw()


def test_every_divergence_has_a_label():
    assert LABELS.keys() == DIVERGENCES.keys()
