"""A run: from settings to a folder with metrics, checkpoint and results."""

import json
import os
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from pcl.config import RunConfig, config_from, config_text, read_config
from pcl.data.batches import as_float
from pcl.data.images import ImageData
from pcl.memory.base import stored_bytes
from pcl.memory.before_update import BeforeUpdate
from pcl.memory.edit import Edit
from pcl.memory.reservoir import ReservoirMemory
from pcl.methods import EDITS, LOSS_TERMS, METHODS, WEIGHTINGS, WeightingOptions
from pcl.models.augment import augmented
from pcl.models.continual import ContinualModel
from pcl.models.growth.choice import Budget
from pcl.models.growth.firefly import Firefly
from pcl.models.growth.growing import GrowingModel
from pcl.named_memories import INFERENCES, MEMORIES, RETRIEVALS
from pcl.randomness import derived_seed, seeded
from pcl.scenario_files import find_scenario
from pcl.scenarios import ScenarioSpec
from pcl.streams.sampling import TaskSampling
from pcl.streams.scenario import Scenario
from pcl.streams.task_free import TaskFree
from pcl.training.bgd import BGD
from pcl.training.checkpoint import load_checkpoint, write_atomically
from pcl.training.diagnostics import Diagnostics
from pcl.training.edit_pictures import write_edits
from pcl.training.evaluation import calibration
from pcl.training.feature_record import FeatureRecorder
from pcl.training.growth import Grow, GrowWhen, Trigger
from pcl.training.record import CHECKPOINT, RunRecorder
from pcl.training.trainer import MakeOptimizer, Trainer
from pcl.training.work import Work
from pcl.without_effect import refuse_without_effect

COUNTED_STEPS = 10


def start(config: RunConfig, folder: Path, callbacks: Sequence[object] = ()) -> dict[str, Any]:
    """Make ``folder`` and run in it; return the results, which are also in ``results.json``.

    Raises:
        FileExistsError: if the folder exists and is not empty.
        OSError: if it cannot be written.
        FileNotFoundError, ValueError: for missing or bad data, or a setting that the run would not read; the folder is
            not made then.
    """
    refuse_without_effect(config)
    config = config.resolved()
    scenario, trainer = build(config)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"run folder {folder} is not empty; choose another --name, or --resume {folder}")
    description = {"setting": config.setting, **scenario.describe()}
    expected = find_scenario(config.scenario).fingerprint
    if expected not in (None, description["fingerprint"]):
        raise ValueError(
            f"{config.scenario} asks for fingerprint {expected}, what these settings and data make of it has "
            f"{description['fingerprint']}; take the settings and data it was written with, or remove the fingerprint"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "scenario.json", json.dumps(description, indent=1).encode())
    write_atomically(folder / "config.toml", config_text(config).encode())  # last: a folder with it can be resumed
    return _fit(config, scenario, trainer, folder, callbacks)


def resume(folder: Path, callbacks: Sequence[object] = ()) -> dict[str, Any]:
    """Go on with a run that was interrupted, with its own settings, to the same bits as without interruption.

    A run that has finished is left as it is; its results are returned.

    Raises:
        FileNotFoundError: if ``folder`` holds no run.
        ValueError: if its checkpoint is damaged, or its data has changed.
    """
    if not (folder / "config.toml").is_file():
        raise FileNotFoundError(f"nothing to resume in {folder}: it has no config.toml")
    if (folder / "results.json").is_file():
        results: dict[str, Any] = json.loads((folder / "results.json").read_text())
        return results
    config = config_from(read_config(folder / "config.toml"))
    scenario, trainer = build(config)
    before = json.loads((folder / "scenario.json").read_text())["fingerprint"]
    now = scenario.describe()["fingerprint"]
    if before != now:
        raise ValueError(
            f"resume: the run in {folder} was started on a scenario with fingerprint {before}, the data in "
            f"{config.data_root} now gives {now}; resume with the data it was started with"
        )
    return _fit(config, scenario, trainer, folder, callbacks)


def load_run(folder: Path | str) -> Trainer:
    """The trainer of a run as its last checkpoint has it: for predictions, evaluation or more streams.

    Raises:
        FileNotFoundError: if ``folder`` holds no run with a checkpoint.
        ValueError: if its checkpoint is damaged.
    """
    folder = Path(folder)
    state = load_checkpoint(folder / CHECKPOINT)
    _, trainer = build(config_from(read_config(folder / "config.toml")))
    trainer.load_state_dict(state["trainer"])
    return trainer


