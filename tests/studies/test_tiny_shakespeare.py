"""Sizes, losses and bookkeeping of the study, and a whole run of it on a small text."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.progress import Progress
from torch import Tensor, nn

from pcl.data.text import CharacterText
from studies import text_measures as measures
from studies import text_report
from studies import tiny_shakespeare as study
from studies.text_models import MODELS, RECURRENT, build, continued, nearest, parameters
from studies.tiny_shakespeare import Run, Size

CHARACTERS = 7


class Counter(nn.Module):
    """All but sure of t modulo 7 as the next token, t the number of tokens it has read before this one."""

    def forward(self, tokens: Tensor, state: int | None = None, return_state: bool = False) -> Any:
        first = state or 0
        expected = torch.arange(first, first + tokens.shape[1]) % CHARACTERS
        logits = 20.0 * nn.functional.one_hot(expected, CHARACTERS).float().expand(len(tokens), -1, -1)
        return (logits, first + tokens.shape[1]) if return_state else logits


@pytest.mark.parametrize("size", [study.REDUCED, study.FULL], ids=lambda s: s.name)
def test_models_have_equally_many_parameters(size: Size) -> None:
    with torch.device("meta"):
        counts = [parameters(build(name, size.width, size.depth, 65)) for name in MODELS]
    assert max(counts) <= 1.02 * min(counts)


def test_the_nearest_size_is_found() -> None:
    def squares(n: int) -> nn.Module:
        return nn.Linear(n, n, bias=False)

    assert [nearest(squares, size) for size in (1, 2, 3, 99, 111, 10_000)] == [1, 1, 2, 10, 11, 100]


@pytest.mark.parametrize("name", MODELS)
def test_models_look_back_alone_and_carry_their_state(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, 32, 2, CHARACTERS).eval()
    tokens = torch.randint(CHARACTERS, (1, 40))
    with torch.no_grad():
        logits = model(tokens)
        changed = tokens.clone()
        changed[0, 25] = (changed[0, 25] + 1) % CHARACTERS
        difference = (model(changed) - logits).abs().amax(-1)[0]
        assert difference[:25].max() == 0
        assert difference[25:].min() > 0
        first, state = model(tokens[:, :11], return_state=True)
        second, state = model(tokens[:, 11:30], state, return_state=True)
        steps = [model.step(tokens[:, t], state) for t in range(30, 40)]
        torch.testing.assert_close(torch.cat([first, second, torch.stack(steps, 1)], 1), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_cold_samples_are_the_likeliest_tokens_of_the_whole_text(name: str) -> None:
    torch.manual_seed(1)
    model, prompt = build(name, 32, 2, CHARACTERS).eval(), torch.tensor([1, 2, 3])
    found = continued(model, prompt, 12, temperature=0.0, generator=torch.Generator())
    with torch.no_grad():
        again = model(torch.cat([prompt, found[:-1]])[None])[0, 2:].argmax(-1)
    assert torch.equal(found, again)


def test_warm_samples_follow_the_odds() -> None:
    torch.manual_seed(2)
    model, draws = build("LSTM", 32, 2, CHARACTERS).eval(), torch.Generator().manual_seed(0)
    prompt = torch.tensor([4])
    with torch.no_grad():
        odds = (model(prompt[None])[0, -1] / 0.5).softmax(-1)
    tokens = [continued(model, prompt, 1, temperature=0.5, generator=draws) for _ in range(1000)]
    shares = torch.cat(tokens).bincount(minlength=CHARACTERS) / len(tokens)
    assert (shares - odds).abs().max() < 5 * (odds * (1 - odds) / len(tokens)).sqrt().max()


def test_bits_are_those_of_the_probabilities() -> None:
    odds = torch.tensor([[[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]]])
    torch.testing.assert_close(measures.bits(odds.log(), torch.tensor([[1, 0]])), torch.tensor([[2.0, 3.0]]))


def test_losses_by_window_position_and_pass() -> None:
    """The text counts 0, 1, ..., 6, 0, ... behind its first character, which a reader from the beginning predicts; one
    that begins again at a place that 7 does not divide is always wrong."""
    text = torch.cat([torch.tensor([0]), torch.arange(7 * 48) % CHARACTERS])
    sure, wrong = (-nn.functional.log_softmax(20.0 * torch.eye(7)[0], 0)[[0, 1]] / math.log(2)).tolist()
    model = Counter()
    assert measures.carried(model, text, 10) == pytest.approx(sure, rel=1e-4)
    assert measures.by_context(model, text, [21, 42, 84]) == pytest.approx([sure] * 3, rel=1e-4)
    eighths = measures.by_context(model, text, [4, 16])  # a window of 16 begins in step every 7th time
    assert eighths == pytest.approx([(sure + 6 * wrong) / 7] * 2, rel=1e-4)
    assert measures.by_position(model, text, 28, 7) == pytest.approx([sure] * 4, rel=1e-4)
    assert measures.sliding(model, text, 21, 7) == pytest.approx(sure, rel=1e-4)
    assert measures.sliding(model, text, 21, 6) > 10


def test_positions_are_in_order() -> None:
    """A model that knows the first 8 characters of a window alone."""

    class Forgetful(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            logits = torch.zeros(*tokens.shape, 2)
            logits[:, :8, 0] = 20
            return logits

    found = measures.by_position(Forgetful(), torch.zeros(101, dtype=torch.int64), 32, 8)
    assert found == pytest.approx([0, 1, 1, 1], abs=1e-6)


def test_positions_are_compared_on_the_same_characters() -> None:
    """A model without memory finds every position equally hard, though the text is harder at its end."""

    class Memoryless(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return nn.functional.one_hot(tokens, 50).float()

    text = torch.cat([torch.zeros(40, dtype=torch.int64), torch.arange(40)])
    first, *others = measures.by_position(Memoryless(), text, 32, 8)
    assert others == pytest.approx([first] * 3, rel=1e-5)
    with pytest.raises(ValueError, match="more than 56 characters for 4 bins of 8"):
        measures.by_position(Memoryless(), text[:56], 32, 8)
    measures.by_position(Memoryless(), text[:57], 32, 8)


def test_windows_longer_than_the_text_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 8 characters"):
        measures.windows(Counter(), torch.zeros(8, dtype=torch.int64), 8, 8)


def test_the_rate_rises_then_falls() -> None:
    heights = [study.height(step, 200) for step in range(200)]
    top = heights.index(max(heights))
    assert heights[top] == 1
    assert heights[:top] == sorted(heights[:top])
    assert heights[top:] == sorted(heights[top:], reverse=True)
    assert heights[0] == pytest.approx(1 / 10)
    assert heights[-1] == pytest.approx(study.LEAST, abs=1e-3)


def test_the_best_rate_is_each_models_own() -> None:
    best = {name: rates[i] for i, (name, rates) in enumerate(study.RATES.items())}
    searched = [Run(model, rate, 0, 10, 8, 1) for model in MODELS for rate in study.RATES[model]]
    done = {run.key: {"curve": [[5, 0.0], [10, 1.0 + (run.rate != best[run.model])]]} for run in searched}
    losses, rates = study.chosen(searched, done)
    assert rates == best
    assert losses["Longhorn"] == {0.001: 1.0, 0.003: 2.0, 0.01: 2.0}
    lines = text_report.search(losses).splitlines()
    assert lines[2] == "| 0.001 | **1.000** | 2.000 | – |"
    assert lines[-1] == "| 0.03 | – | – | **1.000** |"


def test_training_goes_on_along_the_text_with_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row of every batch goes on where it ended, with the state, until the lanes end; then without one."""
    seen: list[tuple[Tensor, Any]] = []

    class Recorded(study.Training):
        def step(self, tokens: Tensor, state: Any = None, carry: bool = False) -> Any:
            seen.append((tokens, state))
            return super().step(tokens, state, carry)

    monkeypatch.setattr(study, "WEIGHTS", tmp_path)
    monkeypatch.setattr(study, "Training", Recorded)
    monkeypatch.setattr(study, "BATCH", 2)
    monkeypatch.setattr(study, "CONTEXT", 5)
    data = CharacterText("abcdefg", torch.arange(47) % 7, torch.arange(8) % 7, torch.arange(8) % 7)
    run = Run("Longhorn", 0.01, 0, 10, 8, 1, more=6)
    with pytest.raises(FileNotFoundError, match="take their line out"):
        study.train_on(run, data, Progress(disable=True))
    torch.manual_seed(0)
    torch.save(build("Longhorn", 8, 1, 7).state_dict(), replace(run, more=0).weights)
    study.train_on(run, data, Progress(disable=True))
    lanes = data.train[:46].view(2, 23)
    for step, (tokens, state) in enumerate(seen):
        start = step % 4 * 5  # 4 windows of 5 and the character behind them fit into 23
        assert torch.equal(tokens, lanes[:, start : start + 6])
        assert (state is None) == (start == 0)
        if state is not None:
            memory = state[0][1]
            assert not memory.requires_grad
            assert memory.abs().max() > 0
    assert len(seen) == 6


