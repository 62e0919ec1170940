"""The named scenarios and scenario files in whole runs: every setting, resumed to the bit, compared."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch

from pcl import TaskFree, cli
from pcl.compare.cost import measure_costs
from pcl.compare.plan import Plan
from pcl.compare.trial import measure
from pcl.config import RunConfig, read_config
from pcl.data.download import IMAGE_SETS
from pcl.data.images import load_digits
from pcl.run import build, load_run, start
from pcl.scenario_files import find_scenario, read_scenario, write_scenario
from pcl.scenarios import SCENARIOS
from pcl.streams.scenario import Scenario

OTHERS = [name for name in SCENARIOS if not name.startswith("ps-")]
RUN = [name for name in OTHERS if name != "split-mini-imagenet"]  # which here is split-cifar100 under another name


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Stand-ins for the large image sets: some of the digits as MNIST, a few small coloured images of every class."""
    root = tmp_path_factory.mktemp("data")
    digits = load_digits()
    arrays = {f"x_{part}": getattr(digits, f"x_{part}")[:200, 0].numpy() for part in ("train", "test")}
    arrays |= {f"y_{part}": getattr(digits, f"y_{part}")[:200].numpy() for part in ("train", "test")}
    np.savez(root / "mnist.npz", **arrays)
    rng = np.random.default_rng(0)
    for name, classes in {"cifar10": 10, "cifar100": 100, "tiny_imagenet": 200, "mini_imagenet": 100}.items():
        y = np.arange(classes).repeat(2)
        x = rng.integers(0, 256, (len(y), 8, 8, 3), dtype=np.uint8)
        np.savez(root / f"{name}.npz", x_train=x, y_train=y, x_test=x[::2], y_test=y[::2])
    np.savez(root / "fashion_mnist.npz", **arrays)
    letters = {"classes": np.array([f"alphabet-{i // 3}/letter-{i % 3}" for i in range(10)])}
    np.savez(root / "omniglot.npz", **arrays, **letters)
    return str(root)


