"""A language model on a text that does not end: state carried from window to window, and through checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_cases import same

from pcl import LonghornConfig, LonghornLM, Windows, detach_state, load_checkpoint, save_checkpoint

ROWS, LENGTH = 2, 5


def text(windows: int = 8) -> Tensor:
    return torch.randint(0, 7, (ROWS * LENGTH * windows + 1,), generator=torch.Generator().manual_seed(0))


class Run:
    """Next-token training, one window after the other."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = LonghornLM(LonghornConfig(width=8, depth=2, vocabulary=7, states=4))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.state: Any = None
        self.taken = 0
        self.losses: list[float] = []

    def train(self, until: int) -> None:
        tokens = text()
        source = Windows(tokens[:-1], tokens[1:], ROWS, LENGTH, every_step=True)
        for x, y in list(source)[self.taken : until]:
            loss, state = self.model.loss(x, y, self.state, return_state=True)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.state = detach_state(state)
            self.taken += 1
            self.losses.append(loss.item())

    def checkpoint(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": self.state,
            "taken": self.taken,
        }

    def resume(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.state, self.taken = saved["state"], saved["taken"]


@pytest.mark.parametrize("stop", [0, 3])
def test_a_resumed_text_goes_on_to_the_same_bits(stop: int, tmp_path: Path) -> None:
    whole, first, second = Run(), Run(), Run(seed=1)
    whole.train(until=8)
    first.train(until=stop)
    save_checkpoint(tmp_path / "c", first.checkpoint())
    second.resume(load_checkpoint(tmp_path / "c"))
    second.train(until=8)
    assert second.losses == whole.losses[stop:]
    assert same(second.checkpoint(), whole.checkpoint())


def test_gradients_of_a_window_are_those_of_the_long_pass_cut_before_it() -> None:
    """The state that a window begins with is a constant: a pass over all of the text with the graph cut there."""
    model, tokens = Run().model.double(), text(windows=2)
    (x0, _), (x1, y1) = Windows(tokens[:-1], tokens[1:], ROWS, LENGTH, every_step=True)
    _, state = model(x0, return_state=True)
    loss = model.loss(x1, y1, detach_state(state))
    found = torch.autograd.grad(loss, list(model.parameters()))
    whole = model(torch.cat([x0, x1], dim=1))[:, LENGTH:]
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(whole.flatten(0, 1), y1.flatten()))
    uncut = torch.autograd.grad(model.loss(x1, y1, state), list(model.parameters()))
    assert not all(torch.allclose(a, b) for a, b in zip(found, uncut, strict=True))
    with torch.no_grad():
        _, constant = model(x0, return_state=True)
    expected = torch.autograd.grad(model.loss(x1, y1, constant), list(model.parameters()))
    torch.testing.assert_close(found, expected)
