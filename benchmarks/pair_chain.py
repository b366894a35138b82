"""How far the gain of looking ahead over whole texts carries to a real pair: Markov chains fitted to the embedded pair.

Run it with `python -m benchmarks.pair_chain`: rows in `benchmarks/results`.

A chain's law in each state, the last token, is the average of a model's laws at the positions of texts the target wrote
that end in that token: the order-1 fit of least KL there. All but the most frequent tokens are one class. Averages of
two models are nearer to each other than the laws averaged, so these chains reject less than the pair does; the fits
"one position" take the laws of one random position per state instead, as far apart as the pair's.

What holds only on chains: the best policy and the gain over it; for the pair, which remembers the whole text, they are
neither bound nor policy. What holds on the pair: what the chains lose of it, and the KL of the rules without look-ahead
at real positions, of the target's texts instead of their own.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import decoding
from benchmarks.harness import write_rows
from decoding import embedded
from decoding.evaluation.positions.collect import seed_for
from decoding.evaluation.prompts import read_prompts
from decoding.huggingface import generate_plainly, hide_progress_bars
from solvers.divergences import DIVERGENCES, total_variation
from tradeoff.chains.chain import MarkovChain
from tradeoff.chains.sequence import solve_sequence_pareto
from tradeoff.conversion import mean, set_knob
from tradeoff.outcome.positions import Positions
from tradeoff.rules.registry import family_from

TEXTS, HORIZON, SEED = 320, 40, 0
# tokens that are states of their own, part of the texts, seed of a choice of one position per state
FITS = {"all texts": (300, 1, None), "half of the texts": (300, 2, None), "fewer tokens": (100, 1, None)}
FITS |= {f"one position, {seed}": (300, 1, seed) for seed in (1, 2, 3)}
SHARES = (0.25, 0.5, 0.75)  # of the lossless expected rejections
EVERY = 12  # of the real positions, one in so many compares rules on full laws
WAYS = {"common_price": "common_price", "common_ceiling": "ratio_clip", "epsilon": "decoding_opt"}


class Written(NamedTuple):
    """Both models' laws after every prefix of the target's texts, `[positions, vocab]`, and where they are."""

    draft: np.ndarray
    target: np.ndarray
    last: np.ndarray  # token before each position, [positions]; the prompt's every HORIZON positions


def written() -> Written:
    """Let the embedded target write texts, losslessly, from each prompt in turn."""
    hide_progress_bars()
    pair, columns = decoding.load_pair(), []
    prompts = [pair.tokenizer(text, return_tensors="pt").input_ids for text in read_prompts(embedded.PROMPTS)]
    for number in track(range(TEXTS), description="writing"):
        prompt = prompts[number % len(prompts)]
        output = generate_plainly(
            prompt, target=pair.target, draft=pair.draft, generator=seed_for(SEED, 1, number), max_new_tokens=HORIZON
        )
        text = output.sequences
        first = prompt.shape[1] - 1
        with torch.no_grad():
            laws = [model(text[:, :-1]).logits[0, first:].softmax(-1).numpy() for model in (pair.draft, pair.target)]
        columns.append((*laws, text[0, first:-1].numpy()))
    assert all(len(last) == HORIZON for _, _, last in columns)  # no text ended early
    return Written._make(np.concatenate(column) for column in zip(*columns, strict=True))


def classes_of(last: np.ndarray, vocab: int, tokens: int) -> np.ndarray:
    """Class of every token, `[vocab]`: the most frequent of `last` in order, and one class for all the others."""
    classes = np.full(vocab, tokens)
    classes[np.argsort(-np.bincount(last, minlength=vocab), kind="stable")[:tokens]] = np.arange(tokens)
    return classes


def lumped(laws: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Mass of every class, `[positions, classes]`, float64, from laws `[positions, vocab]`."""
    order = np.argsort(classes, kind="stable")
    starts = np.searchsorted(classes[order], np.arange(classes.max() + 1))
    masses = np.add.reduceat(laws[:, order], starts, axis=1, dtype=np.float64)
    return masses / masses.sum(axis=1, keepdims=True)


