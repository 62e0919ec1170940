"""Vision Longhorn: images as patches, read from both ends."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from pcl.models.longhorn.bidirectional import BidirectionalBlock
from pcl.models.residual import ResidualStack

VisionPool = Literal["class", "mean"]


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of a :class:`VisionLonghorn`.

    Attributes:
        image: height and width of the images.
        patch: height and width of a patch; divides both.
        width, depth, states, expand, conv, rank: see :class:`pcl.LonghornConfig`.
        channels: of the images.
        pool: ``"class"``: the features are those of a class token that stands in the middle of the patches;
            ``"mean"``: the mean over the patches.

    Raises:
        ValueError: for a patch that does not divide the image, a size below 1, or an unknown pool.
    """

    image: tuple[int, int]
    patch: int
    width: int
    depth: int
    channels: int = 3
    states: int = 16
    expand: int = 2
    conv: int = 4
    rank: int | None = None
    pool: VisionPool = "class"

    def __post_init__(self) -> None:
        if min(self.patch, self.width, self.depth, self.channels, *self.image) < 1:
            raise ValueError(f"VisionConfig: expected sizes of at least 1, got {self}")
        if any(side % self.patch for side in self.image):
            raise ValueError(
                f"VisionConfig patch: expected a divisor of the image's sides {self.image}, got {self.patch}"
            )
        if self.pool not in get_args(VisionPool):
            raise ValueError(f"VisionConfig pool: expected one of {', '.join(get_args(VisionPool))}; got {self.pool!r}")

    @property
    def patches(self) -> int:
        """How many an image has."""
        return math.prod(side // self.patch for side in self.image)


#: The models of dissertation Table 6.6, on ImageNet.
VISION_SIZES = {
    "tiny": VisionConfig(image=(224, 224), patch=16, width=192, depth=24),
    "small": VisionConfig(image=(224, 224), patch=16, width=384, depth=24),
}


class VisionLonghorn(nn.Module):
    """Features ``(B, width)`` of images ``(B, channels, height, width)``, for :class:`pcl.ContinualModel` or alone.

    A linear map of every patch, row by row, plus a learnt embedding of its position; a :class:`pcl.ResidualStack` of
    :class:`BidirectionalBlock`; features from a class token or a mean.

    Source: as for :class:`BidirectionalBlock`.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        c = self.config = config
        self.patch_embed = nn.Conv2d(c.channels, c.width, c.patch, stride=c.patch)
        with_class = c.pool == "class"
        self.cls_token = nn.Parameter(torch.empty(1, 1, c.width)) if with_class else None
        self.pos_embed = nn.Parameter(torch.empty(1, c.patches + with_class, c.width))
        blocks = [
            BidirectionalBlock(c.width, states=c.states, expand=c.expand, conv=c.conv, rank=c.rank)
            for _ in range(c.depth)
        ]
        self.stack = ResidualStack(blocks, c.width)
        with torch.no_grad():
            for tokens in (self.cls_token, self.pos_embed):
                if tokens is not None:
                    nn.init.trunc_normal_(tokens, std=0.02)
            for block in blocks:
                block.out_proj.weight /= math.sqrt(c.depth)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, width)``.

        Raises:
            ValueError: for images of another size.
        """
        expected = (self.config.channels, *self.config.image)
        if x.dim() != 4 or tuple(x.shape[1:]) != expected:
            raise ValueError(f"x: expected images (batch, {', '.join(map(str, expected))}), got {tuple(x.shape)}")
        y = self.patch_embed(x).flatten(2).transpose(1, 2)  # (B, patches, width)
        middle = self.config.patches // 2
        if self.cls_token is not None:
            y = torch.cat([y[:, :middle], self.cls_token.expand(len(x), -1, -1), y[:, middle:]], dim=1)
        y = self.stack(y + self.pos_embed)
        features: Tensor = y.mean(dim=1) if self.cls_token is None else y[:, middle]
        return features
