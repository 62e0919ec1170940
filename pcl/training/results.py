"""What a run has come to, from the accuracies measured in it."""

from typing import TYPE_CHECKING, Any

from pcl.metrics import average_accuracy, forgetting, over_time

if TYPE_CHECKING:
    from pcl.training.trainer import Trainer


def results(trainer: "Trainer") -> dict[str, Any]:
    """See :meth:`pcl.Trainer.results`."""
    final = {task: a for task, a in trainer.evaluate().items() if task in trainer.at_end}
    tests = {task: trainer.streams[task].test for task in final}
    found = {
        "A": average_accuracy(final),
        "F": forgetting(final, trainer.at_end),
        "steps": trainer.step_count,
        "final": final,
        "at_end": dict(trainer.at_end),
        "A micro": average_accuracy(final, {task: len(test[1]) for task, test in tests.items() if test is not None}),
        **over_time(trainer.history, {task: trainer.ended_at[task] for task in final}),
    }
    if trainer.edit is not None and trainer.memory is not None and trainer.memory.keep_original:
        found["drift"] = trainer.memory.mean_drift()
    return found
