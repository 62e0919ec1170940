"""The step that a gradient would make, and the parameters where it leads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pcl.gradients.dense import Weights


class Shortcut(NamedTuple):
    """A way to theta - lr * u without u, for a model of dense layers.

    Attributes:
        layers: the layers there, given lr; None where there is no such way.
        by_parameter: tells the parameters' parts of them by their ids.
    """

    layers: Callable[[float], Weights | None]
    by_parameter: Callable[[Weights], Mapping[int, Tensor | None]]


class Course(Sequence[Tensor | None]):
    """u of a step ahead, one tensor per parameter; where it leads is found once for all who look there before the step
    is made.

    Args:
        find: finds u when somebody looks at it.
        shortcut: another way to where it leads.
    """

    def __init__(self, find: Callable[[], Sequence[Tensor | None]], shortcut: Shortcut | None = None) -> None:
        self._find, self._shortcut = find, shortcut
        self._layers: dict[float, Weights | None] = {}
        self._reached: dict[float, list[Tensor | None]] = {}

    @cached_property
    def _along(self) -> Sequence[Tensor | None]:
        return self._find()

    def __len__(self) -> int:
        return len(self._along)

    def __getitem__(self, index: Any) -> Any:
        return self._along[index]

    def layers(self, lr: float) -> Weights | None:
        """All dense layers at theta - lr * u, where there is a shortcut; frozen ones too."""
        if lr not in self._layers:
            self._layers[lr] = None if self._shortcut is None else self._shortcut.layers(lr)
        return self._layers[lr]

    def reached(self, parameters: Sequence[nn.Parameter], lr: float) -> list[Tensor | None]:
        """theta - lr * u for every parameter theta that u concerns."""
        if lr not in self._reached:
            layers = self.layers(lr)
            if self._shortcut is None or layers is None:
                self._reached[lr] = _reached(parameters, self, lr)
            else:
                found = self._shortcut.by_parameter(layers)
                self._reached[lr] = [found.get(id(p)) for p in parameters]
        return self._reached[lr]


def _reached(parameters: Sequence[nn.Parameter], along: Sequence[Tensor | None], lr: float) -> list[Tensor | None]:
    pairs = zip(parameters, along, strict=True)
    return [None if u is None else torch.sub(p.data, u, alpha=lr) for p, u in pairs]


@contextmanager
def moved(parameters: Sequence[nn.Parameter], along: Sequence[Tensor | None], lr: float) -> Iterator[None]:
    """Parameters at theta - lr * u within the block; afterwards they hold the tensors that they held."""
    there = along.reached(parameters, lr) if isinstance(along, Course) else _reached(parameters, along, lr)
    changed = [(p, p.data, ahead) for p, ahead in zip(parameters, there, strict=True) if ahead is not None]
    try:
        for p, _, ahead in changed:
            p.data = ahead
        yield
    finally:
        for p, theta, _ in changed:
            p.data = theta
