"""Whole EMGD steps beside the plain step on the summed loss, k autograd.grad calls with J @ J.T, and torchjd.

Run `python -m bench.steps`. The floor of a step are the forward and backward flops of the plain step at the rate of a
large matrix product with the same threads.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.common import machine, medians, table, threads
from bench.step_cases import SharedInput, Steps

HAS_TORCHJD = importlib.util.find_spec("torchjd") is not None

#: model, tasks, samples a task, rounds, torchjd at 1 thread too (it takes up to half a minute a step)
CASES = [
    ("MLP 784-400-400", 5, 32, 7, True),
    ("MLP 784-400-400", 20, 32, 7, True),
    ("MLP 784-400-400", 5, 128, 7, True),
    ("MLP 784-400-400", 20, 128, 7, True),
    ("reduced ResNet-18", 5, 10, 3, True),
    ("reduced ResNet-18", 20, 10, 2, False),
    ("ResNet-18", 5, 10, 1, False),
    ("ResNet-18", 20, 4, 1, None),
]
"""None: not at all, a step would take a minute."""


def main() -> None:
    """Time with 1 and 2 threads, then memory."""
    for count in (1, 2):
        with threads(count):
            rate = matmul_rate()
            rows = [measure(*case, rate=rate, single=count == 1) for case in CASES]
        header = "model, k, each, floor ms, plain ms, EMGD ms, EMGD ÷ plain, EMGD ÷ one batch, k grads ÷ plain, "
        table(
            f"whole EMGD step, {count} thread{'s' * (count > 1)}",
            (header + "torchjd ÷ EMGD").split(", "),
            rows,
        )
        with threads(count):
            shared_input(count)
    memory()


def shared_input(count: int) -> None:
    """One batch with k losses."""
    rows = []
    for tasks in (5, 20):
        case = SharedInput(tasks, 128)
        runs: dict[str, Callable[[], object]] = {
            "summed": case.summed,
            "separate": case.separate,
            "parameters": lambda case=case: case.ours("parameters"),  # type: ignore[misc]
            "features": lambda case=case: case.ours("features"),  # type: ignore[misc]
        }
        t = medians(runs, rounds=7)
        ratios = [t["parameters"] / t["separate"], t["features"] / t["summed"]]
        rows.append([tasks, *(seconds * 1e3 for seconds in t.values()), *ratios])
    table(
        f"k losses of one batch of 128, MLP 784-400-400, {count} thread{'s' * (count > 1)}, ms",
        ["k", "summed loss", "k grads", "parameters", "features", "parameters ÷ k grads", "features ÷ summed"],
        rows,
    )


def matmul_rate() -> float:
    """Flops per second of a large matrix product."""
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / medians({"matmul": lambda: a @ a}, rounds=5)["matmul"]


def measure(
    model: str, tasks: int, per_task: int, rounds: int, torchjd: bool | None, *, rate: float, single: bool
) -> list[object]:
    """One row of the table."""
    steps = Steps(model, tasks, per_task)
    with FlopCounterMode(display=False) as flops:
        steps.plain()
    runs: dict[str, Callable[[], object]] = {"plain": steps.plain, "ours": steps.ours, "stacked": steps.stacked}
    if model.startswith("MLP"):  # others tie the samples of a batch together
        runs["one batch"] = steps.concatenated
    t = medians(runs, rounds=rounds)
    if HAS_TORCHJD and (torchjd or (torchjd is False and not single)):
        t["torchjd"] = once(steps.torchjd)
    floor = flops.get_total_flops() / rate

    def ratio(a: str, b: str) -> object:
        return t[a] / t[b] if a in t and b in t else "-"

    return [
        model, tasks, per_task, floor * 1e3, t["plain"] * 1e3, t["ours"] * 1e3, ratio("ours", "plain"),
        ratio("ours", "one batch"), ratio("stacked", "plain"), ratio("torchjd", "ours"),
    ]  # fmt: skip


def once(run: Callable[[], object]) -> float:
    """Seconds of one call; a short one is run before, uncounted."""
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    if seconds > 2:
        return seconds
    return medians({"run": run}, rounds=3)["run"]


def memory() -> None:
    """Peak memory of steps, each kind in a process of its own."""
    kinds = ["plain", "concatenated", "lowmem", "segment", "loop", "stacked", *(["torchjd"] if HAS_TORCHJD else [])]
    rows: list[list[object]] = []
    for model, per_task in (("MLP 784-400-400", 32), ("MLP 784-400-400", 128), ("reduced ResNet-18", 10)):
        peak = {kind: peak_memory(model, 20, per_task, kind) for kind in kinds if (model, kind) != SLOW}
        rows.append(
            [model, per_task, peak["plain"], *(peak[k] / peak["plain"] if k in peak else "-" for k in kinds[1:])]
        )
    table(
        "peak memory at k = 20, model, batches and optimizer included; MB, and others over plain",
        ["model", "each", "plain MB", "one batch ÷ plain", *(f"{kind} ÷ plain" for kind in kinds[2:])],
        rows,
    )


SLOW = ("reduced ResNet-18", "torchjd")


def peak_memory(model: str, tasks: int, per_task: int, kind: str) -> float:
    """MB of resident memory beyond that of the process before it makes the model, at the peak of three steps."""
    # Freed memory goes back at once, so that the peak is that of memory in use and not of what malloc keeps.
    malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
    command = [sys.executable, "-m", "bench.step_memory", model, str(tasks), str(per_task), kind]
    found: float = json.loads(subprocess.check_output(command, text=True, env=os.environ | malloc))
    return found


if __name__ == "__main__":
    print(machine())
    main()
