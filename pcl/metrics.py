"""Accuracy and forgetting (Lyu et al., arXiv 2401.01054, Eq. 25).

a_k^t is the accuracy on the test set of task t after step k, e_t the last step of task t, and e the last of all.
"""

from collections.abc import Mapping


def average_accuracy(final: Mapping[str, float]) -> float:
    """A = (1/T) sum_t a_e^t.

    Args:
        final: a_e^t by task.

    Raises:
        ValueError: if there is no task.
    """
    if not final:
        raise ValueError("average accuracy: expected at least one task, got none")
    return sum(final.values()) / len(final)


def forgetting(final: Mapping[str, float], at_end: Mapping[str, float]) -> float:
    """F = (1/T) sum_t (a_e^t - a_{e_t}^t): 0 when nothing is lost, negative when tasks are forgotten.

    Args:
        final: a_e^t by task.
        at_end: a_{e_t}^t by task.

    Raises:
        ValueError: if the two do not have the same tasks, or none.
    """
    if not final or set(final) != set(at_end):
        raise ValueError(
            f"forgetting: expected final and at-end accuracies of the same tasks, got {sorted(final)} "
            f"and {sorted(at_end)}"
        )
    return sum(final[task] - at_end[task] for task in final) / len(final)