def test_a_whole_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It learns that the text repeats, writes everything it promises, and repeats nothing."""
    folder = tmp_path / "results"
    lines = "ROMEO:\nabcdefgh ijklmnop\n"
    (tmp_path / "tinyshakespeare.txt").write_text(lines * 60)
    monkeypatch.setattr(study, "RESULTS", folder)
    monkeypatch.setattr(study, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(study, "REDUCED", Size("tiny", 16, 2, 60, 4))
    monkeypatch.setattr(study, "RATES", dict.fromkeys(MODELS, (1e-2,)))
    for name, value in (("BATCH", 4), ("CONTEXT", 16), ("LENGTHS", (16, 32)), ("POSITIONS", (1, 8)), ("SAMPLE", 20)):
        monkeypatch.setattr(study, name, value)
    monkeypatch.setattr(sys, "argv", ["tiny_shakespeare", "--data-root", str(tmp_path), "--seeds", "2"])
    study.main()
    runs = [json.loads(line) for line in (folder / "tiny" / "runs.jsonl").read_text().splitlines()]
    assert [entry["run"]["more"] for entry in runs] == [0] * (3 + 2 * 3) + [6] * (2 * 2)
    for entry in runs[3 + 2 * 3 :]:
        assert entry["run"]["model"] in RECURRENT
        assert entry["results"]["curve"][0][0] == 66
    for entry in runs[3 : 3 + 2 * 3]:
        results = entry["results"]
        assert results["curve"][-1][0] == 60
        assert results["curve"][-1][1] < 0.6 * results["curve"][0][1]
        assert results["by_context"][0] < 0.6 * math.log2(len(set(lines)))
        assert len(results["by_position"]) == 2
        assert (results["carried"] is not None) == (entry["run"]["model"] in RECURRENT)
        assert results["sample"].startswith("ROMEO:\n")
        assert len(results["sample"]) == len("ROMEO:\n") + 20
    assert len(list((tmp_path / "weights").iterdir())) == 6 + 4
    text = (folder / "tiny" / "results.md").read_text()
    for part in ("2 seeds", "| parameters |", "| test, windows of 32 |", "generation behind 8"):
        assert part in text
    assert (folder / "tiny" / "results.png").read_bytes().startswith(b"\x89PNG")
    before = (folder / "tiny" / "runs.jsonl").read_bytes()
    monkeypatch.setattr(study, "train", None)
    monkeypatch.setattr(study, "train_on", None)
    study.main()
    assert (folder / "tiny" / "runs.jsonl").read_bytes() == before
