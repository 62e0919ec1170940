"""`longhorn_scan` and `longhorn_step`: checks, dispatch, fake, autograd. Kernels: csrc/longhorn_*.cpp, triton.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.nn.functional import silu

from pcl_kernels import _C
from pcl_kernels._gradients import DTYPES
from pcl_kernels._registry import define, plain
from pcl_kernels.longhorn_scan import second_order
from pcl_kernels.longhorn_scan.layout import check, count_sequences, rows, sequences_of, sizes_of, state_dtype, strided


def longhorn_scan(
    x: Tensor,
    q: Tensor,
    k: Tensor,
    beta: Tensor,
    *,
    logits: bool = False,
    exact: bool = False,
    skip: Tensor | None = None,
    gate: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """o_t = S_t q_t, S_t = (1 - Δ_t ⊗ k_t²) ⊙ S_{t-1} + (Δ_t ⊙ x_t) ⊗ k_t, Δ_t = β_t / (1 + β_t k_tᵀk_t).

    The state is an associative memory that every step moves towards recalling x_t for the key k_t. Nothing of size
    (B, L, D, M) is ever stored; the backward pass makes the states again from one in sixteen.

    Args:
        x: (B, L, D); float32, float64, float16 or bfloat16. The state is float32, or float64 for float64.
        q, k: (B, L, M), or (B, L, G, M) with a key for each of G groups of D / G channels; x's dtype.
        beta: (B, L, D), x's dtype, at least 0; what `logits` says is its logit.
        logits: beta is given as logits, β = 1 / (1 + exp(-beta)).
        exact: take the update that Δ belongs to in full, S_t = S_{t-1} - Δ_t ⊙ (S_{t-1} k_t - x_t) ⊗ k_t, the minimiser
            itself; the formula above keeps only the diagonal of k_t k_tᵀ.
        skip: (D,), of the state's dtype: skip ⊙ x_t is added to o_t.
        gate: (B, L, D), x's dtype: o_t, with the skip, times silu(gate_t).
        initial_state: S_0 (N, D, M) of the state's dtype, N the number of sequences; zero if None.
        return_state: also return the state behind the last step.
        reverse: go from the last step to the first.
        cu_seqlens: (N + 1,) integers from 0 to L: B is 1 and holds N sequences, one behind the other.

    Returns:
        o (B, L, D) of x's dtype, and with `return_state` the final state (N, D, M). Differentiable in every tensor, a
        second time through torch ops, which keep every state.

    Raises:
        TypeError: for another dtype, or dtypes that differ.
        ValueError: for shapes, strides of time or devices that do not match.

    Source: Liu et al., "Longhorn: State Space Models are Amortized Online Learners" (2024); Bo Liu's dissertation
    (2025), Algorithm 7 and Eq. 6.9; `exact` is Theorem 6.3.1.
    """
    q, k = (t.unsqueeze(-2) if t.dim() == 3 else t for t in (q, k))
    check(x, q, k, beta, skip, gate, initial_state, cu_seqlens)
    tensors = (x, q, k, beta, skip, initial_state)
    given = [t for t in tensors if t is not None]
    if plain(*given):
        out, state, _ = _scan_cpu(*tensors, cu_seqlens, logits, exact, reverse, False)
    else:
        keep = torch.is_grad_enabled() and any(t.requires_grad for t in given)
        run = _Differentiable.apply if keep else _scan_op
        out, state, _ = run(*tensors, cu_seqlens, logits, exact, reverse, keep)
    if gate is not None:
        out = out * silu(gate)
    return (out, state) if return_state else out


def longhorn_step(
    x: Tensor,
    q: Tensor,
    k: Tensor,
    beta: Tensor,
    state: Tensor,
    *,
    logits: bool = False,
    exact: bool = False,
    skip: Tensor | None = None,
    gate: Tensor | None = None,
) -> Tensor:
    """One step of `longhorn_scan`: the state is updated in place. On the CPU it has the same bits.

    Args:
        x, beta, gate: (B, D).
        q, k: (B, M) or (B, G, M).
        state: (B, D, M), contiguous, float32 (float64 for float64 x).
        logits, exact, skip: as for the scan.

    Returns:
        o (B, D). Not differentiable.

    Raises:
        TypeError, ValueError: as the scan; also where `state` is not contiguous.
    """
    if not state.is_contiguous():
        raise ValueError("longhorn_step: state must be contiguous, because it is updated in place; use .contiguous()")
    x, beta = x.unsqueeze(1), beta.unsqueeze(1)
    q, k = (t.unsqueeze(1) if t.dim() == 3 else t[:, None, None] for t in (q, k))
    gate = None if gate is None else gate.unsqueeze(1)
    check(x, q, k, beta, skip, gate, state, None)
    with torch.no_grad():
        if plain(x, q, k, beta, state):
            out = x.new_empty(x.shape)
            _run_scan(x, q, k, beta, skip, state, None, logits, exact, False, out, state, None)
            increment_version(state)
        else:
            out, new, _ = _scan_op(x, q, k, beta, skip, state, None, logits, exact, False, False)
            state.copy_(new)
        if gate is not None:
            out = out * silu(gate)
    found: Tensor = out.squeeze(1)
    return found


def _scan_cpu(
    x: Tensor,
    q: Tensor,
    k: Tensor,
    beta: Tensor,
    skip: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    logits: bool,
    exact: bool,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """o, the final state, and with `keep` the state before every tile of time, as the kernel lays it out."""
    out, final, kept = _scan_fake(x, q, k, beta, skip, initial, cu_seqlens, logits, exact, reverse, keep)
    final.zero_() if initial is None else final.copy_(initial)  # for sequences of no steps
    _run_scan(x, q, k, beta, skip, initial, cu_seqlens, logits, exact, reverse, out, final, kept if keep else None)
    return out, final, kept


def _run_scan(
    x: Tensor,
    q: Tensor,
    k: Tensor,
    beta: Tensor,
    skip: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    logits: bool,
    exact: bool,
    reverse: bool,
    out: Tensor,
    final: Tensor,
    kept: Tensor | None,
) -> None:
    """The kernel, into out, final and kept. `final` may be `initial`: every state is read before it is written."""
    if not x.numel():
        return
    x, q, k, beta = rows(x), rows(q), rows(k), rows(beta)
    skip, initial = (None if t is None else t.resolve_neg().contiguous() for t in (skip, initial))
    sizes = sizes_of(x, k)
    _C.longhorn_scan(
        *(sequences_of(x, cu_seqlens), sizes, DTYPES[x.dtype], bool(logits), bool(exact), bool(reverse)),
        [strided(t, sizes.channels) for t in (x, beta, q, k, out)],
        (_at(skip), _at(initial), _at(kept)),
        final.data_ptr(),
        _threads(x, k),
    )


def _backward_cpu(
    x: Tensor,
    q: Tensor,
    k: Tensor,
    beta: Tensor,
    skip: Tensor | None,
    cu_seqlens: Tensor | None,
    logits: bool,
    exact: bool,
    reverse: bool,
    kept: Tensor,
    d_out: Tensor,
    d_final: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, q, k, beta, skip and the initial state."""
    x, q, k, beta, d_out = (rows(t) for t in (x, q, k, beta, d_out))
    skip, d_final = (None if t is None else t.resolve_neg().contiguous() for t in (skip, d_final))
    sizes, sequences = sizes_of(x, k), sequences_of(x, cu_seqlens)
    dx, dq, dk, d_beta, d_skip, d_initial = _backward_fake(
        x, q, k, beta, skip, cu_seqlens, logits, exact, reverse, kept, d_out, d_final
    )
    if not x.numel():
        d_initial.zero_() if d_final is None else d_initial.copy_(d_final)
        return dx, dq.zero_(), dk.zero_(), d_beta, d_skip.zero_(), d_initial
    parts = -(-sizes.channels // _C.LONGHORN_CHANNELS)
    sums = x.new_empty((2, parts, *k.shape), dtype=state_dtype(x))
    skips = x.new_empty((len(sequences), x.shape[2]), dtype=state_dtype(x))
    _C.longhorn_backward(
        *(sequences, sizes, DTYPES[x.dtype], bool(logits), bool(exact), bool(reverse)),
        [strided(t, sizes.channels) for t in (x, beta, q, k, d_out)],
        (_at(skip), 0, kept.data_ptr()),
        [strided(t, sizes.channels) for t in (dx, d_beta, sums[0, 0], sums[1, 0])],
        sums.stride(1),
        (skips.data_ptr(), d_initial.data_ptr(), _at(d_final)),
        _threads(x, k),
    )
    dq, dk = (s.sum(0).to(x.dtype) for s in sums)
    return dx, dq, dk, d_beta, skips.sum(0), d_initial


def _at(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def _threads(x: Tensor, k: Tensor) -> int:
    """One thread until there is work enough to wake another (about 50 µs)."""
    return torch.get_num_threads() if x.numel() * k.shape[-1] > 200_000 else 1


def _scan_fake(
    x: Tensor,
    q: Tensor,
    k: Tensor,
    beta: Tensor,
    skip: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    logits: bool,
    exact: bool,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    count, state = count_sequences(x, cu_seqlens), state_dtype(x)
    out = x.new_empty(x.shape)
    final = x.new_empty((count, x.shape[2], k.shape[3]), dtype=state)
    return out, final, x.new_empty(_kept_size(x, k, cu_seqlens) if keep else 0, dtype=state)


def _kept_size(x: Tensor, k: Tensor, cu_seqlens: Tensor | None) -> int:
    """Numbers in the states that the backward pass begins from; an upper bound where sequences are packed."""
    batch, length, _ = x.shape
    sizes, time = sizes_of(x, k), _C.LONGHORN_TIME
    lanes = _C.longhorn_lanes(DTYPES[x.dtype])
    tiles = batch * -(-length // time) if cu_seqlens is None else length // time + len(cu_seqlens) - 1
    return int(tiles * sizes.groups * -(-sizes.channels // lanes) * lanes * sizes.states)


def _backward_fake(
    x: Tensor,
    q: Tensor,
    k: Tensor,
    beta: Tensor,
    skip: Tensor | None,
    cu_seqlens: Tensor | None,
    logits: bool,
    exact: bool,
    reverse: bool,
    kept: Tensor,
    d_out: Tensor,
    d_final: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    state, count = state_dtype(x), count_sequences(x, cu_seqlens)
    d_initial = x.new_empty((count, x.shape[2], k.shape[3]), dtype=state)
    like = [t.new_empty(t.shape) for t in (x, q, k, beta)]
    return like[0], like[1], like[2], like[3], x.new_empty(x.shape[2], dtype=state), d_initial


_scan_op: Any = define(
    "longhorn_scan(Tensor x, Tensor q, Tensor k, Tensor beta, Tensor? skip, Tensor? initial, Tensor? cu_seqlens, "
    "bool logits, bool exact, bool reverse, bool keep) -> (Tensor, Tensor, Tensor)",
    cpu=_scan_cpu,
    fake=_scan_fake,
    cuda="pcl_kernels.longhorn_scan.triton:scan",
)
_backward_op: Any = define(
    "longhorn_backward(Tensor x, Tensor q, Tensor k, Tensor beta, Tensor? skip, Tensor? cu_seqlens, bool logits, "
    "bool exact, bool reverse, Tensor kept, Tensor d_out, Tensor? d_final) -> (Tensor, Tensor, Tensor, Tensor, Tensor, "
    "Tensor)",
    cpu=_backward_cpu,
    fake=_backward_fake,
    cuda="pcl_kernels.longhorn_scan.triton:backward",
)


class _Differentiable(torch.autograd.Function):
    """The compiled gradient; where a gradient of it is wanted, that of torch ops."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        q: Tensor,
        k: Tensor,
        beta: Tensor,
        skip: Tensor | None,
        initial: Tensor | None,
        cu_seqlens: Tensor | None,
        logits: bool,
        exact: bool,
        reverse: bool,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        out, final, kept = _scan_op(x, q, k, beta, skip, initial, cu_seqlens, logits, exact, reverse, keep)
        ctx.save_for_backward(x, q, k, beta, skip, initial, cu_seqlens, kept)
        ctx.options = {"logits": logits, "exact": exact, "reverse": reverse}
        ctx.mark_non_differentiable(kept)
        return out, final, kept

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, d_final: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        x, q, k, beta, skip, initial, cu_seqlens, kept = ctx.saved_tensors
        if torch.is_grad_enabled():
            # views, so that an operand that was made from another does not lead back to it: q = W x, for instance
            x, q, k, beta = (t.view_as(t) for t in (x, q, k, beta))
            skip, initial = (None if t is None else t.view_as(t) for t in (skip, initial))
            given = (x, q, k, beta, skip, initial)
            wanted = [t for t, needed in zip(given, ctx.needs_input_grad, strict=False) if needed]
            ends = None if cu_seqlens is None else cu_seqlens.tolist()
            wide = [t.to(state_dtype(x)) for t in (x, q, k, beta)]
            out, final = second_order.longhorn_scan(
                *wide, skip=skip, initial_state=initial, cu_seqlens=ends, **ctx.options
            )
            outs = (out.to(x.dtype), final)
            got = iter(torch.autograd.grad(outs, wanted, (d_out, d_final), create_graph=True, allow_unused=True))
            found = [next(got) if needed else None for needed in ctx.needs_input_grad[:6]]
            return (*found, None, None, None, None, None)
        dx, dq, dk, d_beta, d_skip, d_initial = _backward_op(
            x, q, k, beta, skip, cu_seqlens, *ctx.options.values(), kept, d_out, d_final
        )
        last = (None if skip is None else d_skip, None if initial is None else d_initial)
        return (dx, dq, dk, d_beta, *last, None, None, None, None, None)
