"""Whole comparisons on small runs: interrupted, resumed, refused."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from pcl import cli
from pcl.compare import compare, report
from pcl.compare.board import Board
from pcl.compare.cost import measure_costs, read_costs
from pcl.compare.page import arguments
from pcl.compare.plan import Plan, families
from pcl.compare.search import budget
from pcl.compare.store import RUNS, Store, read_plan, read_runs
from pcl.compare.trial import Trial, measure
from pcl.compare.work import complete
from pcl.methods import NAMED, WEIGHTINGS

SMALL = Plan(
    methods=("mgda",), settings=("task",), situations=2, rates=3, lr=0.01, epochs=1, batch_size=32, cost_steps=0
)
FLAGS = arguments(SMALL).split()
WRITTEN = (
    "plan.json", "results.md", "results.csv", "runs.csv", "results.tex", "summary-own-rate.md",
    "accuracy-ps-digits-task-random-adam.png", "rates-ps-digits-task-random-adam.png",
)  # fmt: skip


def command(folder: Path, *more: str) -> list[str]:
    code = "from pcl.cli import main; main()"
    where = ["--comparisons", str(folder.parent), "--name", folder.name]
    return [sys.executable, "-c", code, "compare", *FLAGS, *where, *more]


def heed_interrupts() -> None:
    """Shells start what runs in the background, such as these tests, deaf to them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(true: object, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():  # type: ignore[operator]
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison made in one go, by one process."""
    folder = tmp_path_factory.mktemp("whole") / "c"
    subprocess.run(command(folder, "--processes", "1"), check=True, capture_output=True, timeout=300)
    return folder


def test_only_the_runs_that_are_needed_are_made(whole: Path) -> None:
    results = read_runs(whole)
    for method in ("mean", "mgda"):
        of_method = [trial for trial in results if trial.method == method]
        assert sum(trial.validation for trial in of_method) == budget(SMALL)
        rates = {trial.lr for trial in of_method if not trial.validation}
        assert 0.01 in rates
        assert sum(not trial.validation for trial in of_method) == 2 * len(rates)
    assert read_plan(whole) == SMALL


def test_a_run_of_a_comparison_is_a_run_of_pcl_train(whole: Path, tmp_path: Path) -> None:
    cli.main([
        "train", "--setting", "task", "--method", "mgda", "--lr", "0.01", "--epochs", "1", "--batch-size", "32",
        "--seed", "1235", "--label-set", "1", "--timeline-number", "1", "--no-report", "--runs", str(tmp_path),
        "--name", "r",
    ])  # fmt: skip
    alone = json.loads((tmp_path / "r" / "results.json").read_text())
    trial = SMALL.final_trials(SMALL.entries[1], 0.01)[1]
    assert (trial.method, trial.seed) == ("mgda", 1235)
    found = read_runs(whole)[trial]
    assert (found["A"], found["F"], found["steps"]) == (alone["A"], alone["F"], alone["steps"])


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_killed_and_resumed_gives_the_same_files(whole: Path, tmp_path: Path) -> None:
    """With two processes instead of one, killed in the middle, and once more interrupted politely."""
    folder = tmp_path / "c"
    runs = folder / RUNS

    def lines() -> int:
        return runs.read_bytes().count(b"\n") if runs.exists() else 0

    for least, strike in ((2, signal.SIGKILL), (5, signal.SIGINT)):
        wanted = max(least, lines() + 1)
        process = subprocess.Popen(
            command(folder, "--processes", "2"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_interrupts,
        )
        assert wait_until(lambda wanted=wanted: lines() >= wanted)
        workers = children(process.pid)
        os.kill(process.pid, strike)
        _, said = process.communicate(timeout=60)
        assert wait_until(lambda workers=workers: not any(map(alive, workers))), "a process stayed behind"
        assert process.returncode == (-9 if strike == signal.SIGKILL else 1)
    assert said.strip() == "pcl: interrupted; the same command goes on with what is missing"
    before = runs.read_bytes()
    assert not (folder / "results.md").exists()
    with runs.open("ab") as file:
        file.write(b'{"version": "0.1.0", "run": {"scena')  # killed in the middle of a line
    subprocess.run(command(folder, "--processes", "2"), check=True, capture_output=True, timeout=300)
    assert runs.read_bytes().startswith(before)  # nothing was made twice
    assert read_runs(folder) == read_runs(whole)
    assert len(read_runs(folder)) == runs.read_bytes().count(b"\n")
    for name in WRITTEN:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_finished_comparison_is_only_written_anew(whole: Path) -> None:
    before = {path: path.read_bytes() for path in whole.iterdir()}
    for name in ("results.md", "results.html"):
        (whole / name).unlink()
    cli.main(["report", str(whole)])
    assert {path: path.read_bytes() for path in whole.iterdir()} == before


def test_other_settings_are_refused(whole: Path) -> None:
    before = {path: path.read_bytes() for path in whole.iterdir()}
    refused = {
        ("--situations", "3"): "another situations: there 2, here 3",
        ("--methods", "emgd-gs"): "another methods",
        ("--spacing", "2"): "another spacing",
    }
    for flags, message in refused.items():
        with pytest.raises(SystemExit, match=message):
            cli.main([*command(whole)[3:], *flags])
    assert {path: path.read_bytes() for path in whole.iterdir()} == before


def test_two_at_work_in_one_folder_are_refused(whole: Path) -> None:
    data = json.loads((whole / "plan.json").read_text())["data"]
    with Store(whole, SMALL, data), pytest.raises(SystemExit, match="another process is at work"):
        cli.main(command(whole)[3:])


def test_a_run_that_cannot_be_made_is_named_and_ends_the_work(tmp_path: Path) -> None:
    plan = Plan(scenario=("ps-mnist",), methods=("mgda",), settings=("class",))
    with Store(tmp_path / "c", plan, {}) as store:
        with pytest.raises(RuntimeError, match=r"mean on ps-mnist, class-incremental.*FileNotFoundError"):
            complete(plan, store, str(tmp_path), 1, Board(plan, store.results, Console(file=io.StringIO())))
        assert store.results == {}


def test_a_damaged_plan_is_named(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{")
    for made in (lambda: read_plan(tmp_path), lambda: Store(tmp_path, SMALL, {}).__enter__()):
        with pytest.raises(ValueError, match=r"plan\.json: damaged"):
            made()


def test_a_damaged_line_is_named(tmp_path: Path, whole: Path) -> None:
    lines = (whole / RUNS).read_text().splitlines(keepends=True)
    (tmp_path / RUNS).write_text("".join([*lines[:2], "{}\n", *lines[2:]]))
    with pytest.raises(ValueError, match="line 3: damaged"):
        read_runs(tmp_path)


def test_runs_of_another_version_do_not_count(tmp_path: Path, whole: Path) -> None:
    text = (whole / RUNS).read_text()
    (tmp_path / RUNS).write_text(text.replace('"version": "', '"version": "9.', 1))
    assert len(read_runs(tmp_path)) == len(read_runs(whole)) - 1


def test_a_run_that_diverges_is_a_result() -> None:
    trial = SMALL.trial(SMALL.entries[0], 1e30, SMALL.cases[0])
    result = measure(trial, "data")
    assert set(result) == {"error"}
    assert "not finite" in result["error"] or "is nan" in result["error"] or "is inf" in result["error"]


def test_the_search_sees_no_test_image() -> None:
    from pcl.compare.trial import data_of

    whole, split = data_of("ps-digits", "data", False), data_of("ps-digits", "data", True)
    images = {row.numpy().tobytes() for row in whole.x_train}
    parts = [{row.numpy().tobytes() for row in part} for part in (split.x_train, split.x_test)]
    assert all(part <= images for part in parts)
    assert len(split.x_train) + len(split.x_test) == len(whole.x_train)


def test_costs_are_measured_for_every_entry(tmp_path: Path) -> None:
    plan = Plan(methods=("mgda", "mean+me"), settings=("class",), situations=2, cost_steps=12)
    told: list[tuple[int, int]] = []
    measure_costs(plan, tmp_path, "data", lambda done, total: told.append((done, total)))
    costs = read_costs(tmp_path, plan)
    assert set(costs) == set(plan.entries)
    assert all(0.05 < ms < 5000 for ms in costs.values())
    assert told[-1] == (len(told), len(told))


def test_costs_are_of_steps_with_rehearsal_also_where_every_finished_task_has_a_memory_of_its_own(
    tmp_path: Path,
) -> None:
    plan = Plan(methods=("gem",), settings=("class",), timelines=("serial",), situations=2, cost_steps=12)
    measure_costs(plan, tmp_path, "data")
    counted = {row["entry"][-1]: row["steps"] for row in json.loads((tmp_path / "costs.json").read_text())["costs"]}
    assert counted["gem"] == counted["mean"]  # and not also the steps before the first task has ended


REFUSED = {
    "a method": (["--methods", "emgd"], "did you mean 'emgd-gmc'"),
    "a family": (["--methods", "grams"], "did you mean 'gram'"),
    "a name twice": (["--methods", "mgda", "mgda"], "none twice"),
    "a scenario": (["--scenario", "ps-digit"], "did you mean 'ps-digits'"),
    "one situation": (["--situations", "1"], "situations: expected at least 2"),
    "a grid of one": (["--grid", "1", "1", "1"], "grid: expected"),
    "spacing": (["--spacing", "1.05"], "spacing: expected a factor of at least 1.1"),
    "a rate": (["--lr", "-1"], "lr: expected a finite number above 0"),
    "a large grid": (["--grid", "2000", "1", "1"], "situations, grid: expected at most 1000"),
    "a device": (["--device", "meta"], "device 'meta' cannot be used here"),
    "processes": (["--processes", "0"], "processes: expected at least 1"),
    "no data": (["--scenario", "ps-mnist", "--data-root", "{tmp}"], "pcl download mnist"),
    "a folder of something else": (["--name", "full"], "no folder of a comparison"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_one_clear_line_and_leave_nothing_behind(case: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("")
    before = sorted(tmp_path.rglob("*"))
    flags, message = REFUSED[case]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["compare", "--comparisons", str(tmp_path), *(flag.replace("{tmp}", str(tmp_path)) for flag in flags)])
    assert message in str(stopped.value)
    assert str(stopped.value).startswith("pcl: ")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("package", ["scipy", "matplotlib", "jinja2"])
def test_a_missing_package_is_named_before_anything_is_run(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for work in (lambda: compare(SMALL, tmp_path / "c"), lambda: report(tmp_path / "c")):
        with pytest.raises(ImportError, match=rf"need {package}.*parallel-continual-learning\[compare\]"):
            work()
    assert not (tmp_path / "c").exists()


def test_families_and_edits_are_spelt_out() -> None:
    plain = {*WEIGHTINGS, "mdmtr"}
    assert set(Plan(methods=("all",)).method_names) == plain
    assert set(Plan(methods=("all+me",)).method_names) == {"mean", *(f"{name}+me" for name in plain)}
    comparable = set(NAMED) - {"bgd"}
    assert set(Plan(methods=("published",)).method_names) == {"mean", *comparable}
    stored = comparable - {"fine-tuning", "generative-replay"}
    assert set(Plan(methods=("published+gmed",)).method_names) == {"mean", *(f"{name}+gmed" for name in stored)}
    without = {name for name, method in NAMED.items() if method.loss_term is None} & comparable
    assert set(families()["published+si"]) == {f"{name}+si" for name in without}
    assert Plan(methods=("gradients+gmed+si",)).method_names == (
        "mean", *(f"{name}+gmed+si" for name in families()["gradients"]),
    )  # fmt: skip
    with pytest.raises(ValueError, match="bgd has an optimizer of its own"):
        Plan(methods=("bgd",))
    losses = Plan(methods=("losses", "mgda")).method_names
    assert {"famo", "dwa", "mgda", "mean"} <= set(losses)
    assert "emgd-gmc" not in losses
    parts = [families()[name] for name in ("losses", "gram", "gradients")]
    assert sorted(name for part in parts for name in part) == sorted(plain)


def test_a_full_grid_has_every_combination() -> None:
    cases = Plan(grid=(2, 3, 2)).cases
    assert len(set(cases)) == 12
    assert {case.label_set for case in cases} == {0, 1}
    assert {case.timeline_number for case in cases} == {0, 1, 2}
    assert {case.seed for case in cases} == {1234, 1235}


def test_every_axis_makes_its_conditions() -> None:
    plan = Plan(timelines=("random", "serial", "together"), optimizers=("adam", "sgd"))
    assert len(plan.conditions) == 2 * 3 * 2
    assert len({condition.title for condition in plan.conditions}) == 12
    for condition in plan.conditions:
        entry = next(entry for entry in plan.entries if entry.condition == condition)
        config = plan.trial(entry, 0.1, plan.cases[0]).config("data")
        assert (config.setting, config.timeline, config.optimizer) == (
            condition.setting, condition.timeline, condition.optimizer,
        )  # fmt: skip


def test_options_reach_the_run() -> None:
    plan = Plan(epochs=2, batch_size=7, memory_per_class=3, edit_alpha=0.5, scale="unit", temperature=2.0)
    trial = plan.trial(plan.entries[0], 0.1, plan.cases[0])
    config = trial.config("data")
    assert (config.epochs, config.batch_size, config.memory_per_class) == (2, 7, 3)
    assert (config.edit_alpha, config.scale, config.temperature) == (0.5, "unit", 2.0)
    assert trial != Plan().trial(plan.entries[0], 0.1, plan.cases[0])
    assert isinstance(hash(trial), int)
    assert isinstance(trial, Trial)