def build(
    config: RunConfig, data: ImageData | None = None, spec: ScenarioSpec | None = None, share: float = 1.0
) -> tuple[Scenario | TaskFree, Trainer]:
    """The scenario and a trainer with its streams, as the settings say; nothing is written.

    Args:
        data: in place of the scenario's own.
        spec: in place of the one that belongs to the scenario's name, with another backbone for instance.
        share: of the training images of every task that the settings say; below 1 it is the run in miniature.
    """
    config = config.resolved()
    assert config.batch_size is not None
    assert config.epochs is not None
    assert config.memory_per_class is not None
    assert config.lr is not None
    assert config.edit_alpha is not None
    assert config.memory_tasks is not None
    assert config.head is not None
    assert config.inference is not None
    assert config.memory is not None
    assert config.retrieval is not None
    spec = find_scenario(config.scenario) if spec is None else spec
    spec = spec if config.width is None else spec.widened(config.width)
    device = _device(config.device)
    scenario = spec.build(
        config.scenario,
        spec.load(Path(config.data_root)) if data is None else data,
        batch_size=config.batch_size,
        epochs=config.epochs,
        label_set=config.label_set,
        timeline=config.timeline if config.starts is None else config.starts,
        timeline_number=config.timeline_number,
        share=config.share * share,
    )
    streams = scenario.streams(config.seed, config.accumulate)
    make_backbone = partial(_backbone, config, spec, scenario, device)
    torch.manual_seed(derived_seed(config.seed, "layers"))  # of crops, dropout and other layers that draw
    classes = {c for stream in streams for c in stream.classes}
    capacity = config.memory_size or config.memory_per_class * len(classes)
    method = METHODS[config.method]
    options = WeightingOptions(config.scale, config.temperature, config.seed, config.lower)
    lr = config.lr
    edit: Edit | BeforeUpdate | None = None
    looks_ahead = config.retrieval in ("mir", "mir-finished")
    if config.optimizer == "bgd" and (looks_ahead or method.edit in ("gmed", "hindsight")):
        raise ValueError(
            "optimizer: the lr of bgd is a factor and not the length of a step, by which MIR and GMED look ahead; take "
            "another optimizer, or set pcl.MIR(lr=...) and pcl.GMEDEdit(lr=...) from Python"
        )
    if method.edit:
        edit = EDITS[method.edit].make(config.edit_alpha, config.edit_beta, lr, config.seed)
        if config.edit_when == "before":  # GMED leaves alone what MIR has picked (Sec. 4.4)
            edit = BeforeUpdate(edit, "others" if looks_ahead else "recalled")
    inference = INFERENCES[config.inference]
    terms = []
    if method.loss_term is not None:
        assert config.loss_strength is not None
        terms = [LOSS_TERMS[method.loss_term].make(config.loss_strength, config.seed)]
    memory = MEMORIES[config.memory].make(config.memory_per_class, capacity, config.seed)
    if config.memory_storage is not None:
        if type(memory) is not ReservoirMemory:  # others work on the device where the model is
            raise ValueError(
                f"memory_storage: expected beside memory 'reservoir' or 'reservoir-logits', got {config.memory!r}"
            )
        memory.storage = _storage(config.memory_storage)
    steps = scenario.timeline.steps
    sampling = None
    if config.task_sampling != "all":
        lengths = [1 + end - start for start, end in zip(scenario.timeline.starts, scenario.timeline.ends, strict=True)]
        steps = max(steps, -(-sum(lengths) // config.tasks_per_step))  # at least so many
        sampling = TaskSampling(
            config.task_sampling, tasks_per_step=config.tasks_per_step, temperature=config.sampling_temperature,
            steps=steps, seed=config.seed,
        )  # fmt: skip
    model, growing = _model(config, make_backbone(), spec, scenario)
    trainer = Trainer(
        model,
        optimizer=_optimizer(config, device),
        weighting=WEIGHTINGS[method.weighting].make(options),
        memory=memory,
        retrieval=RETRIEVALS[config.retrieval].make(config.batch_size, lr),
        edit=edit,
        inference=inference.make(make_backbone, config.scratch_epochs, config.seed),
        loss_terms=terms,
        memory_batch=config.batch_size // config.accumulate,
        sampling=sampling,
        memory_tasks=config.memory_tasks,
        gradients_over=config.gradients_over,
        gramian=config.gramian,
        strategy=config.strategy,
        precision=config.precision,
        accumulate=config.accumulate,
        clip=config.clip,
        cuda_graph=config.cuda_graph,
        seed=config.seed,
        callbacks=growing,
        measure_descent=config.measure_descent,
        evaluate_every=config.evaluate_every or (None if inference.costly else max(1, steps // 40)),
    )
    trainer.total_steps = steps if sampling is None else None
    for stream in streams:
        trainer.add(stream)
    return scenario, trainer


def _fit(
    config: RunConfig, scenario: Scenario | TaskFree, trainer: Trainer, folder: Path, callbacks: Sequence[object]
) -> dict[str, Any]:
    recorder = RunRecorder(folder, config.checkpoint_every)
    recorder.resume(trainer)
    timer, diagnostics = _Timer(), Diagnostics(keep=1)
    diagnostics.take_up(recorder.steps())
    work = Work(max(1, scenario.timeline.steps // COUNTED_STEPS))
    keeper = [] if config.keep_features is None else [FeatureRecorder(folder, config.keep_features)]
    trainer.use(work, recorder, timer, diagnostics, *keeper, *callbacks)
    first_step = trainer.step_count
    trainer.fit()
    recorder.save(trainer)
    for recording in keeper:
        recording.finish(trainer)
    results = {**trainer.results(), **_of_the_end(trainer)}
    timing = {
        "seconds": timer.seconds,
        "samples": timer.samples,
        "samples_per_second": timer.samples / timer.seconds if timer.seconds else None,
        "samples_per_step": timer.samples / timer.steps if timer.steps else None,
        "flops_per_step": statistics.median(work.flops) if work.flops else None,
        "from_step": first_step,
        "device": config.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    write_edits(trainer, folder)
    write_atomically(folder / "timing.json", json.dumps(timing, indent=1).encode())
    write_atomically(folder / "results.json", json.dumps(results, indent=1).encode())
    return results


def _of_the_end(trainer: Trainer) -> dict[str, Any]:
    """What results say of the state a run has ended in: its classifier, in the class setting, its memory, and its size
    if it has grown.

    Calibration is that of the model's heads, and left out where something else tells the classes.
    """
    tests = {task: test for task in trainer.model.tasks if (test := trainer.streams[task].test) is not None}
    found: dict[str, Any] = {}
    if trainer.model.setting == "class" and tests and trainer.inference is None:  # else no logits tell the classes
        found = calibration(trainer.model, tests)
    if trainer.memory is not None:
        found |= {"memory samples": len(trainer.memory), "memory bytes": stored_bytes(trainer.memory)}
    if isinstance(trainer.model, GrowingModel):
        found |= {"neurons": sum(trainer.model.widths.values()), "parameters": trainer.model.size()}
    return found


def _backbone(config: RunConfig, spec: ScenarioSpec, scenario: Scenario | TaskFree, device: torch.device) -> nn.Module:
    """As it is before training, on the device."""
    with seeded(config.seed, "backbone"):
        backbone = spec.backbone(scenario.data)
    return augmented(backbone, config.augment, scenario.data.x_train.shape[-1]).to(device)


def _model(
    config: RunConfig, backbone: nn.Module, spec: ScenarioSpec, scenario: Scenario | TaskFree
) -> tuple[ContinualModel, list[Grow]]:
    """Backbone and heads, and what lets them grow, if the settings say so."""
    head = config.head
    assert head is not None
    if config.grow is None:
        return ContinualModel(backbone, spec.features, config.setting, head=head, seed=config.seed), []
    like = next(backbone.parameters())
    example = as_float(scenario.data.x_train[:1]).to(like)
    model = GrowingModel(backbone, spec.features, example, config.setting, head=head, seed=config.seed)
    trigger, _, every = config.grow.partition(":")
    times = zip(scenario.timeline.starts, scenario.timeline.ends, strict=True)
    steps = config.grow_steps or max(1, min(1 + end - start for start, end in times) // 4)
    when = GrowWhen(cast(Trigger, trigger), int(every or steps))
    return model, [Grow(Firefly(new=config.grow_new, seed=config.seed), Budget(neurons=config.grow_neurons), when)]


def _optimizer(config: RunConfig, device: torch.device) -> MakeOptimizer:
    lr, samples = config.lr, config.batch_size
    assert lr is not None
    assert samples is not None
    if config.optimizer == "bgd":
        return lambda parameters: BGD(
            parameters, lr=lr, std=config.bgd_std, draws=config.bgd_draws, samples=samples, seed=config.seed
        )
    kind = torch.optim.SGD if config.optimizer == "sgd" else torch.optim.Adam
    on_gpu: dict[str, Any] = {"fused": True} if device.type == "cuda" else {}  # leaves bad steps out by itself
    if config.cuda_graph and config.optimizer == "adam":
        on_gpu["capturable"] = True
    return lambda parameters: kind(parameters, lr=lr, **on_gpu)


class _Timer:
    """Callback: wall time of the fit, its steps and the samples used in it."""

    seconds = 0.0
    steps = 0
    samples = 0

    def on_fit_start(self, trainer: Trainer) -> None:
        self._since = time.perf_counter()

    def on_step(self, trainer: Trainer, record: dict[str, Any]) -> None:
        self.steps += 1
        self.samples += record["samples"]

    def on_fit_end(self, trainer: Trainer) -> None:
        self.seconds = time.perf_counter() - self._since


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("expected cpu or cuda")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def _storage(name: str) -> Path | torch.device:
    """A device, if it is the name of one, or a folder.

    Raises:
        ValueError: for a device that cannot be used.
        PermissionError: for a folder that cannot be made or written.
    """
    try:
        torch.device(name)
    except RuntimeError:
        _check_writable(Path(name), "memory_storage: cannot keep samples in")
        return Path(name)
    return _device(name)


def free_folder(parent: Path, name: str) -> Path:
    """``parent/name``, or with -2, -3, ... behind it, whichever does not exist yet.

    Raises:
        PermissionError: if ``parent`` cannot be written.
    """
    _check_writable(parent, "cannot make run folders in")
    candidates = (parent / (name if i == 1 else f"{name}-{i}") for i in range(1, 10_000))
    return next(path for path in candidates if not path.exists())


def _check_writable(folder: Path, failing: str) -> None:
    """Refuse a folder that cannot be written, or made."""
    above = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    if not os.access(above, os.W_OK) or not above.is_dir():
        raise PermissionError(f"{failing} {folder}: {above} is not a writable folder")
