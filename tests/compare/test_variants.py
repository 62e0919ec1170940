"""Methods with settings of their own in a comparison."""

import pytest

from pcl import SharedMemory
from pcl.compare.plan import Entry, Plan
from pcl.compare.trial import data_of, measure
from pcl.compare.variants import variant
from pcl.run import build


def test_settings_stand_behind_the_name() -> None:
    assert variant("emgd-gmc") == ("emgd-gmc", {})
    assert variant("emgd-gmc+me:temperature=5,memory=shared,edit_alpha=1e-3,cuda_graph=true") == (
        "emgd-gmc+me",
        {"temperature": 5, "memory": "shared", "edit_alpha": 1e-3, "cuda_graph": True},
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("emgd:temperature=5", "did you mean 'emgd-gmc'"),
        ("emgd-gmc:temprature=5", "did you mean 'temperature'"),
        ("emgd-gmc:lr=0.1", "unknown 'lr'"),
        ("emgd-gmc:", "setting: unknown ''"),
        ("emgd-gmc:temperature", "temperature=VALUE"),
        ("emgd-gmc:temperature=hot", "expected float"),
        ("emgd-gmc:memory=large", "memory: unknown 'large'"),
        ("all:temperature=5", "methods: unknown 'all'"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variant(text)
    with pytest.raises(ValueError, match=message):
        Plan(methods=("mean", text))


def test_a_methods_own_settings_go_before_those_of_the_plan() -> None:
    plan = Plan(methods=("emgd-gmc:temperature=5,memory=shared",), temperature=2.0, memory_per_class=3, lr=0.01)
    entry = Entry(plan.conditions[0], plan.method_names[1])
    config = plan.trial(entry, 0.01, plan.cases[0]).config("data")
    assert (config.method, config.temperature, config.memory_per_class) == ("emgd-gmc", 5, 3)
    _, trainer = build(config, data_of("ps-digits", "data", False))
    assert isinstance(trainer.memory, SharedMemory)
    assert trainer.memory.total == 30


def test_the_least_weight_and_the_share_are_settings() -> None:
    method = "emgd-gmc:lower=code"
    plan = Plan(methods=(method,), settings=("task",), share=0.25, rates=1, situations=2, cost_steps=0)
    data = data_of("ps-digits", "data", False)
    whole, part = (
        build(plan.trial(Entry(plan.conditions[0], name), 3e-3, plan.cases[0]).config("data"), data)
        for name in ("emgd-gmc:share=1", method)
    )
    assert whole[1].weighting.lower == 0.0  # type: ignore[union-attr]
    assert part[1].weighting.lower is None  # type: ignore[union-attr]
    assert part[1].weighting.temperature == 1.0  # type: ignore[union-attr]
    sizes = [sum(len(task.rows) for task in scenario.tasks) for scenario, _ in (whole, part)]  # type: ignore[union-attr]
    assert abs(sizes[1] - sizes[0] / 4) < len(part[0].tasks)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="share: expected a number above 0 and at most 1"):
        Plan(share=1.5)


def test_a_setting_changes_the_runs_of_its_row_alone() -> None:
    names = ("mgda", "mgda:memory_per_class=5", "mgda:memory_per_class=1")
    plan = Plan(methods=names, baseline="mgda", settings=("class",), situations=2, rates=1, lr=0.01, epochs=1)
    trials = [plan.final_trials(entry, 0.01)[0] for entry in plan.entries]
    found = [measure(trial, "data")["A"] for trial in trials]
    assert found[0] == found[1]  # the scenario's own number
    assert found[0] != found[2]
