"""GMED's Tables 2 and 3 on MNIST: replay methods on an online stream, with and without edits of the memory.

    python -m studies.gmed_table --data-root DIR [--dataset split] [--methods ER MIR ...] [--seeds 10 | --full]
                                 [--processes 1]

Jin et al., *Gradient Based Memory Editing for Task-Free Continual Learning*, Sec. 5: tasks of about 1,000 images, seen
once, in batches of 10 and with 10 samples from a memory of 500; an MLP 784-400-400-10 with all outputs from the start;
SGD at 0.05 on the sum of the two mean losses; accuracy over all test images at the end. ``--dataset`` is ``split``,
``permuted``, ``rotated`` or ``all``; ``--full`` has 30 seeds. A seed chooses the images, their order, the first weights
and all draws, and all methods share it, so that methods are compared in pairs. Variants that the paper does not have
run on Split MNIST.

Choices where the paper is silent: iid offline makes 5 passes. Random edits move by the stride of the paper's grid that
is best on held-out training images: as the paper has it of the first three tasks, but on Split MNIST of all. Hindsight
edits have the settings of GMED, and look ahead along ten other samples of the memory. GEM keeps the last images of
every class of every task, every step sees all of it, and it has the margin 0.5 of its published code, without which it
falls far short. A-GEM draws 256 from the reservoir, as the paper says. HAL
keeps what GEM keeps, has the settings of its own paper, and outputs come with their task, as do its anchors.

Runs that are done are kept in ``studies/results/gmed_table/runs.jsonl`` and not repeated; tables and pictures are made
from all that the file has. Interrupt and go on as you like.
"""

import argparse
import statistics
from collections.abc import Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from pcl import MLP, Batches, ContinualModel, Stream, Trainer
from pcl.data.images import ImageData
from pcl.data.load import load_images
from pcl.randomness import seeded
from pcl.streams.stream import Batch
from pcl.training.evaluation import accuracy
from studies.gmed_benchmarks import BENCHMARKS, Task
from studies.gmed_methods import (
    BATCH,
    GROWING,
    LEARNING_RATE,
    METHODS,
    ONE_DRAW,
    OWN_CLASSES,
    PASSES,
    TUNED,
    VARIANTS,
    Run,
    updates,
)
from studies.gmed_report import by_seed, draw, overview, report
from studies.runs import complete, finished, key_of
from studies.updates_per_batch import repeated

RESULTS = Path(__file__).parent / "results" / "gmed_table"
GRID = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)  # of strides, in the paper
TUNING_SEEDS = range(1000, 1005)  # of runs on held-out images, apart from those of the table


def drawn(run: Run) -> int:
    """The seed of the images and their order."""
    return 0 if run.method in ONE_DRAW else run.seed


def streams(run: Run, tasks: Sequence[Task]) -> list[Stream]:
    """One after the other, or for the iid rows all in one; without test images, which would be looked at too often."""
    if run.method.startswith("iid"):
        tasks = [
            Task("all", *(torch.cat([getattr(t, part) for t in tasks]) for part in ("x", "y", "x_test", "y_test")))
        ]
    found, start = [], 0
    for task in tasks:
        batches: Batches | list[Batch] = Batches(task.x, task.y, BATCH, seed=drawn(run), name=task.name)
        if updates(run) > 1:
            batches = repeated(batches, updates(run))
        told = run.head == "growing" or run.method in OWN_CLASSES
        classes = task.y.unique().tolist() if told else range(10)
        epochs = PASSES.get(run.method, 1)
        found.append(Stream(task.name, batches, classes, start=start, epochs=epochs))
        start += len(batches)
    return found


def train(run: Run, tasks: Sequence[Task]) -> Trainer:
    """The trainer after the last task."""
    with seeded(run.seed, "gmed table"):
        backbone = MLP(784, [400, 400])
    model = ContinualModel(backbone, 400, "class", seed=run.seed)
    composition = {**METHODS, **VARIANTS}[run.method](run)
    trainer = Trainer(
        model, **{"optimizer": partial(torch.optim.SGD, lr=LEARNING_RATE), "seed": run.seed} | composition
    )
    for stream in streams(run, tasks):
        trainer.add(stream)
    trainer.fit()
    return trainer


