"""Memories of all sizes, and whole steps of replay beside bare PyTorch loops that do the same.

Run `python -m bench.rehearsal`; with `--long`, 100,000 steps of ER in place of it. One thread. The steps are those of
:mod:`bench.replay_steps`. "floor" is what torch's forward and backward passes and updates alone take of a step.

How fast a process steps depends on where its memory happens to lie, by a tenth to either side. Steps are therefore
measured in several processes, one after the other: medians over them, and the least and the largest ratio.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from bench.common import machine, medians, table, threads
from bench.replay_steps import LARGE, METHODS, bare, floor, ours, tenths
from pcl import ReservoirMemory


def memory_row(capacity: int, batch: int, folder: Path | None = None, pixels: bool = False) -> list[object]:
    """Storing and drawing a batch of images in a full memory, beside a permutation of all its places.

    Args:
        folder: in which the images lie in a file; None for memory.
        pixels: images of uint8 in place of float32.
    """
    memory, draws = ReservoirMemory(capacity, keep_original=False, storage=folder), torch.Generator()

    def images(count: int) -> Tensor:
        return torch.randint(256, (count, 784), dtype=torch.uint8) if pixels else torch.rand(count, 784)

    x, y = images(batch), torch.randint(10, (batch,))
    for rows in torch.arange(capacity).split(10_000):
        memory.observe("a", images(len(rows)), rows % 10, range(10), draws)

    def store(times: int) -> None:
        memory.seen = times * capacity  # so many have gone by for one that is kept
        memory.observe("a", x, y, range(10), draws)

    def permuted() -> Tensor:
        return memory.x[torch.randperm(capacity, generator=draws)[:batch]]

    runs = {"half": lambda: store(2), "few": lambda: store(100), "draw": lambda: memory.sample(batch, draws)}
    t = medians({**runs, "permuted": permuted})
    kind = f"{'uint8' if pixels else 'float32'}, {'a file' if folder else 'memory'}"
    return [kind, capacity, batch, *(seconds * 1e6 for seconds in t.values())]


def steps_once(methods: Sequence[str], batch: int) -> list[tuple[float, float, float]]:
    """Seconds of a step of every method in this process: ours, by hand, and what torch's passes and updates take."""
    makers = {"ours": ours, "bare": bare, "floor": floor}
    with threads(1):
        runs = {f"{kind} {m}": make(m, batch) for m in methods for kind, make in makers.items()}
        t = medians(runs, rounds=15, seconds=0.05)
    return [(t[f"ours {m}"], t[f"bare {m}"], t[f"floor {m}"]) for m in methods]


def step_rows(methods: Sequence[str], batch: int, launches: int) -> list[list[object]]:
    """Of every method, over so many processes."""
    taken = []
    for _ in range(launches):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            taken.append(alone.submit(steps_once, methods, batch).result())
    rows: list[list[object]] = []
    for method, of_launches in zip(methods, zip(*taken, strict=True), strict=True):
        us, by_hand, least = (statistics.median(t) for t in zip(*of_launches, strict=True))
        ratios = sorted(other / mine for mine, other, _ in of_launches)
        floors = statistics.median(other / floor for _, other, floor in of_launches)
        over = statistics.median((mine - floor) * 1e6 for mine, _, floor in of_launches)
        rows.append(
            [method, 1 / us, 1 / by_hand, 1 / least, statistics.median(ratios), ratios[0], ratios[-1], floors, over]
        )
    return rows


HEADER = [
    *("method", "ours", "bare loop", "floor", "ours ÷ bare loop", "least", "most", "floor ÷ bare loop"),
    "ours over floor, µs",
]


def main(launches: int = 5) -> None:
    """Memories, then steps."""
    with threads(1):
        cases = [(500, 10), (500, 128), (10_000, 10), (10_000, 1000), (1_000_000, 10), (1_000_000, 1000)]
        memories = [memory_row(*case) for case in cases]
        with tempfile.TemporaryDirectory() as folder:
            for pixels in (False, True):
                memories += [memory_row(1_000_000, batch, Path(folder), pixels) for batch in (10, 1000)]
    small, large = step_rows(METHODS, 10, launches), step_rows(LARGE, 128, launches)
    table(
        "reservoir of images of 784 pixels, 1 thread, µs",
        [
            *("images", "capacity", "batch", "store, half of it kept", "store, a hundredth kept", "draw"),
            "draw by a permutation",
        ],
        memories,
    )
    of = f"steps per second, {{0}} + {{0}}, 1 thread, {launches} processes"
    table(of.format(10), HEADER, small)
    table(of.format(128), HEADER, large)


def long_run(steps: int = 100_000) -> None:
    """Whether a long run keeps its speed."""
    with threads(1):
        rates, memory = zip(*tenths(steps), strict=True)
    table(f"ER, 10 + 10, {steps:,} steps, steps per second by tenth", [str(i + 1) for i in range(10)], [rates])
    print(
        f"\nlast tenth ÷ first: {rates[-1] / rates[0]:.3f}; memory grew by {memory[-1] - memory[0]:.1f} MB between them"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="100,000 steps of ER in place of everything else")
    parser.add_argument("--launches", type=int, default=5, help="processes in which steps are measured")
    given = parser.parse_args()
    print(machine())
    long_run() if given.long else main(given.launches)
