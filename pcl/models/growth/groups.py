"""The words of the width graph: groups of channels, the layers that read them, and where a value holds them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reader:
    """A Linear or Conv2d that reads a group: neuron i is its input columns i * repeat .. (i + 1) * repeat - 1.

    ``repeat`` is 1, or H * W behind a flatten.
    """

    layer: str
    repeat: int = 1


@dataclass(frozen=True)
class Group:
    """Channels whose number is one number.

    Args:
        name: the name of its first producer.
        width: number of channels.
        producers: Linear and Conv2d layers whose output rows are the channels; several where additions tie them.
        channelwise: layers with entries per channel between producers and readers: BatchNorm, LayerNorm, depthwise
            Conv2d.
        readers: Linear and Conv2d layers whose input columns are the channels.
        fixed: why the width cannot change, in words; None where it can.
    """

    name: str
    width: int
    producers: tuple[str, ...]
    channelwise: tuple[str, ...]
    readers: tuple[Reader, ...]
    fixed: str | None = None


@dataclass(frozen=True)
class Channels:
    """Where a value of the traced network has the channels of a group: neuron i is the entries
    i * repeat .. (i + 1) * repeat - 1 of dimension ``axis``."""

    group: str
    axis: int
    repeat: int = 1
