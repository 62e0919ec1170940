"""A backbone and the heads on it as one network, and the part of it that is one task's."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pcl.models.growth.graph import Group, Reader
from pcl.models.growth.locks import detach
from pcl.models.growth.rebuild import select_neurons


class Whole(nn.Module):
    """x -> the output of every head. The heads read the features, so that they grow with them."""

    def __init__(self, backbone: nn.Module, heads: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(x)
        return tuple(head(features) for head in self.heads.children())


class _OneHead(Whole):
    """x -> the output of the one head that there is."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[0]


def compact(
    backbone: nn.Module, heads: nn.ModuleList, number: int, groups: Mapping[str, Group], keep: Mapping[str, Tensor]
) -> nn.Module:
    """The plain network x -> logits of some neurons and one head: a copy without locks, in evaluation mode.

    Args:
        number: of the head.
        groups: those of a :class:`Whole` that may grow.
        keep: by group, the neurons, int64.
    """
    network = _OneHead(copy.deepcopy(backbone), nn.ModuleDict({str(number): copy.deepcopy(heads[number])}))
    detach(network)
    own = {
        name: replace(group, readers=tuple(r for r in group.readers if not is_head(r) or r.layer == f"heads.{number}"))
        for name, group in groups.items()
    }
    select_neurons(network, own, keep)
    return network.requires_grad_(False).eval()


def is_head(reader: Reader) -> bool:
    """Whether this is a head of a :class:`Whole`."""
    return reader.layer.startswith("heads.")


def of_tasks(group: Group, backbone: nn.Module) -> Group:
    """A group of a :class:`Whole` without the heads that read it; fixed where a layer ties its channels together, so
    that no task could use some of them alone."""
    group = replace(group, readers=tuple(reader for reader in group.readers if not is_head(reader)))
    for layer in group.channelwise:
        module = backbone.get_submodule(layer.removeprefix("backbone."))
        if group.fixed is None and not isinstance(module, (_BatchNorm, nn.Conv2d)):
            reason = f"{layer!r}, a {type(module).__name__}, ties its channels: no task could use some of them alone"
            return replace(group, fixed=reason)
    return group


def together(samples: Mapping[str, Sequence[tuple[Tensor, Tensor]]]) -> list[dict[str, tuple[Tensor, Tensor]]]:
    """A batch of every task at a time, as often as the task with the most has some; the others begin anew."""
    most = max(map(len, samples.values()))
    return [{task: batches[i % len(batches)] for task, batches in samples.items()} for i in range(most)]
