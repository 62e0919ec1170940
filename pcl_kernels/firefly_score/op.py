"""`firefly_score`: signature and checks."""

from __future__ import annotations

from torch import Tensor

from pcl_kernels.firefly_score import reference
from pcl_kernels.firefly_split.checks import check_activation, check_channels, check_pair, check_tensor


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
    return reference.firefly_score(
        a, d, epsilon, grad, scale, shift, mirror=mirror, activation=activation, points=points
    )
