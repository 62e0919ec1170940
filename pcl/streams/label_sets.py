"""Which classes belong to which task."""

import torch


def draw_label_sets(
    classes: int, tasks: int, low: int, high: int, generator: torch.Generator, *, overlap: bool = False
) -> list[list[int]]:
    """Random label sets of ``low .. high`` classes, one per task (Lyu et al., arXiv 2401.01054, Sec. VI-A).

    Sizes are uniform within the bounds. Without ``overlap`` the sets are disjoint: a size is also bounded by
    what the tasks still to come need, and the sizes are shuffled afterwards, so that late tasks are not
    systematically the small ones. With ``overlap`` sizes are independent and the classes are dealt from
    shuffled decks one after another, so that every class is used before one is used again.

    Args:
        classes: number of classes of the data set; classes are 0 .. classes - 1.
        tasks: number of label sets.
        low, high: smallest and largest number of classes of a task, both inclusive.

    Returns:
        ``tasks`` sorted lists of distinct classes.

    Raises:
        ValueError: if the bounds cannot be met with that many classes.
    """
    if tasks < 1 or not 1 <= low <= high or low > classes:
        raise ValueError(f"label sets: cannot draw {tasks} sets of {low} to {high} out of {classes} classes")
    if not overlap and tasks * low > classes:
        raise ValueError(
            f"label sets: {tasks} disjoint sets of at least {low} classes need {tasks * low} classes, "
            f"the data has {classes}; lower `tasks` or `low`, or allow `overlap`"
        )
    sizes: list[int] = []
    for t in range(tasks):
        most = min(high, classes)
        if not overlap:
            most = min(most, classes - sum(sizes) - low * (tasks - t - 1))
        sizes.append(int(torch.randint(low, most + 1, (), generator=generator)))
    sizes = [sizes[i] for i in torch.randperm(tasks, generator=generator).tolist()]

    deck: list[int] = []
    sets: list[list[int]] = []
    for size in sizes:
        chosen: list[int] = []
        while len(chosen) < size:
            usable = [c for c in deck if c not in chosen]
            if not usable:
                deck += torch.randperm(classes, generator=generator).tolist()
                continue
            deck.remove(usable[0])
            chosen.append(usable[0])
        sets.append(sorted(chosen))
    return sets


def split_label_sets(classes: int, tasks: int, generator: torch.Generator | None = None) -> list[list[int]]:
    """All classes in ``tasks`` sets of equal size: 0, 1, ... in the first, and so on; in random order with a generator.

    Raises:
        ValueError: if the number of classes is not a multiple of ``tasks``.
    """
    if tasks < 1 or classes % tasks:
        raise ValueError(
            f"label sets: {classes} classes cannot be split into {tasks} equal sets; choose `tasks` among the divisors "
            f"of {classes}, or state the sets"
        )
    order = torch.arange(classes) if generator is None else torch.randperm(classes, generator=generator)
    return [sorted(of_task.tolist()) for of_task in order.chunk(tasks)]


def sliding_label_sets(classes: int, tasks: int, size: int, shared: int, generator: torch.Generator) -> list[list[int]]:
    """Sets of ``size`` classes in a row, of classes in random order, each with ``shared`` of the set before it.

    Raises:
        ValueError: if there are too few classes, or ``shared`` is not below ``size``.
    """
    if tasks < 1 or not 0 <= shared < size:
        raise ValueError(f"label sets: expected tasks >= 1 and 0 <= shared < size, got {tasks}, {shared} and {size}")
    step = size - shared
    needed = size + (tasks - 1) * step
    if needed > classes:
        raise ValueError(
            f"label sets: {tasks} sets of {size} classes, {shared} of them shared with the next, need {needed} "
            f"classes, the data has {classes}; lower `tasks` or `size`"
        )
    order = torch.randperm(classes, generator=generator).tolist()
    return [sorted(order[t * step : t * step + size]) for t in range(tasks)]
