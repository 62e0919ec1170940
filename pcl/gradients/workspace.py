"""What a training loop keeps from one call of the engine to the next."""

from collections.abc import Hashable

import torch
from torch import Tensor


class Workspace:
    """Buffers for k gradients of each parameter, and what was found out about a model before.

    One workspace serves one training loop. Results that use its buffers are valid until its next use.
    """

    def __init__(self) -> None:
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}  # by id of a parameter, which is kept so that it stays
        #: why the model of this key is not covered by one pass, or "" where the pass was found to equal the loop
        self.verdicts: dict[Hashable, str] = {}
        #: why batches of these tasks and sizes were not covered all the same
        self.refused: dict[Hashable, str] = {}

    def buffer(self, parameter: Tensor, tasks: int) -> Tensor:
        """Uninitialised ``(tasks, *parameter.shape)``, the same memory in every call as long as the tasks fit."""
        like = (parameter.dtype, parameter.device)
        _, buffer = self._buffers.get(id(parameter), (None, None))
        if buffer is None or len(buffer) < tasks or (buffer.dtype, buffer.device) != like:
            buffer = torch.empty(tasks, *parameter.shape, dtype=parameter.dtype, device=parameter.device)
            self._buffers[id(parameter)] = (parameter, buffer)
        return buffer[:tasks]
