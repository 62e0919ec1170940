"""`mlp`, `mlp_losses`, `mlp_backward`, `mlp_descend`: a chain of Linear layers and ReLUs in one compiled call each.

Kernel: csrc/mlp.cpp.

A step on a small batch is made of products so short that what stands between them, a dispatch, an allocation and a
node of the graph for every layer and activation, costs about as much. Here the chain is one call, the products are
tiled for batches that do not fill a vector, and bias and ReLU are applied while the sums are in registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pcl_kernels.firefly_split.layout import held
from pcl_kernels.mlp import compiled
from pcl_kernels.mlp.compiled import MLPGradients, fits
from pcl_kernels.mlp.softmax import check_blocks, composed_softmax, kernel_softmax, no_column


class MLPLosses(NamedTuple):
    """What :func:`mlp_losses` finds.

    Attributes:
        losses: ``(k,)``, the mean cross-entropy of every block of rows, times its factor.
        logits: z ``(B, columns)``.
        of_logits: ``(B, columns)``, d loss_i / dz on the rows of block i.
        hidden: h_1 ... h_{L-1}, ``(B, n_l)`` each.
    """

    losses: Tensor
    logits: Tensor
    of_logits: Tensor
    hidden: list[Tensor]


def mlp(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
    r"""A multilayer perceptron: :math:`h_l = \max(0, W_l h_{l-1} + b_l)` for l = 1 ... L, with :math:`h_0 = x`.

    The compiled kernel runs on float32 CPU tensors in row-major memory, on processors with AVX2. Everything else, also
    under autocast, in a compiled graph, under a functorch transform, with forward-mode derivatives or before the eyes
    of a ``TorchFunctionMode``, takes torch's own operators, to the same numbers up to rounding. Gradients of every
    order exist; those of the first are compiled. The same bits for any number of threads, and for a row whatever rows
    stand beside it (but for the signs of zeros in its gradient).

    Args:
        x: ``(B, n_0)``, any floating dtype and device.
        weights: L >= 1 matrices ``(n_l, n_{l-1})``, as :class:`torch.nn.Linear` has them.
        biases: as many vectors ``(n_l,)``, or None for a layer without.

    Returns:
        h_L ``(B, n_L)``.

    Raises:
        TypeError: for operands that are not tensors.
        ValueError: for no layer, another number of biases than of weights, or shapes that do not fit together.

    Source: the perceptron with ReLU of Nair and Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines",
    ICML 2010; backward is the chain rule.
    """
    if not fits(x, weights, biases):
        _check(x, weights, biases)
        return _composed(x, weights, biases)[-1]
    operands = [x, *weights, *biases]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in operands):
        y: Tensor = _MLP.apply(len(weights), *operands)
        return y
    return compiled.forward(x, weights, biases, True)[-1]


def mlp_losses(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    target: Tensor,
    sizes: Sequence[int],
    factors: Sequence[float] = (),
) -> MLPLosses:
    r"""Cross-entropy of a perceptron's logits, by blocks of rows, and its gradient with respect to them; no graph.

    The chain of :func:`mlp` with logits :math:`z = W_L h_{L-1} + b_L` in place of a last ReLU, and what
    :func:`pcl_kernels.softmax_losses` says of them. For loops that differentiate by :func:`mlp_backward`: the gradients
    of all blocks' sum, of any weighted sum, or, from the deltas, of every block. Kernel and other operands as for
    :func:`mlp`.

    Args:
        x, weights, biases: as for :func:`mlp`.
        target, sizes, factors: as for :func:`pcl_kernels.softmax_losses`.

    Raises:
        TypeError: for operands that are not tensors, or a target that is not int64.
        ValueError: as :func:`mlp` and :func:`pcl_kernels.softmax_losses`.
    """
    if not compiled.sized(x, weights):
        _check(x, weights, biases, "mlp_losses")
    check_blocks("mlp_losses", x.shape[0], target, sizes, factors)
    known = compiled.losses(x, weights, biases, target, sizes, factors)
    if known is not None:
        (*hidden, logits), losses, of_logits = known
        if losses.shape[0] == 0:
            raise no_column(logits.shape[1])
        return MLPLosses(losses, logits, of_logits, hidden)
    if fits(x, weights, biases):
        *hidden, logits = compiled.forward(x, weights, biases, False)
        losses, of_logits = kernel_softmax(logits, target, sizes, factors)
    else:
        _check(x, weights, biases, "mlp_losses")
        with torch.no_grad():
            *hidden, logits = _composed(x, weights, biases, relu_last=False)
        losses, of_logits = composed_softmax(logits, target, list(sizes), factors)
    return MLPLosses(losses, logits, of_logits, hidden)


def mlp_backward(
    x: Tensor,
    weights: Sequence[Tensor],
    hidden: Sequence[Tensor],
    of_logits: Tensor,
    *,
    scale: Tensor | None = None,
    wanted: Sequence[bool] | None = None,
    of_x: bool = False,
) -> MLPGradients:
    r"""Gradients of a function f of the logits by the chain rule, without a graph:

    .. math:: \delta_L = \partial f / \partial z, \qquad
              \delta_l = W_{l+1}^\top \delta_{l+1} \cdot [h_l > 0], \qquad
              \partial f / \partial W_l = \sum_r \delta_{l,r} h_{l-1,r}^\top.

    Neurons with :math:`\delta_l = 0` in every row cost the kernel nothing; where they meet infinity, the result is NaN
    all the same.

    Args:
        x, weights: as they were for :func:`mlp_losses`.
        hidden: h_1 ... h_{L-1}, as it gave them.
        of_logits: df/dz ``(B, columns)``.
        scale: ``(B,)``, None for ones: the rows of all deltas below the last layer are multiplied by it, and so is what
            follows from them. The last layer's gradients are not: a head that follows the plain sum of all losses above
            a body that follows a weighted one.
        wanted: of W_1 ... W_L, b_1 ... b_L, in this order; default: all.
        of_x: whether df/dx is wanted, :math:`W_1^\top \delta_1`.

    Raises:
        ValueError: for other shapes than these.
    """
    reads = fits(x, weights, None, (*hidden, of_logits), scale)
    if not reads:
        _check(x, weights, [None] * len(weights), "mlp_backward")
        _check_deltas("mlp_backward", x, weights, hidden, of_logits, scale)
    layers = len(weights)
    wanted = [True] * (2 * layers) if wanted is None else wanted
    if len(wanted) != 2 * layers:
        raise ValueError(f"mlp_backward: expected wanted for {layers} weights and as many biases, got {len(wanted)}")
    if reads:
        return compiled.backward(x, weights, hidden, of_logits, scale, wanted, 0, of_x)
    return _composed_backward(x, weights, hidden, of_logits, scale, wanted, of_x)


def mlp_descend(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    hidden: Sequence[Tensor],
    of_logits: Tensor,
    *,
    lr: float,
    scale: Tensor | None = None,
    out: Sequence[Tensor | None] | None = None,
) -> bool:
    r"""A step of gradient descent along the gradients that :func:`mlp_backward` finds:

    .. math:: W_l \leftarrow W_l - \gamma \sum_r \delta_{l,r} h_{l-1,r}^\top, \qquad
              b_l \leftarrow b_l - \gamma \sum_r \delta_{l,r},

    all from the deltas of the weights as they were. The kernel never stores a gradient, and has the bits of one that is
    stored and then used. That all are finite it knows beforehand, as
    :math:`|\sum_r \delta_{l,r} h_{l-1,r}| \le B \max|\delta_l| \max(1, |h_{l-1}|)`. Where that bound says nothing, and
    for operands that the kernel does not read, gradients are stored and looked at, which on a GPU waits for it.

    Args:
        x, hidden, of_logits, scale: as for :func:`mlp_backward`.
        weights, biases: as they were for :func:`mlp_losses`; no two of them overlap.
        lr: gamma.
        out: where it leads is written to these tensors, W_1 ... W_L, b_1 ... b_L, None for None; in place if left out.

    Returns:
        Whether the step was made: not where a gradient is infinite or NaN. Nothing is written then.

    Raises:
        ValueError: for other shapes than these.
    """
    layers = len(weights)
    there = None if out is None else (list(out[:layers]), list(out[layers:]))
    known = compiled.descend(x, weights, biases, (*hidden, of_logits), scale, lr, there)
    if known:
        return True
    if known is None:
        _check(x, weights, biases, "mlp_descend")
        _check_deltas("mlp_descend", x, weights, hidden, of_logits, scale)
    at = [*weights, *biases]
    to = at if out is None else list(out)
    if [None if t is None else t.shape for t in to] != [None if t is None else t.shape for t in at]:
        raise ValueError(f"mlp_descend: expected out like the {layers} weights and their biases, got other shapes")
    return _composed_descent(x, weights, biases, hidden, of_logits, lr, scale, to)


def _check_deltas(
    op: str,
    x: Tensor,
    weights: Sequence[Tensor],
    hidden: Sequence[Tensor],
    of_logits: Tensor,
    scale: Tensor | None,
) -> None:
    rows = x.shape[0]
    shapes = [(rows, weight.shape[0]) for weight in weights]
    found = [h.shape for h in (*hidden, of_logits)]
    if found != shapes or (scale is not None and scale.shape != (rows,)):
        raise ValueError(
            f"{op}: expected hidden layers and of_logits of the shapes {shapes} and scale ({rows},); got "
            f"{list(map(tuple, found))} and {_shape(scale)}"
        )


@torch.no_grad()
def _composed_backward(
    x: Tensor,
    weights: Sequence[Tensor],
    hidden: Sequence[Tensor],
    of_logits: Tensor,
    scale: Tensor | None,
    wanted: Sequence[bool],
    of_x: bool,
) -> MLPGradients:
    layers = len(weights)
    inputs, deltas = [x, *hidden], [of_logits] * layers
    for i in reversed(range(layers - 1)):
        delta = (deltas[i + 1] @ weights[i + 1]).masked_fill(hidden[i] <= 0, 0)
        deltas[i] = delta if scale is None or i < layers - 2 else delta * scale[:, None].to(delta.dtype)
    return MLPGradients(
        deltas[:-1],
        [d.T @ a if n else None for d, a, n in zip(deltas, inputs, wanted, strict=False)],
        [d.sum(dim=0) if n else None for d, n in zip(deltas, wanted[layers:], strict=True)],
        _of_x(deltas[0], weights[0], scale if layers == 1 else None) if of_x else None,
    )


def _of_x(delta: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
    return delta @ weight if scale is None else (delta @ weight) * scale[:, None].to(delta.dtype)


@torch.no_grad()
def _composed_descent(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    hidden: Sequence[Tensor],
    of_logits: Tensor,
    lr: float,
    scale: Tensor | None,
    out: Sequence[Tensor | None],
) -> bool:
    wanted = [True] * len(weights) + [b is not None for b in biases]
    found = mlp_backward(x, weights, hidden, of_logits, scale=scale, wanted=wanted)
    gradients, at = (*found.weights, *found.biases), (*weights, *biases)
    if not all(bool(g.isfinite().all()) for g in gradients if g is not None):
        return False
    for t, g, to in zip(at, gradients, out, strict=True):
        if t is not None and g is not None and to is not None:
            to.copy_(torch.add(t, g, alpha=-lr))
    return True


def _shape(t: Tensor | None) -> tuple[int, ...] | None:
    return None if t is None else tuple(t.shape)


class _MLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layers: int, *operands: Tensor | None) -> Tensor:
        x, weights, biases = _split(operands, layers)
        hidden = compiled.forward(x, weights, biases, True)
        ctx.save_for_backward(*operands, *hidden)
        ctx.layers = layers
        return hidden[-1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layers, needs = ctx.layers, ctx.needs_input_grad[1:]
        operands, hidden = ctx.saved_tensors[: 1 + 2 * layers], ctx.saved_tensors[1 + 2 * layers :]
        if torch.is_grad_enabled():  # its own gradient will be asked for
            return None, *_again(operands, layers, needs, grad)
        x, weights, _ = _split(operands, layers)
        reached = (i for i in range(layers) if needs[0] or needs[1 + i] or needs[1 + layers + i])
        found = compiled.backward(x, weights, hidden, held(grad), None, needs[1:], next(reached, layers), needs[0])
        return None, found.x, *found.weights, *found.biases


def _again(operands: Sequence[Tensor | None], layers: int, needs: Sequence[bool], grad: Tensor) -> list[Tensor | None]:
    """The gradients of all operands, differentiable themselves."""
    # views, so that an operand that was made from another does not lead back to it
    views: list[Any] = [None if t is None else t.view_as(t) for t in operands]
    y = _composed(*_split(views, layers))[-1]
    wanted = [t for t, n in zip(views, needs, strict=True) if n]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    return [next(found) if n else None for n in needs]


def _composed(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], *, relu_last: bool = True
) -> list[Tensor]:
    """h_1 ... h_L of torch's operators; the last without ReLU where that is said."""
    hidden = [x]
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True), 1):
        z = F.linear(hidden[-1], weight, bias)
        hidden.append(z.relu() if relu_last or i < len(weights) else z)
    return hidden[1:]


def _split(operands: Sequence[Tensor | None], layers: int) -> tuple[Any, Any, Any]:
    """x, weights, biases."""
    return operands[0], operands[1 : 1 + layers], operands[1 + layers :]


def _check(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], op: str = "mlp") -> None:
    if not isinstance(x, Tensor) or not all(isinstance(w, Tensor) for w in weights):
        raise TypeError(f"{op}: expected a tensor x and a list of tensors as weights")
    if len(weights) == 0 or len(weights) != len(biases):
        raise ValueError(f"{op}: expected as many biases as weights, at least 1; got {len(biases)} and {len(weights)}")
    width = x.shape[1] if x.dim() == 2 else None
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True), 1):
        if weight.dim() != 2 or weight.shape[1] != width:
            raise ValueError(
                f"{op}: layer {number}: expected x (B, n) and a weight (m, {width or 'n'}); got x {tuple(x.shape)} and "
                f"a weight {tuple(weight.shape)}"
            )
        width = weight.shape[0]
        if bias is not None and bias.shape != (width,):
            raise ValueError(f"{op}: layer {number}: expected a bias ({width},), got {tuple(bias.shape)}")
