"""When each task stream starts and ends.

A timeline gives task t the steps s_t .. e_t, both inclusive, with

    s_1 = 0,    s_{t-1} <= s_t <= 1 + max(e_1, ..., e_{t-1}),    e_t >= s_t

(Lyu et al., arXiv 2401.01054, Sec. III-A): tasks come in order and at no step is every stream silent.
Serial continual learning (s_t = e_{t-1} + 1) and multi-task learning (s_t = 0) are the two extremes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

TimelineKind = Literal["random", "serial", "together"]


@dataclass(frozen=True)
class Timeline:
    """First and last step of every task, ``starts[t] .. ends[t]``, both inclusive.

    Raises:
        ValueError: if the two differ in length, are empty, or break one of the rules above.
    """

    starts: tuple[int, ...]
    ends: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.starts) != len(self.ends) or not self.starts:
            raise ValueError(
                f"timeline: expected one start and one end for each of at least one task, "
                f"got {len(self.starts)} starts and {len(self.ends)} ends"
            )
        latest_end = -1
        previous_start = 0
        for t, (start, end) in enumerate(zip(self.starts, self.ends, strict=True), 1):
            if end < start:
                raise ValueError(f"timeline: task {t} ends at step {end}, before its start {start}")
            if start < previous_start:
                raise ValueError(
                    f"timeline: task {t} starts at step {start}, before task {t - 1} at {previous_start}; "
                    "order the tasks by their start"
                )
            if start > latest_end + 1:
                raise ValueError(
                    f"timeline: gap before task {t}: it starts at step {start}, but no stream is active "
                    f"after step {latest_end}; start it at {latest_end + 1} or earlier"
                )
            previous_start, latest_end = start, max(latest_end, end)

    @property
    def steps(self) -> int:
        """Number of steps from the first start to the last end."""
        return 1 + max(self.ends)

    @classmethod
    def make(cls, kind: TimelineKind | Sequence[int], lengths: Sequence[int], generator: torch.Generator) -> "Timeline":
        """The timeline of that kind, or with those starts, for streams of so many steps.

        Raises:
            ValueError: for an unknown kind, another number of starts, or starts that break the rules.
        """
        if kind == "random":
            return cls.draw(lengths, generator)
        if kind == "serial":
            return cls.serial(lengths)
        if kind == "together":
            return cls.together(lengths)
        if isinstance(kind, str):
            raise ValueError(f"timeline: expected 'random', 'serial' or 'together', got {kind!r}")
        if len(kind) != len(lengths):
            raise ValueError(f"timeline: expected the starts of {len(lengths)} tasks, got {list(kind)}")
        return cls.from_starts(kind, lengths)

    @classmethod
    def from_starts(cls, starts: Sequence[int], lengths: Sequence[int]) -> "Timeline":
        """Streams of ``lengths[t] = ceil(n_t / batch)`` steps: e_t = s_t + lengths[t] - 1."""
        _check_lengths(lengths)
        return cls(tuple(starts), tuple(s + n - 1 for s, n in zip(starts, lengths, strict=True)))

    @classmethod
    def draw(cls, lengths: Sequence[int], generator: torch.Generator) -> "Timeline":
        """A random timeline: s_1 = 0 and s_t uniform in {s_{t-1}, ..., max(e_1, ..., e_{t-1})}."""
        _check_lengths(lengths)
        starts = [0]
        latest_end = lengths[0] - 1
        for length in lengths[1:]:
            start = int(torch.randint(starts[-1], latest_end + 1, (), generator=generator))
            starts.append(start)
            latest_end = max(latest_end, start + length - 1)
        return cls.from_starts(starts, lengths)

    @classmethod
    def serial(cls, lengths: Sequence[int]) -> "Timeline":
        """One stream after another: s_t = e_{t-1} + 1."""
        _check_lengths(lengths)
        return cls.from_starts([sum(lengths[:t]) for t in range(len(lengths))], lengths)

    @classmethod
    def together(cls, lengths: Sequence[int]) -> "Timeline":
        """All streams from the first step: s_t = 0."""
        return cls.from_starts([0] * len(lengths), lengths)


def _check_lengths(lengths: Sequence[int]) -> None:
    if not lengths or min(lengths) < 1:
        raise ValueError(f"timeline: expected at least one stream of at least one step each, got {list(lengths)}")