def averages(laws: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Mean of the laws `[positions, classes]` in every state, `[classes, classes]`; of all laws where there is none."""
    indicator = (states == np.arange(laws.shape[1])[:, None]).astype(np.float64)
    counts = indicator.sum(axis=1, keepdims=True)
    return np.where(counts > 0, indicator @ laws / np.maximum(counts, 1.0), laws.mean(axis=0))


def chosen(states: np.ndarray, part: int, seed: int | None) -> np.ndarray:
    """Mask `[positions]` of the first in so many parts, or of one random position for every state that occurs."""
    if seed is None:
        return np.arange(len(states)) < len(states) // part
    order = np.random.default_rng(seed).permutation(len(states))
    return np.isin(np.arange(len(states)), order[np.unique(states[order], return_index=True)[1]])


def fit(name: str, data: Written) -> list[dict[str, Any]]:
    """Chains of one fit: what they lose of the pair, then what each way gives away on them."""
    tokens, part, seed = FITS[name]
    classes = classes_of(data.last, data.target.shape[1], tokens)
    states, draft, target = classes[data.last], lumped(data.draft, classes), lumped(data.target, classes)
    used, kl = chosen(states, part, seed), DIVERGENCES["kl"].value
    initial = np.bincount(states[::HORIZON], minlength=tokens + 1) / TEXTS
    laws = [averages(each[used], states[used]) for each in (draft, target)]
    chains = (MarkovChain(transitions=law, initial=initial) for law in laws)
    front, missed = solve_sequence_pareto(*chains, horizon=HORIZON, price=0.0), kl(target, laws[1][states])
    memory = {
        "positions in the class of others": float((states == tokens).mean()),
        "rejection, real pair": float(total_variation(data.draft, data.target).mean()),
        "rejection, real pair, lumped": float(total_variation(draft, target).mean()),
        "rejection, chain at real states": float(total_variation(*laws)[states].mean()),
        "rejection, chain": front.lossless_rejection / HORIZON,
        "KL(real target, no memory)": float(kl(target, target.mean(axis=0)).mean()),
        "KL(real target, chain), fitted": float(missed[used].mean()),
        "KL(real target, chain), fresh": float(missed[~used].mean()) if not used.all() else None,
    }
    rows = [{"question": "what the chains lose of the pair", "per_token": memory}]
    for share in SHARES:
        rejections = share * front.lossless_rejection
        point, ways = front.at(rejection=rejections), front.alternatives(rejection=rejections)
        answer = {"question": "KL per token of the text at equal expected rejections", "gain": ways.gain}
        answer |= {"share": share, "rejection": rejections / HORIZON, "price": point.price}
        kls = {way: getattr(ways, way) / HORIZON for way in ("optimum", *WAYS)}
        rows.append(answer | {"kl": kls, "certificate_holds": point.certificate.holds(1e-9)})
    common = {"fit": name, "states": tokens + 1, "horizon": HORIZON, "positions": int(used.sum()), "seed": SEED}
    return [common | row for row in rows]


def real(share: float, data: Written) -> dict[str, Any]:
    """The rules without look-ahead on full laws at real positions, where the best policy is not known."""
    positions = Positions.of(data.draft[::EVERY], data.target[::EVERY], normalise=True)
    wanted, kl = share * float(positions.total_variation.mean()), {}
    for way, name in WAYS.items():
        family = family_from(name)
        knob = set_knob(family, lambda rule: mean(rule, positions, "rejection"), wanted).value
        kl[way] = mean(family.at(knob), positions, "kl")
    answer = {"question": "mean KL at equal mean rejection on the target's texts", "fit": "real positions"}
    return answer | {"positions": len(positions), "share": share, "rejection": wanted, "kl": kl, "seed": SEED}


def shown(value: float | None) -> str:
    """A cell of a table."""
    return "" if value is None else f"{value:.4f}"


def main() -> None:
    """Measure, write rows, print tables."""
    torch.set_num_threads(1)
    data, console = written(), Console(width=140)
    fits = {name: fit(name, data) for name in track(FITS, description="chains")}
    lost = Table("per token, nats", *FITS, title="What the chains lose of the pair")
    for key in fits["all texts"][0]["per_token"]:
        lost.add_row(key, *(shown(rows[0]["per_token"][key]) for rows in fits.values()))
    answers = [row for rows in fits.values() for row in rows[1:]] + [real(share, data) for share in SHARES]
    columns = ("laws", "share of lossless", "rejection", "optimum", "price / optimum", "ceiling / price", "eps / price")
    table = Table(*columns, title="KL per token, nats; optimum and price / optimum: on chains only")
    for row in answers:
        best, price, ceiling, epsilon = (row["kl"].get(way) for way in ("optimum", *WAYS))
        values = (row["rejection"], best, best and price / best, ceiling / price, epsilon / price)
        table.add_row(row["fit"], str(row["share"]), *map(shown, values))
    console.print(lost, table)
    console.print(str(write_rows("pair_chain", [rows[0] for rows in fits.values()] + answers)))


if __name__ == "__main__":
    main()
