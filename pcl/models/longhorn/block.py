"""The Longhorn block: a Mamba block whose recurrence is `pcl_kernels.longhorn_scan`."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from pcl.models.longhorn.config import LonghornConfig
from pcl.models.longhorn.recurrence import Recurrence
from pcl.models.longhorn.state import LonghornState
from pcl.models.residual import ResidualStack


class LonghornBlock(Recurrence):
    """A sequence mixer of constant memory: every step writes to an associative memory and reads from it.

    With inner = expand * width, for x ``(B, L, width)``:

        u, z = in_proj(x)                       (B, L, inner) each
        u = silu(conv1d(u))                     causal, every channel by itself, over the last ``conv`` steps
        r, k, q = x_proj(u)                     (B, L, rank), (B, L, states) twice
        beta = sigmoid(dt_head(r))              (B, L, inner), W_beta of rank ``rank``
        o = longhorn_scan(u, q, k, beta) + D u  S_t = (1 - Δ_t ⊗ k_t²) ⊙ S_{t-1} + (Δ_t ⊙ u_t) ⊗ k_t, o_t = S_t q_t
        y = out_proj(o silu(z))                 (B, L, width)

    Parameters have the names and shapes of the published model, so that its weights load. They may be of half
    precision, or computed with under autocast; the memory S is float32 all the same.

    The state, of what the block remembers, is a pair: the inputs ``(B, conv - 1, inner)`` that the convolution still
    needs, and S ``(B, inner, states)``.

    Args:
        width: of x.
        states: columns of the memory S, the length of keys and queries.
        expand: inner / width.
        conv: steps that the convolution sees.
        rank: of W_beta; ceil(width / 16) if None.
        exact: the update of Theorem 6.3.1 in full, I - Δ k kᵀ in place of its diagonal; see `longhorn_scan`.

    Raises:
        ValueError: for a size below 1.

    Source: Liu et al., "Longhorn: State Space Models are Amortized Online Learners" (2024); Bo Liu's dissertation
    (2025), Sec. 6.3.2, Algorithm 7 and Fig. 6.2; initial values as in the published code.
    """

    def __init__(
        self,
        width: int,
        *,
        states: int = 16,
        expand: int = 2,
        conv: int = 4,
        rank: int | None = None,
        exact: bool = False,
    ) -> None:
        rank = math.ceil(width / 16) if rank is None else rank
        super().__init__(expand * width, states=states, conv=conv, rank=rank, exact=exact)
        self.width = width
        self.in_proj = nn.Linear(width, 2 * self.inner, bias=False)
        self.out_proj = nn.Linear(self.inner, width, bias=False)

    def forward(self, x: Tensor, state: LonghornState | None = None, return_state: bool = False) -> Any:
        """y ``(B, L, width)``, and with ``return_state`` the state behind the last step.

        Args:
            x: ``(B, L, width)``, L at least 1.
            state: to go on from; nothing seen yet if None. It is left as it is.

        Raises:
            ValueError: for x or a state of another shape.
        """
        if x.dim() != 3 or x.shape[1] == 0 or x.shape[2] != self.width:
            raise ValueError(f"x: expected (batch, length, {self.width}) with length at least 1, got {tuple(x.shape)}")
        u, z = self.in_proj(x).chunk(2, dim=-1)
        if state is None and not return_state:
            return self.out_proj(self.scan(u, z))
        o, state = self.scan_on(u, z, state)
        y = self.out_proj(o)
        return (y, state) if return_state else y

    @torch.no_grad()
    def step(self, x: Tensor, state: LonghornState) -> Tensor:
        """:meth:`forward` of one step, x ``(B, width)`` to y ``(B, width)``; the state is updated in place.

        Raises:
            ValueError: for x or a state of another shape.
        """
        if x.dim() != 2 or x.shape[1] != self.width:
            raise ValueError(f"x: expected (batch, {self.width}), got {tuple(x.shape)}")
        u, z = self.in_proj(x).chunk(2, dim=-1)
        y: Tensor = self.out_proj(self.one_step(u, z, state))
        return y


def longhorn_stack(config: LonghornConfig) -> ResidualStack:
    """``config.depth`` blocks; their out_proj starts smaller by sqrt(depth), as in the published code, so that the sum
    over all layers has the size of one."""
    c = config
    blocks = [
        LonghornBlock(c.width, states=c.states, expand=c.expand, conv=c.conv, rank=c.rank) for _ in range(c.depth)
    ]
    with torch.no_grad():
        for block in blocks:
            block.out_proj.weight /= math.sqrt(c.depth)
    return ResidualStack(blocks, c.width)
