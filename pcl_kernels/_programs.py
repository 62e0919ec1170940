"""What the quadratic programs share: room for the weights and a QPInfo, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

Results = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # weights (..., k), then gap, active, iterations, status


def room(gram: Tensor, *_: object) -> Results:
    """Empty tensors for the results of gram (..., k, k), on its device; as a fake, whatever else the op takes."""
    batch, rows = gram.shape[:-2], gram.shape[:-1]
    return (
        gram.new_empty(rows, dtype=torch.float64),
        gram.new_empty(batch, dtype=torch.float64),
        gram.new_empty(rows, dtype=torch.bool),
        gram.new_empty(batch, dtype=torch.int32),
        gram.new_empty(batch, dtype=torch.int32),
    )


def addresses(results: Results) -> tuple[int, int, int, int, int]:
    """Where the compiled solvers write, in their order."""
    out, gap, active, iterations, status = results
    return out.data_ptr(), gap.data_ptr(), active.data_ptr(), iterations.data_ptr(), status.data_ptr()
