"""A layer that is the identity until neurons grow in it."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn


class ResidualLayer(nn.Module):
    """x + outer(act(inner(x))); with no hidden neuron, the identity.

    Args:
        width: channels of x ``(..., width)``, or ``(B, width, H, W)`` with a kernel size.
        hidden: number of hidden neurons; 0 is where growing starts.
        kernel_size: odd; ``inner`` is then a convolution that keeps the size of images, and ``outer`` one of size 1.
            None: both are Linear.
        activation: pointwise.

    ``outer`` has no bias, so that without hidden neurons nothing is added.

    Raises:
        ValueError: for a width below 1, a negative number of hidden neurons, or a kernel size that is even.

    Source: Liu, dissertation, Sec. 5.2.3, Eq. 5.7.
    """

    def __init__(
        self,
        width: int,
        hidden: int = 0,
        kernel_size: int | None = None,
        activation: Callable[[Tensor], Tensor] = torch.relu,
    ) -> None:
        super().__init__()
        if width < 1 or hidden < 0 or (kernel_size is not None and (kernel_size < 1 or kernel_size % 2 == 0)):
            raise ValueError(
                "ResidualLayer: expected width >= 1, hidden >= 0 and an odd kernel_size or None, got "
                f"{width}, {hidden} and {kernel_size}"
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # which is what is wanted
            if kernel_size is None:
                self.inner: nn.Module = nn.Linear(width, hidden)
                self.outer: nn.Module = nn.Linear(hidden, width, bias=False)
            else:
                self.inner = EmptyableConv2d(width, hidden, kernel_size, padding=kernel_size // 2)
                self.outer = EmptyableConv2d(hidden, width, 1, bias=False)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.outer(self.activation(self.inner(x)))
        return y


class EmptyableConv2d(nn.Conv2d):
    """A Conv2d that may have no input or no output channels, which torch's refuses to run."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.numel():
            return super().forward(x)
        padding = [int(p) for p in self.padding]
        sizes = zip(x.shape[2:], padding, self.dilation, self.kernel_size, self.stride, strict=True)
        size = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in sizes]
        nothing = self.weight.sum() + x[:, :0].sum()  # 0, so that weight and x have gradients
        out = x.new_zeros(len(x), self.out_channels, *size) + nothing
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)
