"""Ten tasks of CIFAR-100 one after the other: a network that grows, and others (dissertation, Sec. 5.3.4, in small).

    python -m studies.firefly_continual --data-root DIR [--seeds 3] [--images 100] [--epochs 10] [--processes 1]
    python -m studies.firefly_continual --data-root DIR --full --device cuda

The hundred classes are split into ten tasks at random, a new split for every seed; a task is told at test time. By
default four convolutions, 100 training images a class and 10 epochs a task.

- Firefly: one network with 8 channels in every layer, a mask for every task, :class:`pcl.GrowingModel`. A task learns
  for a fifth of its steps which neurons it can use, then grows once by 4, 8, 12 or 24 neurons, copies of old ones and
  new ones, then goes on. The first task splits in place of copying.
- EWC: one network of fixed width; of four strengths the one that is best on held-out training images of another split,
  for every width.
- fine-tuning: the same without.
- one network per task, of several widths.

All have the same number of steps: those in which Firefly trains its candidates are taken off its tasks. How long a task
waits for its growth, and how long candidates train, was chosen on held-out images of the other split too. Sizes are of
backbone and heads. Of Firefly the study also tells whether logits of finished tasks had the same bits in the end.

``--full`` is meant to be the published setting: VGG-16 from 16 channels in every layer, all 500 images of a class, 150
epochs a task, growths by 32 to 512 neurons with 15 new candidates in every layer, three splits. Runs that are done are
kept in ``studies/results/firefly_continual/runs.jsonl`` and not repeated. Interrupt and go on as you like.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcl import EWC, Batches, Budget, ContinualModel, Firefly, Grow, GrowingModel, GrowWhen, Stream, Trainer
from pcl.data.images import ImageData
from pcl.data.load import load_images
from pcl.randomness import seeded
from pcl.training.evaluation import logits
from studies.continual_report import draw, report
from studies.runs import complete, finished, key_of
from studies.split_cifar import BACKBONES, Task, cut, size

RESULTS = Path(__file__).parent / "results" / "firefly_continual"
BATCH = 64
RATE = 0.005  # of Adam
STRENGTHS = (1e3, 1e4, 1e5, 1e6)  # of EWC
CANDIDATE_STEPS = 40
TUNING_SEED = 1000


@dataclass(frozen=True)
class Run:
    """One sequence of tasks.

    ``width``: of every layer, at first; ``growth``: neurons that every task may add; ``strength``: of EWC.
    """

    method: str
    width: int
    seed: int
    backbone: str
    images: int
    epochs: int
    growth: int = 0
    strength: float = 0.0
    new: int = 8
    held_out: bool = False


@dataclass(frozen=True)
class Setting:
    """Widths and growths of the methods."""

    first: int
    growths: tuple[int, ...]
    fixed: tuple[int, ...]
    alone: tuple[int, ...]
    new: int


REDUCED = Setting(first=8, growths=(4, 8, 12, 24), fixed=(16, 32, 48), alone=(4, 8, 16), new=8)
FULL = Setting(
    first=16, growths=(32, 128, 196, 256, 320, 384, 448, 512), fixed=(16, 64, 128), alone=(8, 16, 32, 64), new=15
)


class Remember:
    """Callback: keeps the logits of a task's test images as it ends."""

    def __init__(self) -> None:
        self.logits: dict[str, Tensor] = {}

    def on_task_end(self, trainer: Trainer, task: str) -> None:
        self.logits[task] = self.now(trainer, task)

    def now(self, trainer: Trainer, task: str) -> Tensor:
        """Those of this moment."""
        test = trainer.streams[task].test
        assert test is not None
        return logits(trainer.model, task, test[0])


