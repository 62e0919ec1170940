"""Split neurons of thin layers: `firefly_split_forward` and `firefly_score` beside torch evaluating both copies.

Run `python -m bench.firefly`. The peer forms W ± ε Δ, runs the layer and the activation twice and takes the mean of the
two. "stack" is the library's product with [W; Δ] alone, the floor of any way that leaves the multiplications to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.common import machine, medians, table, threads
from pcl_kernels import firefly_score, firefly_split_forward


@dataclass(frozen=True)
class Case:
    """A layer: batch, inputs, neurons, and of a 3 x 3 convolution the size of its images."""

    batch: int
    inputs: int
    neurons: int
    size: int | None = None
    channels_last: bool = False

    def __str__(self) -> str:
        if self.size is None:
            return f"linear {self.inputs}-{self.neurons}, batch {self.batch}"
        last = ", channels-last" * self.channels_last
        return f"conv {self.inputs}-{self.neurons}, {self.size}x{self.size}, batch {self.batch}{last}"

    def tensors(self) -> list[Tensor]:
        """x, W, Δ, ε; leaves that want gradients."""
        torch.manual_seed(0)
        kernel, image = ((3, 3), (self.size, self.size)) if self.size else ((), ())
        x = torch.randn(self.batch, self.inputs, *image)
        weight, delta = (0.1 * torch.randn(self.neurons, self.inputs, *kernel) for _ in range(2))
        if self.channels_last:
            x, weight, delta = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight, delta))
        return [t.requires_grad_() for t in (x, weight, delta, torch.full((self.neurons,), 0.1))]

    def layer(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight) if self.size is None else F.conv2d(x, weight, padding=1)

    def ours(self, x: Tensor, weight: Tensor, delta: Tensor, epsilon: Tensor) -> Tensor:
        return firefly_split_forward(x, weight, delta, epsilon, padding=0 if self.size is None else 1)

    def copies(self, x: Tensor, weight: Tensor, delta: Tensor, epsilon: Tensor) -> Tensor:
        """What torch alone has to do."""
        step = epsilon.view(-1, *[1] * (weight.dim() - 1)) * delta
        return (self.layer(x, weight + step).relu() + self.layer(x, weight - step).relu()) / 2


LINEAR = [Case(64, 784, 400), Case(128, 784, 400), Case(128, 400, 400)]
CONVOLUTIONS = [
    *((32, 3, 16, 32), (64, 16, 16, 32), (32, 16, 32, 32), (32, 32, 32, 16)),
    *((64, 32, 64, 16), (32, 64, 64, 16), (64, 64, 64, 8)),
]
CASES = LINEAR + [Case(*of, channels_last=last) for last in (False, True) for of in CONVOLUTIONS]


def measure(case: Case) -> list[object]:
    leaves = case.tensors()
    x, weight, delta, epsilon = plain = [t.detach() for t in leaves]
    stacked = torch.cat([weight, delta])
    a, d = case.layer(x, stacked).chunk(2, dim=1)
    y = case.ours(*plain)
    torch.testing.assert_close(y, case.copies(*plain), rtol=1e-4, atol=1e-4)
    grad = torch.randn_like(y)

    def backward(forward: Callable[..., Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(forward(*leaves), leaves, grad)

    seconds = medians(
        {
            "copies": lambda: case.copies(*plain),
            "ours": lambda: case.ours(*plain),
            "stack": lambda: case.layer(x, stacked),
            "copies, backward": backward(case.copies),
            "ours, backward": backward(case.ours),
            "score": lambda: firefly_score(a, d, epsilon, grad),
            "score, gelu": lambda: firefly_score(a, d, epsilon, grad, activation="gelu"),
        },
        rounds=7,
    )
    both = seconds["ours, backward"]
    return [
        str(case),
        seconds["ours"] * 1e3,
        seconds["copies"] / seconds["ours"],
        seconds["copies"] / seconds["stack"],
        both * 1e3,
        seconds["copies, backward"] / both,
        seconds["score"] / both,
        seconds["score, gelu"] / both,
    ]


def main() -> None:
    """One thread, float32, relu."""
    header = [
        *("layer", "forward ms", "x copies", "stack x copies", "+ backward ms", "x copies"),
        *("score ÷ forward + backward", "with gelu"),
    ]
    with threads(1):
        table("firefly_split_forward and firefly_score, 1 thread", header, [measure(case) for case in CASES])


if __name__ == "__main__":
    print(machine())
    main()
