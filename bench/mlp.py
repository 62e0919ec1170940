"""A perceptron in one compiled call beside torch's layers, from one sample to hundreds.

Run `python -m bench.mlp`. The peer is the same `nn.Sequential` of Linear and ReLU under autograd. "without a
graph" is `mlp_losses` and `mlp_backward` beside the peer with a linear layer and cross-entropy behind it; a step of
descent is `mlp_losses` and `mlp_descend` beside that and an update in place. The floor are the multiply-adds at the
rate of registers.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bench.common import machine, medians, multiply_add_rate, table, threads
from pcl_kernels import mlp, mlp_backward, mlp_descend, mlp_losses

WIDTHS, COLUMNS = (784, 400, 400), 10
RATE = 1e-6
BATCHES = (1, 5, 10, 20, 30, 64, 128, 256)


def measure(batch: int, rate: float) -> list[object]:
    torch.manual_seed(0)
    layers = [nn.Linear(n, m) for n, m in pairwise(WIDTHS)]
    body = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())])
    head = nn.Linear(WIDTHS[-1], COLUMNS)
    whole = nn.Sequential(body, head)
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    x, y = torch.rand(batch, WIDTHS[0]), torch.randint(COLUMNS, (batch,))
    grad, own = torch.randn(batch, WIDTHS[-1]), list(body.parameters())

    def forward_only(run: object) -> object:
        with torch.no_grad():
            return run(x)  # type: ignore[operator]

    def ours_without_graph() -> object:
        found = mlp_losses(x, [*weights, head.weight], [*biases, head.bias], y, [batch])
        return mlp_backward(x, [*weights, head.weight], found.hidden, found.of_logits)

    def ours(v: torch.Tensor) -> torch.Tensor:
        return mlp(v, weights, biases)

    parameters = list(whole.parameters())
    every, all_biases = [*weights, head.weight], [*biases, head.bias]

    def torchs_step() -> None:
        found = torch.autograd.grad(cross_entropy(whole(x), y), parameters)
        with torch.no_grad():
            for p, g in zip(parameters, found, strict=True):
                p.add_(g, alpha=-RATE)

    def our_step() -> object:
        found = mlp_losses(x, every, all_biases, y, [batch])
        return mlp_descend(x, every, all_biases, found.hidden, found.of_logits, lr=RATE)

    torch.testing.assert_close(ours(x), body(x), rtol=1e-4, atol=1e-5)
    t = medians(
        {
            "torch, forward": lambda: forward_only(body),
            "forward": lambda: forward_only(ours),
            "torch, both": lambda: torch.autograd.grad(body(x), own, grad),
            "both": lambda: torch.autograd.grad(ours(x), own, grad),
            "torch, losses": lambda: torch.autograd.grad(cross_entropy(whole(x), y), list(whole.parameters())),
            "losses": ours_without_graph,
            "torch, step": torchs_step,
            "step": our_step,
        },
        rounds=15,
    )
    sizes = [w.numel() for w in weights]
    products = batch * sum(sizes)
    with_backward = 2 * products + batch * sum(sizes[1:])
    return [
        batch,
        t["forward"] * 1e6,
        t["torch, forward"] / t["forward"],
        products / rate / t["forward"],
        t["both"] * 1e6,
        t["torch, both"] / t["both"],
        with_backward / rate / t["both"],
        t["losses"] * 1e6,
        t["torch, losses"] / t["losses"],
        t["step"] * 1e6,
        t["torch, step"] / t["step"],
    ]


def main() -> None:
    """One and two threads."""
    header = ["batch"]
    header += ["forward µs", "x torch", "of the floor", "+ backward µs", "x torch", "of the floor"]
    header += ["without a graph µs", "x torch", "step of descent µs", "x torch"]
    for count in (1, 2):
        with threads(count):
            rate = multiply_add_rate()
            rows = [measure(batch, rate) for batch in BATCHES]
        widths = "-".join(map(str, WIDTHS))
        table(f"mlp {widths}, {count} thread{'s' * (count > 1)}, floor {2 * rate / 1e9:.0f} GFLOP/s", header, rows)


if __name__ == "__main__":
    print(machine())
    main()
