"""Train a reward model for stories: it learns to tell real continuations from those the embedded draft writes.

Run as ``python -m benchmarks.training.judge --text FILE --out FOLDER``; running the same command again continues
from the last checkpoint. The finished model, its tokenizer and ``judge_metrics.json`` are in ``--out``.
"""

import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import transformers
import typer
from rich.console import Console
from rich.progress import Progress
from scipy.stats import binomtest
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification

from benchmarks.training.pair import console
from benchmarks.training.stories import SEPARATOR, SEPARATOR_ID, WINDOW, read_stories
from decoding.embedded import DRAFT, TARGET
from decoding.evaluation.bootstrap import COVERAGE
from decoding.evaluation.files.kept import check_settings, read_json, replace_file
from decoding.huggingface import RewardScorer, hide_progress_bars, load_model, load_tokenizer, plainly
from solvers.errors import InputError
from solvers.shown import one_line

OPENING = re.compile(r"(?:\S+\s+){9}\S+")
"""A story's first ten words."""
SHORTEST, LONGEST = 24, 60
SLACK = 12
"""Tokens written beyond `LONGEST`: read back from its text, a continuation can have fewer than were sampled."""
HELD_OUT = 0.1
WARM_UP = 20
SAVE_EVERY = 20
METRICS = "judge_metrics.json"


@dataclass(frozen=True, kw_only=True)
class JudgeRecipe:
    """What decides a training, besides the text.

    Parameters
    ----------
    steps, pairs
        Optimiser steps, and pairs of texts in each.
    rate
        Peak learning rate.
    seed
        Of every random draw.
    target, draft
        Folders of the model that the training starts from, and of the one that writes.
    """

    steps: int = 200
    pairs: int = 32
    rate: float = 5e-4
    seed: int = 0
    target: Path = TARGET
    draft: Path = DRAFT


@dataclass(frozen=True, kw_only=True)
class Story:
    """A real story.

    Parameters
    ----------
    opening
        Its first words.
    start
        Tokens of the opening alone.
    tokens
        Of all of it; none of them ends it.
    """

    opening: str
    start: int
    tokens: Sequence[int]


def openings(texts: Sequence[str], tokenizer: Any) -> list[Story]:
    """Stories with an opening and more than `LONGEST` tokens behind it."""
    matched = [(text, found.group()) for text in texts if (found := OPENING.match(text))]
    if not matched:
        return []
    whole, begun = (tokenizer(list(each), verbose=False).input_ids for each in zip(*matched, strict=True))
    found = [
        Story(opening=opening, start=len(start), tokens=tokens)
        for (_, opening), start, tokens in zip(matched, begun, whole, strict=True)
    ]
    return [story for story in found if story.start + LONGEST < len(story.tokens) and story.start + LONGEST <= WINDOW]


