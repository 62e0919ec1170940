"""The study of growing wider: the baselines keep or change the function as they should, and it runs in miniature."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pcl.data.images import ImageData
from pcl.models.growth.graph import WidthGraph
from studies import firefly_width as study
from studies import width_growth, width_networks
from studies.firefly_width import GROWN, Run, drawn, uniform
from studies.runs import key_of
from studies.width_growth import WAYS, widen
from studies.width_networks import (
    NETWORKS,
    Images,
    batches,
    layers_of,
    made,
    parameters,
    standardised,
    train,
    widths_of,
)


@pytest.fixture(scope="module")
def data() -> Images:
    """Pictures of 28 x 28 whose class is the place of a bright bar."""
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 10
    x = torch.randint(60, (200, 1, 28, 28), generator=draws)
    for image, label in zip(x, y.tolist(), strict=True):
        image[:, 2 * label + 3 : 2 * label + 6] += 150
    x = x.to(torch.uint8)
    return standardised(ImageData(x, y, x[:60], y[:60], tuple("0123456789")), 140)


def logits(model: torch.nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(x)
    return found


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_have_the_widths_that_are_asked_for(network: str, data: Images) -> None:
    model = made(network, [3, 4, 5, 6, 7], 0)
    assert widths_of(model) == [3, 4, 5, 6, 7]
    assert logits(model, data.x[:2]).shape == (2, 10)
    assert parameters(network, [3, 4, 5, 6, 7]) == sum(p.numel() for p in model.parameters())
    groups = WidthGraph(model, data.x[:2]).groups
    assert all(groups[name].fixed is None for name in layers_of(model))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("way", WAYS)
def test_the_ways_change_the_function_as_little_as_the_step(
    network: str, way: str, data: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a step of 0 halves and copies leave it as it is, and new neurons are not read."""
    x = data.x[:8].double()
    expected = logits(made(network, [3] * 5, 0).double(), x)
    far = {}
    for step in (0.0, 1e-3, 0.1):
        monkeypatch.setattr(width_growth, "STEP", step)
        model = made(network, [3] * 5, 0).double()
        optimizer = torch.optim.Adam(model.parameters())
        widen(model, optimizer, way, [4, 5, 3, 6, 4], x[:2], torch.Generator().manual_seed(1))
        assert widths_of(model) == [4, 5, 3, 6, 4]
        assert {id(p) for p in model.parameters()} == {
            id(p) for group in optimizer.param_groups for p in group["params"]
        }
        far[step] = (logits(model, x) - expected).abs().max().item()
    assert far[0.0] < 1e-13
    assert far[1e-3] < far[0.1] / 10  # a split may change nothing at all, where no ReLU turns between its halves
    assert far[0.1] > 1e-9  # the logits of networks that are not trained hardly differ


def test_halves_move_against_each_other_and_copies_alone(data: Images) -> None:
    model = made("vgg", [3] * 5, 0)
    name, layer = next(iter(layers_of(model).items()))
    group = WidthGraph(model, data.x[:2]).groups[name]
    split = width_growth.random_split(model, group, 2, torch.Generator().manual_seed(0))
    plus, minus = split.rows_plus[name][0], split.rows_minus[name][0]
    torch.testing.assert_close(plus + minus, 2 * layer.weight.detach()[split.split])
    torch.testing.assert_close((plus - minus).flatten(1).norm(dim=1), torch.full((2,), 0.2))
    copied = width_growth.net2net(model, group, 2, torch.Generator().manual_seed(0))
    assert not copied.rows_plus
    moved = copied.rows_minus[name][0] - layer.weight.detach()[copied.split]
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), torch.full((2,), 0.1))


def test_random_splits_fit_into_the_parameters_of_the_uniform_widths() -> None:
    model = made("vgg", uniform(0), 0)
    found = [drawn("vgg", model, 2, torch.Generator().manual_seed(seed)) for seed in range(5)]
    limit = parameters("vgg", uniform(2))
    for widths in found:
        assert parameters("vgg", widths) <= limit
        assert min(parameters("vgg", [w + (i == j) for j, w in enumerate(widths)]) for i in range(5)) > limit or sum(
            widths
        ) == 2 * sum(uniform(0))
    assert len({tuple(widths) for widths in found}) > 1


def test_the_rate_falls_in_every_stage(data: Images) -> None:
    model = made("vgg", [3] * 5, 0)
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, batches(data, 0), 4)
    assert 0 < optimizer.param_groups[0]["lr"] < width_networks.RATE / 4


@pytest.fixture(scope="module")
def small(data: Images) -> pytest.MonkeyPatch:
    patch = pytest.MonkeyPatch()
    patch.setattr(study, "images_of", lambda root, images: data)
    patch.setattr(study, "GROWTHS", 2)
    patch.setattr(study, "SCRATCH_AT", (2,))
    patch.setattr(study, "CANDIDATE_STEPS", 2)
    patch.setattr(study, "NEW", 2)
    return patch


def test_all_methods_grow_to_the_same_size_and_are_shown(small: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs = study.grown_runs("vgg", range(2), 3, 140)
    done = {key_of(run): study.measure(run, "nowhere") for run in runs}
    for run in runs:
        stages = done[key_of(run)]["stages"]
        assert stages[0]["widths"] == uniform(0)
        sizes = [stage["parameters"] for stage in stages]
        assert sizes == [parameters("vgg", stage["widths"]) for stage in stages]
        assert all(size <= parameters("vgg", uniform(n)) for n, size in enumerate(sizes))
        if run.method in ("Net2Net", "new neurons"):
            assert [stage["widths"] for stage in stages] == [uniform(n) for n in range(3)]
        elif run.method == "Firefly":
            assert sizes[0] < sizes[1] < sizes[2]
    more = study.scratch_runs(runs, done)
    assert [run.widths for run in more[:2]] == [
        tuple(done[key_of(runs[0])]["stages"][2]["widths"]),
        tuple(uniform(2)),
    ]
    done |= {key_of(run): study.measure(run, "nowhere") for run in more}
    text = study.write(tmp_path, runs + more, done)
    assert text.count("\n| ") == 1 + len(GROWN) + 2
    assert (tmp_path / "vgg-3-140.png").stat().st_size > 10_000


def test_the_same_run_gives_the_same_numbers(small: pytest.MonkeyPatch) -> None:
    one, other = (study.measure(Run("mobilenet", "Firefly", 0, 3, 140), "nowhere")["stages"] for _ in range(2))
    assert one == other
