"""Sizes of Longhorn models, and the published ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LonghornConfig:
    """What a Longhorn language model or backbone is built from.

    Attributes:
        width: of the residual stream.
        depth: number of blocks.
        vocabulary: number of tokens; 0 where inputs are not tokens.
        states, expand, conv, rank: see :class:`~pcl.models.longhorn.block.LonghornBlock`.
        tied: the head of a language model is its embedding.

    Raises:
        ValueError: for a width or depth below 1, or a vocabulary below 0.
    """

    width: int
    depth: int
    vocabulary: int = 0
    states: int = 16
    expand: int = 2
    conv: int = 4
    rank: int | None = None
    tied: bool = True

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("depth", 1), ("vocabulary", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"LonghornConfig {name}: expected at least {least}, got {getattr(self, name)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON or a checkpoint; ``LonghornConfig(**values)`` comes back."""
        return asdict(self)

    @classmethod
    def from_published(cls, values: Mapping[str, Any]) -> LonghornConfig:
        """From the ``config.json`` of the published code, whose vocabulary is padded to a multiple.

        Raises:
            ValueError: for an architecture that is not Longhorn alone: attention or MLP layers, LayerNorm.
        """
        if values.get("attn_layer_idx") or values.get("d_intermediate") or not values.get("rms_norm", True):
            raise ValueError(
                "config: expected Longhorn blocks and RMSNorm alone, got attn_layer_idx="
                f"{values.get('attn_layer_idx')}, d_intermediate={values.get('d_intermediate')}, "
                f"rms_norm={values.get('rms_norm')}"
            )
        inner, multiple = values.get("ssm_cfg") or {}, values.get("pad_vocab_size_multiple", 8)
        rank = inner.get("dt_rank", "auto")
        return cls(
            width=values["d_model"],
            depth=values["n_layer"],
            vocabulary=-(-values["vocab_size"] // multiple) * multiple,
            states=inner.get("d_state", 16),
            expand=inner.get("expand", 2),
            conv=inner.get("d_conv", 4),
            rank=None if rank == "auto" else rank,
            tied=values.get("tie_embeddings", True),
        )


_GPT2 = 50_304  # GPT-2's 50,257 tokens, padded to a multiple of 64

#: The models of dissertation Table 6.3. Its n_layers counts attention and MLP pairs; a Longhorn model has two blocks
#: for each.
LONGHORN_SIZES = {
    "125M": LonghornConfig(width=768, depth=24, vocabulary=_GPT2),
    "350M": LonghornConfig(width=1024, depth=48, vocabulary=_GPT2),
}
