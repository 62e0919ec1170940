"""Which functions have rules of their own in the sweep. Every rule has the signature of its function, after the sweep;

one that is not meant for the arguments gives NotImplemented.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pcl.gradients.sweep.layers import BatchNorm, ChannelAffine, Conv2d, Linear, Shared
from pcl.gradients.sweep.nodes import Add, CrossEntropy, Relu
from pcl.gradients.sweep.patch_gramians import Geometry

if TYPE_CHECKING:
    from pcl.gradients.sweep.recording import Sweep


def _linear(sweep: "Sweep", input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if not sweep.are_samples(input) or sweep.tracks(weight) or sweep.tracks(bias) or input.ndim < 2:
        return NotImplemented
    if input.ndim == 2:
        return sweep.record(Linear(input, weight, bias, sweep.shared(weight), sweep.shared(bias)), input)
    # positions are pixels of an image of height 1, and the layer is a convolution with one point
    pixels = sweep.any_operation(lambda a: a.flatten(1, -2).mT[:, :, None], (input,))
    kernel, w = weight[:, :, None, None], _viewed(sweep.shared(weight), (*weight.shape, 1, 1))
    geometry = Geometry((1, 1), (1, 1), (0, 0), (1, 1))
    z = sweep.record(Conv2d(pixels, kernel, bias, w, sweep.shared(bias), geometry), pixels)
    return sweep.any_operation(lambda z: z[:, :, 0].mT.unflatten(1, input.shape[1:-1]), (z,))


def _conv2d(
    sweep: "Sweep",
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    plain = sweep.are_samples(input) and not sweep.tracks(weight) and not sweep.tracks(bias)
    if not plain or input.ndim != 4 or groups != 1 or isinstance(padding, str):
        return NotImplemented
    geometry = Geometry((weight.shape[2], weight.shape[3]), _pair(stride), _pair(padding), _pair(dilation))
    return sweep.record(Conv2d(input, weight, bias, sweep.shared(weight), sweep.shared(bias), geometry), input)


def _conv1d(
    sweep: "Sweep",
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    plain = sweep.are_samples(input) and not sweep.tracks(weight) and not sweep.tracks(bias)
    if not plain or input.ndim != 3 or groups != 1 or isinstance(padding, str):
        return NotImplemented
    image = sweep.any_operation(lambda a: a[:, :, None], (input,))
    geometry = Geometry((1, weight.shape[2]), (1, _single(stride)), (0, _single(padding)), (1, _single(dilation)))
    kernel, w = weight[:, :, None], _viewed(sweep.shared(weight), weight[:, :, None].shape)
    z = sweep.record(Conv2d(image, kernel, bias, w, sweep.shared(bias), geometry), image)
    return sweep.any_operation(lambda z: z[:, :, 0], (z,))


def _batch_norm(
    sweep: "Sweep",
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if training or running_mean is None or running_var is None or not sweep.are_samples(input):
        return NotImplemented
    node = BatchNorm(input, running_mean, running_var, eps, weight, bias, sweep.shared(weight), sweep.shared(bias))
    return sweep.record(node, input)


def _group_norm(
    sweep: "Sweep",
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    if not sweep.are_samples(input):
        return NotImplemented
    n = sweep.any_operation(F.group_norm, (input, num_groups, None, None, eps))
    return _affine(sweep, n, weight, bias, [1, -1] + [1] * (input.ndim - 2))


def _layer_norm(
    sweep: "Sweep",
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    shape = list(normalized_shape)
    if not sweep.are_samples(input) or len(shape) == input.ndim:
        return NotImplemented
    n = sweep.any_operation(F.layer_norm, (input, shape, None, None, eps))
    return _affine(sweep, n, weight, bias, [1] * (input.ndim - len(shape)) + shape)


def _affine(sweep: "Sweep", n: Tensor, weight: Tensor | None, bias: Tensor | None, view: list[int]) -> Tensor:
    if weight is None and bias is None:
        return n
    return sweep.record(ChannelAffine(n, weight, bias, sweep.shared(weight), sweep.shared(bias), view), n)


def _relu(sweep: "Sweep", input: Tensor, inplace: bool = False) -> Any:
    return sweep.record(Relu(input), input)


def _add(sweep: "Sweep", input: Any, other: Any, *, alpha: float = 1) -> Any:
    if not sweep.tracks(input) or not sweep.tracks(other) or input is other:
        return NotImplemented
    if alpha != 1 or input.shape != other.shape or input.dtype != other.dtype:
        return NotImplemented
    return sweep.record(Add(input, other), input, other)


def _cross_entropy(
    sweep: "Sweep",
    input: Tensor,
    target: Tensor,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    plain = weight is None and size_average is None and reduce is None and label_smoothing == 0
    if not plain or reduction != "none" or ignore_index != -100 or input.ndim != 2 or target.is_floating_point():
        return NotImplemented
    return sweep.record(CrossEntropy(input, target), input)


def _view(sweep: "Sweep", input: Tensor, *shape: Any) -> Any:
    """As reshape: convolutions leave their outputs in channels-last memory here."""
    if isinstance(shape[0], torch.dtype):
        return NotImplemented
    return sweep.any_operation(Tensor.reshape, (input, *shape))


RULES: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    F.conv1d: _conv1d,
    F.conv2d: _conv2d,
    F.batch_norm: _batch_norm,
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    torch.add: _add,
    Tensor.add: _add,
    Tensor.__radd__: _add,
    Tensor.__iadd__: _add,
    Tensor.add_: _add,
    Tensor.view: _view,
    F.cross_entropy: _cross_entropy,
}


class _View:
    def __init__(self, direction: Tensor | None) -> None:
        self.direction = direction


def _viewed(parameter: Shared | None, shape: Sequence[int]) -> Shared | None:
    """The same parameter in the shape in which a layer uses it."""
    if parameter is None or parameter.direction is None:
        return parameter
    return _View(parameter.direction.reshape(shape))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _single(value: Any) -> int:
    return value if isinstance(value, int) else value[0]
