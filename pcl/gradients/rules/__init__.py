"""The layers that one backward pass over all tasks covers: one rule per type."""

from collections.abc import Callable
from typing import Any

from torch import nn

from pcl.gradients.rules.conv import CONV
from pcl.gradients.rules.embedding import EMBEDDING
from pcl.gradients.rules.linear import LINEAR
from pcl.gradients.rules.norms import BATCH_NORM, GROUP_NORM, LAYER_NORM
from pcl.gradients.rules.rule import Rule

# By the forward method and not by the class: a subclass that runs as its parent does is covered, one that does not
# is not.
_RULES: dict[Callable[..., Any], Rule] = {
    nn.Linear.forward: LINEAR,
    nn.Conv1d.forward: CONV,
    nn.Conv2d.forward: CONV,
    nn.Conv3d.forward: CONV,
    nn.Embedding.forward: EMBEDDING,
    nn.BatchNorm1d.forward: BATCH_NORM,  # the same function in two and three dimensions
    nn.LayerNorm.forward: LAYER_NORM,
    nn.GroupNorm.forward: GROUP_NORM,
}


def rule_of(layer: nn.Module) -> Rule | None:
    """The rule of the layer's type; None where there is none, or its forward was replaced."""
    return None if "forward" in vars(layer) else _RULES.get(type(layer).forward)