@torch.no_grad()
def write(model: Any, tokenizer: Any, stories: Sequence[Story]) -> list[list[int]]:
    """Tokens of every opening with what the model samples behind it.

    They are read back from the text: a judge is shown texts, whose pieces need not be those that were sampled.
    """
    first = [story.opening for story in stories]
    inputs = tokenizer(first, return_tensors="pt", padding=True, padding_side="left").to(model.device)
    with plainly(model, max_new_tokens=LONGEST + SLACK) as settings:
        drawn = model.generate(**inputs, **settings)
    behind = tokenizer.batch_decode(drawn[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return tokenizer([opening + text for opening, text in zip(first, behind, strict=True)]).input_ids


def matched_texts(
    stories: Sequence[Story], written: Sequence[Sequence[Sequence[int]]], lengths: np.ndarray
) -> list[list[Sequence[int]]]:
    """Real and written texts of each story, all cut to the same length.

    A story counts only if all of its texts go on beyond the cut: otherwise an end would tell which is which.

    Parameters
    ----------
    stories
        The real ones.
    written
        Token rows for each writer, `[writers][stories][tokens]`.
    lengths
        Tokens kept behind the opening, `[stories]`, `LONGEST` at most.

    Raises
    ------
    InputError
        No story counts.
    """
    rows = [
        [text[: story.start + length] for text in (story.tokens, *texts)]
        for story, length, *texts in zip(stories, lengths.tolist(), *written, strict=True)
        if all(len(text) > story.start + length for text in texts)
    ]
    if not rows:
        raise InputError(
            f"models: expected texts that go on for {max(lengths)} tokens; got none of {len(stories)} stories; "
            "choose a model trained on stories"
        )
    return rows


def rewards(model: Any, texts: Sequence[Sequence[int]], cuts: int) -> torch.Tensor:
    """Rewards of texts of tokens and of all that is left of them without their last tokens, with their gradient.

    Parameters
    ----------
    model
        Causal, so that what stands behind a token does not change its reward.
    texts
        Rows of tokens.
    cuts
        Columns of the result, `[texts, cuts]`: column i leaves out the last i tokens.
    """
    rows = [torch.tensor(text) for text in texts]
    inputs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=SEPARATOR_ID)
    lengths = torch.tensor([len(text) for text in texts])
    mask = (torch.arange(inputs.shape[1]) < lengths[:, None]).long()
    hidden = model.base_model(input_ids=inputs.to(model.device), attention_mask=mask.to(model.device)).last_hidden_state
    ends = lengths[:, None] - 1 - torch.arange(cuts)
    return model.score(hidden)[..., 0].gather(1, ends.to(model.device))


class JudgeTraining:
    """A reward model in training: the model, its optimiser and a ``state`` that goes to disk and comes back."""

    def __init__(self, recipe: JudgeRecipe, stories: Sequence[Story], tokenizer: Any, out: Path, device: str) -> None:
        self.recipe, self.stories, self.tokenizer = recipe, stories, tokenizer
        self.path = out / "checkpoint.pt"
        self.draft = load_model(str(recipe.draft), device=device)
        torch.manual_seed(recipe.seed)
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(
            recipe.target, num_labels=1, pad_token_id=SEPARATOR_ID, dtype=torch.float32
        ).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=recipe.rate, weight_decay=0.01)
        self.state: dict[str, Any] = {"losses": [], "seconds": 0.0}
        if self.path.exists():
            self.state = torch.load(self.path, weights_only=True)
            self.model.load_state_dict(self.state.pop("model"))
            self.optimizer.load_state_dict(self.state.pop("optimizer"))

    def save(self) -> None:
        """Write the checkpoint."""
        weights = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        replace_file(self.path, lambda file: torch.save(self.state | weights, file))

    def batch(self, step: int) -> list[list[Sequence[int]]]:
        """Pairs of a real and a written text for one step; torch's draws go on from a state of that step."""
        seed, pairs = self.recipe.seed, self.recipe.pairs
        epoch, index = divmod(step, len(self.stories) // pairs)
        order = np.random.default_rng([seed, 0, epoch]).permutation(len(self.stories))
        stories = [self.stories[place] for place in order[index * pairs :][:pairs]]
        torch.manual_seed(int(np.random.default_rng([seed, 1, step]).integers(2**62)))
        return matched_texts(stories, [write(self.draft, self.tokenizer, stories)], np.full(pairs, LONGEST))

    def step(self) -> float:
        """Take one optimiser step on -log sigmoid(r(real) - r(written)) and return this loss, nats per pair.

        It is the mean over all lengths from `SHORTEST` to `LONGEST`: a causal model gives their rewards at once.
        """
        recipe, step = self.recipe, len(self.state["losses"])
        batch = self.batch(step)
        self.model.train()
        texts = [text for side in zip(*batch, strict=True) for text in side]
        real, written = rewards(self.model, texts, LONGEST - SHORTEST + 1).chunk(2)
        loss = -logsigmoid(real - written).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.param_groups[0]["lr"] = recipe.rate * min(1, (step + 1) / WARM_UP) * (1 - step / recipe.steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state["losses"].append(loss.item())
        return loss.item()

    def run(self) -> None:
        """Train up to the last step."""
        losses, steps = self.state["losses"], self.recipe.steps
        with Progress(console=console, disable=not console.is_terminal) as progress:
            bar = progress.add_task("judge", total=steps)
            while len(losses) < steps:
                started = time.monotonic()
                self.step()
                self.state["seconds"] += time.monotonic() - started
                if len(losses) == steps or len(losses) % SAVE_EVERY == 0:
                    self.save()
                    loss = np.mean(losses[-SAVE_EVERY:])
                    console.print(f"judge step {len(losses)} of {steps}: training loss {loss:.3f}")
                progress.update(bar, completed=len(losses))


def measure(out: Path, recipe: JudgeRecipe, stories: Sequence[Story], device: str) -> dict[str, Any]:
    """How often the reward model as it was written prefers one of two texts of a held-out story.

    Every story gives one comparison of each kind, between texts of one length, so the intervals are binomial.
    """
    tokenizer = load_tokenizer(str(recipe.target))
    writers = [load_model(str(folder), device=device) for folder in (recipe.draft, recipe.target)]
    torch.manual_seed(recipe.seed)
    written: list[list[Sequence[int]]] = [[], []]
    for first in range(0, len(stories), recipe.pairs):
        for texts, model in zip(written, writers, strict=True):
            texts += write(model, tokenizer, stories[first : first + recipe.pairs])
    lengths = np.random.default_rng([recipe.seed, 2]).integers(SHORTEST, LONGEST + 1, size=len(stories))
    rows = matched_texts(stories, written, lengths)
    scorer = RewardScorer(str(out), device=device, dtype="float32", template=None)
    flat = scorer.scores([text for texts in rows for text in texts], 2 * recipe.pairs)
    real, draft, target = np.reshape(flat, (-1, 3)).T
    return {
        "real_over_draft": win(real > draft),
        "real_over_target": win(real > target),
        "target_over_draft": win(target > draft),
    }


def win(won: np.ndarray) -> dict[str, float]:
    """Fraction won, `[comparisons]`, with its exact interval."""
    count, comparisons = int(won.sum()), len(won)
    interval = binomtest(count, comparisons).proportion_ci(COVERAGE, method="exact")
    value = {"value": count / comparisons, "low": float(interval.low), "high": float(interval.high)}
    return value | {"won": count, "comparisons": comparisons}


def weights_digest(folder: Path) -> str:
    """SHA-256 of a folder's weights.

    Raises
    ------
    InputError
        There are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"model: expected a folder with safetensors weights; got {folder}; choose another")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Mark the folder with these settings.

    Raises
    ------
    InputError
        The folder holds something else, or a training with other settings, or cannot be made.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / "settings.json").exists():
        raise InputError(
            f"out: expected a new or empty folder, or one of an earlier training; got {out} with other files in it; "
            "choose another --out"
        )
    check_settings(out, settings)


def train_judge(text: Path, out: Path, recipe: JudgeRecipe, device: str) -> dict[str, Any]:
    """Train, write and measure the reward model; return what is written to ``out/judge_metrics.json``.

    Raises
    ------
    InputError
        A text that cannot be read or has too few stories, a folder with something else in it, or a model or a device
        that cannot be used.
    """
    texts, digest = read_stories(text)
    weights = {name: weights_digest(getattr(recipe, name)) for name in ("target", "draft")}
    settings = asdict(recipe) | weights | {"text_sha256": digest}
    claim(out, settings)
    if (out / METRICS).exists():
        return read_json(out / METRICS)
    tokenizer = load_tokenizer(str(recipe.target))
    kept = len(texts) - max(1, round(HELD_OUT * len(texts)))
    training, held_out = openings(texts[:kept], tokenizer), openings(texts[kept:], tokenizer)
    if len(training) < recipe.pairs or not held_out:
        raise InputError(
            f"text: expected at least {recipe.pairs} stories to train on and one held out, of ten words and more than "
            f"{LONGEST} tokens behind them; got {len(training)} and {len(held_out)}; give a longer text with --text"
        )
    trained = JudgeTraining(recipe, training, tokenizer, out, device)
    trained.run()
    losses = trained.state["losses"]
    trained.model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    options = f"--steps {recipe.steps} --seed {recipe.seed}"
    metrics = {
        "command": f"python -m benchmarks.training.judge --text {text.name} --out {out.name} {options}",
        "settings": settings,
        "text": {"name": text.name, "training_stories": len(training), "held_out_stories": len(held_out)},
        "training_loss": {"first": np.mean(losses[:SAVE_EVERY]), "last": np.mean(losses[-SAVE_EVERY:])},
        "seconds": round(trained.state["seconds"], 1),
        "threads": torch.get_num_threads(),
        "versions": {m.__name__: str(m.__version__) for m in (torch, transformers, np)},
        "held_out": measure(out, recipe, held_out, device),
    }
    replace_file(out / METRICS, lambda file: file.write(json.dumps(metrics, indent=2).encode() + b"\n"))
    trained.path.unlink()
    return metrics


def main(
    text: Annotated[Path, typer.Option(help=f"Stories, separated by lines that hold {SEPARATOR}.")],
    out: Annotated[Path, typer.Option(help="Folder the reward model is written to; checkpoints too.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = JudgeRecipe.steps,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    device: Annotated[
        str, typer.Option(help="cpu or cuda; only on cpu is a resumed run bit for bit the same.")
    ] = "cpu",
) -> None:
    """Train a reward model for stories; run again to continue after an interruption."""
    hide_progress_bars()
    transformers.utils.logging.set_verbosity_error()  # it would report that the score's weights are new
    try:
        metrics = train_judge(text, out, JudgeRecipe(steps=steps, seed=seed), device)
    except InputError as error:
        Console(stderr=True).print(one_line(f"error: {error}"), style="red", soft_wrap=True, markup=False)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        console.print("stopped; the same command continues from the last checkpoint")
        raise typer.Exit(130) from None
    for name, found in metrics["held_out"].items():
        share = f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
        console.print(f"{name.replace('_', ' ')}: {share} of {found['comparisons']} held-out stories")


if __name__ == "__main__":
    typer.run(main)
