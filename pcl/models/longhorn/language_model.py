"""A language model of Longhorn blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcl.models.longhorn.block import longhorn_stack
from pcl.models.longhorn.config import LonghornConfig
from pcl.models.residual import widened
from pcl.training.checkpoint import load_checkpoint, save_checkpoint

IGNORED = -100
"""A target without a loss."""


class LonghornLM(nn.Module):
    """From tokens to the logits of the tokens that follow: embedding, residual stack of Longhorn blocks, head.

    What it remembers of a text has the same size after one token and after a million: reading on from a ``state``, and
    :meth:`generate`, take the same time and memory for every token. Parameters have the names and shapes of the
    published language model; see :meth:`from_published` and :data:`pcl.LONGHORN_SIZES`.

    Args:
        config: with a vocabulary. On the ``meta`` device (``with torch.device("meta")``) nothing is allocated.

    Raises:
        ValueError: for a config without a vocabulary.

    Source: Bo Liu's dissertation (2025), Sec. 6.5.1; initial values as in the published code.
    """

    def __init__(self, config: LonghornConfig) -> None:
        super().__init__()
        if config.vocabulary < 1:
            raise ValueError("LonghornLM: expected a config with a vocabulary; set LonghornConfig(vocabulary=...)")
        self.config = config
        self.backbone = longhorn_stack(config)
        self.backbone.embedding = nn.Embedding(config.vocabulary, config.width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.lm_head = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.tied:
            self.lm_head.weight = self.embedding.weight

    @property
    def embedding(self) -> nn.Embedding:
        """Of the tokens; a child of ``backbone``, as in the published model."""
        found = self.backbone.embedding
        assert isinstance(found, nn.Embedding)
        return found

    def forward(self, tokens: Tensor, state: Sequence[Any] | None = None, return_state: bool = False) -> Any:
        """Logits ``(B, L, vocabulary)`` of the token behind each of tokens ``(B, L)``; with ``return_state`` also the
        state behind the last, one entry per block.

        Args:
            state: what was read before, to go on from. It is left as it is; gradients flow into it, unless it went
                through :func:`pcl.detach_state`.
        """
        y = self.backbone(self.embedding(tokens), state, return_state)
        if return_state:
            y, state = y
        logits = self.lm_head(y)
        return (logits, state) if return_state else logits

    def loss(
        self, tokens: Tensor, targets: Tensor, state: Sequence[Any] | None = None, return_state: bool = False
    ) -> Any:
        """Mean cross-entropy of targets ``(B, L)``, the tokens that follow; a target of -100 has no loss.

        Arguments and state as those of :meth:`forward`.
        """
        logits = self(tokens, state, return_state)
        if return_state:
            logits, state = logits
        loss = F.cross_entropy(widened(logits).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        return (loss, state) if return_state else loss

    @torch.no_grad()
    def step(self, tokens: Tensor, state: Sequence[Any]) -> Tensor:
        """Logits ``(B, vocabulary)`` of the token behind tokens ``(B,)``; the state is updated in place."""
        logits: Tensor = self.lm_head(self.backbone.step(self.embedding(tokens), state))
        return logits

    def initial_state(self, batch: int) -> list[Any]:
        """The state of ``batch`` texts before their first token."""
        return self.backbone.initial_state(batch)

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        count: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
        state: Sequence[Any] | None = None,
        return_state: bool = False,
    ) -> Any:
        """``count`` tokens ``(B, count)`` that follow ``prompt`` ``(B, L)``, L at least 1.

        Args:
            temperature: of the softmax that tokens are drawn from; 0 takes the most likely one.
            top_k: draw among that many most likely tokens.
            generator: for the draws, on the prompt's device.
            state: what was read before the prompt. It is left as it is.
            return_state: also return the state behind all but the last token, with which the next prompt begins.

        Raises:
            ValueError: for an empty prompt, count or top_k below 1, or a negative temperature.
        """
        if prompt.dim() != 2 or not prompt.shape[1]:
            raise ValueError(f"prompt: expected (batch, length) with length at least 1, got {tuple(prompt.shape)}")
        if count < 1 or temperature < 0 or (top_k is not None and top_k < 1):
            raise ValueError(
                f"generate: expected count >= 1, temperature >= 0 and top_k >= 1; got count={count}, "
                f"temperature={temperature}, top_k={top_k}"
            )
        y, state = self.backbone(self.embedding(prompt), state, return_state=True)
        logits = self.lm_head(y[:, -1])
        found = prompt.new_empty(len(prompt), count)
        for i in range(count):
            found[:, i] = drawn(logits, temperature, top_k, generator)
            if i + 1 < count:
                logits = self.step(found[:, i], state)
        return (found, state) if return_state else found

    def save(self, path: Path) -> None:
        """Write config and weights to one checked file, which holds tensors and plain values alone."""
        save_checkpoint(path, {"config": self.config.to_dict(), "weights": self.state_dict()})

    @classmethod
    def load(cls, path: Path) -> LonghornLM:
        """What :meth:`save` wrote. Runs no code that the file may hold.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or not such a file.
        """
        saved = load_checkpoint(path)
        if saved.keys() != {"config", "weights"}:
            raise ValueError(f"{path}: expected config and weights of a LonghornLM, got {sorted(saved)}")
        return _filled(cls(LonghornConfig(**saved["config"])), saved["weights"])

    @classmethod
    def from_published(cls, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> LonghornLM:
        """The published model, from its ``config.json`` and state dict (of the model, or of the training script, where
        every name begins with ``transformer.``).

        Raises:
            ValueError: for a config that is not of Longhorn blocks alone.
            RuntimeError: for weights of other names or shapes.
        """
        plain = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
        return _filled(cls(LonghornConfig.from_published(config)), plain)


def drawn(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """A token ``(B,)`` for each of logits ``(B, vocabulary)``."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = widened(logits) / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    # p_i / e_i with e_i exponential is largest at i with probability p_i; torch.multinomial would wait for a GPU
    waits = torch.empty_like(logits).exponential_(generator=generator)
    return (logits.softmax(dim=-1) / waits).argmax(dim=-1)


def _filled(model: LonghornLM, weights: Mapping[str, Tensor]) -> LonghornLM:
    model.load_state_dict(dict(weights))
    return model
