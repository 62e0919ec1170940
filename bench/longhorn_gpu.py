"""The Longhorn scan on a GPU: batch 8, length 4,096, 1,536 channels, 16 states, bfloat16; part of `bench.gpu`.

The bytes that must move are those of the inputs and the output, once; backward, those of the inputs, the gradient that
comes in and the gradients that go out. "Mamba" is `selective_scan_fn` of mamba_ssm at the same sizes, where it is
installed: another recurrence, with as many states and as many inputs of each size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.longhorn_scan import chunks, steps, steps_training, train
from bench.longhorn_scan import scan as ours

BATCH, LENGTH, CHANNELS, STATES = 8, 4096, 1536, 16
Row = dict[str, float | int | str]


def inputs() -> tuple[list[Tensor], Tensor]:
    """x, q, k, the logits of β; and the gradient that comes in."""
    make = {"device": "cuda", "dtype": torch.bfloat16}
    torch.manual_seed(0)
    x, logits, d_out = (torch.randn(BATCH, LENGTH, CHANNELS, **make) for _ in range(3))  # type: ignore[call-overload]
    q, k = (torch.randn(BATCH, LENGTH, STATES, **make) / STATES**0.5 for _ in range(2))  # type: ignore[call-overload]
    return [x, q, k, logits], d_out


def mamba() -> Callable[..., Tensor] | None:
    """Mamba's scan of u, Δ (B, D, L) with B, C (B, N, L); None where it is not installed."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None
    decay = -torch.rand(CHANNELS, STATES, device="cuda")

    def run(x: Tensor, q: Tensor, k: Tensor, logits: Tensor) -> Tensor:
        found: Tensor = selective_scan_fn(x.mT, logits.mT, decay, k.mT, q.mT, delta_softplus=True)
        return found.mT

    return run


def bench_longhorn(copy: float, seconds: Callable[[Callable[[], object]], float]) -> list[Row]:
    """Times on the stream; `copy` is the bandwidth of a copy in bytes a second."""
    tensors, d_out = inputs()
    wide = tensors[0].numel() * 2
    narrow = tensors[1].numel() * 2
    moved = {"forward": 3 * wide + 2 * narrow, "backward": 5 * wide + 4 * narrow}
    peers: dict[str, Callable[..., Tensor] | None] = {
        "ours": ours,
        "compiled": chunks(torch.compile(steps, dynamic=False)),
        "Mamba": mamba(),
    }
    rows: list[Row] = []
    for name, run in peers.items():
        if run is None:
            continue
        try:
            with torch.no_grad():
                forward = seconds(lambda run=run: run(*tensors))  # type: ignore[misc]
            trained = chunks(torch.compile(steps_training, dynamic=False)) if name == "compiled" else run
            both = seconds(train(trained, tensors, d_out))
        except Exception as error:  # a peer that does not run here; ours must
            if name == "ours":
                raise
            print(f"longhorn_scan, {name}: left out, {type(error).__name__}: {str(error)[:80]}")
            continue
        for part, took in (("forward", forward), ("backward", both - forward)):
            rate = moved[part] / took
            rows.append({"scan": name, "pass": part, "ms": took * 1e3, "GB/s": rate * 1e-9, "of copy": rate / copy})
    twice = [train(ours, tensors, d_out)() for _ in range(2)]
    same = all(torch.equal(a, b) for a, b in zip(*twice, strict=True))
    print(f"longhorn_scan: gradients have {'the same bits' if same else 'OTHER BITS'} twice")
    return rows
