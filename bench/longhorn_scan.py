"""The Longhorn scan on the CPU beside loops in eager torch and under torch.compile.

Run `python -m bench.longhorn_scan`. 768 channels, 16 states, float32, β as logits. "eager" is the recurrence step by
step with what does not depend on the state computed for all steps at once, the fastest loop of torch ops that we found;
"compiled" is the same loop for `CHUNK` steps under torch.compile, called chunk by chunk with the state carried on; it
is compiled for 2 threads, and timed with these alone. "backward / forward" leaves out what forward + backward spend on
fresh memory: at these sizes malloc gives it back to the system after every run, and the next one pays for every page
again, unless MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ say otherwise.

"of multiply-adds" is a floor over our forward pass: the time in which the same threads do its four multiply-adds for
each state and step, in registers and nothing else. "of read speed" is the time to read as many bytes as a forward pass
reads and writes.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bench.common import machine, medians, multiply_add_rate, read_floor, resident, table, threads
from pcl_kernels import longhorn_scan, longhorn_step

CHANNELS, STATES, CHUNK = 768, 16, 16
SIZES = [(1, 1024), (1, 4096), (4, 1024), (4, 4096)]  # batch, length
Loop = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def inputs(batch: int, length: int) -> list[Tensor]:
    """x, q, k and the logits of β."""
    torch.manual_seed(0)
    x, logits = (torch.randn(batch, length, CHANNELS) for _ in range(2))
    q, k = (torch.randn(batch, length, STATES) / STATES**0.5 for _ in range(2))
    return [x, q, k, logits]


def scan(x: Tensor, q: Tensor, k: Tensor, logits: Tensor) -> Tensor:
    """Ours."""
    out = longhorn_scan(x, q, k, logits, logits=True)
    assert isinstance(out, Tensor)
    return out


def steps(x: Tensor, q: Tensor, k: Tensor, logits: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence in torch ops."""
    beta = logits.sigmoid()
    size = beta / (1 + beta * k.square().sum(-1, keepdim=True))
    gain, square = size * x, k.square()
    outs = []
    for t in range(x.shape[1]):
        decay = 1 - size[:, t, :, None] * square[:, t, None]
        state = state * decay + gain[:, t, :, None] * k[:, t, None]
        outs.append((state @ q[:, t, :, None]).squeeze(-1))
    return torch.stack(outs, 1), state


def loop(x: Tensor, q: Tensor, k: Tensor, logits: Tensor) -> Tensor:
    """In eager torch."""
    return steps(x, q, k, logits, x.new_zeros(len(x), x.shape[-1], k.shape[-1]))[0]


def chunks(step: Callable[..., tuple[Tensor, Tensor]]) -> Loop:
    """The loop by `step`, which goes through `CHUNK` steps."""

    def run(x: Tensor, q: Tensor, k: Tensor, logits: Tensor) -> Tensor:
        state, outs = x.new_zeros(len(x), x.shape[-1], k.shape[-1]), []
        for parts in zip(*(t.split(CHUNK, 1) for t in (x, q, k, logits)), strict=True):
            out, state = step(*parts, state)
            outs.append(out)
        return torch.cat(outs, 1)

    return run


