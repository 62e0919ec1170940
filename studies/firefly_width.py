"""Thin networks that grow wider on Fashion-MNIST, accuracy against size (dissertation, Sec. 5.3.2, in small).

    python -m studies.firefly_width --data-root DIR [--network vgg] [--seeds 3] [--steps 1000] [--images 10000]
                                    [--processes 1]
    python -m studies.firefly_width --data-root DIR --full

Five layers of 4 channels grow six times, each time by as many parameters as 30 % more channels in every layer are.
Firefly, the library's, spends them where it finds the largest gain; Net2Net and new neurons widen all layers alike;
random splits draw from all layers. Between growths all train by Adam, whose state the library carries through, and a
rate that falls to 0 in every stage. The steps in which Firefly trains its candidates are taken off its stage, so that
all have the same number of steps. "Steps up to 1" says how large epsilon may be, at most 0.1 in the other rows; 1 was
chosen on seeds 100 to 102. Scratch trains networks of the same widths as Firefly's, and as the uniform ones, for as
many steps as the grown ones had up to there. A seed chooses the first weights and the batches, and all methods share
it, so that they are compared in pairs.

``--full`` has all 30,000 images, ten seeds and 3,000 steps a stage. Runs that are done are kept in
``studies/results/firefly_width/runs.jsonl`` and not repeated. Interrupt and go on as you like.
"""

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from pcl.data.load import load_images
from pcl.models.growth.firefly import Budget, Firefly
from pcl.randomness import derived_seed, generator
from studies.runs import complete, key_of
from studies.width_growth import STEP, widen
from studies.width_networks import (
    LAYERS,
    NETWORKS,
    Images,
    accuracy,
    batches,
    cross_entropy,
    made,
    parameters,
    standardised,
    train,
    widths_of,
)
from studies.width_report import draw, report

RESULTS = Path(__file__).parent / "results" / "firefly_width"
FIRST, FACTOR, GROWTHS = 4, 1.3, 6
NEW = 8  # candidates in every layer
CANDIDATE_STEPS = 40
LONG_STEP = 1.0  # in place of STEP; chosen on seeds 100 to 102
SCRATCH_AT = (2, 4, 6)  # growths

GROWN = ("Firefly", "Firefly, steps up to 1", "Firefly, split only", "Net2Net", "random split", "new neurons")
SCRATCH = ("scratch, Firefly's widths", "scratch, uniform widths")


@dataclass(frozen=True)
class Run:
    """One training of the study; ``growths`` and ``widths`` are of the network that scratch trains."""

    network: str
    method: str
    seed: int
    steps: int
    images: int
    growths: int = GROWTHS
    widths: tuple[int, ...] = ()


def uniform(growths: int) -> list[int]:
    """Widths of all layers alike after so many growths."""
    return [round(FIRST * FACTOR**growths)] * LAYERS


@cache
def images_of(data_root: str, images: int) -> Images:
    """Fashion-MNIST."""
    return standardised(load_images("fashion_mnist", Path(data_root)), images)


def measure(run: Run, data_root: str) -> dict[str, Any]:
    """After every stage: accuracy in percent of the test images, widths and number of parameters; seconds of training
    and of growing in all."""
    torch.set_num_threads(1)
    data = images_of(data_root, run.images)
    return scratch(run, data) if run.widths else grown(run, data)


def scratch(run: Run, data: Images) -> dict[str, Any]:
    """One stage as long as all of the grown networks up to this size."""
    model = made(run.network, run.widths, run.seed)
    begin = time.perf_counter()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, batches(data, run.seed), run.steps * (run.growths + 1))
    seconds = time.perf_counter() - begin
    return {"stages": [stage(run.network, model, data)], "seconds": seconds, "growing": 0.0}


