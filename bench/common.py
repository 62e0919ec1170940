"""What the benchmarks share: machine facts, medians of interleaved runs, the memory floor, tables."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from pcl_kernels import _C


def machine() -> str:
    """One line: processor, cores, instruction set in use, versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = f"{names[0]} x{len(names)}" if names else cpu
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{cpu}, {_C.isa()}, {versions}, {_C.BUILD['compiler']}"


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Run with n torch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def medians(runs: dict[str, Callable[[], object]], *, rounds: int = 9, seconds: float = 0.02) -> dict[str, float]:
    """Median seconds of one call of each of `runs`.

    The runs take turns, so that a noisy moment of the machine hits all of them. Each turn repeats its call
    until about `seconds` have passed; slower calls run once a turn. One call of each goes before, uncounted.
    """
    repeats = {}
    for name, run in runs.items():
        run()
        start = time.perf_counter()
        run()
        repeats[name] = max(1, int(seconds / max(time.perf_counter() - start, 1e-9)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return {name: statistics.median(t) for name, t in times.items()}


def read_floor(tensors: Sequence[torch.Tensor]) -> Callable[[], object]:
    """Reads the tensors' bytes once with torch's threads and does nothing else: the memory floor."""
    address, size = [t.data_ptr() for t in tensors], [t.numel() * t.element_size() for t in tensors]
    return lambda: _C.read_bytes(address, size, torch.get_num_threads())


def multiply_add_rate(rounds: int = 100_000) -> float:
    """Multiply-adds of single precision a second, by the threads that are set."""
    times, done = [], 0
    for _ in range(9):
        start = time.perf_counter()
        done = _C.multiply_adds(rounds, torch.get_num_threads())
        times.append(time.perf_counter() - start)
    return done / statistics.median(times)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table; floats with three significant digits."""
    text = [[f"{c:.3g}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    widths = [max(len(r[i]) for r in [list(header), *text]) for i in range(len(header))]
    print(f"\n{title}\n")
    for row in [list(header), ["-" * w for w in widths], *text]:
        print("| " + " | ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) + " |")


def resident(line: str) -> float:
    """A line of /proc/self/status in MB."""
    status = Path("/proc/self/status").read_text()
    return int(next(row for row in status.splitlines() if row.startswith(line)).split()[1]) / 1024
