"""Whole runs of methods by their names: weightings, edits, memories, loss terms, heads."""

import math
from pathlib import Path
from typing import Any

import pytest

from pcl import BeforeUpdate, CosineHead, GMEDEdit, GradientEdit, ReservoirMemory, cli, is_memory
from pcl.config import RunConfig, config_from, read_config
from pcl.methods import LOSS_TERMS, METHODS
from pcl.run import build, load_run, resume, start
from tests.run_cases import SHORT, rows


@pytest.mark.parametrize("method", ["mean+gmed", "mean+hindsight", "mean+random", "sum+me"])
def test_every_edit_has_a_name_on_the_command_line(method: str, tmp_path: Path) -> None:
    beta = {"edit_beta": 0.05} if method in ("mean+gmed", "mean+hindsight") else {}
    config = RunConfig(method=method, epochs=1, batch_size=24, edit_alpha=1e-2, evaluate_every=100, **beta)
    results = start(config, tmp_path / "r")
    assert results["drift"] > 0
    assert {row["edited"] > 0 for row in rows(tmp_path / "r") if "edited" in row} == {True}


@pytest.mark.parametrize("retrieval", ["random", "mir", "task-balanced", "class-balanced"])
def test_a_reservoir_replays_from_the_second_step_on(retrieval: Any, tmp_path: Path) -> None:
    config = RunConfig(
        method="sum+gmed", memory="reservoir", memory_size=60, retrieval=retrieval, epochs=1, batch_size=24,
        evaluate_every=100,
    )  # fmt: skip
    for name in ("one", "two"):
        assert start(config, tmp_path / name)["drift"] > 0
    steps = [row for row in rows(tmp_path / "one") if row["kind"] == "step"]
    assert ["MEMORY" in row["tasks"] for row in steps] == [False] + [True] * (len(steps) - 1)
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    assert len(load_run(tmp_path / "one").memory or ()) == 60
    written = config_from(read_config(tmp_path / "one" / "config.toml"))
    assert written.edit_when == "before"


def test_the_size_of_a_reservoir_follows_from_the_classes() -> None:
    config = RunConfig(method="sum", memory="reservoir", memory_per_class=3, epochs=1, batch_size=24)
    _, trainer = build(config)
    assert isinstance(trainer.memory, ReservoirMemory)
    assert trainer.memory.capacity == 30


def test_edits_act_when_they_are_told_to() -> None:
    def edit(**settings: Any) -> Any:
        return build(RunConfig(**settings))[1].edit

    assert isinstance(edit(method="sum+me"), GradientEdit)
    assert isinstance(edit(method="sum+me", edit_when="before"), BeforeUpdate)
    assert isinstance(edit(method="sum+gmed", edit_when="after"), GMEDEdit)
    assert edit(method="sum+gmed").samples == "recalled"
    assert edit(method="sum+gmed", retrieval="mir").samples == "others"


@pytest.mark.parametrize("term", [name for name, spec in LOSS_TERMS.items() if spec.memory is None])
def test_every_loss_term_has_a_name_on_the_command_line(term: str, tmp_path: Path) -> None:
    assert METHODS[f"mgda+me+{term}"].added == f"+me+{term}"
    config = RunConfig(method=f"mean+{term}", epochs=1, batch_size=48, timeline="serial", evaluate_every=100)
    half, whole = config.resolved().loss_strength, tmp_path / "whole"
    assert half == LOSS_TERMS[term].strength
    start(config, whole)
    assert read_config(whole / "config.toml")["loss_strength"] == LOSS_TERMS[term].strength
    start(RunConfig(**{**read_config(whole / "config.toml"), "loss_strength": half / 100}), tmp_path / "weaker")
    first, second = (rows(tmp_path / name) for name in ("whole", "weaker"))
    ends = [i for i, row in enumerate(first) if row["kind"] == "end"]
    assert first[: ends[0]] == second[: ends[0]]  # nothing to hold on to before a task has ended
    assert first[ends[0] :] != second[ends[0] :]
    (whole / "results.json").unlink()
    assert resume(whole)["steps"] == max(row["step"] for row in first) + 1
    assert rows(whole) == first


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("method", ["rlw", "rlw-dirichlet", "dwa", "uncertainty", "famo+me", "famo-next-step"])
def test_every_method_that_looks_at_losses_runs_and_repeats(method: str, tmp_path: Path) -> None:
    config = RunConfig(
        epochs=1, batch_size=48, method=method, clip=1.0, precision="bf16", strategy="loop", gramian="always"
    )
    for name in ("one", "two"):
        start(config, tmp_path / name)
    one, two = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two
    assert b'"cosine"' in one
    assert config_from(read_config(tmp_path / "one" / "config.toml")) == config.resolved()


MEMORY_RULES = ["gem", "a-gem", "mega-i", "mega-ii+me", "mdmtr", "mdmtr+me"]


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("setting", ["task", "class"])
@pytest.mark.parametrize("method", MEMORY_RULES)
def test_rules_with_memory_in_a_role_of_its_own_learn_and_repeat(method: str, setting: str, tmp_path: Path) -> None:
    config = RunConfig(method=method, setting=setting, epochs=3, batch_size=24, evaluate_every=1000)  # type: ignore[arg-type]
    results = start(config, tmp_path / "one")
    chance = {"task": 0.5, "class": 0.1}[setting]
    assert results["A"] > chance + 0.15
    steps = [row for row in rows(tmp_path / "one") if row["kind"] == "step"]
    rehearsed = {task for row in steps for task in row["tasks"] if is_memory(task)}
    assert all(task.startswith("memory:task-") for task in rehearsed) == (method == "gem")
    assert all(math.isfinite(value) for row in steps for value in (*row["loss"].values(), *row["weight"].values()))
    written = config_from(read_config(tmp_path / "one" / "config.toml"))
    assert written.head == ("cosine" if method.startswith("mdmtr") else "linear")
    assert written.memory_tasks == ("each" if method == "gem" else "one")
    start(written, tmp_path / "two")
    assert (tmp_path / "one" / "metrics.jsonl").read_bytes() == (tmp_path / "two" / "metrics.jsonl").read_bytes()


def test_heads_and_memory_tasks_go_with_every_method(tmp_path: Path) -> None:
    arguments = ["--method", "emgd-gmc+me", "--head", "cosine", "--memory-tasks", "each", "--setting", "class"]
    cli.main(["train", *arguments, *SHORT, "--runs", str(tmp_path), "--name", "r"])
    trainer = load_run(tmp_path / "r")
    assert trainer.model.head == CosineHead()
    assert trainer.memory_tasks == "each"
    assert sum("memory:task-1" in row.get("tasks", ()) for row in rows(tmp_path / "r")) > 0
