"""The GPU kernels against what the device can do: `python -m bench.gpu`, or `make bench-gpu`.

* gramian: bytes read a second, beside the bandwidth of a device-to-device copy (read plus write) in the same
  run
* the small problems: time on the stream of a batch of one and of 1,024, by replays of a CUDA graph
* longhorn_scan: bytes that must move a second, beside that bandwidth, the compiled loop and Mamba's scan
* a whole weighting step: host synchronisations, which must be none

Prints a table and writes bench/results/<device>.json. Without a CUDA device it says so and ends well.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bench.common import machine, table
from bench.longhorn_gpu import bench_longhorn
from pcl_kernels import (
    cagrad_dual,
    combine,
    cone_qp,
    elastic_factors,
    gramian,
    imtl_g,
    maxdo,
    nash_mtl,
    pcgrad,
    random_orders,
    simplex_qp,
)

RESULTS = Path(__file__).parent / "results"


def seconds_on_stream(run: Callable[[], object], *, inside: int = 10, rounds: int = 15) -> float:
    """Median device seconds of one call: `inside` calls make a graph, whose replays events time."""
    run()  # compiles what is to be compiled
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(inside):
            run()
    graph.replay()
    times = []
    for _ in range(rounds):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) * 1e-3 / inside)
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Bytes read and written a second by a copy far larger than any cache."""
    source = torch.empty(1 << 29, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds_on_stream(lambda: target.copy_(source), inside=4)


def parameter_shapes(m: int) -> list[int]:
    """Sizes like those of a network's parameters: many of different order, m together."""
    sizes = [m // 4, m // 4, m // 8, m // 8, m // 16, m // 16, *[m // 512] * 40, 1024, 512, 10]
    return [*sizes, m - sum(sizes)]


def task_gradients(k: int, m: int, dtype: torch.dtype) -> list[list[Tensor]]:
    return [[torch.randn(n, device="cuda", dtype=dtype) for n in parameter_shapes(m)] for _ in range(k)]


def bench_gramian(copy: float) -> list[dict[str, float | int | str]]:
    rows: list[dict[str, float | int | str]] = []
    m = 10_000_000
    for dtype in (torch.float32, torch.bfloat16):
        for k in (2, 5, 10, 20, 40):
            grads = task_gradients(k, m, dtype)
            ours = seconds_on_stream(lambda grads=grads: gramian(grads))
            stacked = torch.stack([torch.cat(row) for row in grads])
            peer = seconds_on_stream(lambda j=stacked: j @ j.T)
            rate = k * m * dtype.itemsize / ours
            rows.append(
                {
                    **{"dtype": str(dtype).removeprefix("torch."), "k": k, "ms": ours * 1e3},
                    **{"J @ J.T stacked ms": peer * 1e3, "GB/s": rate * 1e-9, "of copy": rate / copy},
                }
            )
            del grads, stacked
    return rows


def bench_small_problems() -> list[dict[str, float | int | str]]:
    rows: list[dict[str, float | int | str]] = []
    for k in (2, 5, 10, 20, 40, 64):
        for batch in (1, 1024):
            j = torch.randn(batch, k, k + 3, device="cuda", dtype=torch.float64)
            gram, vector = j @ j.mT, torch.rand(k, device="cuda", dtype=torch.float64) + 0.1
            orders = random_orders(k, 0, batch).cuda()
            ops: dict[str, Callable[[], object]] = {
                "simplex_qp": lambda gram=gram, sigma=vector: simplex_qp(gram, sigma),
                "cone_qp": lambda gram=gram, b=-vector: cone_qp(gram, b),
                "cagrad_dual": lambda gram=gram: cagrad_dual(gram),
                "maxdo": lambda gram=gram: maxdo(gram),
                "nash_mtl": lambda gram=gram: nash_mtl(gram),
                "fairgrad": lambda gram=gram, p=vector: nash_mtl(gram, p, alpha=2.0),
                "imtl_g": lambda gram=gram: imtl_g(gram),
                "pcgrad": lambda gram=gram, orders=orders: pcgrad(gram, orders),
                "elastic_factors": lambda gram=gram: elastic_factors(gram),
            }
            took = {op: seconds_on_stream(run) * 1e6 for op, run in ops.items()}
            rows.append({"k": k, "batch": batch, **{f"{op} µs": t for op, t in took.items()}})
    return rows


def synchronisations() -> int:
    """0 where a whole weighting step passes with host waits forbidden, else 1."""
    grads = task_gradients(20, 1_000_000, torch.float32)

    def step() -> object:
        return combine(grads, simplex_qp(gramian(grads)))

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        print(f"a weighting step waited for the device: {error}")
        return 1
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return 0


def main() -> None:
    if not torch.cuda.is_available():
        print("bench.gpu: no CUDA device here, nothing measured")
        return
    name = torch.cuda.get_device_name()
    copy = copy_bandwidth()
    results = {
        "gramian": bench_gramian(copy),
        "small problems": bench_small_problems(),
        "longhorn_scan": bench_longhorn(copy, seconds_on_stream),
    }
    print(f"{name}, copy {copy * 1e-9:.0f} GB/s; {machine()}")
    for title, rows in results.items():
        table(title, list(rows[0]), [list(row.values()) for row in rows])
    waits = synchronisations()
    print(f"\nhost synchronisations in a weighting step: {waits}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    facts = {"device": name, "host": machine(), "copy_bytes_per_second": copy, "synchronisations": waits}
    path.write_text(json.dumps({**facts, **results}, indent=1, ensure_ascii=False) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
