"""The gradient of a memory edit (arXiv 2401.01054, Eq. 13) in all its ways, beside a training step on the same samples.

Run `python -m bench.memory_edit`. 128 samples; MLP 784-400-400 and the reduced ResNet-18 on 3 x 32 x 32 images, with a
head of ten classes. A training step is forward, backward of the mean loss and SGD. PCL_BENCH_EDIT_LOOP sets how many
samples the loop and vmap are timed on (default 8; their time goes by the sample, and is scaled to 128).
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.common import machine, medians, resident, table, threads
from pcl import MLP, ContinualModel, ResNet18
from pcl.gradients.sample_distance import WAYS, Problem, Rows
from pcl.gradients.sweep.patch_gramians import Geometry, gramians_are_cheaper

SAMPLES = 128
FEW = int(os.environ.get("PCL_BENCH_EDIT_LOOP", "8"))
MODELS: dict[str, tuple[Callable[[], nn.Module], int, tuple[int, ...]]] = {
    "MLP 784-400-400": (lambda: MLP(784, [400, 400]), 400, (784,)),
    "reduced ResNet-18": (lambda: ResNet18(3, 20), 160, (3, 32, 32)),
}
NAMES = {
    "training": "training step",
    "channels-last": "training step, channels-last",
    "sweep": "sweep (R-operator)",
    "ghost": "double backward over ghost norms",
    "vmap": "vmap over samples",
    "loop": "loop of double backwards",
}


def make_problem(name: str, channels_last: bool = False) -> Problem:
    """The model in evaluation mode, as edits have it; a random direction."""
    torch.manual_seed(0)
    build, features, shape = MODELS[name]
    backbone = build()
    x = torch.rand(SAMPLES, *shape)
    if channels_last:
        backbone, x = backbone.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    model = ContinualModel(backbone, features, "class")
    model.add_task("a", range(10))
    y = torch.randint(10, (SAMPLES,))

    def losses(x: Tensor, rows: Rows) -> Tensor:
        return model.losses(x, y[rows], "a")

    shared = model.shared_parameters()
    return Problem(model.eval(), losses, x, shared, [1e-2 * torch.randn_like(p) for p in shared])


def training_step(problem: Problem) -> Callable[[], object]:
    """Forward, backward, SGD; the model in training mode."""
    problem.model.train()
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        problem.losses(problem.x, slice(None)).mean().backward()
        optimizer.step()

    return step


def runs(name: str) -> dict[str, Callable[[], object]]:
    """What is timed."""
    problem = make_problem(name)
    few = replace(problem, rows=slice(0, FEW))
    found: dict[str, Callable[[], object]] = {"training": training_step(make_problem(name))}
    if "ResNet" in name:
        found["channels-last"] = training_step(make_problem(name, channels_last=True))
    for way, run in WAYS.items():
        of = few if way in ("vmap", "loop") else problem
        found[way] = lambda run=run, of=of: run(of)  # type: ignore[misc]
    return found


def flops(name: str) -> dict[str, float]:
    """Of the matrix products in a training step and in a sweep, per batch; the head, which is tiny, left out."""
    problem = make_problem(name)
    total = {"training": 0.0, "sweep": 0.0}
    first = True

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal first
        assert isinstance(layer, (nn.Linear, nn.Conv2d))
        a, points = inputs[0], layer.weight[0, 0].numel()
        unit = 2.0 * output.numel() * a.shape[1] * points  # forward
        total["training"] += (2 if first else 3) * unit  # and both backwards, no delta being wanted of the samples
        total["sweep"] += (4 if first else 6) * unit  # with W and D
        if isinstance(layer, nn.Conv2d):
            geometry: Any = Geometry(layer.kernel_size, layer.stride, layer.padding, layer.dilation)  # type: ignore[arg-type]
            if gramians_are_cheaper(a, output, geometry):
                pixels = geometry.padded(a.shape[2:])[0] * geometry.padded(a.shape[2:])[1]
                positions = output[0, 0].numel()
                total["sweep"] += 4.0 * len(a) * (a.shape[1] * pixels**2 + output.shape[1] * positions**2)
            else:
                total["sweep"] += unit  # V_b has to be made, D is part of it
        first = False

    layers = [m for m in problem.model.backbone.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]  # type: ignore[union-attr]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        problem.losses(problem.x, slice(None))
    for hook in hooks:
        hook.remove()
    return total


def peak(name: str, what: str) -> float:
    """MB that this process has needed at most beyond what the model and its samples take."""
    torch.set_num_threads(1)
    problem = make_problem(name, channels_last=what == "channels-last")
    run = training_step(problem) if what in ("training", "channels-last") else lambda: WAYS[what](problem)  # type: ignore[index]
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def peaks(name: str) -> dict[str, float]:
    """Peak memory of every way, each in a process of its own; vmap, which may need more than there is, left out."""
    context = multiprocessing.get_context("spawn")
    found = {}
    for what in ("training", "channels-last", "sweep", "ghost"):
        with context.Pool(1) as pool:
            found[what] = pool.apply(peak, (name, what))
    return found


def measure(name: str, memory: dict[str, float]) -> list[list[object]]:
    """One row for every way."""
    seconds = medians(runs(name), rounds=5 if "ResNet" in name else 15)
    for way in ("vmap", "loop"):
        seconds[way] *= SAMPLES / FEW
    work = flops(name)
    rows: list[list[object]] = []
    for what, time in seconds.items():
        floor = work[what] / work["training"] if what in work else "-"
        ratios = [time / seconds["training"], floor, seconds["loop"] / time]
        of_memory = [memory[what], memory[what] / memory["training"]] if what in memory else ["-", "-"]
        rows.append([NAMES[what], time * 1e3, *ratios, *of_memory])
    return rows


def main() -> None:
    """Both models with 1 and 2 threads."""
    header = ["way", "ms", "÷ training step", "floor by flops", "x loop", "peak MB", "÷ training step's"]
    for name in MODELS:
        memory = peaks(name) if "ResNet" in name else {}
        for count in (1, 2):
            with threads(count):
                rows = measure(name, memory)
            title = f"memory_edit, {name}, {SAMPLES} samples, {count} thread{'s' * (count > 1)}"
            table(f"{title}; loop and vmap timed on {FEW} samples and scaled", header, rows)


if __name__ == "__main__":
    print(machine())
    main()
