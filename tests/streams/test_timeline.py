"""The rules of a timeline, on random lengths and on hand-made cases."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pcl import Timeline
from pcl.randomness import generator

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=25)


@given(LENGTHS, st.integers(0, 2**40))
def test_a_drawn_timeline_keeps_the_rules(lengths: list[int], seed: int) -> None:
    timeline = Timeline.draw(lengths, generator(seed))
    assert timeline.starts[0] == 0
    for t in range(1, len(lengths)):
        assert timeline.starts[t - 1] <= timeline.starts[t] <= 1 + max(timeline.ends[:t])
    assert [e - s + 1 for s, e in zip(timeline.starts, timeline.ends, strict=True)] == lengths
    assert all(
        any(s <= step <= e for s, e in zip(timeline.starts, timeline.ends, strict=True))
        for step in range(timeline.steps)
    )


@given(LENGTHS)
def test_serial_and_together_are_the_extremes(lengths: list[int]) -> None:
    serial, together = Timeline.serial(lengths), Timeline.together(lengths)
    assert serial.steps == sum(lengths)
    assert together.steps == max(lengths)
    assert all(serial.starts[t] == serial.ends[t - 1] + 1 for t in range(1, len(lengths)))


def test_starts_are_uniform_up_to_the_latest_end() -> None:
    draws = torch.Generator().manual_seed(0)
    starts = [Timeline.draw([4, 1], draws).starts[1] for _ in range(4000)]
    counts = [starts.count(s) for s in range(5)]
    assert counts[4] == 0  # s_t is at most max e, so that random timelines overlap
    assert all(abs(count - 1000) < 150 for count in counts[:4])  # five standard deviations


def test_a_timeline_depends_on_its_seed_alone() -> None:
    assert Timeline.draw([5, 7, 9], generator(3)) == Timeline.draw([5, 7, 9], generator(3))
    drawn = {Timeline.draw([50, 70, 90], generator(seed)) for seed in range(10)}
    assert len(drawn) == 10


@pytest.mark.parametrize(
    ("starts", "ends", "message"),
    [
        ((0, 5), (3, 8), "gap before task 2"),
        ((1,), (3,), "gap before task 1"),
        ((0, 2, 1), (3, 4, 5), "before task 2"),
        ((0, 2), (3, 1), "before its start"),
        ((0, 1), (3,), "2 starts and 1 ends"),
        ((), (), "at least one task"),
    ],
)
def test_broken_timelines_are_refused(starts: tuple[int, ...], ends: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Timeline(starts, ends)


@pytest.mark.parametrize("lengths", [[], [3, 0]])
def test_streams_without_steps_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one step"):
        Timeline.draw(lengths, generator(0))
