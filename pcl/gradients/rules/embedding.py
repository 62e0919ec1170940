"""z = row of W that the index names: dW adds every delta to the row that its index named."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcl.gradients.rows import Rows
from pcl.gradients.rules.rule import Rule, Saved, Small


def _uncovered(layer: nn.Embedding) -> str:
    if layer.max_norm is not None:
        return f"{layer} changes its weight in the forward pass"
    if layer.scale_grad_by_freq:
        return f"{layer} divides gradients by how often a word occurs in a batch"
    return f"{layer} has sparse gradients" if layer.sparse else ""


def _forward(layer: nn.Embedding, x: Tensor, rows: Rows) -> tuple[Tensor, Saved]:
    return F.embedding(x, layer.weight, layer.padding_idx), (x,)


def _backward(
    layer: nn.Embedding, saved: Saved, delta: Tensor, rows: Rows, needed: bool
) -> tuple[Tensor | None, Small]:
    return None, {}


def _weight(layer: nn.Embedding, a: Tensor, delta: Tensor, channels: slice) -> Tensor:
    padding = -1 if layer.padding_idx is None else layer.padding_idx
    found: Tensor = torch.ops.aten.embedding_dense_backward(
        delta[..., channels].contiguous(), a, layer.num_embeddings, padding, False
    )
    return found


EMBEDDING = Rule(_forward, _backward, _weight, axis=1, uncovered=_uncovered)
