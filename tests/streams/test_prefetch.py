"""Reading ahead: the same items, bounded, errors in their place."""

import gc
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from pcl import Batches, Stream
from pcl.streams.prefetch import read_ahead

PATIENCE = 10.0  # seconds until something that should happen counts as not happening


def until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


def readers() -> int:
    return sum(thread.name == "read_ahead" for thread in threading.enumerate())


@pytest.mark.parametrize("ahead", [1, 2, 100])
@pytest.mark.parametrize("items", [[], [None], list(range(50))])
def test_items_come_in_order_and_once(ahead: int, items: list[object]) -> None:
    assert list(read_ahead(iter(items), ahead)) == items
    assert until(lambda: readers() == 0)


@pytest.mark.parametrize("ahead", [1, 3])
def test_the_source_is_never_more_than_so_many_items_in_front(ahead: int) -> None:
    given = []

    def source() -> Iterator[int]:
        for i in range(100):
            given.append(i)
            yield i

    items = read_ahead(source(), ahead)
    for used in range(1, 6):
        next(items)
        assert until(lambda used=used: len(given) == used + ahead)
        time.sleep(0.01)  # time in which it could go too far
        assert len(given) == used + ahead
    items.close()  # type: ignore[attr-defined]
    assert until(lambda: readers() == 0)
    assert len(given) == 5 + ahead


def test_a_source_is_read_while_the_consumer_works() -> None:
    both = threading.Barrier(2, timeout=PATIENCE)

    def source() -> Iterator[int]:
        yield 0
        both.wait()  # passes only while the consumer is at work on item 0
        yield 1

    items = read_ahead(source(), 1)
    assert next(items) == 0
    both.wait()
    assert list(items) == [1]


def test_an_error_comes_after_the_items_before_it() -> None:
    def source() -> Iterator[int]:
        yield 0
        yield 1
        raise OSError("the disk is gone")

    items = read_ahead(source(), 5)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)
    assert until(lambda: readers() == 0)


def test_a_dropped_iterator_ends_its_thread() -> None:
    items = read_ahead(iter(range(10**9)), 2)
    assert next(items) == 0
    assert readers() == 1
    del items
    gc.collect()
    assert until(lambda: readers() == 0)


@pytest.mark.parametrize("ahead", [0, -1])
def test_nothing_ahead_is_refused(ahead: int) -> None:
    with pytest.raises(ValueError, match="at least 1 item ahead"):
        next(read_ahead(iter([1]), ahead))


def stream(prefetch: int) -> Stream:
    x, y = torch.arange(20.0)[:, None], torch.arange(20) % 2
    return Stream("a", Batches(x, y, 3, seed=5), [0, 1], epochs=2, prefetch=prefetch)


def drain(of: Stream) -> list[list[float]]:
    found = []
    while (batch := of.peek()) is not None:
        found.append(batch[0].flatten().tolist())
        of.advance()
    return found


@pytest.mark.parametrize("used", [0, 1, 6, 7, 9, 14])
def test_a_stream_with_prefetch_gives_the_same_batches_also_when_resumed(used: int) -> None:
    plain = drain(stream(0))
    assert drain(stream(2)) == plain
    stopped, resumed = stream(2), stream(3)
    for _ in range(used):
        stopped.upcoming(2)
        stopped.advance()
    resumed.load_state_dict(stopped.state_dict())
    assert drain(resumed) == plain[used:]


def test_a_stream_takes_a_failed_source_as_failed() -> None:
    def source() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)
        raise OSError("the disk is gone")

    of = Stream("a", source(), [0], prefetch=2)
    of.peek()
    of.advance()
    with pytest.raises(OSError, match="the disk is gone"):
        of.peek()
    with pytest.raises(RuntimeError, match="failed before"):
        of.peek()


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match="prefetch >= 0, got -1"):
        stream(-1)
