"""Tiny Shakespeare, character by character: Longhorn beside a transformer and an LSTM of equal size.

    python -m studies.tiny_shakespeare --data-root DIR [--full] [--seeds 3]
    python -m studies.tiny_shakespeare --data-root DIR --costs      # on a machine that does nothing else

All models have the same number of parameters to 2 %, and see the same windows of 256 characters in the same order. Each
has its own learning rate, the best of three on the validation part after short runs with a schedule of their own. The
table and the pictures are about the test part: its loss, the loss on contexts up to 16 times as long as those of
training (dissertation Fig. 6.5, right), the loss in one pass that carries the state from beginning to end, and what a
character costs to generate at the beginning and far into a text. Longhorn and the LSTM then go on training for a tenth
of the steps with their state carried from window to window, as on a stream that does not end, and are measured again.

``--full`` takes models of eight times the size and more steps; it wants a GPU or a day. Runs that are done are kept in
``studies/results/tiny_shakespeare/`` and not repeated. Their weights go to ``runs/tiny_shakespeare/``.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.common import machine, medians
from pcl.data.text import CharacterText, load_text
from pcl.models.longhorn.state import detach_state
from pcl.randomness import generator, seeded
from studies import text_report
from studies.runs import finished
from studies.text_measures import by_context, by_position, carried, generation, sliding, windows
from studies.text_models import MODELS, RECURRENT, build, continued, parameters

RESULTS = Path(__file__).parent / "results" / "tiny_shakespeare"
WEIGHTS = Path("runs") / "tiny_shakespeare"
RATES = {  # three each, the best in the middle: the LSTM's lies higher
    "Longhorn": (1e-3, 3e-3, 1e-2),
    "transformer": (1e-3, 3e-3, 1e-2),
    "LSTM": (3e-3, 1e-2, 3e-2),
}
BATCH, CONTEXT = 16, 256
LENGTHS = tuple(CONTEXT * 2**i for i in range(5))
POSITIONS = (1, 1024, 4096, 16_384)
WARMUP, LEAST = 0.05, 0.1  # part of the steps in which the rate rises; its last value over its highest
MORE = 0.1  # steps with the state carried, over the steps before
DECAY, CLIP, BETAS = 0.1, 1.0, (0.9, 0.99)
EVALUATIONS = 15
PROMPT, SAMPLE, TEMPERATURE = "ROMEO:\n", 400, 0.8


Curve = list[tuple[int, float]]
"""Steps done, and the loss then."""


@dataclass(frozen=True)
class Size:
    """How large the study is: Longhorn's width and depth, and steps of a training and of one to choose the rate."""

    name: str
    width: int
    depth: int
    steps: int
    search: int


REDUCED = Size("reduced", 128, 4, 1500, 250)
FULL = Size("full", 256, 6, 10_000, 1000)


@dataclass(frozen=True)
class Run:
    """One training of the study; one of few steps is for choosing the rate."""

    model: str
    rate: float
    seed: int
    steps: int
    width: int
    depth: int
    more: int = 0
    """steps after those, with the state carried"""

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def weights(self) -> Path:
        """Where its model is kept."""
        name = (
            f"{self.model}-{self.width}x{self.depth}-{self.steps}-{self.rate:g}-{self.seed}{'-on' * bool(self.more)}.pt"
        )
        return WEIGHTS / name.lower()


class Training:
    """A model with its optimiser, whose rate follows ``height`` of the step."""

    def __init__(self, model: nn.Module, rate: float, height: Callable[[int], float]) -> None:
        self.model = model
        matrices = [p for p in model.parameters() if p.dim() > 1]
        others = [p for p in model.parameters() if p.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=BETAS)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, height)

    def step(self, tokens: Tensor, state: Any = None, carry: bool = False) -> Any:
        """One update along the gradient of the mean loss on tokens ``(B, context + 1)``.

        With ``carry`` the model's state behind them, cut off from the gradient.
        """
        found = self.model(tokens[:, :-1], state, return_state=carry)
        logits, state = found if carry else (found, None)
        loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.schedule.step()
        return detach_state(state)


