"""Published methods by name: what they are made of, and that the same can be spelt out."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pcl import (
    BGD,
    DER,
    MIR,
    BalancedReservoir,
    BeforeUpdate,
    ClassMemory,
    FromScratch,
    GenerativeMemory,
    GMEDEdit,
    GreedyBalanced,
    GSSGreedy,
    HerdingMemory,
    NearestMean,
    ReservoirMemory,
    SharedMemory,
    SigmoidDistillation,
    Sum,
    cli,
)
from pcl.config import RunConfig, config_from, read_config
from pcl.methods import LOSS_TERMS, METHODS, NAMED, WEIGHTINGS
from pcl.models.heads import SigmoidHead
from pcl.named_memories import MEMORIES
from pcl.run import build, resume, start
from pcl.training.state import _composition
from pcl.training.trainer import Trainer

SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 24, "evaluate_every": 1000}


def made(**settings: Any) -> Trainer:
    return build(RunConfig(**{**SHORT, **settings}))[1]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def spelt_out(name: str) -> dict[str, Any]:
    """The settings in what `pcl list` shows beside a name."""
    words = METHODS[name].spelt_out.split()
    return {key.removeprefix("--"): value for key, value in zip(words[::2], words[1::2], strict=True)}


@pytest.mark.parametrize("name", [*NAMED, "er+gmed", "mir+gmed", "er+der++", "mir+me+ewc"])
def test_a_name_is_what_it_spells_out(name: str) -> None:
    one, two = (made(**settings, timeline="serial") for settings in ({"method": name}, spelt_out(name)))
    assert _composition(one) == _composition(two)
    assert all(map(torch.equal, one.model.parameters(), two.model.parameters()))
    for t in (one, two):
        t.fit(12)
    assert all(map(torch.equal, one.model.parameters(), two.model.parameters()))
    assert one.step_count == 12


def test_names_stand_for_what_was_published() -> None:
    er, mir, gmed, both = (made(method=name) for name in ("er", "mir", "er+gmed", "mir+gmed"))
    for t in (er, mir, gmed, both):
        assert isinstance(t.weighting, Sum)
        assert type(t.memory) is ReservoirMemory
        assert not t.memory.keep_logits
        assert isinstance(t.retrieval, MIR) == (t in (mir, both))
    assert er.edit is mir.edit is None
    for t, samples in ((gmed, "recalled"), (both, "others")):
        assert isinstance(t.edit, BeforeUpdate)
        assert isinstance(t.edit.edit, GMEDEdit)
        assert t.edit.samples == samples
    assert isinstance(made(method="gss").memory, GSSGreedy)
    icarl = made(method="icarl")
    assert isinstance(icarl.memory, HerdingMemory)
    assert isinstance(icarl.inference, NearestMean)
    assert icarl.model.head == SigmoidHead()
    assert [type(term) for term in icarl.loss_terms] == [SigmoidDistillation]
    gdumb = made(method="gdumb")
    assert isinstance(gdumb.memory, GreedyBalanced)
    assert isinstance(gdumb.inference, FromScratch)
    assert isinstance(made(method="bgd").optimizer, BGD)
    assert isinstance(made(method="generative-replay").memory, GenerativeMemory)
    assert all(made(method=name).memory is None for name in ("bgd", "fine-tuning"))
    for name, beta in (("der", 0.0), ("der++", 0.5), ("mean+der++", 0.5)):
        t = made(method=name)
        (term,) = t.loss_terms
        assert isinstance(term, DER)
        assert term.settings() == {
            "alpha": LOSS_TERMS[name.removeprefix("mean+")].strength,
            "beta": beta,
            "unseen": "least",
        }
        assert t.memory is not None
        assert t.memory.keep_logits


def test_what_a_run_says_wins() -> None:
    t = made(method="mir", memory="balanced", memory_size=17, retrieval="class-balanced")
    assert type(t.memory) is BalancedReservoir
    assert t.memory.capacity == 17
    assert not isinstance(t.retrieval, MIR)
    assert RunConfig(method="mir", retrieval="random").resolved().retrieval == "random"
    assert made(method="der", loss_strength=0.125).loss_terms.settings()[0][1]["alpha"] == 0.125
    assert RunConfig(method="bgd").resolved().lr == 1.0
    assert RunConfig(method="bgd", lr=0.5).resolved().lr == 0.5
    assert made(method="gdumb", inference="model").inference is None
    assert not isinstance(made(method="bgd", optimizer="sgd").optimizer, BGD)
    with pytest.raises(ValueError, match="this ReservoirMemory keeps none"):
        made(method="der", memory="reservoir")


@pytest.mark.parametrize("method", ["mir", "er+gmed", "er+hindsight"])
def test_looking_ahead_needs_a_step_of_known_length(method: str) -> None:
    with pytest.raises(ValueError, match="the lr of bgd is a factor"):
        made(method=method, optimizer="bgd")


def test_names_do_not_stand_for_another_memory_than_they_say() -> None:
    """DER needs a reservoir of logits, HAL stored samples."""
    for name in ("er+der", "mir+der++", "mdmtr+der", "gem+der++", "hal+gmed", "generative-replay+lwf"):
        assert name in METHODS
    for name in ("gss+der", "gdumb+me+der++", "bgd+der", "generative-replay+hal"):
        assert name not in METHODS


def test_the_seed_of_a_run_is_that_of_its_generator() -> None:
    memory = made(method="generative-replay", seed=7).memory
    assert isinstance(memory, GenerativeMemory)
    assert memory.seed == 7


def test_without_a_name_the_defaults_are_as_they_were() -> None:
    resolved = RunConfig(method="emgd-gmc+me").resolved()
    assert (resolved.memory, resolved.retrieval, resolved.head) == ("class", "random", "linear")
    assert not set(NAMED) & set(WEIGHTINGS)
    for name, method in METHODS.items():
        fields = {field.name for field in dataclasses.fields(RunConfig)}
        assert set(method.settings) <= fields, name
        assert RunConfig(method=name).resolved().method == name


@pytest.mark.parametrize("memory", MEMORIES)
def test_every_memory_has_a_name_on_the_command_line(memory: Any) -> None:
    kinds = {
        "ring": ClassMemory, "shared": SharedMemory, "class": ClassMemory, "balanced": BalancedReservoir,
        "gss": GSSGreedy, "none": type(None), "herding": HerdingMemory, "greedy-balanced": GreedyBalanced,
        "generative": GenerativeMemory,
    }  # fmt: skip
    t = made(method="sum", memory=memory, memory_per_class=2, timeline="serial")
    assert type(t.memory) is kinds.get(memory, ReservoirMemory)
    if t.memory is None:
        return
    assert t.memory.keep_logits == (memory == "reservoir-logits")
    if isinstance(t.memory, ClassMemory):
        assert t.memory.keep == ("last" if memory == "ring" else "uniform")
    t.fit(20)
    assert len(t.memory) > 0


class Stop:
    """Interrupts a run after its 13th step, three after its last checkpoint."""

    def after_step(self, trainer: Trainer) -> None:
        if trainer.step_count == 13:
            raise KeyboardInterrupt


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("method", ["der++", "gss", "er+gmed", "icarl", "gdumb", "bgd", "generative-replay"])
def test_an_interrupted_run_goes_on_to_the_same_bits(method: str, tmp_path: Path) -> None:
    config = RunConfig(method=method, setting="class", timeline="serial", **{**SHORT, "checkpoint_every": 5})
    start(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "stopped", [Stop()])
    resume(tmp_path / "stopped")
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")
    written = config_from(read_config(tmp_path / "whole" / "config.toml"))
    assert written.memory == NAMED[method.partition("+gmed")[0]].settings["memory"]


def test_published_methods_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["list"])
    shown = capsys.readouterr().out
    for name in (*NAMED, *MEMORIES):
        assert name in shown
    assert "--method sum+der++" in shown


def test_gmed_leaves_alone_what_retrieval_has_picked() -> None:
    for retrieval in ("mir", "mir-finished"):
        t = made(method="er+gmed", retrieval=retrieval)
        assert isinstance(t.retrieval, MIR)
        assert t.retrieval.finished_only == (retrieval == "mir-finished")
        assert isinstance(t.edit, BeforeUpdate)
        assert t.edit.samples == "others"
