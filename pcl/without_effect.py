"""Settings that a run would not read: refused, because whoever gives one expects something of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pcl.config import RunConfig
from pcl.methods import METHODS, WEIGHTINGS, WeightingOptions
from pcl.scenario_files import find_scenario

FIXED_SIZE = ("shared", "reservoir", "reservoir-logits", "balanced", "gss", "herding", "greedy-balanced")
"""Memories whose size is given in samples."""

_Reads = Callable[[RunConfig], bool]

READ: dict[str, tuple[_Reads, str]] = {
    "bgd_std": (lambda run: run.optimizer == "bgd", "optimizer bgd"),
    "bgd_draws": (lambda run: run.optimizer == "bgd", "optimizer bgd"),
    "tasks_per_step": (lambda run: run.task_sampling != "all", "a task_sampling that draws tasks"),
    "sampling_temperature": (lambda run: run.task_sampling == "temperature", "task_sampling temperature"),
    "timeline": (lambda run: run.starts is None, "runs without starts"),
    "timeline_number": (lambda run: run.timeline == "random" and run.starts is None, "timeline random"),
    "label_set": (lambda run: find_scenario(run.scenario).label_set is None, "scenarios that do not say their own"),
    "grow_neurons": (lambda run: run.grow is not None, "grow"),
    "grow_new": (lambda run: run.grow is not None, "grow"),
    "grow_steps": (lambda run: run.grow in ("task", "plateau"), "grow task and plateau"),
    "memory_size": (lambda run: run.memory in FIXED_SIZE, f"memory {', '.join(FIXED_SIZE)}"),
    "memory_per_class": (
        lambda run: run.memory in ("class", "ring") or (run.memory in FIXED_SIZE and run.memory_size is None),
        "memory class and ring, and to others without memory_size",
    ),
    "memory_tasks": (lambda run: run.memory != "none", "runs with memory"),
    "scratch_epochs": (lambda run: run.inference == "from-scratch", "inference from-scratch"),
    "edit_alpha": (lambda run: METHODS[run.method].edit is not None, "methods with an edit"),
    "edit_when": (lambda run: METHODS[run.method].edit is not None, "methods with an edit"),
    "edit_beta": (lambda run: METHODS[run.method].edit in ("gmed", "hindsight"), "methods with +gmed or +hindsight"),
    "loss_strength": (lambda run: METHODS[run.method].loss_term is not None, "methods with a loss term"),
    "scale": (lambda run: "scale" in _asked(run), "weightings that have a choice of it"),
    "temperature": (lambda run: "temperature" in _asked(run), "emgd-gmc and emgd-gs"),
    "lower": (lambda run: "lower" in _asked(run), "emgd-gmc and emgd-gs"),
}  # fmt: skip
"""By setting: whether a run reads it, and what it belongs to. Those that are not here are always read, or refused where
the run is built."""


def refuse_without_effect(config: RunConfig) -> None:
    """Refuse a setting that differs from what the run would have without it, and that the run does not read.

    Raises:
        ValueError: naming the setting and what it belongs to.
    """
    whole = config.resolved()
    for name, (reads, owner) in READ.items():
        given, default = getattr(config, name), getattr(RunConfig, name)
        if given == default or reads(whole):
            continue
        if given != getattr(replace(config, **{name: default}).resolved(), name):
            raise ValueError(f"{name}: it belongs to {owner}, and would have no effect on this run; leave it out")


def _asked(run: RunConfig) -> set[str]:
    """The options that the weighting of a run asks for when it is made."""
    asked: set[str] = set()

    class Asked:
        def __getattr__(self, name: str) -> Any:
            asked.add(name)
            return getattr(WeightingOptions(), name)

    WEIGHTINGS[METHODS[run.method].weighting].make(Asked())  # type: ignore[arg-type]
    return asked