def grown(run: Run, data: Images) -> dict[str, Any]:
    """All stages."""
    model, source = made(run.network, uniform(0), run.seed), batches(data, run.seed)
    optimizer = torch.optim.Adam(model.parameters())
    stages, begin, growing = [], time.perf_counter(), 0.0
    for growths in range(GROWTHS + 1):
        steps = run.steps
        if growths:
            start = time.perf_counter()
            budget = parameters(run.network, uniform(growths)) - stages[-1]["parameters"]
            draws = generator(run.seed, "width study", run.method, growths)
            if run.method.startswith("Firefly"):
                new = 0 if run.method == "Firefly, split only" else NEW
                seed = derived_seed(run.seed, "width study", growths)
                step = LONG_STEP if run.method == "Firefly, steps up to 1" else STEP
                firefly = Firefly(step=step, new=new, steps=CANDIDATE_STEPS, seed=seed)
                firefly.grow(model, source, cross_entropy, Budget(parameters=budget), optimizer=optimizer)
                steps -= CANDIDATE_STEPS
            else:
                to = uniform(growths) if run.method != "random split" else drawn(run.network, model, growths, draws)
                widen(model, optimizer, run.method, to, data.x[:2], draws)
            growing += time.perf_counter() - start
        train(model, optimizer, source, steps)
        stages.append(stage(run.network, model, data))
    return {"stages": stages, "seconds": time.perf_counter() - begin, "growing": growing}


def drawn(network: str, model: torch.nn.Sequential, growths: int, draws: torch.Generator) -> list[int]:
    """Widths after splits of neurons drawn from all layers, as many as fit into the parameters of the uniform ones."""
    widths = widths_of(model)
    layers = torch.cat([torch.full((width,), i) for i, width in enumerate(widths)])
    for layer in layers[torch.randperm(len(layers), generator=draws)].tolist():
        more = [width + (i == layer) for i, width in enumerate(widths)]
        if parameters(network, more) <= parameters(network, uniform(growths)):
            widths = more
    return widths


def stage(network: str, model: torch.nn.Sequential, data: Images) -> dict[str, Any]:
    """What is found at the end of one."""
    widths = widths_of(model)
    return {"accuracy": accuracy(model, data), "widths": widths, "parameters": parameters(network, widths)}


def grown_runs(network: str, seeds: Iterable[int], steps: int, images: int) -> list[Run]:
    """Of all methods but scratch."""
    return [Run(network, method, seed, steps, images) for seed in seeds for method in GROWN]


def scratch_runs(grown: Iterable[Run], done: dict[str, dict[str, Any]]) -> list[Run]:
    """Those that belong to the runs of Firefly."""
    found = []
    for run in grown:
        if run.method == "Firefly":
            stages = done[key_of(run)]["stages"]
            for growths in SCRATCH_AT:
                for method, widths in zip(SCRATCH, (stages[growths]["widths"], uniform(growths)), strict=True):
                    found.append(Run(run.network, method, run.seed, run.steps, run.images, growths, tuple(widths)))
    return found


def write(folder: Path, runs: list[Run], done: dict[str, dict[str, Any]]) -> str:
    """The table and the picture of the runs of one network."""
    found: dict[str, dict[int, dict[int, tuple[float, int]]]] = {}  # (accuracy, parameters) by method, growths, seed
    cost: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        result = done[key_of(run)]
        first = run.growths if run.widths else 0
        for growths, at in enumerate(result["stages"], first):
            of = found.setdefault(run.method, {}).setdefault(growths, {})
            of[run.seed] = (at["accuracy"], at["parameters"])
        cost.setdefault(run.method, []).append((result["seconds"], result["growing"]))
    one = runs[0]
    name = f"{one.network}-{one.steps}-{one.images}"
    title = f"{one.network}, {one.images:,} images, {one.steps} steps a stage"
    widths = [done[key_of(run)]["stages"][-1]["widths"] for run in runs if run.method == "Firefly"]
    text = report({m: found[m] for m in (*GROWN, *SCRATCH) if m in found}, cost, widths, title)
    (folder / f"{name}.md").write_text(text + "\n")
    draw({m: found[m] for m in (*GROWN, *SCRATCH) if m in found}, title, folder / f"{name}.png")
    return text


def main() -> None:
    """Complete the study, then write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--network", choices=list(NETWORKS), default="vgg")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000, help="of a stage")
    parser.add_argument("--images", type=int, default=10_000, help="training images, at most 30000")
    parser.add_argument("--full", action="store_true", help="--seeds 10 --steps 3000 --images 30000")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    seeds, steps, images = (10, 3000, 30_000) if given.full else (given.seeds, given.steps, given.images)
    path, make = RESULTS / "runs.jsonl", partial(measure, data_root=given.data_root)
    runs = grown_runs(given.network, range(seeds), steps, images)
    done = complete(runs, path, make, given.processes)
    runs += scratch_runs(runs, done)
    done = complete(runs, path, make, given.processes)
    print(write(RESULTS, runs, done))


if __name__ == "__main__":
    main()
