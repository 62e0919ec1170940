"""The code that README and CONTRIBUTING show runs as it stands there."""

import re
import warnings
from pathlib import Path

import pytest
import torch

import pcl
import pcl_kernels
from pcl.cli import main
from pcl.methods import WEIGHTINGS, WeightingOptions, WeightingSpec
from pcl.weighting.base import LooksBack

ROOT = Path(__file__).parent.parent


def needs(spec: WeightingSpec) -> str:
    return spec.make(WeightingOptions()).needs


def blocks(file: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(), flags=re.DOTALL)


def test_the_python_example() -> None:
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(blocks("README.md")[0], names)
    trainer = names["trainer"]
    assert isinstance(trainer, pcl.Trainer)
    # 30 batches each; animals misses one step, plants begins at step 10
    assert trainer.ended_at == {"animals": 30, "plants": 39}


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in (ROOT / "README.md").read_text()


def test_the_three_lines() -> None:
    names = {"pcl_kernels": pcl_kernels, "gradients": [[torch.ones(3), None], [torch.ones(3), torch.ones(2)]]}
    exec(blocks("README.md")[1], names)
    assert torch.equal(names["weights"], torch.tensor([1.0, 0.0], dtype=torch.float64))  # type: ignore[arg-type]


def test_the_engine_in_a_loop_of_ones_own() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    names: dict[str, object] = {
        "pcl": pcl,
        "cross_entropy": torch.nn.functional.cross_entropy,
        "model": model,
        "batches": {task: torch.randn(5, 4) for task in "ab"},
        "targets": {task: torch.randint(3, (5,)) for task in "ab"},
        "workspace": pcl.Workspace(),
        "weighting": pcl.MGDA(),
    }
    exec(blocks("README.md")[2], names)
    found, direction = names["found"], names["direction"]
    assert isinstance(found, pcl.TaskGradients)
    weights = pcl.MGDA()(found.gramian(), found.losses, found.tasks)
    expected = [sum(w * g for w, g in zip(weights, p, strict=True)) for p in zip(*found.each(), strict=True)]
    for d, e in zip(direction, expected, strict=True):  # type: ignore[call-overload]
        assert torch.allclose(d, e.float(), atol=1e-6)


def test_the_sequences() -> None:
    torch.manual_seed(0)
    names: dict[str, object] = {"pcl": pcl, "torch": torch}
    exec(blocks("README.md")[3], names)
    model, learner, more = names["model"], names["learner"], names["more"]
    assert isinstance(model, pcl.LonghornLM)
    assert isinstance(learner, pcl.ContinualModel)
    assert isinstance(more, torch.Tensor)
    assert all(p.grad is not None for p in model.parameters())
    assert more.shape == (1, 100)
    learner.add_task("a", [0, 1])
    assert learner(torch.rand(2, 1, 5, 5), "a").shape == (2, 2)


def test_a_stream_without_end() -> None:
    torch.manual_seed(0)
    names: dict[str, object] = {"pcl": pcl, "torch": torch}
    names |= {"signal": torch.randn(1200, 3), "label": torch.randint(2, (1200,))}
    exec(blocks("README.md")[4], names)
    trainer = names["trainer"]
    assert isinstance(trainer, pcl.Trainer)
    assert trainer.ended_at == {"pump": 2}  # 3 windows of 50 steps in each of 8 positions


def test_a_network_that_grows() -> None:
    torch.manual_seed(0)
    data = [(torch.randn(20, 40), torch.randint(3, (20,))) for _ in range(4)]
    names: dict[str, object] = {"pcl": pcl, "torch": torch, "data": data}
    names["cross_entropy"] = torch.nn.functional.cross_entropy
    exec(blocks("README.md")[5], names)
    growth, network = names["growth"], names["network"]
    assert isinstance(growth, pcl.Growth)
    assert growth.neurons == 6
    assert growth.loss_after < growth.loss_before
    assert isinstance(network, torch.nn.Sequential)
    assert network(data[0][0]).shape == (20, 3)


def test_tasks_on_a_network_that_grows() -> None:
    torch.manual_seed(0)
    names: dict[str, object] = {"pcl": pcl, "torch": torch}
    exec(blocks("README.md")[6], names)
    trainer = names["trainer"]
    assert isinstance(trainer, pcl.Trainer)
    assert isinstance(trainer.model, pcl.GrowingModel)
    before = trainer.model.widths
    for task, classes in (("animals", [0, 1, 2]), ("plants", [3, 4])):
        y = torch.tensor(classes)[torch.randint(len(classes), (300,))]
        x = torch.nn.functional.one_hot(y, 10).float().repeat(1, 4) + 0.3 * torch.randn(300, 40)
        trainer.add(pcl.Stream(task, list(zip(x.split(20), y.split(20), strict=True)), classes=classes))
    trainer.fit()
    assert sum(trainer.model.widths.values()) > sum(before.values())


def test_the_table_of_rehearsal() -> None:
    """The README repeats what the study has written."""
    assert (ROOT / "studies/results/gmed_table/table.md").read_text() in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", [name for name, spec in WEIGHTINGS.items() if needs(spec) != "gradients"])
def test_a_loop_of_ones_own_takes_every_weighting_while_tasks_come_and_go(name: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    weighting = WEIGHTINGS[name].make(WeightingOptions())
    names: dict[str, object] = {
        "pcl": pcl,
        "cross_entropy": torch.nn.functional.cross_entropy,
        "model": model,
        "workspace": pcl.Workspace(),
        "weighting": weighting,
    }
    for tasks in ("ab", "ab", "abc", "bc", "b"):
        names["batches"] = {task: torch.randn(5, 4) for task in tasks}
        names["targets"] = {task: torch.randint(3, (5,)) for task in tasks}
        exec(blocks("README.md")[2], names)
        found, direction = names["found"], names["direction"]
        for p, d in zip(model.parameters(), direction, strict=True):  # type: ignore[call-overload]
            assert d.shape == p.shape
            assert d.isfinite().all()
        if isinstance(weighting, LooksBack) and weighting.looks_back:
            weighting.after_update(0.9 * found.losses, found.tasks)  # type: ignore[attr-defined]
        if tasks == "abc":
            weighting.forget("a")
    twin = WEIGHTINGS[name].make(WeightingOptions())
    twin.load_state_dict(weighting.state_dict())
    arguments = found.gramian(), found.losses, found.tasks  # type: ignore[attr-defined]
    assert torch.equal(weighting(*arguments), twin(*arguments))


def test_the_weighting_of_the_contributing_page() -> None:
    names: dict[str, object] = {}
    exec(blocks("CONTRIBUTING.md")[0], names)
    weighting = names["InverseNorm"]()  # type: ignore[operator]
    weights = weighting(torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64)), torch.ones(2), ["a", "b"])
    assert weights.tolist() == [1 / 3, 2 / 3]


def test_files_that_the_readme_names_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_the_rows_of_weightings_are_those_that_the_study_made() -> None:
    made = (ROOT / "studies" / "results" / "weightings" / "summary-own-rate.md").read_text().splitlines()
    shown = (ROOT / "README.md").read_text().split(made[0])[1].split("\n\n")[0].strip().splitlines()
    assert len(shown) > 15
    assert [row for row in made[1:] if row in shown] == shown  # and in its order


def test_commands_that_the_readme_names_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    for command in set(re.findall(r"^pcl (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        assert f"usage: pcl {command}" in capsys.readouterr().out


def test_warnings_on_the_command_line_take_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    main(["list"])
    assert warnings.formatwarning("a task starves", UserWarning, "callbacks.py", 54) == "pcl: a task starves\n"
