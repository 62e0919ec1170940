"""How well a language model predicts a text, in bits per character, and what a character costs."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

AT_ONCE = 16_384  # characters in a forward pass


def bits(logits: Tensor, targets: Tensor) -> Tensor:
    """-log2 p of every target ``(B, L)`` under logits ``(B, L, characters)``."""
    return cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none").view_as(targets) / math.log(2)


@torch.no_grad()
def windows(model: nn.Module, text: Tensor, length: int, stride: int) -> Tensor:
    """Bits ``(windows, length)`` of the characters behind the first, in windows that begin every ``stride`` characters.

    The model begins every window without a state.

    Raises:
        ValueError: if the text has not length + 1 characters.
    """
    if len(text) <= length:
        raise ValueError(f"text: expected more than {length} characters for a window of {length}, got {len(text)}")
    rows = text.unfold(0, length + 1, stride)  # a view
    parts = rows.split(max(1, AT_ONCE // length))
    return torch.cat([bits(model(part[:, :-1]), part[:, 1:]) for part in parts])


def by_context(model: nn.Module, text: Tensor, lengths: Sequence[int]) -> list[float]:
    """Mean bits for each length, when the text is cut into windows of that length, as in dissertation Fig. 6.5.

    All lengths are measured on the same characters: those of the whole windows of the longest, which the others divide.
    """
    longest = max(lengths)
    used = text[: (len(text) - 1) // longest * longest + 1]
    return [windows(model, used, length, length).mean().item() for length in lengths]


def by_position(model: nn.Module, text: Tensor, length: int, bin_width: int) -> list[float]:
    """Mean bits of each bin of positions in windows of ``length``, a window beginning at every bin's width.

    All bins are measured on the same characters, each of which is once in every bin; those near the ends of the text,
    which are not, do not count.

    Raises:
        ValueError: if no character is once in every bin.
    """
    found = windows(model, text, length, bin_width).unflatten(1, (-1, bin_width)).mean(2)  # (windows, bins)
    count, bins = found.shape
    if count < bins:
        needed = length + bin_width * (bins - 1)
        raise ValueError(
            f"text: expected more than {needed} characters for {bins} bins of {bin_width}, got {len(text)}"
        )
    return [found[bins - 1 - i : count - i, i].mean().item() for i in range(bins)]


def sliding(model: nn.Module, text: Tensor, context: int, stride: int) -> float:
    """Mean bits of the last ``stride`` characters of windows of ``context``, which begin every ``stride`` characters.

    The way in which a model of limited context reads a long text: all but the first window know at least
    context - stride characters before the one they predict.
    """
    return windows(model, text, context, stride)[:, -stride:].mean().item()


@torch.no_grad()
def carried(model: nn.Module, text: Tensor, chunk: int) -> float:
    """Mean bits over the text in one pass, with the state carried from chunk to chunk."""
    state, found = None, []
    for start in range(0, len(text) - 1, chunk):
        part = text[None, start : start + chunk + 1]
        logits, state = model(part[:, :-1], state, return_state=True)
        found.append(bits(logits, part[:, 1:]))
    return torch.cat(found, 1).mean().item()


@torch.no_grad()
def generation(
    models: Mapping[str, nn.Module], prompt: Tensor, *, rounds: int = 15, steps: int = 10
) -> dict[str, float]:
    """Milliseconds of one more character behind a prompt ``(L,)``, for each model: medians of rounds of a few steps.

    The models take turns, so that a noisy moment of the machine meets all. Every round begins right behind the prompt,
    with a step that does not count: in it a cache may be given more room.
    """
    token = prompt[-1:]
    states = {name: model(prompt.unsqueeze(0), return_state=True)[1] for name, model in models.items()}
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            state = deepcopy(states[name])
            model.step(token, state)
            start = time.perf_counter()
            for _ in range(steps):
                model.step(token, state)
            taken[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(seconds) / steps for name, seconds in taken.items()}
