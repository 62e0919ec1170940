"""Runs whose network grows, from settings to the report."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from pcl import GrowingModel, cli
from pcl.config import RunConfig, config_from, read_config
from pcl.report import write_report
from pcl.run import build, load_run, resume, start
from pcl.scenarios import SCENARIOS
from pcl.training.checkpoint import load_checkpoint
from tests.run_cases import SHORT, rows

GROWING = {"scenario": "split-digits", "method": "mean", "width": 12, "grow": "task", "grow_neurons": 6, "grow_new": 3}


def test_a_network_grows_by_the_command_line_and_the_report_shows_it(tmp_path: Path) -> None:
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in GROWING.items()]
    cli.main(["train", *settings, *SHORT, "--runs", str(tmp_path), "--name", "r"])
    folder = tmp_path / "r"
    results = json.loads((folder / "results.json").read_text())
    growths = [row for row in rows(folder) if row["kind"] == "growth"]
    assert [growth["tasks"] for growth in growths] == [[f"task-{i}"] for i in range(1, 6)]
    assert results["F"] == 0
    trainer = load_run(folder)
    assert isinstance(trainer.model, GrowingModel)
    assert trainer.model.widths == {name: width for name, (_, width) in growths[-1]["widths"].items()}
    assert trainer.model.size() == growths[-1]["parameters"][1] == results["parameters"]
    assert results["neurons"] == growths[-1]["neurons"][1]
    assert trainer.evaluate() == results["final"]
    assert config_from(read_config(folder / "config.toml")).grow == "task"

    page = write_report(folder).read_text()
    assert (folder / "sizes.png").stat().st_size > 0
    lines = re.findall("<tr>(.*?)</tr>", page.split("<h2>Growths</h2>")[1].split("</section>")[0])
    assert len(lines) == 1 + len(growths)
    for line, growth in zip(lines[1:], growths, strict=True):
        cells = re.findall("<td[^>]*>(?:<span>)?([^<]*)", line)
        assert cells[:2] == [str(growth["step"]), growth["tasks"][0]]
        assert sum(map(int, cells[2:5])) == growth["neurons"][1] - growth["neurons"][0]
        assert cells[6] == f"{growth['neurons'][0]} → {growth['neurons'][1]}"
    assert f"grew 5 times, from {growths[0]['neurons'][0]} to {growths[-1]['neurons'][1]} neurons" in page


@pytest.mark.no_cover  # takes long, and goes no way that others do not
def test_a_growing_run_that_was_killed_leaves_the_same_lines(tmp_path: Path) -> None:
    class Kill:
        def on_step(self, trainer: object, record: dict[str, object]) -> None:
            if record["step"] == 29:
                raise KeyboardInterrupt

    config = RunConfig(epochs=1, batch_size=24, checkpoint_every=8, **{**GROWING, "grow": "every:5"})  # type: ignore[arg-type]
    whole = start(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "killed", [Kill()])
    assert resume(tmp_path / "killed") == whole
    lines = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "killed")]
    assert lines[0] == lines[1]
    assert lines[0].count(b'"growth"') > 5
    states = [load_checkpoint(tmp_path / name / "checkpoint.pcl")["trainer"]["model"] for name in ("whole", "killed")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(t, states[1][name]) for name, t in states[0].items() if isinstance(t, torch.Tensor))
    assert states[0]["_extra_state"] == states[1]["_extra_state"]


def test_convolutions_grow_and_the_samples_are_those_of_the_scenario() -> None:
    images = SCENARIOS["split-digits"].load(Path())
    config = RunConfig(epochs=1, batch_size=24, share=0.1, **{**GROWING, "width": None})  # type: ignore[arg-type]
    spec = copy.copy(SCENARIOS["split-digits"])
    object.__setattr__(spec, "features", 5)

    def conv(data: object) -> nn.Module:
        stem = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        return nn.Sequential(stem, nn.Conv2d(4, 5, 3, stride=2), nn.ReLU(), nn.Flatten())

    object.__setattr__(spec, "backbone", conv)
    _, trainer = build(config, images, spec)
    trainer.fit()
    assert isinstance(trainer.model, GrowingModel)
    assert sum(trainer.model.widths.values()) > 9
    assert trainer.results()["F"] == 0


def test_an_mlp_has_the_width_asked_for_and_the_rest_in_proportion() -> None:
    spec = SCENARIOS["split-digits"].widened(12)
    model = spec.backbone(spec.load(Path()))
    assert [layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear)] == [12, 6]
    assert spec.features == 6
    with pytest.raises(ValueError, match="a ResNet or an MLP, and this scenario has a LonghornFor"):
        SCENARIOS["ps-sequential-digits"].widened(12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grow": "always"}, "grow: expected 'task', 'plateau' or 'every:N' with N steps, got 'always'"),
        ({"grow": "every:0"}, "every:N"),
        ({"grow_neurons": 0}, "grow_neurons: expected at least 1"),
        ({"setting": "class"}, "setting: expected 'task', got 'class'"),
        ({"head": "cosine"}, "head: expected 'linear' or 'sigmoid'"),
        ({"method": "ewc"}, "method: unknown 'ewc'"),
        ({"method": "mean+ewc"}, "EWC does not go with a GrowingModel"),
        ({"method": "gdumb"}, "inference from the memory does not go with a GrowingModel"),
        ({"method": "gem"}, "memory_tasks='each' does not go with a GrowingModel"),
        ({"scenario": "ps-sequential-digits", "width": None}, "no width of the backbone can grow|cannot be traced"),
    ],
)
def test_settings_that_do_not_go_with_growth_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(RunConfig(**{**GROWING, **settings}))  # type: ignore[arg-type]


def test_architectures_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["list"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "Architectures --grow" in shown
    assert "Firefly" in shown
