"""What a model is for a while: in evaluation mode, or a function of its input alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from pcl.parts import modules, trainable


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Run a block with the model in evaluation mode; afterwards every module is in the mode it was in."""
    training = [module for module in modules(model) if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Run a block in which no parameter takes part in derivatives, so that those with respect to the input do not pay
    for theirs; afterwards those that were trainable are so again."""
    resting = trainable(model)
    for parameter in resting:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in resting:
            parameter.requires_grad_(True)