def height(step: int, steps: int) -> float:
    """Rate over highest rate: a line up, then half a wave of cosine down."""
    up = max(1, round(WARMUP * steps))
    if step < up:
        return (step + 1) / up
    return LEAST + (1 - LEAST) * (1 + math.cos(math.pi * (step - up) / max(1, steps - up))) / 2


def train(run: Run, data: CharacterText, evaluations: int, progress: Progress) -> tuple[nn.Module, Curve]:
    """The trained model, and its validation loss in bits per character, so many times over the steps.

    The seed chooses its first weights and its batches, which are the same for all models.
    """
    with seeded(run.seed, "text model"):
        model = build(run.model, run.width, run.depth, len(data.characters))
    training = Training(model, run.rate, partial(height, steps=run.steps))
    draws, curve, every = generator(run.seed, "windows"), [], max(1, run.steps // evaluations)
    for step in progress.track(range(run.steps), description=f"{run.model}, {run.rate:g}, seed {run.seed}"):
        starts = torch.randint(len(data.train) - CONTEXT, (BATCH, 1), generator=draws)
        training.step(data.train[starts + torch.arange(CONTEXT + 1)])
        if (step + 1) % every == 0 or step + 1 == run.steps:
            curve.append((step + 1, validation(model, data)))
    return model, curve


def train_on(run: Run, data: CharacterText, progress: Progress) -> tuple[nn.Module, Curve]:
    """The same model after ``run.more`` further steps at its last rate, with the state carried from step to step.

    The text lies in as many lanes as a batch has rows, and every step takes the next window of each lane: truncated
    backpropagation through time. At the end of the lanes they begin anew, without a state.

    Raises:
        FileNotFoundError: if the weights of the run before are not there any more.
    """
    before = replace(run, more=0).weights
    if not before.exists():
        raise FileNotFoundError(f"no weights {before}; to make them anew, take their line out of runs.jsonl")
    model = build(run.model, run.width, run.depth, len(data.characters))
    model.load_state_dict(torch.load(before, weights_only=True))
    training, state = Training(model, run.rate, lambda _: LEAST), None
    lanes = data.train[: len(data.train) // BATCH * BATCH].view(BATCH, -1)
    each = (lanes.shape[1] - 1) // CONTEXT
    for step in progress.track(range(run.more), description=f"{run.model}, state carried, seed {run.seed}"):
        start = step % each * CONTEXT
        tokens = lanes[:, start : start + CONTEXT + 1]
        state = training.step(tokens, state if start else None, carry=True)
    return model, [(run.steps + run.more, validation(model, data))]


def validation(model: nn.Module, data: CharacterText) -> float:
    """Mean bits of the validation part in windows as in training."""
    return windows(model, data.validation, CONTEXT, CONTEXT).mean().item()


def evaluate(run: Run, model: nn.Module, data: CharacterText) -> dict[str, Any]:
    """The losses on the test part, and a sample."""
    draws, text = generator(0, "sample"), data.test
    sample = continued(model, data.encode(PROMPT), SAMPLE, temperature=TEMPERATURE, generator=draws)
    return {
        "by_context": by_context(model, text, LENGTHS),
        "by_position": by_position(model, text, LENGTHS[-1], CONTEXT),
        "sliding": sliding(model, text, CONTEXT, CONTEXT // 4),
        "carried": carried(model, text, CONTEXT) if run.model in RECURRENT else None,
        "sample": PROMPT + data.decode(sample),
    }


def complete(runs: list[Run], data: CharacterText, done: dict[str, Any], path: Path, *, final: bool) -> None:
    """Make the runs that ``done`` lacks and add them, there and to the file.

    Of final ones the weights are kept too, and the results have the losses on the test part.
    """
    missing = [run for run in runs if run.key not in done]
    with Progress() as progress, path.open("a") as file:
        for run in missing:
            if run.more:
                model, curve = train_on(run, data, progress)
            else:
                model, curve = train(run, data, EVALUATIONS if final else 1, progress)
            model.eval()
            done[run.key] = {"parameters": parameters(model), "curve": curve}
            if final:
                run.weights.parent.mkdir(parents=True, exist_ok=True)
                torch.save(model.state_dict(), run.weights)
                done[run.key] |= evaluate(run, model, data)
            file.write(json.dumps({"run": asdict(run), "results": done[run.key]}) + "\n")
            file.flush()
            progress.console.print(f"{curve[-1][1]:.3f} bits: {run}")


def chosen(searched: list[Run], done: dict[str, Any]) -> tuple[dict[str, dict[float, float]], dict[str, float]]:
    """For each model its last validation loss at each rate, and the rate of the lowest."""
    losses: dict[str, dict[float, float]] = {}
    for run in searched:
        losses.setdefault(run.model, {})[run.rate] = done[run.key]["curve"][-1][1]
    return losses, {model: min(own, key=lambda rate: own[rate]) for model, own in losses.items()}


def costs(size: Size, data: CharacterText) -> dict[str, Any]:
    """Characters per second in training, and milliseconds per character generated behind texts of several lengths."""
    models = {name: build(name, size.width, size.depth, len(data.characters)) for name in MODELS}
    tokens = data.train[: BATCH * (CONTEXT + 1)].view(BATCH, CONTEXT + 1)
    trainings = {
        name: Training(model, RATES[name][0], partial(height, steps=size.steps)) for name, model in models.items()
    }
    seconds = medians({name: partial(training.step, tokens) for name, training in trainings.items()})
    return {
        "machine": machine(),
        "training": {name: BATCH * CONTEXT / s for name, s in seconds.items()},
        "generation": [generation(models, data.train[:length]) for length in POSITIONS],
    }


def report(
    size: Size, searched: dict[str, Any], rates: dict[str, float], found: dict[str, Any], cost: dict[str, Any]
) -> str:
    """Markdown: losses, sizes and costs, the choice of the rate, samples."""
    seeds = len(found[MODELS[0]])
    parts = [
        f"{size.steps:,} steps of {BATCH} x {CONTEXT} characters, {seeds} seed{'s' * (seeds > 1)}; rates are chosen on "
        f'the validation part. "Carried": after {round(MORE * size.steps):,} more steps, in which the state is carried '
        "from window to window.",
        text_report.losses(found, LENGTHS),
        f"One thread, models taking turns. {cost['machine']}.",
        text_report.size_and_cost({name: found[name] for name in MODELS}, rates, cost, POSITIONS),
        f"Learning rates: validation loss after {size.search:,} steps.",
        text_report.search(searched),
        f"Samples at temperature {TEMPERATURE:g}, first seed:",
        *(f"{name}\n\n```\n{found[name][0]['sample']}\n```" for name in MODELS),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Complete the study, then write tables and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--costs", action="store_true", help="measure anew what a character costs, and nothing else")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = load_text(given.data_root / "tinyshakespeare.txt", download_name="tinyshakespeare")
    size = FULL if given.full else REDUCED
    folder = RESULTS / size.name
    folder.mkdir(parents=True, exist_ok=True)
    if given.costs or not (folder / "costs.json").exists():
        (folder / "costs.json").write_text(json.dumps(costs(size, data), indent=1) + "\n")
    if given.costs:
        return
    path = folder / "runs.jsonl"
    done = finished(path)
    searched = [Run(model, rate, 0, size.search, size.width, size.depth) for model in MODELS for rate in RATES[model]]
    complete(searched, data, done, path, final=False)
    losses, rates = chosen(searched, done)
    runs = [Run(m, rates[m], seed, size.steps, size.width, size.depth) for seed in range(given.seeds) for m in MODELS]
    complete(runs, data, done, path, final=True)
    on = [replace(run, more=round(MORE * size.steps)) for run in runs if run.model in RECURRENT]
    complete(on, data, done, path, final=True)
    found = {name: [done[run.key] for run in runs if run.model == name] for name in MODELS}
    found |= {f"{name}, carried": [done[run.key] for run in on if run.model == name] for name in RECURRENT}
    cost = json.loads((folder / "costs.json").read_text())
    text = report(size, losses, rates, found, cost)
    (folder / "results.md").write_text(text)
    text_report.draw(found, cost, LENGTHS, POSITIONS, folder / "results.png")
    print(text)


if __name__ == "__main__":
    main()
