"""What a module consists of, beside PyTorch's own walks."""

import torch
from torch import nn

from pcl import parts


def test_shared_frozen_and_missing_parts_in_the_order_of_pytorch() -> None:
    twice = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    root = nn.Sequential(twice, nn.ModuleList([twice, nn.Linear(4, 2, bias=False)]), nn.Sequential(), twice)
    root.register_module("nothing", None)
    root[1][1].tied = root[0][0].weight
    root[0][0].bias.requires_grad_(False)
    assert parts.modules(root) == list(root.modules())
    for ours, theirs in ((parts.parameters, root.parameters), (parts.buffers, root.buffers)):
        assert list(map(id, ours(root))) == list(map(id, theirs()))
    assert list(map(id, parts.trainable(root))) == [id(p) for p in root.parameters() if p.requires_grad]
    assert parts.like(root) is next(root.parameters())
    assert parts.first(root[0][0], trainable=True) is root[0][0].weight
    root[0][0].weight.requires_grad_(False)
    assert parts.first(root, trainable=True) is root[0][1].weight
    assert parts.first(root.requires_grad_(False), trainable=True) is None
    assert parts.like(nn.Sequential()).dtype == torch.get_default_dtype()
