"""Evaluation mode for a while, for modules of every kind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pcl.models.modes import evaluation_mode


class FrozenNorm(nn.BatchNorm1d):
    """Never trains, whatever it is told."""

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(False)
        self.told = mode
        return self


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


class Telling(nn.Sequential):
    """Has its own way into evaluation mode."""

    def eval(self) -> Telling:
        self.told = False
        return super().eval()


@pytest.mark.parametrize("kind", ["plain", "own train", "train replaced", "own eval", "scripted"])
def test_every_module_is_in_the_mode_it_was_in(kind: str) -> None:
    model: nn.Module = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()), nn.ReLU())
    model[1][0].eval()  # type: ignore[index]
    told: list[bool] = []
    if kind == "own train":
        model[0] = FrozenNorm(3)  # type: ignore[operator]
        model[0].training = True  # type: ignore[index, union-attr]
    elif kind == "train replaced":
        model[0].train = lambda mode=True: told.append(mode)  # type: ignore[index, union-attr, method-assign]
    elif kind == "own eval":
        model = Telling(*model)  # type: ignore[misc]
    elif kind == "scripted":
        model = torch.jit.script(model)
    before = modes(model)
    x = torch.randn(4, 3)

    def fail() -> None:
        with evaluation_mode(model):
            assert not any(modes(model)) or kind == "train replaced"
            assert torch.equal(model(x), model(x))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert modes(model) == before == [True, True, True, False, True, True]
    assert told == ([False] if kind == "train replaced" else [])
    if kind.startswith("own"):
        assert (model if kind == "own eval" else model[0]).told is False  # type: ignore[index, union-attr]