def steps_forward(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    """`steps`, to be compiled without gradients: the compiler counts by function how many programs it has made."""
    return steps(*tensors)


def steps_training(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    """`steps`, to be compiled with gradients."""
    return steps(*tensors)


def compiled() -> dict[str, Loop]:
    """The loop under torch.compile for "forward" and for "training"; empty where it does not compile."""
    # a program for each batch, row length, and first state or later
    torch._dynamo.config.recompile_limit = 2 * len(SIZES)
    found = {
        name: chunks(torch.compile(function, dynamic=False))
        for name, function in (("forward", steps_forward), ("training", steps_training))
    }
    try:
        tensors = inputs(1, 2 * CHUNK)
        with torch.no_grad():
            assert torch.allclose(found["forward"](*tensors), scan(*tensors), atol=1e-4)
    except Exception as error:
        print(f"compiled: left out, {type(error).__name__}")
        return {}
    return found


def train(run: Callable[..., Tensor], tensors: list[Tensor], d_out: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Forward and backward."""
    wanted = [t.detach().requires_grad_() for t in tensors]
    return lambda: torch.autograd.grad(run(*wanted), wanted, d_out)


def measure(batch: int, length: int, peers: dict[str, Loop], compiled_peers: dict[str, Loop]) -> list[object]:
    """One row of times for a size and the threads that are set."""
    tensors = inputs(batch, length)
    d_out = torch.randn_like(tensors[0])
    forward: dict[str, Callable[[], object]] = {name: lambda run=run: run(*tensors) for name, run in peers.items()}
    both = {name: train(run, tensors, d_out) for name, run in peers.items()}
    if compiled_peers and torch.get_num_threads() == 2:
        forward["compiled"] = lambda: compiled_peers["forward"](*tensors)
        both["compiled"] = train(compiled_peers["training"], tensors, d_out)
    floor = {"read": read_floor([*tensors, d_out])}  # as many bytes as are read and written by a forward pass
    with torch.no_grad():
        first = medians(forward | floor, rounds=5)
    wanted = [t.detach().requires_grad_() for t in tensors]
    out = scan(*wanted)
    back = {"backward": lambda: torch.autograd.grad(out, wanted, d_out, retain_graph=True)}
    second = medians(both | back, rounds=3)
    row: list[object] = [batch, length, torch.get_num_threads()]
    for times in (first, second):
        row.append(times["ours"] * 1e3)
        row += [times[name] / times["ours"] if name in times else "-" for name in ("eager", "compiled")]
    bound = 4 * batch * length * CHANNELS * STATES / multiply_add_rate()
    return [*row, second["backward"] / first["ours"], bound / first["ours"], first["read"] / first["ours"]]


def exact_update() -> list[list[object]]:
    """Milliseconds of the update in full beside the diagonal one, batch 1, 2 threads."""
    rows: list[list[object]] = []
    with threads(2), torch.no_grad():
        for length in (1024, 4096):
            tensors = inputs(1, length)
            runs: dict[str, Callable[[], object]] = {
                "diagonal": lambda t=tensors: longhorn_scan(*t, logits=True),  # type: ignore[misc]
                "exact": lambda t=tensors: longhorn_scan(*t, logits=True, exact=True),  # type: ignore[misc]
            }
            times = medians(runs)
            rows.append([length, times["diagonal"] * 1e3, times["exact"] * 1e3, times["exact"] / times["diagonal"]])
    return rows


def peak(batch: int, length: int) -> float:
    """Bytes that forward and backward need at most, beyond inputs, over those of inputs and outputs."""
    torch.set_num_threads(1)
    tensors = inputs(batch, length)
    d_out = torch.randn_like(tensors[0])
    train(scan, inputs(1, 64), d_out[:1, :64])()  # what is loaded once
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = resident("VmRSS")
    train(scan, tensors, d_out)()
    held = sum(t.numel() * t.element_size() for t in tensors) + d_out.numel() * d_out.element_size()
    return (resident("VmHWM") - before) * 1024**2 / held


def step_latency() -> list[list[object]]:
    """Microseconds of one `longhorn_step` early and late in a stream of 100,000 tokens."""
    x, q, k, logits = (t[0] for t in inputs(1, 1000))
    state, rows = torch.zeros(1, CHANNELS, STATES), []
    with threads(1), torch.no_grad():
        for first in range(0, 100_000, 1000):

            def thousand() -> None:
                for t in range(1000):
                    now = (tensor[t : t + 1] for tensor in (x, q, k, logits))
                    longhorn_step(*now, state, logits=True)

            if first in (0, 9_000, 49_000, 99_000):
                rows.append([first + 1000, medians({"step": thousand}, rounds=3)["step"] * 1e3])
            else:
                thousand()
    return rows


def main() -> None:
    """All sizes with 1 and 2 threads."""
    peers: dict[str, Loop] = {"ours": scan, "eager": loop}
    with threads(2):
        fast = compiled()
    header = ["batch", "length", "threads", "forward ms", "eager x", "compiled x", "forward + backward ms", "eager x"]
    header += ["compiled x", "backward / forward", "of multiply-adds", "of read speed"]
    rows = []
    for size in SIZES:
        for count in (1, 2):
            with threads(count):
                beside = size[0] == 1  # with more, the loops take minutes
                rows.append(measure(*size, peers if beside else {"ours": scan}, fast if beside else {}))
    table(f"longhorn_scan, {CHANNELS} channels, {STATES} states, float32; x: how many times ours", header, rows)
    table("The exact update, batch 1, 2 threads", ["length", "diagonal ms", "exact ms", "x"], exact_update())
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        memory = pool.apply(peak, (1, 4096))
    print(f"\nPeak extra memory of forward + backward, batch 1, length 4,096: {memory:.2f} x inputs and output")
    table("longhorn_step, batch 1, 1 thread", ["token", "us"], step_latency())


if __name__ == "__main__":
    print(machine())
    main()
