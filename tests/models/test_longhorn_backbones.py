"""Longhorn backbones: what they make of inputs, and how they train with the methods of the library."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcl import (
    EMGD,
    VISION_SIZES,
    Batches,
    BidirectionalBlock,
    ClassMemory,
    ContinualModel,
    GradientEdit,
    LonghornBackbone,
    LonghornConfig,
    Mean,
    PCGrad,
    Stream,
    Trainer,
    VisionConfig,
    VisionLonghorn,
    Weighting,
    load_checkpoint,
    save_checkpoint,
    task_gradients,
)
from pcl.gradients.task_gradients import Strategy
from pcl.memory.edit import Edit
from tests.training.training_cases import everything, same

CONFIG = LonghornConfig(width=6, depth=2, states=3)
VISION = VisionConfig(image=(2, 6), patch=2, width=6, depth=2, channels=1, states=3)


def sequences() -> LonghornBackbone:
    torch.manual_seed(0)
    return LonghornBackbone(CONFIG, channels=1, pool="last")


def patches() -> VisionLonghorn:
    torch.manual_seed(0)
    return VisionLonghorn(VISION)


BACKBONES: dict[str, Callable[[], nn.Module]] = {"sequences": sequences, "patches": patches}


def images(*sizes: int) -> Tensor:
    return torch.rand(*sizes, generator=torch.Generator().manual_seed(1))


# ---- inputs


def test_images_are_read_pixel_by_pixel() -> None:
    backbone, x = LonghornBackbone(CONFIG, channels=3), images(2, 3, 4, 5)
    pixels = torch.stack([x[:, :, row, column] for row in range(4) for column in range(5)], dim=1)
    assert torch.equal(backbone(x), backbone(pixels))
    assert backbone(x).shape == (2, 6)


def test_numbers_are_a_sequence_of_one_channel() -> None:
    backbone, x = sequences(), images(2, 7)
    assert torch.equal(backbone(x), backbone(x.unsqueeze(2)))


def test_pooling_and_state() -> None:
    tokens = torch.arange(14).view(2, 7) % 5
    config = LonghornConfig(width=6, depth=2, states=3, vocabulary=5)
    torch.manual_seed(0)
    mean = LonghornBackbone(config, pool="mean")
    torch.manual_seed(0)
    last = LonghornBackbone(config, pool="last")
    steps = mean.steps(tokens)
    assert steps.shape == (2, 7, 6)
    assert torch.equal(mean(tokens), steps.mean(dim=1))
    assert torch.equal(last(tokens), steps[:, -1])
    _, state = last(tokens[:, :3], return_state=True)
    assert torch.allclose(last(tokens[:, 3:], state), steps[:, -1], rtol=1e-4, atol=1e-5)
    found, _ = mean(tokens[:, 3:], state, return_state=True)
    assert torch.allclose(found, steps[:, 3:].mean(dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "x"),
    [
        (False, torch.zeros(2, 7, 2)),
        (False, torch.zeros(2, 3, 4, 5)),
        (False, torch.zeros(2, 7, dtype=torch.int64)),
        (True, torch.zeros(2, 7)),
        (True, torch.zeros(2, 7, 1, dtype=torch.int64)),
    ],
)
def test_other_inputs_are_refused(tokens: bool, x: Tensor) -> None:
    backbone = LonghornBackbone(LonghornConfig(6, 1, vocabulary=5)) if tokens else sequences()
    with pytest.raises(ValueError, match="x: expected"):
        backbone(x)


def test_bad_arguments_are_refused() -> None:
    for config, channels in ((CONFIG, 0), (CONFIG, -1), (LonghornConfig(6, 1, vocabulary=5), 2)):
        with pytest.raises(ValueError, match="expected channels > 0"):
            LonghornBackbone(config, channels)
    with pytest.raises(ValueError, match="pool"):
        LonghornBackbone(CONFIG, 1, pool="max")  # type: ignore[arg-type]


# ---- vision


def test_the_bidirectional_block_is_two_blocks_of_which_one_reads_backwards() -> None:
    torch.manual_seed(0)
    block, x = BidirectionalBlock(6, states=3).double(), images(2, 7, 6).double()
    u, z = block.in_proj(x).chunk(2, dim=-1)
    behind = block.back.scan(u.flip(1), z.flip(1)).flip(1)
    expected = block.out_proj((block.ahead.scan(u, z) + behind) / 2)
    assert torch.allclose(block(x), expected, rtol=1e-12, atol=1e-12)
    one = x.clone()
    one[:, 3] += 1
    assert not torch.isclose(block(one), block(x)).any()  # every output sees every step


def test_the_bidirectional_block_refuses_states_and_other_shapes() -> None:
    block, x = BidirectionalBlock(6), images(2, 7, 6)
    with pytest.raises(ValueError, match="no state"):
        block(x, return_state=True)
    with pytest.raises(ValueError, match="length, 6"):
        block(x[..., 1:])


def written_out(made: VisionLonghorn, x: Tensor) -> Tensor:
    """Features from patches cut by hand."""
    p, (height, width) = made.config.patch, made.config.image
    cuts = [x[:, :, r : r + p, c : c + p] for r in range(0, height, p) for c in range(0, width, p)]
    weight = made.patch_embed.weight.flatten(1)
    tokens = [F.linear(cut.flatten(1), weight, made.patch_embed.bias) for cut in cuts]
    middle = len(tokens) // 2
    if made.cls_token is not None:
        tokens.insert(middle, made.cls_token[0].expand(len(x), -1))
    y: Tensor = made.stack(torch.stack(tokens, dim=1) + made.pos_embed)
    return y.mean(dim=1) if made.cls_token is None else y[:, middle]


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_patches(pool: str) -> None:
    torch.manual_seed(0)
    config = VisionConfig(image=(4, 6), patch=2, width=6, depth=1, states=3, pool=pool)  # type: ignore[arg-type]
    made, x = VisionLonghorn(config), images(2, 3, 4, 6)
    assert torch.allclose(made(x), written_out(made, x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="expected images"):
        made(x[..., 1:])


def test_published_vision_sizes() -> None:
    """Dissertation Table 6.6, with a head of 1,000 classes. Its 7 M are ours; its 26 M are those of Vision Mamba, which
    has a matrix of inner x states more in each direction of each block: ours, without, are 25.2 M."""
    found = {}
    for name, config in VISION_SIZES.items():
        with torch.device("meta"):
            made = VisionLonghorn(config)
        found[name] = sum(p.numel() for p in made.parameters()) + 1000 * (config.width + 1)
    assert round(found["tiny"] / 1e6) == 7
    small = VISION_SIZES["small"]
    matrices = 2 * small.depth * 2 * small.width * small.states
    assert round(found["small"] / 1e6, 1) == 25.2
    assert round((found["small"] + matrices) / 1e6) == 26


@pytest.mark.parametrize("values", [{"patch": 3}, {"patch": 0}, {"depth": 0}, {"pool": "max"}])
def test_bad_vision_configs_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="VisionConfig"):
        VisionConfig(**{"image": (4, 6), "patch": 2, "width": 4, "depth": 1, **values})  # type: ignore[arg-type]


# ---- in the library


ROWS = {0: [0, 0.2, 0.4, 0.6, 0.8, 1], 1: [1, 0.8, 0.6, 0.4, 0.2, 0], 4: [0, 1, 0, 1, 0, 1], 5: [0.5] * 6}


def patterns(classes: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy images (16, 1, 2, 6) whose rows rise, fall, alternate or stay, by class."""
    y = torch.tensor(classes)[torch.arange(16) % len(classes)]
    rows = torch.tensor([ROWS[c] for c in y.tolist()]).view(16, 1, 1, 6).expand(-1, -1, 2, -1)
    return 0.7 * rows + 0.3 * torch.rand(16, 1, 2, 6, generator=torch.Generator().manual_seed(seed)), y


