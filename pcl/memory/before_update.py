"""Edits that act before the update of a step, as GMED has it."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from pcl.memory.edit import Edit

Samples = Literal["recalled", "others"]
Direction = Literal["incoming", "memory"]
When = Literal["before", "after"]


@dataclass(frozen=True)
class BeforeUpdate:
    """Lets any edit act before the update of its step, where else edits act after it (Jin et al., Algorithm 1).

    The parameters that the edit gets are then all that train, heads too. The step trains on what the edit gave, and the
    memory keeps it if the step is made.

    Attributes:
        edit: what is done.
        samples: ``"recalled"``: the samples that the step has drawn are edited, and it trains on the edited ones.
            ``"others"``: it trains on the samples as they were drawn, and as many others, drawn at random, are edited
            for later: what the paper does where retrieval already picks what is forgotten most (Sec. 4.4).
        direction: what the edit gets as direction. ``"incoming"``: the gradient of the mean of the losses of the
            incoming batches' tasks; with :class:`pcl.GMEDEdit` the step ahead is that of Eq. 4. ``"memory"``: that of
            the mean loss of another mini-batch of the memory, drawn at random, as in Hindsight Edit (Sec. 5.2).

    Raises:
        TypeError: for an edit that is one of these already.
        ValueError: for an unknown name.
    """

    edit: Edit
    samples: Samples = "recalled"
    direction: Direction = "incoming"

    def __post_init__(self) -> None:
        if isinstance(self.edit, BeforeUpdate):
            raise TypeError("edit: this edit acts before the update already; wrap it once")
        if self.samples not in get_args(Samples):
            raise ValueError(f"edit: expected samples 'recalled' or 'others', got {self.samples!r}")
        if self.direction not in get_args(Direction):
            raise ValueError(f"edit: expected direction 'incoming' or 'memory', got {self.direction!r}")

    def state_dict(self) -> dict[str, Any]:
        """That of the edit."""
        return self.edit.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of the edit."""
        self.edit.load_state_dict(state)


def placement(edit: Edit | BeforeUpdate) -> str:
    """Which edit it is and when it acts, in words."""
    if isinstance(edit, BeforeUpdate):
        return f"{type(edit.edit).__name__} of {edit.samples} samples before the update, along {edit.direction}"
    return type(edit).__name__