def config(data_root: str, name: str, **settings: object) -> RunConfig:
    return RunConfig(
        **{"scenario": name, "data_root": data_root, "method": "mgda", "batch_size": 100, "epochs": 1, **settings}
    )  # type: ignore[arg-type]


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("setting", ["task", "class"])
@pytest.mark.parametrize("name", RUN)
def test_every_named_scenario_runs_in_both_settings(name: str, setting: str, data_root: str, tmp_path: Path) -> None:
    spec = SCENARIOS[name]
    size = 20 if "cifar" in name else 100
    settings = config(data_root, name, setting=setting, method="sum", batch_size=size, evaluate_every=1000)
    results = start(settings, tmp_path / "r")
    described = json.loads((tmp_path / "r" / "scenario.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]
    assert results["steps"] == len(steps) == 1 + max(task["end"] for task in described["tasks"])
    assert set(results["final"]) == {task["task"] for task in described["tasks"]}
    if spec.blur is not None:
        assert [task["task"] for task in described["tasks"]] == ["stream"]
        assert len(described["hidden"]) == 5
    elif spec.timeline == "serial":
        assert all(sum(task in results["final"] for task in row["tasks"]) == 1 for row in steps)


@pytest.mark.parametrize("name", ["split-digits", "rotated-digits", "task-free-digits"])
def test_runs_are_resumed_to_the_bit(name: str, tmp_path: Path) -> None:
    settings = config("none", name, setting="class", method="emgd-gmc+gmed", batch_size=48, checkpoint_every=5)
    start(settings, tmp_path / "whole")

    class Stop:
        def after_step(self, trainer: object) -> None:
            if trainer.step_count == 13:  # type: ignore[attr-defined]
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(settings, tmp_path / "stopped", [Stop()])
    cli.main(["train", "--resume", str(tmp_path / "stopped"), "--no-report"])
    for file in ("metrics.jsonl", "results.json"):
        assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    states = [load_run(tmp_path / folder).model.state_dict() for folder in ("stopped", "whole")]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize("timeline", ["random", "serial", "together"])
def test_a_run_may_choose_another_timeline(timeline: str, data_root: str) -> None:
    scenario, _ = build(config(data_root, "split-mnist", timeline=timeline))
    starts = scenario.timeline.starts
    assert {"serial": starts[1] > scenario.timeline.ends[0], "together": set(starts) == {0}}.get(timeline, True)
    default, _ = build(config(data_root, "split-mnist"))
    assert (default.timeline == scenario.timeline) == (timeline == "serial")


@pytest.mark.parametrize("name", ["ps-digits", "split-digits", "task-free-digits", "rotated-digits"])
def test_every_scenario_has_an_iid_stream_of_its_images(name: str, data_root: str) -> None:
    free, trainer = build(config(data_root, name, timeline="iid", epochs=2))
    tasks, _ = build(config(data_root, name))
    assert isinstance(free, TaskFree)
    hidden = tasks.hidden if isinstance(tasks, TaskFree) else tasks
    assert [task.classes for task in free.hidden.tasks] == [task.classes for task in hidden.tasks]
    assert (free.blur, free.epochs) == (math.inf, 2)
    (stream,) = trainer.streams.values()
    assert (stream.epochs, stream.classes) == (2, free.classes)


def test_split_mnist_is_gmeds(data_root: str) -> None:
    mnist = SCENARIOS["split-mnist"].load(Path(data_root))
    scenario = SCENARIOS["split-mnist"].build("split-mnist", mnist)
    assert isinstance(scenario, Scenario)
    assert [task.classes for task in scenario.tasks] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert scenario.batch_size == 10
    free = SCENARIOS["task-free-mnist"].build("task-free-mnist", mnist)
    assert isinstance(free, TaskFree)


def test_a_comparison_takes_the_scenarios_own_timeline() -> None:
    plan = Plan(scenario=("ps-digits", "split-digits"), settings=("class",), timelines=("own", "random"))
    found = [(condition.scenario, condition.timeline, condition.title) for condition in plan.conditions]
    assert found == [
        ("ps-digits", "random", "ps-digits, class-incremental"),
        ("split-digits", "serial", "split-digits, class-incremental"),
        ("split-digits", "random", "split-digits, class-incremental, random timeline"),
    ]
    trial = plan.trial(plan.entries[-1], 0.1, plan.cases[0])
    assert trial.config("data").timeline == "random"


@pytest.mark.parametrize("name", ["split-digits", "rotated-digits"])
def test_comparisons_run_search_and_measure_costs_on_serial_scenarios(name: str, tmp_path: Path) -> None:
    options = {"situations": 2, "epochs": 1, "batch_size": 48, "cost_steps": 10}
    plan = Plan(scenario=(name,), methods=("sum",), settings=("class",), **options)  # type: ignore[arg-type]
    entry = plan.entries[0]
    trials = [*plan.final_trials(entry, 3e-3), *plan.validation_trials(entry, 3e-3, 1)]
    found = [measure(trial, "none") for trial in trials]
    assert all(0 < result["A"] < 1 for result in found)
    assert len({result["A"] for result in found}) == 3
    measure_costs(plan, tmp_path, "none")
    costs = json.loads((tmp_path / "costs.json").read_text())["costs"]
    assert all(0 < row["steps"] <= 20 for row in costs)  # and not the hundred of the whole scenario


MINE = """
name = "mine"
timeline = "serial"
batch_size = 32

[[tasks]]
name = "upright"
classes = [0, "1", 2]
images = 100
[[tasks]]
classes = [2, 3]
rotate = 90.0
[[tasks]]
classes = [0, 1]
permute = 4

[training]
hidden = [32]
lr = 0.01
"""


def test_a_file_is_a_scenario(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(MINE)
    arguments = ["train", "--scenario", str(tmp_path / "mine.toml"), "--runs", str(tmp_path), "--setting", "class"]
    cli.main([*arguments, "--method", "sum", "--no-report"])
    folder = tmp_path / "mine-class-sum-seed1234"
    described = json.loads((folder / "scenario.json").read_text())
    assert [(task["task"], task["classes"], task.get("transform")) for task in described["tasks"]] == [
        ("upright", [0, 1, 2], None), ("task-2", [2, 3], {"rotate": 90.0}), ("task-3", [0, 1], {"permute": 4}),
    ]  # fmt: skip
    assert described["tasks"][0]["samples"] == 100
    trainer = load_run(folder)
    assert trainer.model.features == 32
    assert trainer.optimizer.defaults["lr"] == 0.01


@pytest.mark.parametrize("name", [*OTHERS, "ps-mnist", "ps-tiny-imagenet", "mine", "mine, shared"])
def test_what_is_written_comes_back_exactly(name: str, data_root: str, tmp_path: Path) -> None:
    spec = SCENARIOS.get(name)
    if spec is None:
        (tmp_path / "mine.toml").write_text(MINE if name == "mine" else f"shared = true{MINE}")
        spec = read_scenario(tmp_path / "mine.toml")
    data = spec.load(Path(data_root))
    scenario = spec.build(name, data, batch_size=30, label_set=2, timeline_number=3)
    write_scenario(tmp_path / "saved.toml", spec, scenario, label_set=2)
    saved = find_scenario(str(tmp_path / "saved.toml"))
    again = saved.build("another name", data, label_set=7, timeline_number=1)
    assert again.describe() == scenario.describe()
    assert saved.fingerprint == scenario.describe()["fingerprint"]
    for what in ("summary", "file", "blur", "backbone", "features", "memory_per_class", "lr", "edit_alpha"):
        assert getattr(saved, what) == getattr(spec, what)
    assert type(again) is type(scenario)


def test_a_file_runs_on_nothing_but_what_its_fingerprint_names(tmp_path: Path) -> None:
    spec = SCENARIOS["split-digits"]
    scenario = spec.build("split-digits", spec.load(Path()), epochs=1, batch_size=48)
    write_scenario(tmp_path / "s.toml", spec, scenario)
    settings = RunConfig(scenario=str(tmp_path / "s.toml"), method="sum", evaluate_every=1000)
    assert start(settings, tmp_path / "r")["steps"] == scenario.timeline.steps
    with pytest.raises(ValueError, match="asks for fingerprint"):
        start(dataclasses.replace(settings, timeline="together"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name = ", "not a TOML file"),
        ("name = 3\n[split]\ntasks = 5", "name: expected str"),
        ("", "exactly one of"),
        ("[split]\ntasks = 5\n[drawn]\ntasks = 1", "exactly one of"),
        ("[split]\ntask = 5", r"\[split\]: unknown task; known: images"),
        ("[split]\ntasks = 'five'", r"\[split\] tasks: expected int, got 'five'"),
        ("[split]\ntasks = 5\nshuffled = 1", "shuffled: expected bool"),
        ("[split]", "tasks"),
        ("split = 5", r"\[split\]: expected a table"),
        ("colour = 1\n[split]\ntasks = 5", "unknown colour"),
        ("timeline = 'late'\n[split]\ntasks = 5", "got 'late'$"),
        ("timeline = 'iid'\n[split]\ntasks = 5", "got 'iid'; .* write blur = inf"),
        ("starts = [0, 'x']\n[split]\ntasks = 5", "starts: expected int"),
        ("[[tasks]]\nname = 'a'", "expected classes"),
        ("[[tasks]]\nclasses = [0]\nrotate = 1.0\npermute = 2", "at most one of permute, rotate"),
        ("[[tasks]]\nclasses = [0]\nrotate = 'left'", "rotate: expected float"),
        ("[split]\ntasks = 5\n[training]\nlayers = 3", r"\[training\]: unknown layers"),
        ("[split]\ntasks = 5\n[training]\nlr = true", "lr: expected float"),
        ("[split]\ntasks = 5\n[training]\nlr = nan", "lr: expected a finite number"),
        ("[split]\ntasks = 5\n[training]\nhidden = []", "hidden: expected a list of at least one width"),
        ("[split]\ntasks = 5\n[training]\nhidden = 8", "hidden: expected a list of at least one width"),
        ("[split]\ntasks = 5\n[training]\nhidden = [0]", "hidden: expected a width of at least 1"),
        ("[split]\ntasks = 5\n[training]\nresnet = 0", "resnet: expected a width of at least 1"),
        ("[split]\ntasks = 5\n[training]\nhidden = [8]\nresnet = 8", "hidden, resnet: expected at most one"),
        ("timeline = 'serial'\nstarts = [0]\n[split]\ntasks = 5", "timeline, starts: expected at most one"),
        ("shared = true\n[split]\ntasks = 5", r"shared: expected beside \[\[tasks\]\]"),
        ("[[tasks]]\nclasses = '012'", "classes: expected a list"),
        ("[[tasks]]\nclasses = [true]", "classes: expected a list"),
        ("[[tasks]]\nclasses = [0]\nimages = 1.5", "images: expected int"),
    ],
)
def test_files_that_cannot_be_understood_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(content)
    with pytest.raises(ValueError, match=rf"bad\.toml: .*{message}"):
        read_scenario(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    "arguments", [("task-free-digits",), ("ps-digits",), ("ps-digits", "--timeline", "iid")], ids=" ".join
)
def test_a_scenario_is_shown_drawn_and_saved(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, file = tmp_path / "s.png", tmp_path / "s.toml"
    cli.main(["show", *arguments, "--label-set", "1", "--draw", str(picture), "--save", str(file)])
    shown = capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    spec = read_scenario(file)
    assert f"fingerprint {spec.fingerprint}" in shown
    cli.main(["show", str(file)])
    assert capsys.readouterr().out == shown


def test_the_picture_of_a_task_free_stream_shows_its_batches() -> None:
    free = SCENARIOS["task-free-digits"].build("task-free-digits", load_digits())
    assert isinstance(free, TaskFree)
    shares = free.shares(seed=3)
    batches = list(free.streams(3)[0]._source)
    for t, task in enumerate(free.hidden.tasks):
        found = [float(((y // 2) == t).float().mean()) for _, y in batches]
        assert shares[task.name] == pytest.approx(found)


def test_every_image_set_can_be_downloaded() -> None:
    assert {spec.file for spec in SCENARIOS.values()} - {None} <= set(IMAGE_SETS)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"absent\.toml"):
        cli.main(["train", "--scenario", str(tmp_path / "absent.toml")])


def without(file: Path, *keys: str) -> str:
    """The name of a file that lacks these keys of the other."""
    less = file.with_stem("less")
    less.write_text(tomli_w.dumps({key: value for key, value in read_config(file).items() if key not in keys}))
    return str(less)


def test_a_saved_scenario_is_one_situation_and_no_comparison(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    cli.main(["show", "split-digits", "--save", str(file)])
    for keys in ([], ["label_set"], ["fingerprint"]):
        scenario = without(file, *keys)
        with pytest.raises(ValueError, match="take label_set, starts and fingerprint out of the file"):
            Plan(scenario=(scenario,))
    Plan(scenario=(without(file, "label_set", "starts", "fingerprint"),))


def test_stated_starts_do_not_hold_a_search_up(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("starts = [0, 100]\n[[tasks]]\nclasses = [0, 1]\n[[tasks]]\nclasses = [2, 3]\n")
    plan = Plan(scenario=(str(tmp_path / "own.toml"),))
    trial = plan.trial(plan.entries[0], 1e-3, plan.validation_case(0), validation=True)
    assert trial.config("data").timeline == "random"
    assert plan.trial(plan.entries[0], 1e-3, plan.cases[0]).config("data").resolved().starts == (0, 100)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_starts_that_were_stated_for_all_images_are_drawn_for_fewer(share: float) -> None:
    """A quarter of the images would be gone long before the next start."""
    spec, starts = SCENARIOS["split-digits"], (0, 60, 120, 180, 240)
    data = spec.load(Path())
    found = spec.build("split-digits", data, timeline=starts, share=share).timeline.starts
    drawn = spec.build("split-digits", data, timeline="random", share=share).timeline.starts
    assert tuple(found) == (starts if share == 1 else tuple(drawn))
    named = spec.build("split-digits", data, timeline="serial", share=share).timeline
    assert all(start == end + 1 for start, end in zip(named.starts[1:], named.ends, strict=False))
