"""What a weighting is."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor


class Weighting(Protocol):
    """Turns the Gramian of the task gradients into one weight per task.

    The update is theta <- theta - gamma * sum_i weight_i * g_i with g_i = grad loss_i. State, where there is
    any, is kept per task name, because tasks come and go.
    """

    def __call__(self, gram: Tensor, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        """Weights ``(k,)`` float64.

        Args:
            gram: ``(k, k)`` float64, gram[i, j] = <g_i, g_j>.
            losses: ``(k,)``, the tasks' losses.
            tasks: their k names.
        """
        ...

    def forget(self, task: str) -> None:
        """The task has ended; drop what is remembered of it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """State as plain values and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that :meth:`state_dict` gave."""
        ...


class Stateless:
    """The last three methods of a weighting that remembers nothing."""

    def forget(self, task: str) -> None:
        """Nothing is remembered."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to save."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
