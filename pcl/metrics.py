"""Accuracy, forgetting and transfer, from accuracies on the tasks over time.

a_k^t is the accuracy on the test set of task t after step k, e_t the last step of task t, and e the last of all.
"""

from collections.abc import Mapping, Sequence
from math import inf, nan
from typing import Any

import torch
from torch import Tensor


def average_accuracy(final: Mapping[str, float], samples: Mapping[str, int] | None = None) -> float:
    """A = (1/T) sum_t a_e^t (Lyu et al., arXiv 2401.01054, Eq. 25); or the micro-average sum_t n_t a_e^t / sum_t n_t,
    the accuracy on all test samples together, which GMED reports.

    Args:
        final: a_e^t by task.
        samples: n_t, number of test samples by task, for the micro-average.

    Raises:
        ValueError: if there is no task, or one without its number of samples.
    """
    if not final:
        raise ValueError("average accuracy: expected at least one task, got none")
    weights = dict.fromkeys(final, 1) if samples is None else samples
    if not final.keys() <= weights.keys():
        raise ValueError(f"average accuracy: expected samples of {', '.join(final)}, got those of {', '.join(weights)}")
    return sum(weights[task] * accuracy for task, accuracy in final.items()) / sum(weights[task] for task in final)


def forgetting(final: Mapping[str, float], at_end: Mapping[str, float]) -> float:
    """F = (1/T) sum_t (a_e^t - a_{e_t}^t): 0 when nothing is lost, negative when tasks are forgotten (arXiv 2401.01054,
    Eq. 25).

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


def accuracy_matrix(history: Sequence[Mapping[str, Any]], ended_at: Mapping[str, int]) -> Tensor:
    """R ``(T, T)`` float64: R_ij is the accuracy on task j when the i-th task ended, tasks in the order of their ends.

    NaN where it was not measured, as that of tasks that had not appeared. On a serial timeline it is the matrix of
    Lopez-Paz and Ranzato (arXiv 1706.08840, Sec. 2); on others task j may still be training, or be older, in row i.

    Args:
        history: ``{"step": k, "accuracy": {task: a_k^task}}`` by increasing step, as :attr:`pcl.Trainer.history`.
        ended_at: e_t by task, as :attr:`pcl.Trainer.ended_at`.

    Raises:
        ValueError: if there is no task, or a task ended after the last measurement.
    """
    tasks = sorted(ended_at, key=lambda task: ended_at[task])
    if not tasks or not history or history[-1]["step"] < ended_at[tasks[-1]]:
        raise ValueError("accuracy matrix: expected at least one task, and a measurement at the end of each or later")
    found = (next(one["accuracy"] for one in history if one["step"] >= ended_at[task]) for task in tasks)
    return torch.tensor([[row.get(task, nan) for task in tasks] for row in found], dtype=torch.float64)


def backward_transfer(matrix: Tensor) -> float:
    """BWT = 1/(T-1) sum_{t<T} (R_Tt - R_tt): negative when tasks are forgotten (arXiv 1706.08840, Eq. 3).

    With the last task, which can lose nothing, and divided by T, it is :func:`forgetting` of a serial timeline.

    Args:
        matrix: R ``(T, T)``, see :func:`accuracy_matrix`.

    Raises:
        ValueError: for fewer than two tasks or another shape.
    """
    _check_matrix("backward transfer", matrix)
    return float((matrix[-1] - matrix.diagonal())[:-1].mean())


def forward_transfer(matrix: Tensor, untrained: Tensor) -> float:
    """FWT = 1/(T-1) sum_{t>1} (R_{t-1,t} - b_t): what a task gains from those before it (arXiv 1706.08840, Eq. 4).

    Args:
        matrix: R ``(T, T)`` with accuracies also on tasks that have not appeared yet, which a model with one classifier
            for all tasks can give; a Trainer measures tasks from their start on.
        untrained: b ``(T,)``, accuracies of the model before any training.

    Raises:
        ValueError: for fewer than two tasks, another shape, or an accuracy that is missing.
    """
    _check_matrix("forward transfer", matrix)
    fits = untrained.shape == matrix.shape[:1]
    gains = matrix.diagonal(offset=1) - untrained[1:] if fits else torch.tensor(nan)
    if gains.isnan().any():
        raise ValueError(
            "forward transfer: expected accuracies of every task right before it began, and of all "
            f"{len(matrix)} tasks before training; some are missing"
        )
    return float(gains.mean())


def forgetting_measure(matrix: Tensor) -> float:
    """1/(T-1) sum_{t<T} (max_{i<T} R_it - R_Tt): what was lost since the best moment of each task, positive when
    forgotten (Chaudhry et al., arXiv 1801.10112).

    Args:
        matrix: R ``(T, T)``, see :func:`accuracy_matrix`.

    Raises:
        ValueError: for fewer than two tasks or another shape.
    """
    _check_matrix("forgetting measure", matrix)
    best = matrix[:-1].nan_to_num(nan=-inf).amax(dim=0)
    return float((best - matrix[-1])[:-1].mean())


def anytime_accuracy(history: Sequence[Mapping[str, Any]]) -> float:
    """Average over time of the mean accuracy on the tasks that have appeared: 1/K sum_k 1/|T_k| sum_{t in T_k} a_k^t.

    The area under the curve of the accuracy, as A_AUC of Koh et al. (arXiv 2110.10031); also called average anytime
    accuracy. Measurements may be at any steps: each stands for the steps since the one before, so that measuring more
    often at some time does not make that time count more.

    Args:
        history: as in :func:`accuracy_matrix`.

    Raises:
        ValueError: if there is no measurement.
    """
    if not history:
        raise ValueError("anytime accuracy: expected at least one measurement, got none")
    steps = [-1, *(one["step"] for one in history)]
    means = [average_accuracy(one["accuracy"]) for one in history]
    total = sum((b - a) * mean for a, b, mean in zip(steps, steps[1:], means, strict=False))
    return float(total / (steps[-1] + 1))


def over_time(history: Sequence[Mapping[str, Any]], ended_at: Mapping[str, int]) -> dict[str, float]:
    """The metrics of a run that its history gives: AAA, and with two finished tasks or more BWT and FM."""
    found = {"AAA": anytime_accuracy(history)}
    if len(ended_at) > 1:
        matrix = accuracy_matrix(history, ended_at)
        found |= {"BWT": backward_transfer(matrix), "FM": forgetting_measure(matrix)}
    return found


def _check_matrix(what: str, matrix: Tensor) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"{what}: expected a matrix (T, T) of T >= 2 tasks, got {tuple(matrix.shape)}")
