"""A Longhorn block that reads from both ends."""

import math
from typing import Any

from torch import Tensor, nn

from pcl.models.longhorn.recurrence import Recurrence


class BidirectionalBlock(nn.Module):
    """A Longhorn block that reads from both ends: every output depends on the whole sequence.

    As in Vision Mamba, each direction has a convolution, projections and a skip of its own, and both share in_proj, the
    gate and out_proj: y = out_proj((o_ahead + o_back) silu(z) / 2), of which o_ahead is that of
    :class:`pcl.LonghornBlock` and o_back the same on the reversed sequence. A mixer for :class:`pcl.ResidualStack`,
    but one without a state: the reverse direction begins with the end.

    Arguments as those of :class:`pcl.LonghornBlock`.

    Source: Bo Liu's dissertation (2025), Sec. 6.5.4, which takes the architecture of Zhu et al., "Vision Mamba" (2024),
    Algorithm 1, without its matrices A; the factor 1/2 is that of Vision Mamba's published models.
    """

    def __init__(
        self, width: int, *, states: int = 16, expand: int = 2, conv: int = 4, rank: int | None = None
    ) -> None:
        super().__init__()
        rank = math.ceil(width / 16) if rank is None else rank
        inner = expand * width
        self.width = width
        self.ahead, self.back = (Recurrence(inner, states=states, conv=conv, rank=rank, exact=False) for _ in range(2))
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, state: None = None, return_state: bool = False) -> Any:
        """y ``(B, L, width)`` of x ``(B, L, width)``.

        Raises:
            ValueError: if a state is given or asked for, or for x of another shape.
        """
        if state is not None or return_state:
            raise ValueError("BidirectionalBlock: expected no state; it reads from both ends, and goes on from none")
        if x.dim() != 3 or x.shape[1] == 0 or x.shape[2] != self.width:
            raise ValueError(f"x: expected (batch, length, {self.width}) with length at least 1, got {tuple(x.shape)}")
        u, z = self.in_proj(x).chunk(2, dim=-1)
        return self.out_proj((self.ahead.scan(u, z) + self.back.scan(u, z, reverse=True)) / 2)
