"""Windows of a long sequence."""

import pytest
import torch

from pcl import Windows


def test_every_row_goes_on_where_it_stopped() -> None:
    x, y = torch.arange(23.0)[:, None], torch.arange(23) * 10
    batches = list(Windows(x, y, rows=2, length=3))
    assert len(batches) == len(Windows(x, y, rows=2, length=3)) == 3  # 18 of 23 steps
    rows = torch.cat([x for x, _ in batches], dim=1)
    assert rows[:, :, 0].tolist() == [list(range(9)), list(range(9, 18))]
    assert [y.tolist() for _, y in batches] == [[20, 110], [50, 140], [80, 170]]  # of the last step


def test_labels_of_every_step() -> None:
    text = torch.arange(13)
    for x, y in Windows(text[:-1], text[1:], rows=3, length=2, every_step=True):
        assert torch.equal(y, x + 1)
        assert x.shape == (3, 2)


def test_pixels_become_floats_and_the_order_repeats() -> None:
    source = Windows(torch.full((8, 2), 255, dtype=torch.uint8), torch.arange(8), rows=2, length=2)
    once, again = list(source), list(source)
    assert all(torch.equal(x, torch.ones(2, 2, 2)) for x, _ in once)
    assert [y.tolist() for _, y in once] == [y.tolist() for _, y in again]


@pytest.mark.parametrize(
    ("steps", "labels", "rows", "length", "message"),
    [(6, 5, 1, 2, "same length, got 6 and 5"), (6, 6, 0, 2, "at least 1"), (6, 6, 2, 4, "8 steps, got 6")],
)
def test_what_gives_no_window_is_refused(steps: int, labels: int, rows: int, length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Windows(torch.zeros(steps, 1), torch.zeros(labels), rows, length)
