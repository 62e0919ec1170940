"""`firefly_score`: signature, checks, dispatch, fake. Kernels: csrc/firefly_score.cpp, triton.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._registry import define, plain
from pcl_kernels.firefly_split.checks import check_activation, check_channels, check_pair, check_tensor
from pcl_kernels.firefly_split.layout import addresses, block, sizes, walk_of, wide
from pcl_kernels.memory_edit.layout import threads_for


def firefly_score(
    a: Tensor,
    d: Tensor,
    epsilon: Tensor,
    grad: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    mirror: Tensor | None = None,
    activation: str = "relu",
    points: int = 3,
) -> Tensor:
    """s_i = 1/n Σ_z <g_i, ∂h_i/∂ζ_i> at ζ_i = (2z - 1) / (2n) ε_i: what every neuron's step does to the loss.

    h_i(ζ) = (act(s (a + ζ d) + t) + act(s (a + mirror ζ d) + t)) / 2 is what `firefly_split` gives, g the gradient of
    the loss at it. A neuron's path to h_i depends on no other neuron of its layer, so that one g for all of them and
    all points gives Eq. 5.5 up to O(ε), the order of that expansion.

    Args:
        a, d: `(B, m, ...)`, as for `firefly_split`.
        epsilon: ε `(m,)`, the steps at which the integral ends.
        grad: g, of a's shape and dtype.
        scale, shift, mirror, activation: as for `firefly_split`.
        points: n, in how many points the integrand is evaluated.

    Returns:
        `(m,)` float64, summed in float64 in an order that depends on the shape alone. Not differentiable.

    Raises:
        TypeError: for another dtype, or dtypes of a, d and grad that differ.
        ValueError: for shapes or devices that do not match, an activation that is not known, or points < 1.

    Source: Bo Liu's dissertation (2025), Eq. 5.5 and 5.8.
    """
    op = "firefly_score"
    check_activation(op, activation)
    if points < 1:
        raise ValueError(f"{op}: points: expected at least 1, got {points}")
    check_tensor(op, "a", a)
    if a.dim() < 2:
        raise ValueError(f"{op}: a: expected shape (B, m, ...), got {tuple(a.shape)}")
    check_pair(op, "d", d, "a", a)
    check_pair(op, "grad", grad, "a", a)
    check_channels(op, a.shape[1], a, epsilon=epsilon, scale=scale, shift=shift, mirror=mirror)
    given = [t for t in (a, d, epsilon, grad, scale, shift, mirror) if t is not None]
    run = _score_cpu if plain(*given) else _score_op
    score: Tensor = run(a, d, epsilon, grad, scale, shift, mirror, activation, points)
    return score


def _score_cpu(
    a: Tensor,
    d: Tensor,
    epsilon: Tensor,
    grad: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mirror: Tensor | None,
    activation: str,
    points: int,
) -> Tensor:
    score = a.new_zeros(a.shape[1], dtype=torch.float64)
    if a.numel():
        walk = walk_of(a)
        of_a, of_d, of_grad = (block(t, walk.rows) for t in (a, d, grad))
        vectors = [wide(v) for v in (epsilon, scale, shift, mirror)]
        _C.firefly_score(
            *(sizes(walk, a, activation), addresses(*vectors), of_a.pair, of_d.pair, of_grad.pair),
            *(points, score.data_ptr(), threads_for(3 * a.numel())),
        )
    return score


def _score_fake(
    a: Tensor,
    d: Tensor,
    epsilon: Tensor,
    grad: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mirror: Tensor | None,
    activation: str,
    points: int,
) -> Tensor:
    return a.new_empty(a.shape[1], dtype=torch.float64)


_score_op: Any = define(
    "firefly_score(Tensor a, Tensor d, Tensor epsilon, Tensor grad, Tensor? scale, Tensor? shift, Tensor? mirror, "
    "str activation, int points) -> Tensor",
    cpu=_score_cpu,
    fake=_score_fake,
    cuda="pcl_kernels.firefly_score.triton:firefly_score",
)