def train(run: Run, tasks: Sequence[Task], device: str) -> tuple[Trainer, Remember]:
    """The trainer after the last task."""
    with seeded(run.seed, "split cifar", run.method):
        backbone = BACKBONES[run.backbone](run.width)
    features = backbone(tasks[0].x[:1].float()).shape[1]
    remember = Remember()
    extra: dict[str, Any] = {"callbacks": [remember]}
    steps = -(-len(tasks[0].y) // BATCH) * run.epochs
    if run.method == "Firefly":
        model: ContinualModel = GrowingModel(backbone, features, tasks[0].x[:1].float(), seed=run.seed)
        steps -= CANDIDATE_STEPS
        when = GrowWhen("task", steps=max(1, steps // 5))
        firefly = Firefly(new=run.new, steps=CANDIDATE_STEPS, seed=run.seed)
        extra["callbacks"].append(Grow(firefly, Budget(neurons=run.growth), when))
    else:
        model = ContinualModel(backbone, features, "task", seed=run.seed)
    if run.method == "EWC":
        extra["loss_terms"] = [EWC(run.strength, seed=run.seed)]
    trainer = Trainer(model.to(device), optimizer=partial(torch.optim.Adam, lr=RATE), seed=run.seed, **extra)
    for i, task in enumerate(tasks):
        batches = Batches(task.x, task.y, BATCH, seed=run.seed, name=task.name)
        test = (task.x_test, task.y_test)
        start, end = i * steps, (i + 1) * steps - 1
        trainer.add(Stream(task.name, batches, task.classes, start=start, end=end, epochs=run.epochs, test=test))
    trainer.fit()
    return trainer, remember


@cache
def _data(data_root: str, held_out: bool) -> ImageData:
    data = load_images("cifar100", Path(data_root))
    return data.validation_split(0.1) if held_out else data


def measure(run: Run, data_root: str, device: str) -> dict[str, Any]:
    """Accuracies in percent: mean in the end, of each task at its end and in the end; parameters; widths and whether
    logits kept their bits, of Firefly; seconds."""
    if device == "cpu":
        torch.set_num_threads(1)
    tasks = cut(_data(data_root, run.held_out), run.seed, run.images)
    begin = time.perf_counter()
    parts = [[task] for task in tasks] if run.method == "one network per task" else [tasks]
    trained = [
        train(replace(run, seed=100 * run.seed + i if len(parts) > 1 else run.seed), part, device)
        for i, part in enumerate(parts)
    ]
    own, final, kept = [], [], True
    for trainer, remember in trained:
        last = trainer.history[-1]["accuracy"]
        for task in trainer.model.tasks:
            first = next(
                entry["accuracy"][task] for entry in trainer.history if entry["step"] >= trainer.ended_at[task]
            )
            own.append(100 * first)
            final.append(100 * last[task])
            kept &= torch.equal(remember.logits[task], remember.now(trainer, task))
    models = [trainer.model for trainer, _ in trained]
    found: dict[str, Any] = {"accuracy": statistics.mean(final), "at_end": own, "final": final, "kept": kept}
    found["parameters"] = sum(m.size() if isinstance(m, GrowingModel) else size([m]) for m in models)
    found["widths"] = [list(m.widths.values()) for m in models if isinstance(m, GrowingModel)]
    return {**found, "seconds": time.perf_counter() - begin}


def tuning_runs(setting: Setting, backbone: str, images: int, epochs: int) -> list[Run]:
    """EWC of every width with every strength, on held-out images."""
    one = Run("EWC", 0, TUNING_SEED, backbone, images, epochs, held_out=True)
    return [replace(one, width=width, strength=strength) for width in setting.fixed for strength in STRENGTHS]


def table_runs(setting: Setting, strengths: dict[int, float], seeds: int, one: Run) -> list[Run]:
    """All of the table, seed by seed; ``strengths`` of EWC by its width."""
    found = []
    for seed in range(seeds):
        here = replace(one, seed=seed)
        firefly = replace(here, method="Firefly", width=setting.first, new=setting.new)
        found += [replace(firefly, growth=growth) for growth in setting.growths]
        found += [replace(here, method="EWC", width=width, strength=strengths[width]) for width in setting.fixed]
        found += [replace(here, method="fine-tuning", width=width) for width in setting.fixed]
        found += [replace(here, method="one network per task", width=width) for width in setting.alone]
    return found


def best_strengths(runs: Sequence[Run], done: dict[str, dict[str, Any]]) -> dict[int, float]:
    """That of the highest accuracy, by width."""
    worst_first = sorted(runs, key=lambda run: done[key_of(run)]["accuracy"])
    return {run.width: run.strength for run in worst_first}


def main() -> None:
    """Complete the study, then write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=100, help="a class, for training; at most 500")
    parser.add_argument("--epochs", type=int, default=10, help="of a task")
    parser.add_argument("--methods", nargs="+", help="all if left out; the table has what is done")
    parser.add_argument("--full", action="store_true", help="the published setting; wants a GPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    setting, backbone = (FULL, "vgg16") if given.full else (REDUCED, "thin")
    seeds, images, epochs = (3, 500, 150) if given.full else (given.seeds, given.images, given.epochs)
    path = RESULTS / "runs.jsonl"
    make = partial(measure, data_root=given.data_root, device=given.device)
    start = None if given.device == "cpu" else "spawn"
    tuning = tuning_runs(setting, backbone, images, epochs)
    done = complete(tuning, path, make, given.processes, start)
    best = best_strengths(tuning, done)
    runs = table_runs(setting, best, seeds, Run("", 0, 0, backbone, images, epochs))
    complete(
        [r for r in runs if given.methods is None or r.method in given.methods], path, make, given.processes, start
    )
    done = finished(path)
    found = [(run, done[key_of(run)]) for run in runs if key_of(run) in done]
    title = f"{backbone}, {images} images a class, {epochs} epochs a task"
    text = report(found, f"{title}; EWC's strength by width: {', '.join(f'{w}: {best[w]:g}' for w in sorted(best))}")
    (RESULTS / f"{backbone}.md").write_text(text + "\n")
    draw(found, title, RESULTS / f"{backbone}.png")
    print(text)


if __name__ == "__main__":
    main()
