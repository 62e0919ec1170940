"""Permuted and turned images."""

import pytest
import torch
from scipy import ndimage

from pcl.data.transforms import TRANSFORMS, Permute, Rotate


def images(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(20, 1, 28, 28), (3, 3, 9, 14), (2, 1, 2, 5), (1, 1, 1, 4), (1, 2, 3, 1)])
@pytest.mark.parametrize("degrees", [0.0, 4.31, 45.0, 90.0, 123.4, 180.0, 270.0, -33.0, 1000.0])
def test_rotations_are_those_of_scipy(shape: tuple[int, ...], degrees: float) -> None:
    x = images(*shape)
    expected = torch.from_numpy(ndimage.rotate(x.numpy(), degrees, axes=(3, 2), reshape=False))
    found = Rotate(degrees)(x)
    assert found.dtype == torch.uint8
    assert torch.equal(found, expected)


@pytest.mark.parametrize("turns", range(5))
def test_right_angles_move_pixels_and_change_none(turns: int) -> None:
    x = images(4, 2, 11, 11)
    assert torch.equal(Rotate(90.0 * turns)(x), torch.rot90(x, turns, (2, 3)))


def test_a_permutation_is_one_for_all_images_and_channels() -> None:
    x = images(5, 3, 4, 6)
    found = Permute(7)(x)
    order = Permute(7)(torch.arange(24, dtype=torch.uint8).view(1, 1, 4, 6)).flatten().long()
    assert sorted(order.tolist()) == list(range(24))
    assert torch.equal(found.flatten(2), x.flatten(2)[..., order])
    assert not torch.equal(found, Permute(8)(x))


@pytest.mark.parametrize("transform", [Permute(3), Rotate(12.345)])
def test_what_describes_a_transformation_makes_it_again(transform: Permute | Rotate) -> None:
    ((name, number),) = transform.describe().items()
    assert TRANSFORMS[name](number) == transform
