"""What the cuts promise: classes, division of the images, transformations."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from scenario_cases import numbered

from pcl.cuts import Blurring, Cut, Drawn, Listed, Part, Permute, Permuted, Rotate, Rotated, Split
from pcl.randomness import generator
from pcl.streams.cuts import Thinned
from pcl.streams.task import Task

DATA = numbered()
CUTS: dict[str, Cut] = {
    "drawn": Drawn(4, 1, 3),
    "overlapping": Drawn(5, 2, 4, overlap=True, images=9),
    "split": Split(5),
    "shuffled": Split(5, shuffled=True, images=15),
    "blurring": Blurring(4, 4, 2),
    "permuted": Permuted(3, images=30, test_images=20),
    "rotated": Rotated(4, images=30, test_images=20),
    "listed": Listed([Part([0, 1]), Part(["c1", "c2"], name="b", images=7, transform=Rotate(30.0))]),
}


def cut(which: Cut, seed: int = 0) -> list[Task]:
    return which(DATA, generator(seed))


@pytest.mark.parametrize("name", CUTS)
def test_tasks_have_images_of_their_classes_alone_each_once(name: str) -> None:
    tasks = cut(CUTS[name])
    assert len({task.name for task in tasks}) == len(tasks)
    for task in tasks:
        x, y = task.train(DATA)
        assert set(y.tolist()) <= set(task.classes)
        assert x.shape == (len(task.rows), 1, 2, 3)
        assert x.dtype == torch.uint8
        assert len(set(task.rows.tolist())) == len(task.rows)
        assert set(task.test(DATA)[1].tolist()) <= set(task.classes)


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_depends_on_the_draws_alone(name: str) -> None:
    one, two, other = cut(CUTS[name], 3), cut(CUTS[name], 3), cut(CUTS[name], 4)
    for a, b in zip(one, two, strict=True):
        assert (a.name, a.classes, a.transform) == (b.name, b.classes, b.transform)
        assert torch.equal(a.rows, b.rows)
        assert torch.equal(a.test_rows, b.test_rows)
    same = [
        a.classes == b.classes and torch.equal(a.rows, b.rows) and a.transform == b.transform
        for a, b in zip(one, other, strict=False)
    ]
    assert all(same) == (name == "split")  # in which nothing is drawn


@pytest.mark.parametrize("name", ["drawn", "split", "blurring"])
def test_images_are_divided_and_none_is_lost(name: str) -> None:
    tasks = cut(CUTS[name])
    used = Counter(row for task in tasks for row in task.rows.tolist())
    assert set(used.values()) == {1}
    classes = {c for task in tasks for c in task.classes}
    assert len(used) == 20 * len(classes)


def test_split_mnist_has_its_classes_in_order() -> None:
    assert [task.classes for task in cut(Split(5))] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    shuffled = [c for task in cut(Split(5, shuffled=True)) for c in task.classes]
    assert sorted(shuffled) == list(range(10)) != shuffled


def test_blurring_tasks_share_half_with_each_neighbour_and_divide_it() -> None:
    """CIFAR-100's nine tasks of twenty classes, in small."""
    data = numbered(classes=100, train=6, test=2)
    tasks = Blurring(9, 20, 10)(data, generator(0))
    sets = [set(task.classes) for task in tasks]
    assert all(len(one & two) == 10 for one, two in pairwise(sets))
    assert all(not one & two for i, one in enumerate(sets) for two in sets[i + 2 :])
    assert set.union(*sets) == set(range(100))
    for t, task in enumerate(tasks):
        counts = Counter(data.y_train[task.rows].tolist())
        others = [c for s, classes in enumerate(sets) if s != t for c in classes]
        assert all(count == (3 if c in others else 6) for c, count in counts.items())
        assert len(task.test_rows) == 2 * 20


def test_permuted_tasks_have_the_same_images_the_first_unpermuted() -> None:
    first, *others = cut(CUTS["permuted"])
    assert first.transform is None
    assert len({task.transform for task in others}) == 2
    for task in others:
        assert torch.equal(task.rows, first.rows)
        assert torch.equal(task.test_rows, first.test_rows)
        (x, y), (plain, labels) = task.test(DATA), first.test(DATA)
        assert torch.equal(x.flatten(1).sort().values, plain.flatten(1).sort().values)
        assert not torch.equal(x, plain)
        assert torch.equal(y, labels)


@pytest.mark.parametrize("seed", range(5))
def test_rotated_tasks_turn_images_of_their_own_by_ordered_angles(seed: int) -> None:
    tasks = cut(Rotated(20, images=30), seed)
    for t, task in enumerate(tasks):
        assert isinstance(task.transform, Rotate)
        assert 9 * t <= task.transform.degrees < 9 * (t + 1)
    assert len({tuple(task.rows.tolist()) for task in tasks}) == 20
    assert all(len(task.rows) == 30 for task in tasks)


def test_listed_tasks_share_images_only_if_told_to() -> None:
    parts = [Part([0, 1]), Part([1, 2], transform=Permute(1))]
    divided, shared = cut(Listed(parts)), cut(Listed(parts, shared=True))
    assert [len(task.rows) for task in divided] == [30, 30]
    assert not set(divided[0].rows.tolist()) & set(divided[1].rows.tolist())
    assert [len(task.rows) for task in shared] == [40, 40]
    assert [task.name for task in divided] == ["task-1", "task-2"]


def test_a_miniature_keeps_every_class() -> None:
    for task, whole in zip(cut(Thinned(Split(5), 0.1)), cut(Split(5)), strict=True):
        assert Counter(DATA.y_train[task.rows].tolist()) == dict.fromkeys(whole.classes, 2)
        assert set(task.rows.tolist()) <= set(whole.rows.tolist())
        assert torch.equal(task.test_rows, whole.test_rows)
    assert all(len(task.rows) == 2 for task in cut(Thinned(Split(5), 1e-9)))


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (Split(3), "10 classes cannot be split into 3 equal sets"),
        (Split(0), "into 0 equal sets"),
        (Split(5, images=0), "at least 1 image per task"),
        (Blurring(5, 4, 2), "need 12 classes, the data has 10"),
        (Blurring(2, 4, 4), "0 <= shared < size"),
        (Permuted(0), "at least 1 task"),
        (Rotated(2, images=0), "at least 1 image"),
        (Listed([]), "at least one task"),
        (Listed([Part([0], name="a"), Part([1], name="a")]), "no name twice"),
        (Listed([Part([0, 0])]), "none twice"),
        (Listed([Part([])]), "at least one class"),
        (Listed([Part(["dog"])]), "no class 'dog'"),
        (Listed([Part([12])]), r"no sample of \['12'\]"),
        (Listed([Part([0])] * 21), "too few training samples"),
    ],
)
def test_what_cannot_be_cut_is_refused(which: Cut, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cut(which)
