"""Settings that a run would not read are refused before it starts."""

from pathlib import Path
from typing import Any

import pytest

from pcl.compare.variants import variant
from pcl.config import RunConfig, config_from, config_text, read_config
from pcl.methods import METHODS
from pcl.run import start
from pcl.without_effect import READ, refuse_without_effect

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # by setting: where it has no effect, and where it has one
    "bgd_std": ({"bgd_std": 0.1}, {"method": "bgd"}),
    "bgd_draws": ({"bgd_draws": 3}, {"method": "mean", "optimizer": "bgd"}),
    "tasks_per_step": ({"tasks_per_step": 2}, {"task_sampling": "equal"}),
    "sampling_temperature": ({"sampling_temperature": 3.0, "task_sampling": "equal"}, {"task_sampling": "temperature"}),
    "timeline": ({"timeline": "serial", "starts": (0, 1, 2, 3, 4)}, {"starts": None}),
    "timeline_number": ({"timeline_number": 2, "timeline": "serial"}, {"timeline": "random"}),
    "grow_neurons": ({"grow_neurons": 3}, {"grow": "plateau"}),
    "grow_new": ({"grow_new": 3}, {"grow": "every:3"}),
    "grow_steps": ({"grow_steps": 3, "grow": "every:3"}, {"grow": "task"}),
    "memory_size": ({"memory_size": 100}, {"method": "er"}),
    "memory_per_class": ({"memory_per_class": 7, "method": "er", "memory_size": 100}, {"memory_size": None}),
    "memory_tasks": ({"memory_tasks": "each", "method": "fine-tuning"}, {"method": "mean"}),
    "scratch_epochs": ({"scratch_epochs": 2}, {"method": "gdumb"}),
    "edit_alpha": ({"edit_alpha": 0.3, "method": "mean"}, {"method": "mean+me"}),
    "edit_when": ({"edit_when": "before", "method": "mean"}, {"method": "mean+me"}),
    "edit_beta": ({"edit_beta": 0.3}, {"method": "er+gmed"}),
    "loss_strength": ({"loss_strength": 3.0}, {"method": "mean+ewc"}),
    "scale": ({"scale": "unit", "method": "mgda"}, {"method": "pcgrad"}),
    "temperature": ({"temperature": 2.0, "method": "emgd-gmc-code"}, {"method": "emgd-gmc"}),
    "lower": ({"lower": "code", "method": "sum"}, {"method": "emgd-gs"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_setting_belongs_to_something(name: str) -> None:
    settings, others = CASES[name]
    with pytest.raises(ValueError, match=rf"^{name}: it belongs to .*; leave it out$"):
        refuse_without_effect(RunConfig(**settings))
    refuse_without_effect(RunConfig(**{**settings, **others}))


def test_a_scenario_file_with_a_label_set_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("[split]\ntasks = 5\n")
    refuse_without_effect(RunConfig(scenario=str(file), label_set=2))
    file.write_text("label_set = 1\n" + file.read_text())
    with pytest.raises(ValueError, match="label_set: it belongs to scenarios that do not say their own"):
        refuse_without_effect(RunConfig(scenario=str(file), label_set=2))


def test_every_setting_is_tested() -> None:
    assert set(READ) == {*CASES, "label_set"}


@pytest.mark.parametrize("method", ["emgd-gmc+me", "er", "gdumb", "bgd", "fine-tuning", "mean+der++"])
def test_the_settings_that_a_run_has_written_down_are_accepted(method: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(config_text(RunConfig(method=method).resolved()))
    refuse_without_effect(config_from(read_config(tmp_path / "config.toml")))


def test_the_defaults_are_accepted_with_every_method() -> None:
    for method in METHODS:
        refuse_without_effect(RunConfig(method=method))


def test_runs_and_variants_refuse_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^edit_beta: it belongs to"):
        start(RunConfig(method="mean", edit_beta=0.3), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"^temperature: it belongs to"):
        variant("mean:temperature=5")
