"""What looking ahead saves over whole texts on Markov chains, and how large a chain the dynamic programme takes.

Run it with `python -m benchmarks.sequence_front`: rows in `benchmarks/results`, figure in `docs/sequence_front.png`.
"""

import time
import tracemalloc
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.harness import write_rows
from tradeoff.chains.chain import MarkovChain
from tradeoff.chains.sequence import solve_sequence_pareto

CHAINS, STATES, HORIZON, FLATNESS = 12, 6, 8, 0.5
LARGE = {"states": 1000, "horizon": 100, "price": 2.0}
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the lossless expected rejections."""
SEED = 0
WAYS = {
    "epsilon": "constant $\\epsilon$ (Decoding-OPT)",
    "common_ceiling": "common ceiling",
    "common_price": "common price, no look-ahead",
}
COLOURS = {"optimum": "#1f5fa8", "common_price": "#4f9d8f", "common_ceiling": "#8a6fb0", "epsilon": "#d9622b"}
STYLES = {"optimum": "o-", "common_price": "o-", "common_ceiling": "s--", "epsilon": "o-"}
FIGURE = Path(__file__).parents[1] / "docs" / "sequence_front.png"


def random_chains(seed: int, states: int) -> tuple[MarkovChain, MarkovChain]:
    """A draft and a target with unrelated Dirichlet laws in every state, from a prompt of any state."""
    laws = np.random.default_rng([SEED, seed]).dirichlet(np.full(states, FLATNESS), size=(2, states))
    draft, target = (MarkovChain(transitions=law, initial=np.full(states, 1 / states)) for law in laws)
    return draft, target


def two_regions() -> tuple[MarkovChain, MarkovChain]:
    """Four states: in two of them the draft is nearly right, in the other two it takes one for the other."""
    target = [[0.62, 0.30, 0.06, 0.02], [0.30, 0.60, 0.02, 0.08], [0.15, 0.05, 0.7, 0.1], [0.02, 0.18, 0.25, 0.55]]
    draft = [[0.45, 0.40, 0.1, 0.05], [0.45, 0.40, 0.05, 0.1], [0.1, 0.1, 0.3, 0.5], [0.1, 0.1, 0.75, 0.05]]
    initial = np.array([0.5, 0.5, 0.0, 0.0])
    chains = [MarkovChain(transitions=np.array(law), initial=initial) for law in (draft, target)]
    return chains[0], chains[1]


def compare(name: str, draft: MarkovChain, target: MarkovChain, horizon: int) -> list[dict[str, Any]]:
    """One row per number of expected rejections."""
    front = solve_sequence_pareto(draft, target, horizon=horizon, price=0.0)
    rows = []
    for share in SHARES:
        rejections = share * front.lossless_rejection
        point, ways = front.at(rejection=rejections), front.alternatives(rejection=rejections)
        rows.append(
            {
                "question": "KL of the text at equal expected rejections",
                "chain": name,
                "states": target.states,
                "horizon": horizon,
                "share_of_lossless_rejections": share,
                "expected_rejections": rejections,
                "kl": {"optimum": ways.optimum} | {way: getattr(ways, way) for way in WAYS},
                "gain": ways.gain,
                "price": point.price,
                "certificate_gap": float(point.certificate.gap),
                "certificate_holds": point.certificate.holds(1e-9),
                "seed": SEED,
            }
        )
    return rows


def scale(states: int, horizon: int, price: float) -> dict[str, Any]:
    """Time and memory of one point of a large chain, from chains to values, and of its proof."""
    draft, target = random_chains(0, states)
    start = time.perf_counter()
    point = solve_sequence_pareto(draft, target, horizon=horizon, price=price).points[0]
    solved = time.perf_counter()
    certificate = point.certificate
    proved = time.perf_counter()
    tracemalloc.start()  # in a run of its own, which it slows down
    solve_sequence_pareto(draft, target, horizon=horizon, price=price)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "question": "time and memory of one point of a large chain",
        "states": states,
        "tokens": states,
        "horizon": horizon,
        "price": price,
        "kl": point.divergence,
        "expected_rejections": point.rejection,
        "seconds": solved - start,
        "seconds_of_the_certificate": proved - solved,
        "certificate_gap": float(certificate.gap),
        "certificate_holds": certificate.holds(1e-9),
        "peak_megabytes": peak / 1e6,
        "threads": 1,
        "seed": SEED,
    }


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """The front of the four-state chain, and what rules without look-ahead give away on random chains, from rows."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.9), layout="constrained")
    rows = [row for row in rows if row["question"].startswith("KL of the text")]
    example = [row for row in rows if row["chain"] == "two regions"]
    x = [row["expected_rejections"] for row in example]
    for way in (*WAYS, "optimum"):
        left.plot(x, [row["kl"][way] for row in example], STYLES[way], color=COLOURS[way], markersize=3.5)
    left.set(
        xlabel=f"expected rejections in {example[0]['horizon']} tokens", ylabel="KL(text, target's text), nats", ylim=0
    )
    left.set_title("four states, two of them hard for the draft", fontsize=10)
    left.fill_between(x, 0, [row["kl"]["optimum"] for row in example], color="0.93")
    left.text(0.05, 0.06, "no policy gets here", color="0.4", fontsize=9, transform=left.transAxes)
    for way, label in WAYS.items():
        gains = np.array([row["gain"][way] for row in rows if row["chain"] != "two regions"]).reshape(-1, len(SHARES))
        low, middle, high = gains.min(axis=0), np.median(gains, axis=0), gains.max(axis=0)
        right.plot(SHARES, middle, STYLES[way], color=COLOURS[way], markersize=3.5, label=label)
        right.fill_between(SHARES, low, high, color=COLOURS[way], alpha=0.15, linewidth=0)
    right.axhline(1.0, color=COLOURS["optimum"], linewidth=1.8, label="best policy")
    right.set(xlabel="expected rejections / lossless ones", ylabel="KL / best policy's", yscale="log")
    right.set_yticks([1, 1.5, 2, 3, 5, 8], ["1", "1.5", "2", "3", "5", "8"])
    right.minorticks_off()
    right.set_title(f"{CHAINS} random chains, {STATES} states, {HORIZON} tokens: median and range", fontsize=10)
    right.legend(frameon=False, fontsize=8.5, loc="upper left")
    fig.savefig(path, dpi=160)


def measure() -> list[dict[str, Any]]:
    """All rows."""
    rows = compare("two regions", *two_regions(), horizon=16)
    for seed in track(range(CHAINS), description="random chains"):
        rows += compare(f"random {seed}", *random_chains(seed, STATES), horizon=HORIZON)
    return [*rows, scale(**LARGE)]


def main() -> None:
    """Measure, write rows and figure, print a table."""
    torch.set_num_threads(1)
    rows, console = measure(), Console(width=120)
    table = Table("chain", "share of lossless rejections", *WAYS, "proved")
    for row in rows[:-1]:
        if row["share_of_lossless_rejections"] in (0.2, 0.5, 0.8):
            gains = (f"{row['gain'][way]:.3f}" for way in WAYS)
            share = str(row["share_of_lossless_rejections"])
            table.add_row(row["chain"], share, *gains, str(row["certificate_holds"]))
    console.print(table)
    console.print({name: rows[-1][name] for name in ("states", "horizon", "seconds", "peak_megabytes")})
    console.print(str(write_rows("sequence_front", rows)))
    figure(rows, FIGURE)


if __name__ == "__main__":
    main()
