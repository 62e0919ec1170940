"""The Longhorn language model: streaming and generation against the full forward pass, published sizes, files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pcl import LONGHORN_SIZES, LonghornConfig, LonghornLM, detach_state, save_checkpoint
from pcl.models.longhorn.language_model import drawn

CONFIG = LonghornConfig(width=8, depth=2, vocabulary=11, states=3, tied=False)


def model(config: LonghornConfig = CONFIG) -> LonghornLM:
    """In float64, with logits that differ by more than rounding."""
    torch.manual_seed(0)
    made = LonghornLM(config).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def text(batch: int = 2, length: int = 9) -> Tensor:
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(1))


def tensors(state: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [t for pair in state for t in pair]


def greedy(made: LonghornLM, tokens: Tensor, count: int) -> Tensor:
    """Every token from a forward pass over the whole text."""
    for _ in range(count):
        tokens = torch.cat([tokens, made(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens[:, -count:]


def test_streaming_is_the_forward_pass() -> None:
    made, tokens = model(), text()
    whole, last = made(tokens, return_state=True)
    assert whole.shape == (2, 9, 11)
    parts, state = [], None
    for part in tokens.split([1, 5, 3], dim=1):
        logits, state = made(part, state, return_state=True)
        parts.append(logits)
        state = detach_state(state)
    assert torch.allclose(torch.cat(parts, dim=1), whole, rtol=1e-12, atol=1e-12)
    state = made.initial_state(2)
    steps = torch.stack([made.step(column, state) for column in tokens.unbind(1)], dim=1)
    assert torch.allclose(steps, whole, rtol=1e-12, atol=1e-12)
    assert all(
        torch.allclose(a, b) for one, other in zip(state, last, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_loss() -> None:
    """Cross-entropy; of a part of the text with what came before, the loss of that part."""
    made, tokens = model(), text()
    targets = tokens.roll(-1, 1)
    logits = made(tokens)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(2, 9)
    assert torch.allclose(made.loss(tokens, targets), expected.mean())
    targets[:, :4] = -100
    assert torch.allclose(made.loss(tokens, targets), expected[:, 4:].mean())
    _, state = made(tokens[:, :4], return_state=True)
    loss, state = made.loss(tokens[:, 4:], targets[:, 4:], state, return_state=True)
    assert torch.allclose(loss, expected[:, 4:].mean())
    assert len(state) == 2


@pytest.mark.parametrize("length", [1, 7])
def test_greedy_generation_is_the_forward_pass(length: int) -> None:
    made, prompt = model(), text(length=length)
    expected = greedy(made, prompt, 12)
    assert len(set(expected[0].tolist())) > 2
    assert torch.equal(made.generate(prompt, 12, temperature=0), expected)
    assert torch.equal(made.generate(prompt, 12, top_k=1), expected)


def test_generation_goes_on_from_a_state_and_returns_one() -> None:
    made, prompt = model(), text()
    expected = greedy(made, prompt, 12)
    _, state = made(prompt[:, :4], return_state=True)
    before = [t.clone() for t in tensors(state)]
    first, later = made.generate(prompt[:, 4:], 5, temperature=0, state=state, return_state=True)
    second = made.generate(first[:, -1:], 7, temperature=0, state=later)
    assert torch.equal(torch.cat([first, second], dim=1), expected)
    assert all(torch.equal(t, b) for t, b in zip(tensors(state), before, strict=True))


def test_the_state_does_not_grow() -> None:
    made = model()
    sizes = []
    for count in (1, 50):
        _, state = made.generate(text(), count, return_state=True)
        sizes.append([t.untyped_storage().nbytes() for t in tensors(state)])
    assert sizes[0] == sizes[1]


def test_draws_follow_the_softmax() -> None:
    """Of 20,000 draws each frequency lies within 5 standard deviations of its probability; top_k cuts the rest."""
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0])
    generator = torch.Generator().manual_seed(0)
    for temperature, top_k in ((1.0, None), (0.5, None), (2.0, 2), (1.0, 9)):
        kept = logits.masked_fill(logits < 1, -torch.inf) if top_k == 2 else logits
        expected = (kept / temperature).softmax(0)
        found = drawn(logits.expand(20_000, 4), temperature, top_k, generator).bincount(minlength=4) / 20_000
        assert ((found - expected).abs() <= 5 * (expected * (1 - expected) / 20_000).sqrt()).all()


def test_draws_repeat_with_their_generator() -> None:
    made = model()
    runs = [made.generate(text(), 20, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize(
    "options", [{"count": 0}, {"temperature": -1.0}, {"top_k": 0}, {"prompt": torch.zeros(2, 0, dtype=torch.int64)}]
)
def test_bad_requests_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        model().generate(**{"prompt": text(), "count": 3, **options})  # type: ignore[arg-type]


# ---- sizes


def parameters(size: str) -> int:
    with torch.device("meta"):
        made = LonghornLM(LONGHORN_SIZES[size])
    assert all(p.is_meta for p in made.parameters())
    return sum(p.numel() for p in made.parameters())


def test_published_sizes() -> None:
    """Dissertation Table 6.4 has 128.6 and 369.8 million. The vocabulary and the shapes that give the first, and both
    of Mamba's, make the second 370.0: as the table itself has it, Mamba's 371.5 less 1.57 for its matrices A."""
    assert parameters("125M") == 128_563_968
    assert parameters("350M") == 369_968_128


@pytest.mark.parametrize(("size", "depth", "width", "published"), [("125M", 24, 768, 129.2), ("350M", 48, 1024, 371.5)])
def test_mamba_of_the_same_table_has_one_matrix_more(size: str, depth: int, width: int, published: float) -> None:
    """A of inner x states per block: vocabulary and shapes are those that the table was made with."""
    assert round((parameters(size) + depth * 2 * width * 16) / 1e6, 1) == published


# ---- files


def test_save_and_load(tmp_path: Path) -> None:
    made = model(replace(CONFIG, tied=True)).float()
    made.save(tmp_path / "lm")
    back = LonghornLM.load(tmp_path / "lm")
    assert back.config == made.config
    assert torch.equal(back(text()), made(text()))
    assert back.lm_head.weight is back.embedding.weight
    save_checkpoint(tmp_path / "other", {"weights": made.state_dict()})
    with pytest.raises(ValueError, match="expected config and weights"):
        LonghornLM.load(tmp_path / "other")


def test_config_as_json() -> None:
    config = LonghornConfig(width=6, depth=1, vocabulary=5, rank=2, tied=False)
    assert LonghornConfig(**json.loads(json.dumps(config.to_dict()))) == config


def test_published_layout() -> None:
    """A state dict of the training script, whose vocabulary is padded from 11 to 16."""
    published = {"d_model": 8, "n_layer": 2, "vocab_size": 11, "ssm_cfg": {"d_state": 3}, "tie_embeddings": False}
    like = LonghornLM(LonghornConfig(8, 2, 16, states=3, tied=False))
    names = set(like.state_dict())
    assert {"backbone.embedding.weight", "backbone.norm_f.weight", "lm_head.weight"} <= names
    assert {f"backbone.layers.{i}.mixer.{name}" for i in (0, 1) for name in ("D", "in_proj.weight")} <= names
    weights = {f"transformer.{name}": value for name, value in like.state_dict().items()}
    loaded = LonghornLM.from_published(published, weights)
    assert torch.equal(loaded(text()), like(text()))
    assert loaded.lm_head.weight is not loaded.embedding.weight
    with pytest.raises(RuntimeError, match="Missing key"):
        LonghornLM.from_published(published, {})
    with pytest.raises(ValueError, match="Longhorn blocks and RMSNorm alone"):
        LonghornLM.from_published({**published, "attn_layer_idx": [1]}, weights)


@pytest.mark.parametrize("values", [{"width": 0}, {"depth": 0}, {"vocabulary": -1}])
def test_bad_configs_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected at least"):
        LonghornConfig(**{"width": 4, "depth": 1, **values})
    with pytest.raises(ValueError, match="vocabulary"):
        LonghornLM(LonghornConfig(4, 1))


def test_it_learns_a_text_by_heart() -> None:
    made, tokens = LonghornLM(CONFIG), text(1, 12)
    optimizer = torch.optim.Adam(made.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        made.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()
    assert torch.equal(made.generate(tokens[:, :4], 8, temperature=0), tokens[:, 4:])
