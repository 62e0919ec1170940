"""Convolution and recurrence: what a Longhorn block does along time."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcl.models.longhorn.state import LonghornState
from pcl_kernels import longhorn_scan, longhorn_step


class Recurrence(nn.Module):
    """From u and gate z, both ``(B, L, inner)``, to ``(B, L, inner)``:

        u = silu(conv1d(u))                     causal, every channel by itself, over the last ``conv`` steps
        r, k, q = x_proj(u)                     (B, L, rank), (B, L, states) twice
        beta = sigmoid(dt_head(r))              (B, L, inner), W_beta of rank ``rank``
        o = longhorn_scan(u, q, k, beta) + D u  S_t = (1 - Δ_t ⊗ k_t²) ⊙ S_{t-1} + (Δ_t ⊙ u_t) ⊗ k_t, o_t = S_t q_t

    and o silu(z). Arguments as those of :class:`~pcl.models.longhorn.block.LonghornBlock`, which says more.
    """

    def __init__(self, inner: int, *, states: int, conv: int, rank: int, exact: bool) -> None:
        super().__init__()
        for name, size in {"inner": inner, "states": states, "conv": conv, "rank": rank}.items():
            if size < 1:
                raise ValueError(f"Longhorn {name}: expected at least 1, got {size}")
        self.inner, self.states, self.rank, self.exact = inner, states, rank, exact
        self.conv1d = nn.Conv1d(inner, inner, conv, groups=inner, padding=conv - 1)
        self.x_proj = nn.Linear(inner, rank + 2 * states, bias=False)
        self.dt_head = nn.Linear(rank, inner)
        self.D = nn.Parameter(torch.ones(inner))
        nn.init.zeros_(self.dt_head.bias)  # beta = 1/2 where r says nothing

    def scan(self, u: Tensor, z: Tensor, *, reverse: bool = False) -> Tensor:
        """All steps, from the last to the first if ``reverse``."""
        seen = [u, self._nothing(u)] if reverse else [self._nothing(u), u]
        u = self._convolved(torch.cat(seen, dim=1), reverse)
        o = longhorn_scan(
            u, *self._operands(u), logits=True, exact=self.exact, skip=self._skip(u), gate=z, reverse=reverse
        )
        assert isinstance(o, Tensor)
        return o

    def scan_on(self, u: Tensor, z: Tensor, state: LonghornState | None) -> tuple[Tensor, LonghornState]:
        """All steps after those that the state has seen, and the state behind them; ``state`` is left as it is."""
        window, memory = (self._nothing(u), None) if state is None else self._checked(state, len(u))
        seen = torch.cat([window.to(u.dtype), u], dim=1)
        u = self._convolved(seen)
        o, memory = longhorn_scan(
            u,
            *self._operands(u),
            logits=True,
            exact=self.exact,
            skip=self._skip(u),
            gate=z,
            initial_state=memory,
            return_state=True,
        )
        window = seen[:, seen.shape[1] - window.shape[1] :].clone()  # a view would keep all of `seen` alive
        return o, (window, memory)

    def one_step(self, u: Tensor, z: Tensor, state: LonghornState) -> Tensor:
        """One step, u and z ``(B, inner)``; the state is updated in place."""
        window, memory = self._checked(state, len(u))
        seen = torch.cat([window.to(u.dtype), u.unsqueeze(1)], dim=1)
        taps = self.conv1d.weight.squeeze(1).T.to(u.dtype)
        u = F.silu((seen * taps).sum(dim=1) + self.conv1d.bias.to(u.dtype))  # type: ignore[union-attr]
        q, k, beta = self._operands(u)
        o = longhorn_step(u, q, k, beta, memory, logits=True, exact=self.exact, skip=self._skip(u), gate=z)
        window.copy_(seen[:, 1:])
        return o

    def initial_state(self, batch: int) -> LonghornState:
        """The state of ``batch`` sequences before their first step, on the parameters' device."""
        weight = self.x_proj.weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        return self._nothing(weight.new_empty(batch, 0)), weight.new_zeros(batch, self.inner, self.states, dtype=dtype)

    def _nothing(self, u: Tensor) -> Tensor:
        """The inputs of the convolution before the first step."""
        return u.new_zeros(len(u), self.conv1d.kernel_size[0] - 1, self.inner)

    def _checked(self, state: LonghornState, batch: int) -> LonghornState:
        found = tuple(tuple(t.shape) for t in state)
        expected = (batch, self.conv1d.kernel_size[0] - 1, self.inner), (batch, self.inner, self.states)
        if found != expected:
            raise ValueError(
                f"state: expected tensors of shape {expected}, got {found}; pass what this block returned for the "
                "same number of sequences"
            )
        return state

    def _convolved(self, seen: Tensor, reverse: bool = False) -> Tensor:
        """silu(conv1d(u)) ``(B, L, inner)`` of seen ``(B, L + conv - 1, inner)``.

        As a two-dimensional convolution of height 1, whose channels may lie last: on a CPU several times faster than
        in one dimension, which knows no such layout.
        """
        weight = self.conv1d.weight.flip(-1) if reverse else self.conv1d.weight
        image = seen.transpose(1, 2).unsqueeze(2)
        found = F.conv2d(image, weight.unsqueeze(2), self.conv1d.bias, groups=self.inner)
        return F.silu(found.squeeze(2).transpose(1, 2))

    def _operands(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and the logits of beta."""
        r, k, q = self.x_proj(u).split([self.rank, self.states, self.states], dim=-1)
        return q, k, self.dt_head(r)

    def _skip(self, u: Tensor) -> Tensor:
        return self.D.to(torch.float64 if u.dtype == torch.float64 else torch.float32)
