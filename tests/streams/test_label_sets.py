"""Label sets: sizes, disjointness, coverage."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcl import draw_label_sets
from pcl.randomness import generator


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 10), st.integers(0, 30), st.integers(0, 2**30))
def test_disjoint_sets(tasks: int, low: int, spread: int, spare: int, seed: int) -> None:
    classes, high = tasks * low + spare, low + spread
    sets = draw_label_sets(classes, tasks, low, high, generator(seed))
    used = [c for chosen in sets for c in chosen]
    assert len(sets) == tasks
    assert all(low <= len(chosen) <= high for chosen in sets)
    assert len(set(used)) == len(used)
    assert set(used) <= set(range(classes))


@given(st.integers(1, 8), st.integers(2, 12), st.integers(0, 2**30))
def test_overlapping_sets_use_every_class_before_they_repeat_one(tasks: int, classes: int, seed: int) -> None:
    sets = draw_label_sets(classes, tasks, 2, min(4, classes), generator(seed), overlap=True)
    uses = Counter(c for chosen in sets for c in chosen)
    assert all(len(set(chosen)) == len(chosen) for chosen in sets)
    assert max(uses.values()) - min(uses[c] for c in range(classes)) <= 2
    assert len(uses) == min(classes, sum(map(len, sets)))


def test_late_tasks_are_not_the_small_ones() -> None:
    sizes = [[len(s) for s in draw_label_sets(100, 20, 3, 15, generator(seed))] for seed in range(300)]
    first = sum(size[0] for size in sizes) / 300
    last = sum(size[-1] for size in sizes) / 300
    assert abs(first - last) < 0.9  # sizes have standard deviation below 4; 300 draws


@pytest.mark.parametrize(
    ("classes", "tasks", "low", "high"), [(10, 4, 3, 5), (10, 0, 1, 2), (10, 2, 4, 3), (3, 1, 4, 5)]
)
def test_impossible_bounds_are_refused(classes: int, tasks: int, low: int, high: int) -> None:
    with pytest.raises(ValueError, match="label sets"):
        draw_label_sets(classes, tasks, low, high, generator(0))
