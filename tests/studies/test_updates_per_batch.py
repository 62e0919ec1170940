"""Updates in turn against plain SGD on the same samples, and when a memory sees the batch."""

from functools import partial

import torch
from torch.nn.functional import cross_entropy

from pcl import MLP, ContinualModel, Stream, Trainer
from studies.updates_per_batch import GSSOncePerBatch, InTurn, ReservoirOncePerBatch, repeated


def test_a_memory_sees_a_batch_after_its_last_update() -> None:
    torch.manual_seed(0)
    model = ContinualModel(MLP(6, [5]), 5, "class")
    memory = GSSOncePerBatch(40, updates=3)
    trainer = Trainer(model, optimizer=partial(torch.optim.SGD, lr=0.1), memory=memory, memory_batch=10)
    batches = [(torch.rand(10, 6), torch.arange(10) % 4) for _ in range(2)]
    trainer.add(Stream("a", repeated(batches, 3), range(4)))
    sizes = []
    for _ in range(6):
        trainer.step()
        sizes.append(len(memory))
    assert sizes == [0, 0, 10, 10, 10, 20]


def test_updates_on_the_batch_and_on_the_memory_in_turn() -> None:
    torch.manual_seed(0)
    model = ContinualModel(MLP(6, [5]), 5, "class")
    memory = ReservoirOncePerBatch(10, updates=2)
    trainer = Trainer(
        model, optimizer=partial(torch.optim.SGD, lr=0.1), weighting=InTurn(), gradients_over="all", memory=memory,
        memory_batch=10,
    )  # fmt: skip
    first, second = ((torch.rand(10, 6), torch.arange(10) % 4) for _ in range(2))
    trainer.add(Stream("a", repeated([first, second], 2), range(4)))
    trainer.step()
    plain = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer.step()  # the memory's turn, which is empty
    assert all(torch.equal(p, plain[name]) for name, p in model.named_parameters())
    for x, y in (second, first):  # all that is stored are the ten samples of the first batch, in whatever order
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients = torch.autograd.grad(cross_entropy(model(x, "a"), y), parameters)
        expected = [p.detach() - 0.1 * g for p, g in zip(parameters, gradients, strict=True)]
        trainer.step()
        for name, p, e in zip(names, model.parameters(), expected, strict=True):
            torch.testing.assert_close(p.detach(), e, rtol=1e-5, atol=1e-6, msg=name)
