"""`logit_distance` as its docstring says it, in float64; this is also how a GPU computes it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def logit_distance(logits: Tensor, stored: Tensor, factor: float, ignored: bool) -> tuple[Tensor, Tensor]:
    now, then = logits.double(), stored.double()
    rows, columns = now.shape
    then = F.pad(then, (0, columns - then.shape[1]), value=torch.nan)
    known = ~then.isnan()
    if ignored:
        apart, compared = torch.where(known, now - then, 0.0), known.sum(dim=1, keepdim=True).clamp(min=1)
    else:
        of_known = F.pad(torch.where(known, then, torch.inf), (0, 1), value=torch.inf)  # one column at least
        apart = now - torch.where(known, then, of_known.amin(dim=1, keepdim=True))
        compared = torch.tensor(columns, device=now.device)
    loss = factor * (apart.square() / compared).sum(dim=1).mean()
    return loss.to(logits.dtype), (apart * (2 * factor / (rows * compared))).to(logits.dtype)
