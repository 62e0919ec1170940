"""Whole runs through the command line: results, interruption, refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pcl import cli
from pcl.config import RunConfig, config_from, config_text, read_config
from pcl.methods import EDITS, LOSS_TERMS, WEIGHTINGS
from pcl.metrics import expected_calibration_error, logit_bias
from pcl.run import load_run, resume, start
from pcl.scenarios import SCENARIOS
from pcl.training.checkpoint import load_checkpoint
from tests.run_cases import SHORT, rows


def pcl(*arguments: str, expect: int = 0) -> str:
    """Run the command in its own process; its output."""
    code = "from pcl.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_run_leaves_what_the_report_needs(tmp_path: Path) -> None:
    results = start(RunConfig(epochs=1, batch_size=24), tmp_path / "r")
    found = rows(tmp_path / "r")
    steps = [row for row in found if row["kind"] == "step"]
    assert [row["step"] for row in steps] == list(range(results["steps"]))
    scenario = json.loads((tmp_path / "r" / "scenario.json").read_text())
    planned = {task["task"]: (task["start"], task["end"]) for task in scenario["tasks"]}
    happened = {
        task: (
            next(row["step"] for row in found if row["kind"] == "start" and row["task"] == task),
            next(row["step"] for row in found if row["kind"] == "end" and row["task"] == task),
        )
        for task in planned
    }
    assert happened == planned
    used = dict.fromkeys(planned, 0)
    for row in steps:
        expected = {task for task, (first, last) in planned.items() if first <= row["step"] <= last}
        assert set(row["tasks"]) - {"MEMORY"} == expected
        assert ("MEMORY" in row["tasks"]) == any(last < row["step"] for _, last in planned.values())
        for task in expected:
            used[task] += 1
    evaluations = {row["step"]: row["accuracy"] for row in found if row["kind"] == "eval"}
    final = evaluations[results["steps"] - 1]
    assert results["final"] == final
    assert results["A"] == pytest.approx(np.mean(list(final.values())))
    drops = [final[task] - evaluations[last][task] for task, (_, last) in planned.items()]
    assert results["F"] == pytest.approx(np.mean(drops))
    edits = np.load(tmp_path / "r" / "memory_edits.npz")
    assert edits["before"].shape == edits["after"].shape == edits["gradient"].shape
    assert not np.array_equal(edits["before"], edits["after"])
    timing = json.loads((tmp_path / "r" / "timing.json").read_text())
    assert timing["seconds"] > 0
    assert timing["samples_per_step"] == pytest.approx(np.mean([row["samples"] for row in steps]))
    assert timing["flops_per_step"] > 0
    stored = load_run(tmp_path / "r").memory
    assert stored is not None
    assert results["memory samples"] == len(stored) > 0
    assert results["memory bytes"] == len(stored) * (2 * 64 * 4 + 8 + 8)  # images and originals, labels and tasks


def test_a_growing_classifier_says_how_calibrated_it_is(tmp_path: Path) -> None:
    config = RunConfig(scenario="split-digits", setting="class", method="mean", epochs=1, evaluate_every=100)
    found = start(config, tmp_path / "r")
    trainer = load_run(tmp_path / "r")
    tests = {task: stream.test for task, stream in trainer.streams.items() if stream.test is not None}
    with torch.no_grad():
        logits = torch.cat([trainer.model(x.float() / 255, task) for task, (x, _) in tests.items()])
    y = torch.cat([y for _, y in tests.values()])  # tasks come with classes 0 and 1, 2 and 3, ...: columns in order
    assert trainer.model.columns("task-1") == tuple(range(10))
    assert found["ECE"] == pytest.approx(expected_calibration_error(logits, y))
    bias = logit_bias(logits, y, torch.arange(10) >= 8)
    assert {name: found[name] for name in bias} == pytest.approx(bias)
    assert found["recency bias"] > 0  # five samples per class rehearse too little


def test_calibration_is_that_of_what_tells_the_classes(tmp_path: Path) -> None:
    """Where the nearest mean does, the model's logits say nothing of the accuracies beside them."""
    config = RunConfig(scenario="split-digits", setting="class", method="icarl", epochs=1, evaluate_every=100)
    found = start(config, tmp_path / "r")
    assert "A" in found
    assert not {"ECE", "logit old", "logit new", "recency bias"} & set(found)


def test_same_seed_same_bits_other_seed_other_bits(tmp_path: Path) -> None:
    config = RunConfig(epochs=1, batch_size=24, setting="class")
    for name in ("one", "two"):
        start(config, tmp_path / name)
    start(RunConfig(epochs=1, batch_size=24, setting="class", seed=1235), tmp_path / "other")
    one, two, other = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("one", "two", "other"))
    assert one == two
    assert one != other


def test_the_config_of_a_run_repeats_it(tmp_path: Path) -> None:
    start(RunConfig(epochs=1, batch_size=24, method="emgd-gs", label_set=2), tmp_path / "one")
    written = config_from(read_config(tmp_path / "one" / "config.toml"))
    start(written, tmp_path / "two")
    assert (tmp_path / "one" / "metrics.jsonl").read_bytes() == (tmp_path / "two" / "metrics.jsonl").read_bytes()
    assert config_text(written) == (tmp_path / "one" / "config.toml").read_text()