def trainer(backbone: str, weighting: Weighting, edit: Edit | None, epochs: int = 1, start: int = 2) -> Trainer:
    """Two streams, the second of which begins when the first is half through and goes on when it has ended."""
    made = Trainer(
        ContinualModel(BACKBONES[backbone](), 6),
        optimizer=lambda p: torch.optim.Adam(p, lr=0.02),
        weighting=weighting,
        memory=ClassMemory(2),
        memory_batch=4,
        edit=edit,
    )
    for task, classes, begin in (("left", [0, 1], 0), ("right", [4, 5], start)):
        batches = Batches(*patterns(classes), 4, name=task)
        made.add(Stream(task, batches, classes, start=begin, epochs=epochs, test=patterns(classes, seed=1)))
    return made


METHODS: dict[str, tuple[Callable[[], Weighting], bool]] = {
    "mean": (Mean, False),
    "emgd-gmc+me": (lambda: EMGD("gmc"), True),
    "pcgrad+me": (PCGrad, True),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_trains_and_resumes_to_the_bit(backbone: str, method: str, tmp_path: Path) -> None:
    """Samples of the memory are edited, which takes gradients of gradients."""
    weighting, edited = METHODS[method]

    def make() -> Trainer:
        return trainer(backbone, weighting(), GradientEdit(alpha=0.01) if edited else None)

    whole, first, second = make(), make(), make()
    before = [p.clone() for p in whole.model.shared_parameters()]
    whole.fit()
    assert all(not torch.equal(p, b) for p, b in zip(whole.model.shared_parameters(), before, strict=True))
    if edited:
        stored = torch.cat([patterns([0, 1])[0], patterns([4, 5])[0]])
        assert whole.memory is not None
        assert not all((stored == x).flatten(1).all(1).any() for x in whole.memory.x)
    first.fit(steps=5)
    save_checkpoint(tmp_path / "c", first.state_dict())
    second.load_state_dict(load_checkpoint(tmp_path / "c"))
    second.fit()
    assert same(everything(second), everything(whole))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_learns_two_streams_at_once(backbone: str) -> None:
    """How rows develop, in images that were not trained on: whoever guesses hits 14 of 16 once in 500 times."""
    made = trainer(backbone, EMGD("gmc"), None, epochs=20, start=0)
    made.fit()
    assert min(made.evaluate().values()) >= 14 / 16


@pytest.mark.parametrize("strategy", ["segment", "lowmem", "auto"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_strategy_has_the_gradients_of_the_loop(backbone: str, strategy: Strategy) -> None:
    """By itself, or by going back to the loop where it does not cover the model."""
    model = BACKBONES[backbone]().double()
    inputs = {task: images(n, 1, 2, 6).double() + n for task, n in (("a", 3), ("b", 2), ("c", 3))}
    losses = {task: lambda out, i=i: (out[:, i] + out[:, 0].square()).mean() for i, task in enumerate(inputs)}
    shared = list(model.parameters())
    expected = task_gradients(losses, shared, model=model, inputs=inputs, strategy="loop")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it goes back to the loop
        found = task_gradients(losses, shared, model=model, inputs=inputs, strategy=strategy)
    assert torch.allclose(found.gramian(), expected.gramian(), rtol=1e-10)
    for mine, loops in zip(found.each(), expected.each(), strict=True):
        for a, b in zip(mine, loops, strict=True):
            assert a is not None
            assert b is not None
            assert torch.allclose(a, b, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_edits_follow_the_gradient_of_the_distance(backbone: str) -> None:
    """x moves by -alpha grad_x |g(x) - d|^2 (Eq. 12 of the EMGD paper), whose slope is measured by differences."""
    model = nn.Sequential(BACKBONES[backbone](), nn.Linear(6, 2)).double()
    x, y = images(2, 1, 2, 6).double(), torch.tensor([0, 1])
    shared = list(model.parameters())
    direction = [0.1 * torch.ones_like(p) for p in shared]

    def losses(x: Tensor, rows: slice | Tensor) -> Tensor:
        return F.cross_entropy(model(x), y[rows], reduction="none")

    def distance(x: Tensor) -> float:
        total = 0.0
        for i in range(2):
            g = torch.autograd.grad(losses(x[i : i + 1], slice(i, i + 1)).sum(), shared)
            total += sum(float((a - d).square().sum()) for a, d in zip(g, direction, strict=True))
        return total

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says which way it takes
        edited = GradientEdit(alpha=1.0, valid=None)(model, losses, x, shared, direction)
    towards = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    step = 1e-5
    slope = (distance(x + step * towards) - distance(x - step * towards)) / (2 * step)
    assert math.isclose(float(((x - edited) * towards).sum()), slope, rel_tol=1e-6)
