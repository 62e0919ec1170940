"""A and F against cases computed by hand."""

import pytest

from pcl import average_accuracy, forgetting


def test_by_hand() -> None:
    final = {"a": 0.5, "b": 0.9, "c": 0.7}
    at_end = {"a": 0.8, "b": 0.9, "c": 0.6}
    assert average_accuracy(final) == pytest.approx(0.7)
    assert forgetting(final, at_end) == pytest.approx((-0.3 + 0.0 + 0.1) / 3)


def test_one_task_forgets_nothing_when_it_is_last() -> None:
    assert forgetting({"a": 0.25}, {"a": 0.25}) == 0


def test_nothing_to_average_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one task"):
        average_accuracy({})
    with pytest.raises(ValueError, match="same tasks"):
        forgetting({"a": 1.0}, {"b": 1.0})
    with pytest.raises(ValueError, match="same tasks"):
        forgetting({}, {})