@pytest.mark.parametrize("method", ["famo", "emgd-gmc"])
def test_a_step_in_parts_is_the_same_step(method: str, tmp_path: Path) -> None:
    for name, accumulate in (("whole", 1), ("parts", 4)):
        start(RunConfig(epochs=1, batch_size=24, method=method, accumulate=accumulate), tmp_path / name)
    whole, parts = (rows(tmp_path / name) for name in ("whole", "parts"))
    assert [(row["kind"], row["step"]) for row in whole] == [(row["kind"], row["step"]) for row in parts]
    for a, b in zip(whole, parts, strict=True):
        if a["kind"] == "step" and a["step"] < 10:  # later, rounding has grown
            assert b["samples"] == a["samples"]
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)


@pytest.mark.no_cover  # takes long, and goes no way that others do not
def test_killed_and_resumed_gives_the_same_bits(tmp_path: Path) -> None:
    """SIGKILL again and again, a few steps apart, wherever it strikes; in the end nothing must differ."""
    arguments = [*SHORT, "--checkpoint-every", "5", "--keep-features", "30", "--runs", str(tmp_path)]
    pcl("train", *arguments, "--name", "whole")
    killed = tmp_path / "killed"
    code = "from pcl.cli import main; main()"
    command = ["train", *arguments, "--name", "killed"]
    kills = 0
    for wanted in (3, 12, 25, 38):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and _lines(killed) < wanted:
            time.sleep(0.002)
        time.sleep(wanted * 0.0007)  # not always right after the file has grown
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        command = ["train", "--resume", str(killed), "--no-report"]
    pcl(*command)
    assert kills >= 2
    pcl(*command)  # resuming a finished run changes nothing
    assert rows(killed) == rows(tmp_path / "whole")
    assert (killed / "results.json").read_bytes() == (tmp_path / "whole" / "results.json").read_bytes()
    for kept in ("features/*.npz", "memory_edits.npz"):
        first, second = ({path.name: path.read_bytes() for path in f.glob(kept)} for f in (killed, tmp_path / "whole"))
        assert first == second
        assert len(first) == (10 if "/" in kept else 1)
    states = [load_checkpoint(folder / "checkpoint.pcl")["trainer"] for folder in (killed, tmp_path / "whole")]
    assert states[0]["step_count"] == states[1]["step_count"]
    for name, value in states[0]["model"].items():
        assert value.equal(states[1]["model"][name]), name


