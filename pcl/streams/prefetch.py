"""Reading a source in the background."""

from collections.abc import Iterator
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TypeVar

T = TypeVar("T")
_Message = tuple[list[T], BaseException | None]


def read_ahead(source: Iterator[T], ahead: int) -> Iterator[T]:
    """The items of ``source`` in their order, read by a thread that is at most ``ahead`` items in front.

    The thread waits when so many lie ready (backpressure), so that a fast source does not fill the memory. An error of
    the source is raised here after the items before it. Items do not depend on timing as long as the source draws from
    generators of its own. When the iterator is closed or dropped, the thread ends after the item it is at.

    Args:
        source: what only this iterator reads from now on.
        ahead: at least 1.

    Raises:
        ValueError: for ``ahead`` below 1, at the first item.
    """
    if ahead < 1:
        raise ValueError(f"read_ahead: expected at least 1 item ahead, got {ahead}")
    ready: SimpleQueue[_Message[T]] = SimpleQueue()
    free, closed = Semaphore(ahead), Event()
    thread = Thread(target=_read, args=(source, ready, free, closed), name="read_ahead", daemon=True)
    thread.start()
    try:
        while True:
            items, error = ready.get()
            if error is not None:
                raise error
            if not items:
                return
            free.release()
            yield items[0]
    finally:
        closed.set()
        free.release()  # wakes a thread that waits for room


def _read(source: Iterator[T], ready: "SimpleQueue[_Message[T]]", free: Semaphore, closed: Event) -> None:
    """The thread: every item as a list of one, an empty list at the end, an error as it is."""
    try:
        while True:
            free.acquire()
            if closed.is_set():
                return
            item = next(source)
            ready.put(([item], None))
    except StopIteration:
        ready.put(([], None))
    except BaseException as error:
        ready.put(([], error))
