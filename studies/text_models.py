"""Character-level language models of equal size: Longhorn, a transformer, an LSTM.

All are an embedding, a :class:`~pcl.models.residual.ResidualStack` of mixers, and the embedding once more as the head:
``model(tokens, state=None, return_state=False)`` maps tokens ``(B, L)`` to logits ``(B, L, characters)``, and the state
carries it over a cut of the text.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pcl.models.longhorn.config import LonghornConfig
from pcl.models.longhorn.language_model import LonghornLM, drawn
from pcl.models.residual import ResidualStack
from studies.sequence_mixers import LSTM, Attention, Perceptron

MODELS = ("Longhorn", "transformer", "LSTM")
RECURRENT = ("Longhorn", "LSTM")  # their state has the same size at the end of a text as at its beginning
HEADS = 4
EMBEDDING_DEVIATION = 0.02  # as in the published Longhorn: logits begin small


class CharacterModel(nn.Module):
    """A language model of any mixers."""

    def __init__(self, mixers: Sequence[nn.Module], width: int, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_DEVIATION)
        self.backbone = ResidualStack(mixers, width)

    def forward(self, tokens: Tensor, state: Any = None, return_state: bool = False) -> Any:
        """Logits, and with ``return_state`` the state behind the last token."""
        found = self.backbone(self.embedding(tokens), state, return_state=return_state)
        y, after = found if return_state else (found, None)
        logits = linear(y, self.embedding.weight)
        return (logits, after) if return_state else logits

    @torch.no_grad()
    def step(self, tokens: Tensor, state: Any) -> Tensor:
        """Logits ``(B, characters)`` behind one more token ``(B,)`` each; the state is updated in place."""
        return linear(self.backbone.step(self.embedding(tokens), state), self.embedding.weight)


def longhorn(width: int, depth: int, characters: int) -> LonghornLM:
    """The library's, with sizes other than these as published."""
    return LonghornLM(LonghornConfig(width=width, depth=depth, vocabulary=characters))


def transformer(width: int, depth: int, characters: int, size: int) -> CharacterModel:
    """``depth`` times attention with rotary positions, and a perceptron, as wide inside as brings it to ``size``
    parameters; three quarters as wide as Longhorn, which makes the perceptron about four times as wide inside."""
    width = round(width * 3 / 4 / (2 * HEADS)) * 2 * HEADS

    def build(hidden: int) -> CharacterModel:
        mixers = [mixer for _ in range(depth) for mixer in (Attention(width, HEADS), Perceptron(width, hidden))]
        with torch.no_grad():
            for mixer in mixers:
                last = mixer.out if isinstance(mixer, Attention) else mixer.down
                last.weight /= math.sqrt(len(mixers))  # so that the sum over all mixers has the size of one
        return CharacterModel(mixers, width, characters)

    return build(nearest(build, size))


def lstm(depth: int, characters: int, size: int) -> CharacterModel:
    """``depth`` layers of LSTM, as wide as brings it to ``size`` parameters."""

    def build(width: int) -> CharacterModel:
        return CharacterModel([LSTM(width) for _ in range(depth)], width, characters)

    return build(nearest(build, size))


def nearest(build: Callable[[int], nn.Module], size: int) -> int:
    """The n for which ``build(n)`` has the number of parameters nearest to ``size``; that number grows with n."""
    low, high = 1, 2
    with torch.device("meta"):
        while parameters(build(high)) < size:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if parameters(build(middle)) < size else (low, middle)
        return min((low, high), key=lambda n: abs(parameters(build(n)) - size))


def parameters(model: nn.Module) -> int:
    """How many numbers it learns."""
    return sum(p.numel() for p in model.parameters())


def build(name: str, width: int, depth: int, characters: int) -> nn.Module:
    """The model of this name; the others get as many parameters as Longhorn of this width and depth."""
    with torch.device("meta"):
        size = parameters(longhorn(width, depth, characters))
    if name == "Longhorn":
        return longhorn(width, depth, characters)
    if name == "transformer":
        return transformer(width, depth, characters, size)
    if name == "LSTM":
        return lstm(max(1, depth // 2), characters, size)  # half as many layers: every one has 256 steps to wait for
    raise ValueError(f"no model {name!r}; choose one of {', '.join(MODELS)}")


@torch.no_grad()
def continued(model: nn.Module, prompt: Tensor, n: int, *, temperature: float, generator: torch.Generator) -> Tensor:
    """``n`` tokens drawn one after the other behind a prompt ``(L,)``: Longhorn's ``generate``, for all models."""
    if isinstance(model, LonghornLM):
        found: Tensor = model.generate(prompt.unsqueeze(0), n, temperature=temperature, generator=generator)[0]
        return found
    logits, state = model(prompt.unsqueeze(0), return_state=True)
    tokens = [drawn(logits[:, -1], temperature, None, generator)]
    while len(tokens) < n:
        tokens.append(drawn(model.step(tokens[-1], state), temperature, None, generator))
    return torch.cat(tokens)