def _lines(folder: Path) -> int:
    """Steps that have reached the disk."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b'"kind": "step"') if path.exists() else 0


REFUSED = {
    "method": (["train", "--method", "emgd"], "did you mean 'emgd-gmc'"),
    "scenario": (["train", "--scenario", "ps-emnst"], "did you mean 'ps-emnist'"),
    "lr": (["train", "--lr", "-1"], "lr: expected a finite number above 0"),
    "batch": (["train", "--batch-size", "0"], "batch_size: expected at least 1"),
    "data": (["train", "--scenario", "ps-mnist", "--data-root", "{tmp}"], "pcl download mnist"),
    "device": (["train", "--device", "cuda:99"], "cannot be used here"),
    "config file": (["train", "--config", "{tmp}/absent.toml"], "absent.toml"),
    "broken config": (["train", "--config", "{tmp}/broken.toml"], "not a TOML file"),
    "config key": (["train", "--config", "{tmp}/key.toml"], "did you mean 'seed'"),
    "config value": (["train", "--config", "{tmp}/value.toml"], "seed: expected int"),
    "resume": (["train", "--resume", "{tmp}"], "nothing to resume"),
    "used name": (["train", "--runs", "{tmp}", "--name", "full"], "not empty"),
    "device type": (["train", "--device", "meta"], "expected cpu or cuda"),
    "diverged": (["train", "--lr", "1e30", "--name", "x", "--runs", "{tmp}/new", "--no-report"], "nothing was updated"),
    "resume with settings": (["train", "--resume", "{tmp}", "--lr", "5"], "leave the others out"),
    "memory tasks in a file": (["train", "--config", "{tmp}/memory.toml"], "memory_tasks: unknown 'all'"),
    "head in a file": (["train", "--config", "{tmp}/head.toml"], "head: unknown 'arc'"),
    "parts": (["train", "--batch-size", "16", "--accumulate", "3"], "divisor of batch_size 16"),
    "graph": (["train", "--cuda-graph"], "needs a model on a CUDA device"),
    "clip": (["train", "--clip", "0"], "clip: expected a finite number above 0"),
    "starts": (["train", "--starts", "0", "1"], "starts of 5 tasks"),
    "starts of an iid stream": (["train", "--timeline", "iid", "--starts", "0", "1", "2", "3", "4"], "has no starts"),
    "memory on a device that is not there": (
        ["train", "--memory", "reservoir", "--memory-storage", "cuda:99"],
        "cannot be used here",
    ),
    "memory nowhere": (["train", "--memory", "reservoir", "--memory-storage", "meta"], "expected cpu or cuda"),
    "into without unpack": (["data", "--into", "{tmp}/there"], "expected beside --unpack"),
    "gap": (["train", "--starts", "0", "1", "2", "3", "999"], "gap before task 5"),
    "unwritable": (["train", "--runs", "{tmp}/file"], "not a writable folder"),
    "unwritable name": (["train", "--runs", "{tmp}/file", "--name", "x"], "Not a directory"),
    "report of nothing": (["report", "{tmp}"], "{tmp}"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_one_clear_line_and_leave_nothing_behind(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.toml").write_text("seed = = 1")
    (tmp_path / "key.toml").write_text("sed = 1")
    (tmp_path / "value.toml").write_text("seed = 'one'")
    (tmp_path / "head.toml").write_text("head = 'arc'")
    (tmp_path / "memory.toml").write_text("memory_tasks = 'all'")
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    arguments, message = REFUSED[case]
    with pytest.raises(SystemExit) as stopped:
        cli.main([argument.replace("{tmp}", str(tmp_path)) for argument in arguments])
    assert message.replace("{tmp}", str(tmp_path)) in str(stopped.value)
    assert str(stopped.value).startswith("pcl: ")
    left = [path for path in sorted(tmp_path.rglob("*")) if "new" not in path.parts]  # a run that diverged stays
    assert left == before


def test_data_that_changed_cannot_be_resumed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    part = {"x": rng.integers(0, 256, (200, 4, 4), dtype=np.uint8), "y": np.arange(200) % 10}
    arrays = {f"{key}_{which}": value for which in ("train", "test") for key, value in part.items()}
    np.savez(tmp_path / "mnist.npz", **arrays)
    config = RunConfig(scenario="ps-mnist", data_root=str(tmp_path), batch_size=8, checkpoint_every=2)
    start(config, tmp_path / "r")
    (tmp_path / "r" / "results.json").unlink()
    np.savez(tmp_path / "mnist.npz", **{**arrays, "x_train": 255 - arrays["x_train"]})
    with pytest.raises(SystemExit, match="fingerprint"):
        cli.main(["train", "--resume", str(tmp_path / "r")])


def test_a_run_killed_before_its_results_were_written_finishes(tmp_path: Path) -> None:
    results = start(RunConfig(epochs=1, batch_size=24), tmp_path / "r")
    before = (tmp_path / "r" / "metrics.jsonl").read_bytes()
    (tmp_path / "r" / "results.json").unlink()
    assert resume(tmp_path / "r") == results
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_can_be_loaded(tmp_path: Path) -> None:
    results = start(RunConfig(epochs=1, batch_size=24, starts=(0, 2, 2, 5, 9)), tmp_path / "r")
    trainer = load_run(tmp_path / "r")
    found = trainer.results()
    assert {name: results[name] for name in found} == found
    assert results.keys() - found.keys() == {"memory samples", "memory bytes"}
    assert [stream.start for stream in trainer.streams.values()] == [0, 2, 2, 5, 9]
    x, y = trainer.streams["task-1"].test  # type: ignore[misc]
    hits = (trainer.model.predict(x.float() / 255, "task-1") == y).float().mean()
    assert float(hits) == pytest.approx(results["final"]["task-1"])


def test_classes_without_samples_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    part = {"x": rng.integers(0, 256, (200, 4, 4), dtype=np.uint8), "y": np.arange(200) % 9}
    arrays = {f"{key}_{which}": value for which in ("train", "test") for key, value in part.items()}
    np.savez(tmp_path / "mnist.npz", **arrays, classes=np.array(list("abcdefghij")))
    with pytest.raises(ValueError, match=r"no sample of \['j'\]"):
        start(RunConfig(scenario="ps-mnist", data_root=str(tmp_path)), tmp_path / "r")


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    start(RunConfig(epochs=1, batch_size=24, checkpoint_every=5), tmp_path / "r")
    path = tmp_path / "r" / "checkpoint.pcl"
    path.write_bytes(path.read_bytes()[:-10])
    (tmp_path / "r" / "results.json").unlink()
    with pytest.raises(SystemExit, match="damaged"):
        cli.main(["train", "--resume", str(tmp_path / "r")])


def test_names_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["list"])
    shown = capsys.readouterr().out
    for name in (*SCENARIOS, *WEIGHTINGS, *(f"+{name}" for name in (*EDITS, *LOSS_TERMS))):
        assert name in shown
    assert "emgd-gs+me" not in shown  # a method with an edit follows from the two lists


def test_a_config_file_sets_defaults_that_flags_override(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('method = "mean"\nseed = 7\nepochs = 1\nbatch_size = 24\n')
    cli.main(
        ["train", "--config", str(tmp_path / "c.toml"), "--seed", "8", "--runs", str(tmp_path / "runs"), "--no-report"]
    )
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == "ps-digits-task-mean-seed8"
    assert config_from(read_config(folder / "config.toml")).seed == 8
