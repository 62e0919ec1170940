"""What a model is for a while: in evaluation mode, or a function of its input alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from pcl.parts import modules, trainable


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Run a block with the model in evaluation mode; afterwards every module is in the mode it was in."""
    training = [module for module in modules(model) if module.training]
    usual = all(map(_is_usual, training))
    set_mode = object.__setattr__ if usual else setattr  # that of nn.Module takes ten times as long
    try:
        if usual:
            for module in training:
                set_mode(module, "training", False)
        else:
            model.eval()
        yield
    finally:
        for module in training:
            set_mode(module, "training", True)


def _is_usual(module: nn.Module) -> bool:
    """Whether its mode is that attribute and nothing else."""
    train, evaluate = (getattr(method, "__func__", None) for method in (module.train, module.eval))
    usual = train is nn.Module.train and evaluate is nn.Module.eval
    return usual and type(module).__setattr__ is nn.Module.__setattr__


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
