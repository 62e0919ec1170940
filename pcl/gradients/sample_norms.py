"""Squared norms of per-sample gradients without the per-sample gradients.

For a layer that maps inputs a to outputs z, with delta = d loss / d z, the gradient of sample b with respect to
the layer's weight is a contraction of a_b with delta_b alone. Its squared norm needs no weight-sized tensor:

- Linear, z = W a + c:      |a_b|^2 |delta_b|^2 + |delta_b|^2  (Goodfellow 2015, arXiv 1510.01799); with L
  positions per sample, sum_{l,l'} <a_l, a_l'> <delta_l, delta_l'>.
- Conv2d: a Linear layer on unfolded patches, with L output positions.
- normalisation in evaluation mode, z = gamma * n + beta per channel: |sum_l n delta|^2 + |sum_l delta|^2.

With L positions, F inputs and O outputs the sum is either taken over the two L x L Gramians or over the O x F
gradient of each sample, whichever is smaller. A layer that runs several times in a forward pass has the
positions of all its runs.
"""

from collections.abc import Callable, Sequence
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class SampleNorms:
    """Records a forward pass; then gives |g_b|^2 of every sample, differentiable with respect to the input.

    Use as a context manager around the forward pass of a model in evaluation mode::

        with SampleNorms(model, shared) as norms:
            total = losses(x).sum()
        squared, gradients = norms.squared(total)
    """

    def __init__(self, model: nn.Module, shared: Sequence[nn.Parameter]) -> None:
        self._shared = list(shared)
        self._layers = _owners(model, shared)
        self._seen: list[tuple[nn.Module, Tensor, Tensor]] = []  # layer, input, output, in order of running
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    @staticmethod
    def uncovered(model: nn.Module, shared: Sequence[nn.Parameter]) -> str:
        """Why the norms of this model cannot be had so, in words; empty where they can."""
        layers = _owners(model, shared)
        owned = [id(p) for layer in layers for p in layer.parameters(recurse=False)]
        for layer in layers:
            if type(layer) is nn.Conv2d:
                if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
                    return f"{layer}: only ungrouped convolutions with numeric zero padding are covered"
            elif type(layer) is not nn.Linear and type(layer) not in _NORMS:
                return f"a layer of type {type(layer).__name__}"
            elif type(layer) in _NORMS and not layer.track_running_stats:
                return f"{layer}: it normalises by its batch also in evaluation mode"
        if any(owned.count(id(p)) != 1 for p in shared):
            return "a parameter that belongs to several layers or to none"
        return ""

    def __enter__(self) -> "SampleNorms":
        for layer in self._layers:
            self._hooks.append(layer.register_forward_hook(self._record))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _record(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        self._seen.append((layer, inputs[0], output))
        return output.clone()  # what follows may work in place, and delta belongs to the layer's own output

    def squared(self, total: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """(|g_b|^2 ``(B,)``, the gradient of ``total`` itself), both differentiable.

        Args:
            total: the sum over the batch of the samples' losses.
        """
        outputs = [output for _, _, output in self._seen]
        found = torch.autograd.grad(total, [*outputs, *self._shared], create_graph=True, allow_unused=True)
        runs: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
        for (layer, a, _), delta in zip(self._seen, found, strict=False):
            if delta is not None:
                runs.setdefault(layer, []).append(_RULES[type(layer)](layer, a, delta))
        wanted = {id(p) for p in self._shared}
        terms = [_squared(layer, of_layer, wanted) for layer, of_layer in runs.items()]
        return torch.stack(terms).sum(dim=0), found[len(outputs) :]


def _owners(model: nn.Module, shared: Sequence[nn.Parameter]) -> list[nn.Module]:
    wanted = {id(p) for p in shared}
    return [m for m in model.modules() if any(id(p) in wanted for p in m.parameters(recurse=False))]


def _squared(layer: nn.Module, runs: list[tuple[Tensor, Tensor]], wanted: set[int]) -> Tensor:
    """|g_b|^2 ``(B,)`` of one layer from the (a ``(B, L, F)``, delta ``(B, L, O)``) of all its runs."""
    a = torch.cat([a for a, _ in runs], dim=1)
    delta = torch.cat([delta for _, delta in runs], dim=1)
    squared = torch.zeros_like(delta[:, 0, 0])
    if id(layer.weight) in wanted:
        positions, width_in, width_out = a.shape[1], a.shape[2], delta.shape[2]
        if type(layer) in _NORMS:
            squared = squared + (a * delta).sum(dim=1).square().sum(dim=1)
        elif positions == 1:
            squared = squared + a.square().sum(dim=(1, 2)) * delta.square().sum(dim=(1, 2))
        elif 2 * positions * positions <= width_in * width_out:
            squared = squared + (a @ a.transpose(1, 2) * (delta @ delta.transpose(1, 2))).sum(dim=(1, 2))
        else:
            squared = squared + (delta.transpose(1, 2) @ a).square().sum(dim=(1, 2))
    if id(layer.bias) in wanted:
        squared = squared + delta.sum(dim=1).square().sum(dim=1)
    return squared


def _linear(layer: nn.Module, a: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    return a.reshape(len(a), -1, a.shape[-1]), delta.reshape(len(a), -1, delta.shape[-1])


def _conv2d(layer: nn.Module, a: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, nn.Conv2d)
    assert not isinstance(layer.padding, str)
    patches = F.unfold(a, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # (B, F, L)
    return patches.transpose(1, 2), delta.flatten(2).transpose(1, 2)


def _norm(layer: nn.Module, a: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, _NORMS)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    a, delta = (t.reshape(len(t), t.shape[1], -1).transpose(1, 2) for t in (a, delta))  # (B, L, channels)
    return (a - layer.running_mean) * (layer.running_var + layer.eps).rsqrt(), delta


_RULES: dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.BatchNorm1d: _norm,
    nn.BatchNorm2d: _norm,
}
