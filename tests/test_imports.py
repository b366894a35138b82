"""What loads when: `import tradeoff` stays light, and heavy libraries load on use."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "cvxpy", "transformers", "matplotlib", "scipy")


def loaded_after(code: str) -> set[str]:
    """Run code in a fresh interpreter and return which heavy libraries it loaded."""
    report = f"\nimport sys; print(','.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(filter(None, done.stdout.strip().split(",")))


PAIR = "import numpy as np, tradeoff; p, q = np.array([.5, .5]), np.array([.2, .8])\n"


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("import tradeoff", set()),
        (PAIR + "tradeoff.solve_pareto(p, q, divergence='kl').at(rejection=0.1)", set()),
        (PAIR + "tradeoff.evaluate(tradeoff.rules.CommonPrice(price=1.0), p, q).kl", set()),
        ("import tradeoff.fronts.plotting", {"matplotlib"}),
        ("import solvers.convex_program", {"cvxpy", "scipy"}),
    ],
    ids=["import", "solve_pareto", "evaluate", "plotting", "convex_program"],
)
def test_heavy_libraries_load_on_use_only(code, loaded):
    assert loaded_after(code) & {"torch", "transformers", *loaded} == loaded
    if not loaded:
        assert loaded_after(code) == set()


def test_every_public_name_exists():
    import tradeoff

    assert sorted(tradeoff.__all__) == tradeoff.__all__
    assert all(hasattr(tradeoff, name) for name in tradeoff.__all__)
