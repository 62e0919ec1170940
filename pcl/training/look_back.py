"""The losses of a step once more, after its update: for weightings that learn from them, and to measure the descent."""

from typing import TYPE_CHECKING

from torch import Tensor

from pcl.training.losses import StepLosses, in_precision
from pcl.training.snapshot import Snapshot
from pcl.training.step_data import StepData
from pcl.weighting.base import looks_back

if TYPE_CHECKING:
    from pcl.training.trainer import Trainer


def look_back(trainer: "Trainer", data: StepData, before: Snapshot, losses: Tensor) -> Tensor | None:
    """Show the losses after the update to a weighting that learns from them; by how much they fell, where measured.

    One forward pass serves both. It has the draws of the first one (dropout), and leaves no trace in layer statistics
    and generators.

    Args:
        trainer: after the update.
        data: of the step.
        before: taken before the step.
        losses: ``(k,)`` before the update.

    Returns:
        ``(k,)`` in a step that ``trainer.measure_descent`` says, else None.
    """
    measured = trainer.measure_descent is not None and trainer.step_count % trainer.measure_descent == 0
    if not (measured or looks_back(trainer.weighting)):
        return None
    after = Snapshot(trainer)
    before.restore_layers()
    with in_precision(trainer.precision, trainer.model):
        now = StepLosses(trainer.model, data, trainer.loss_terms).values()
    after.restore_layers()
    if looks_back(trainer.weighting):
        trainer.weighting.after_update(now, data.tasks)
    return losses - now if measured else None
