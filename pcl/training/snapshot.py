"""What a step changes besides parameters and streams, kept so that it can be put back."""

from typing import TYPE_CHECKING

import torch

from pcl.parts import buffers
from pcl.randomness import global_generators, set_global_generators
from pcl.training.update import optimizer_undo

if TYPE_CHECKING:
    from pcl.training.trainer import Trainer


class Snapshot:
    """Layer statistics, generators, the state of weighting and edit and the optimizer's counters as they are now.

    As a context manager it puts them back if its block raises.
    """

    def __init__(self, trainer: "Trainer") -> None:
        self._trainer = trainer
        device = trainer.device
        self._buffers = [(buffer, buffer.clone()) for buffer in buffers(trainer.model)]
        self._retrieval = trainer._retrieval.get_state()
        self._generators = global_generators(device)
        self._weighting = trainer.weighting.state_dict()
        self._edit = None if trainer.edit is None else trainer.edit.state_dict()
        self._undo_optimizer = optimizer_undo(trainer.optimizer, device)

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            self.restore()

    def restore(self) -> None:
        """Put all of it back."""
        self.restore_layers()
        self._trainer._retrieval.set_state(self._retrieval)
        self._trainer.weighting.load_state_dict(self._weighting)
        if self._trainer.edit is not None and self._edit is not None:
            self._trainer.edit.load_state_dict(self._edit)
        self._undo_optimizer()
        if self._trainer._graph is not None:
            self._trainer._graph.drop()

    def restore_layers(self) -> None:
        """Put back what a forward pass changes: statistics, and the generators that dropout draws from."""
        with torch.no_grad():
            for buffer, before in self._buffers:
                buffer.copy_(before)
        set_global_generators(self._generators, self._trainer.device)