@cache
def _data(data_root: str, held_out: bool) -> ImageData:
    data = load_images("mnist", Path(data_root))
    return data.validation_split(1 / 6) if held_out else data


@lru_cache(maxsize=1)
def _tasks(dataset: str, seed: int, held_out: bool, data_root: str) -> list[Task]:
    benchmark = BENCHMARKS[dataset]
    tasks = benchmark.tasks(_data(data_root, held_out), seed)
    return tasks[: benchmark.tuned_on] if held_out else tasks


def measure(run: Run, data_root: str) -> dict[str, Any]:
    """Accuracy in percent over all test images, and over those of every task."""
    torch.set_num_threads(1)
    tasks = _tasks(run.dataset, drawn(run), run.held_out, data_root)
    model = train(run, tasks).model
    final = [accuracy(model, model.tasks[-1], task.x_test, task.y_test) for task in tasks]
    sizes = [len(task.y_test) for task in tasks]
    right = sum(share * size for share, size in zip(final, sizes, strict=True))
    return {"accuracy": 100 * right / sum(sizes), "tasks": [100 * share for share in final]}


def tuning_runs(dataset: str) -> list[Run]:
    """Random edits by every stride, on held-out images."""
    return [Run(dataset, TUNED, seed, stride=s, held_out=True) for seed in TUNING_SEEDS for s in GRID]


def best_stride(dataset: str, done: dict[str, dict[str, Any]]) -> float:
    """That of the highest mean accuracy in the tuning runs."""
    found = {s: [done[key_of(r)]["accuracy"] for r in tuning_runs(dataset) if r.stride == s] for s in GRID}
    return max(GRID, key=lambda s: statistics.mean(found[s]))


def table_runs(dataset: str, methods: Sequence[str], seeds: int, stride: float) -> list[Run]:
    """All runs of these methods, seed by seed; of the four that GMED concerns also with outputs that come with their
    task, where tasks have classes of their own."""
    rows = [(name, "full") for name in methods]
    rows += [(name, "growing") for name in methods if name in GROWING and dataset == "split"]
    return [
        Run(dataset, name, seed, head, stride if name == TUNED else None)
        for seed in range(seeds)
        for name, head in rows
    ]


def write(folder: Path) -> str:
    """Tables and pictures of all that is done, and the table of all data sets."""
    done, columns = finished(folder / "runs.jsonl"), {}
    for dataset in BENCHMARKS:
        if all(key_of(run) in done for run in tuning_runs(dataset)):
            stride = best_stride(dataset, done)
            runs = table_runs(dataset, [*METHODS, *VARIANTS], 30, stride)
            found = columns[dataset] = by_seed(done, {key_of(run): run for run in runs})
            of = ", ".join(f"{s:g}" for s in GRID)
            chosen = f"Random edits move by {stride:g}, the best of {of} on held-out images."
            (folder / f"{dataset}.md").write_text(report(found, dataset, chosen))
            draw(found, dataset, folder / f"{dataset}.png")
    (folder / "table.md").write_text(overview(columns))
    return overview(columns)


def main() -> None:
    """Complete the study, then write tables and pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--dataset", choices=[*BENCHMARKS, "all"], default="split")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *VARIANTS], help="all of the data set if left out")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--full", action="store_true", help="30 seeds")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    path, make = RESULTS / "runs.jsonl", partial(measure, data_root=given.data_root)
    seeds = 30 if given.full else given.seeds
    for dataset in BENCHMARKS if given.dataset == "all" else [given.dataset]:
        complete(tuning_runs(dataset), path, make, given.processes)
        stride = best_stride(dataset, finished(path))
        methods = given.methods or [*METHODS, *(VARIANTS if dataset == "split" else ())]
        complete(table_runs(dataset, methods, seeds, stride), path, make, given.processes)
    print(write(RESULTS))


if __name__ == "__main__":
    main()
