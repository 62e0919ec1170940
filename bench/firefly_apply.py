"""A network of ten million parameters and its Adam state grown by a quarter, beside the same in plain torch.

Run `python -m bench.firefly_apply`. Every hidden width grows by 25 %: an eighth of its neurons splits, and as many are
new. Weights and both moments of all layers: `firefly_apply` in one call; torch with cat, index_select and
multiplication; and torch copying tensors of the grown sizes, which is the floor: as many bytes written, and into new
memory too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.common import machine, medians, table, threads
from pcl_kernels import firefly_apply

#: inputs, outputs, points of the kernel, columns per input channel
LAYERS: dict[str, list[tuple[int, int, int, int]]] = {
    "convolutions (VGG)": [
        (3, 64, 9, 1), (64, 128, 9, 1), (128, 256, 9, 1), (256, 256, 9, 1), (256, 512, 9, 1), (512, 512, 9, 1),
        (512, 512, 9, 1), (512, 1024, 1, 4), (1024, 1000, 1, 1),
    ],
    "Linear (MLP)": [(784, 2048, 1, 1), (2048, 2048, 1, 1), (2048, 2048, 1, 1), (2048, 10, 1, 1)],
}  # fmt: skip


class Growth:
    """The arguments of the call: indices, extra rows and columns, scales."""

    def __init__(self, layers: list[tuple[int, int, int, int]]) -> None:
        draws = torch.Generator().manual_seed(0)
        self.arguments: dict[str, list[Any]] = {
            name: []
            for name in ("tensors", "rows", "columns", "extra_rows", "extra_columns", "row_scale", "column_scale")
        }
        split = torch.empty(0, dtype=torch.int64)
        new = 0
        for n, (inputs, outputs, points, repeat) in enumerate(layers):
            width = inputs * repeat
            columns = torch.cat([torch.arange(inputs), split, inputs + torch.arange(new)])
            column_scale = torch.ones(len(columns))
            column_scale[split] = column_scale[inputs : inputs + len(split)] = 0.5
            columns = (columns[:, None] * repeat + torch.arange(repeat)).flatten()
            column_scale = column_scale.repeat_interleave(repeat)
            here, more = split, new * repeat
            grows = n < len(layers) - 1
            new = outputs // 8 if grows else 0
            split = torch.randperm(outputs, generator=draws)[:new].sort().values
            rows, moments = torch.arange(outputs), torch.arange(outputs)
            rows[split] = outputs + torch.arange(new)
            rows = torch.cat([rows, outputs + new + torch.arange(2 * new)])
            moments = torch.cat([moments, split, torch.full((new,), -1)])
            weight = torch.randn(outputs, width, *([3, 3] if points == 9 else []), generator=draws)
            below = torch.randn(3 * new, *weight.shape[1:], generator=draws)
            right = torch.randn(outputs, more, *weight.shape[2:], generator=draws)
            halves = torch.ones(len(moments))
            halves[split] = halves[outputs : outputs + new] = 0.5
            of_moments = torch.where(columns < width, columns, -1)
            self._add(weight, rows, columns, below, right, None, column_scale if len(here) else None)
            self._add(torch.randn_like(weight), moments, of_moments, None, None, halves, None)
            self._add(torch.rand_like(weight), moments, of_moments, None, None, halves.square(), None)

    def _add(self, *values: Tensor | None) -> None:
        for name, value in zip(self.arguments, values, strict=True):
            self.arguments[name].append(value)

    @property
    def parameters(self) -> int:
        return sum(t.numel() for t in self.arguments["tensors"][::3])

    def ours(self) -> list[Tensor]:
        return firefly_apply(**self.arguments)

    def by_torch(self) -> list[Tensor]:
        made = []
        for t, rows, columns, below, right, row_scale, column_scale in zip(*self.arguments.values(), strict=True):
            if right is not None and right.shape[1]:
                t = torch.cat([t, right], 1)
                below = torch.cat([below, below.new_zeros(len(below), right.shape[1], *t.shape[2:])], 1)
            if below is not None and len(below):
                t = torch.cat([t, below])
            for dim, index, scale in ((0, rows, row_scale), (1, columns, column_scale)):
                known = index >= 0
                if known.all():
                    t = t.index_select(dim, index)
                else:  # zeros but for what index_copy brings
                    size = list(t.shape)
                    size[dim] = len(index)
                    t = t.new_zeros(size).index_copy_(dim, known.nonzero()[:, 0], t.index_select(dim, index[known]))
                if scale is not None:
                    t.mul_(scale.view(-1, *[1] * (t.dim() - dim - 1)))
            made.append(t)
        return made


def measure(name: str) -> list[object]:
    """One row of the table."""
    growth = Growth(LAYERS[name])
    grown = growth.ours()
    assert all(torch.equal(a, b) for a, b in zip(grown, growth.by_torch(), strict=True))
    runs: dict[str, Callable[[], object]] = {
        "ours": growth.ours,
        "torch": growth.by_torch,
        "copy": lambda: [t.clone() for t in grown],
    }
    seconds = medians(runs, rounds=9)
    old, new = growth.parameters, sum(t.numel() for t in grown[::3])
    rate = 2 * 4e-9 * sum(t.numel() for t in grown) / seconds["ours"]
    return [
        *(
            name,
            f"{old / 1e6:.1f} -> {new / 1e6:.1f} M",
            seconds["ours"] * 1e3,
            rate,
            seconds["torch"] / seconds["ours"],
        ),
        seconds["ours"] / seconds["copy"],
    ]


def main() -> None:
    """Both networks with 1 and 2 threads."""
    for count in (1, 2):
        with threads(count):
            rows = [measure(name) for name in LAYERS]
        title = f"firefly_apply, weights and two moments in float32, {count} thread{'s' * (count > 1)}"
        table(title, ["network", "parameters", "ms", "GB/s read + written", "x torch", "÷ copy"], rows)


if __name__ == "__main__":
    print(machine())
    main()
