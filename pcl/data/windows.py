"""Consecutive windows of a long sequence, cut into parallel positions: the batches of truncated backpropagation."""

from collections.abc import Iterator

from torch import Tensor

from pcl.data.batches import as_float


class Windows:
    """A sequence of T steps as batches of ``rows`` windows of ``length`` steps, each batch where the last one ended.

    The sequence is cut into ``rows`` parts of equal length, one beside the other, so that row r of batch i + 1 goes on
    where row r of batch i stopped: what a model needs that carries its state from batch to batch,
    ``ContinualModel(..., carry=rows)``. A rest that fills no window is left out. The order is that of the sequence, so
    that a resumed run sees the same batches.

    Args:
        x: ``(T, ...)``; uint8 becomes float32 in [0, 1] batch by batch.
        y: ``(T,)`` integer labels, or targets of every step.
        rows: parallel positions.
        length: steps in a window.
        every_step: give the labels of all steps, ``(rows, length)``, as for the next token of a text, in place of that
            of a window's last step, ``(rows,)``.

    Raises:
        ValueError: if x and y differ in length, rows or length are below 1, or the sequence is shorter than one batch.
    """

    def __init__(self, x: Tensor, y: Tensor, rows: int, length: int, *, every_step: bool = False) -> None:
        if len(x) != len(y):
            raise ValueError(f"windows: expected x and y of the same length, got {len(x)} and {len(y)} steps")
        if rows < 1 or length < 1:
            raise ValueError(f"windows: expected rows and length of at least 1, got {rows} and {length}")
        self._count = len(x) // (rows * length)
        if self._count == 0:
            raise ValueError(
                f"windows: {rows} rows of {length} steps need a sequence of {rows * length} steps, got {len(x)}"
            )
        self._length, self._every_step = length, every_step
        steps = self._count * length
        self._x, self._y = (t[: rows * steps].view(rows, steps, *t.shape[1:]) for t in (x, y))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in zip(self._x.split(self._length, dim=1), self._y.split(self._length, dim=1), strict=True):
            yield as_float(x), y if self._every_step else y[:, -1]
