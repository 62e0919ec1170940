"""`firefly_split`: signature and checks."""

from __future__ import annotations

from torch import Tensor

from pcl_kernels.firefly_split import reference
from pcl_kernels.firefly_split.checks import check_activation, check_channels, check_pair, check_tensor


def firefly_split(
    a: Tensor,
    d: Tensor,
    epsilon: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    mirror: Tensor | None = None,
    activation: str = "relu",
) -> Tensor:
    """y = (act(s (a + ε d) + t) + act(s (a + mirror ε d) + t)) / 2: both halves of every split neuron, averaged.

    Args:
        a: `(B, m, ...)`, the pre-activations of m neurons; float32, float64, float16 or bfloat16.
        d: those of the directions δ, of a's shape and dtype.
        epsilon: ε `(m,)`, the step of every neuron; any floating dtype, as all vectors here.
        scale, shift: s and t `(m,)`, what a normalisation with fixed statistics does; 1 and 0 if None.
        mirror: `(m,)`, -1 for a neuron that splits, +1 for one that is copied; all -1 if None.
        activation: "identity", "relu", "gelu" (that of the error function), "silu", "tanh", "sigmoid" or "gaussian",
            exp(-u²/2).

    Returns:
        `(B, m, ...)` like a. Differentiable in a, d, epsilon, scale and shift.

    Raises:
        TypeError: for another dtype, or an a and a d whose dtypes differ.
        ValueError: for shapes or devices that do not match, or an activation that is not known.

    Source: Bo Liu's dissertation (2025), Sec. 5.2.2, f_{ε,δ}.
    """
    op = "firefly_split"
    check_activation(op, activation)
    check_tensor(op, "a", a)
    if a.dim() < 2:
        raise ValueError(f"{op}: a: expected shape (B, m, ...), got {tuple(a.shape)}")
    check_pair(op, "d", d, "a", a)
    check_channels(op, a.shape[1], a, epsilon=epsilon, scale=scale, shift=shift, mirror=mirror)
    return reference.firefly_split(a, d, epsilon, scale, shift, mirror=mirror, activation=activation)
