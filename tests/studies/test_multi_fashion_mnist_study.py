"""The study's training against a loop without the library, and its bookkeeping."""

from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from pcl import Batches, CAGrad
from pcl.data.multi_fashion_mnist import PairedImages
from pcl.randomness import seeded
from studies import multi_fashion_mnist as study
from studies.multi_fashion_mnist import Run, ShrunkLeNet
from studies.runs import key_of


@pytest.fixture(scope="module")
def data() -> PairedImages:
    draws = torch.Generator().manual_seed(0)
    x = torch.randint(256, (300, 1, 36, 36), generator=draws).to(torch.uint8)
    y = torch.randint(10, (300, 2), generator=draws)
    return PairedImages(x, y, x[:20], y[:20])


def test_the_network_is_the_one_of_the_text() -> None:
    model = ShrunkLeNet()
    sizes = [tuple(p.shape) for p in model.parameters()]
    assert sizes == [
        *((5, 1, 9, 9), (5,), (5,), (5,), (10, 5, 5, 5), (10,), (250,), (250,), (50, 250), (50,)),
        *((10, 50), (10,), (10, 50), (10,)),
    ]
    assert model.base(torch.zeros(2, 1, 36, 36)).shape == (2, 50)


@pytest.mark.parametrize("scale", ["paper", "unit"])
def test_training_by_the_mean_is_ordinary_training(data: PairedImages, scale: str) -> None:
    """Heads along their own loss, the base along the mean of both: one backward pass of a weighted sum gives it."""
    found = study.train(Run("mean", scale, 3, 300, 2), data)
    with seeded(3, "shrunk LeNet"):
        model = ShrunkLeNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, weight_decay=0.01)
    batches = Batches(data.x_train, torch.arange(300), 256, seed=3, name="multi-fashion-mnist")
    for epoch in range(2):
        batches.set_epoch(epoch)
        for x, rows in batches:
            features = model.base(x)
            optimizer.zero_grad()
            heads = [model.heads[task](features) for task in study.TASKS]
            sum(cross_entropy(out, data.y_train[rows, i]) for i, out in enumerate(heads)).backward()
            for p in model.base.parameters():
                p.grad /= 2
            optimizer.step()
    for one, other in zip(found.parameters(), model.parameters(), strict=True):
        # Adam turns the rounding of a gradient that is next to nothing into a step of up to 0.001, of which there are 4
        torch.testing.assert_close(one, other, rtol=0, atol=4e-3)
        assert (one - other).abs().mean() < 1e-5


def test_weights_that_sum_to_1_make_cagrad_approach_mgda(data: PairedImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decay is then added to directions that agree in length too."""
    monkeypatch.setitem(study.METHODS, "CAGrad c=1000", partial(CAGrad, 1000.0))
    unequal = torch.stack([torch.zeros(256, dtype=torch.int64), data.y_train[:256, 1]], dim=1)  # one task is easy
    one_batch = PairedImages(data.x_train[:256], unequal, data.x_test, data.y_test)

    def base(method: str, scale: str) -> torch.Tensor:
        model = study.train(Run(method, scale, 0, 256, 6), one_batch)
        return torch.cat([p.detach().flatten() for p in model.base.parameters()])

    mgda = base("MGDA", "unit")
    assert torch.equal(mgda, base("MGDA", "paper"))
    near = (base("CAGrad c=1000", "unit") - mgda).norm()
    assert near < 0.2 * (base("CAGrad c=0.5", "unit") - mgda).norm()
    assert near < 0.2 * (base("CAGrad c=1000", "paper") - mgda).norm()


def test_losses_are_those_of_all_images_at_once(data: PairedImages) -> None:
    model = study.train(Run("MGDA", "paper", 0, 300, 1), data)
    losses, accuracies = study.evaluate(model, data.x_train, data.y_train)
    model.eval()
    features = model.base(data.x_train.float() / 255)
    for i, task in enumerate(study.TASKS):
        scores = model.heads[task](features)
        assert losses[i] == pytest.approx(cross_entropy(scores, data.y_train[:, i]).item(), rel=1e-4)
        assert accuracies[i] == pytest.approx(
            (scores.argmax(1) == data.y_train[:, i]).float().mean().item(), abs=1 / 300
        )


def test_tables_average_over_seeds_and_mark_the_best() -> None:
    runs = [Run(method, "paper", seed, 10, 1) for seed in range(2) for method in study.METHODS]
    done = {
        key_of(r): {"train_loss": [i + r.seed, i + r.seed], "test_accuracy": [0.5, 0.25]}
        for r, i in ((r, list(study.METHODS).index(r.method)) for r in runs)
    }
    lines = study.table(runs, done).splitlines()
    assert lines[2].startswith("| mean | **0.500 ± 0.707** |")
    assert lines[3].startswith("| CAGrad c=0 | 1.500 ± 0.707 |")
    assert "| **37.5 ± 0.0** | **50.0 ± 0.0** | **25.0 ± 0.0** |" in lines[3]
