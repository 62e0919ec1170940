"""The settings of a run: a dataclass, read from and written to TOML."""

import dataclasses
import difflib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pcl.gradients.task_gradients import Strategy
from pcl.memory.before_update import When
from pcl.methods import EDITS, LOSS_TERMS, METHODS, WEIGHTINGS
from pcl.models.augment import Augmentation
from pcl.models.heads import Head
from pcl.named_memories import InferenceName, MemoryName, RetrievalName
from pcl.scenario_files import FILE, find_scenario
from pcl.scenarios import SCENARIOS, Times
from pcl.training.losses import Precision
from pcl.training.step_data import MemoryTasks

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_LISTED = 40  # names in a message


@dataclass(frozen=True)
class RunConfig:
    """All that a run depends on. None stands for the value of the scenario, or of the method; :meth:`resolved` fills it
    in.

    Raises:
        ValueError: for an unknown name (with the nearest known one), a value of another type, or a number out of
            range.
    """

    scenario: str = "ps-digits"
    """see `pcl list`; or a scenario file, which ends in .toml"""
    method: str = "emgd-gmc+me"
    """see `pcl list`"""
    setting: Literal["task", "class"] = "task"
    """task-incremental or class-incremental"""
    data_root: str = "data"
    """folder with the image sets"""
    seed: int = 1234
    """of initial weights, sample order and memory"""
    label_set: int = 0
    """number of the random label sets"""
    timeline: Times | None = None
    """when the streams run; iid: all samples in one stream, in random order. Default: the scenario's"""
    timeline_number: int = 0
    """number of the random timeline"""
    starts: tuple[int, ...] | None = None
    """first step of every task, in place of a timeline that is drawn"""
    task_sampling: Literal["all", "proportional", "equal", "temperature", "annealed"] = "all"
    """which of the active tasks take part in a step: all, or some drawn by the size of their data"""
    tasks_per_step: int = 1
    """how many tasks are drawn for a step"""
    sampling_temperature: float = 2.0
    """of drawing by temperature: 1 is proportional to the size, the higher the more equal"""
    batch_size: int | None = None
    """samples per task and step"""
    epochs: int | None = None
    """how often every sample is used"""
    share: float = 1.0
    """of the training images of every task that take part, at most 1; below that it is the scenario in miniature"""
    width: int | None = None
    """channels of the first stage of the scenario's ResNet-18; 64 is the whole one. Of an MLP: neurons of its first
    layer, those of the others in proportion"""
    grow: str | None = None
    """let the network grow by Firefly, and lock what finished tasks use: "task", every task once, after it has trained
    for a while; "plateau", whenever its loss no longer falls; "every:N", after every N steps of its training"""
    grow_neurons: int = 16
    """neurons that one growth adds at most"""
    grow_new: int = 8
    """new neurons that every layer is offered in a growth, beside splits and copies of those it has"""
    grow_steps: int | None = None
    """steps that a task trains before it grows once, or over which a plateau is seen; default: a quarter of the
    shortest task"""
    augment: Augmentation = "none"
    """random crops, or crops and flips, of the images in training"""
    memory_per_class: int | None = None
    """stored samples per class"""
    memory: MemoryName | None = None
    """class: n samples per class of finished tasks; ring: the last n; reservoir: a uniform sample of all that was seen,
    of running tasks too; others see `pcl list`. Default: the method's, else class, or reservoir with grow"""
    memory_size: int | None = None
    """samples in a memory of a fixed size; default: as many as memory_per_class makes of all classes"""
    memory_storage: str | None = None
    """folder, or device such as cpu, in which the reservoir keeps its samples; default: the model's device"""
    retrieval: RetrievalName | None = None
    """which stored samples come back: any, the most interfered of five times as many (mir-finished: of tasks that are
    not in training), or as many of every task or class. Default: mir for mir, random for the others"""
    memory_tasks: MemoryTasks | None = None
    """one: the memory is one task; each: one for every finished task. Default: each for gem, one for the others"""
    head: Head | None = None
    """linear; cosine with margins in training; sigmoid for classes learned one by one. Default: cosine for mdmtr,
    linear for the others"""
    inference: InferenceName | None = None
    """what tells the classes: the model, the class whose stored samples are nearest in their mean, or a model trained
    from scratch on the memory alone. Default: the method's, else the model"""
    scratch_epochs: int = 128
    """passes over the memory of a model trained from scratch"""
    optimizer: Literal["adam", "sgd", "bgd"] | None = None
    """which optimizer; bgd: Bayesian gradient descent, in which every parameter has a deviation of its own. Default:
    the method's, else adam"""
    lr: float | None = None
    """learning rate. Default: 1 for bgd, else the scenario's"""
    bgd_std: float = 0.02
    """deviation of every parameter in the beginning"""
    bgd_draws: int = 10
    """gradients in a step, each with parameters drawn anew"""
    scale: Literal["paper", "unit"] = "paper"
    """step length of EMGD, CAGrad, Nash-MTL, FairGrad, PCGrad, GradVac: as in the paper, or weights that sum to 1"""
    temperature: float = 1.0
    """of EMGD's softmax"""
    lower: Literal["paper", "code"] = "paper"
    """least weight of a task in EMGD: 0 as in the paper, or 1 / (k + 1) as in its published code"""
    gradients_over: Literal["backbone", "all"] = "backbone"
    """parameters on which tasks are weighed against each other"""
    gramian: Literal["needed", "always"] = "needed"
    """always: record norms and cosines of gradients with every method, at one backward pass per task"""
    strategy: Strategy = "auto"
    """how task gradients are found"""
    precision: Precision = "full"
    """bf16: forward and backward passes under autocast to bfloat16"""
    accumulate: int = 1
    """equal parts in which a step works off its batches, one after the other, to save memory"""
    clip: float | None = None
    """norm to which longer gradients are shortened"""
    cuda_graph: bool = False
    """capture steps in a CUDA graph and replay them; needs a GPU"""
    edit_alpha: float | None = None
    """step size of memory editing, in pixel units"""
    edit_when: When | None = None
    """before or after the update of a step; default: as published"""
    edit_beta: float = 0.01
    """of GMED: how much less a memory sample may come to be fitted"""
    loss_strength: float | None = None
    """of a method's loss term; default: see `pcl list`"""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    evaluate_every: int | None = None
    """steps between measurements of accuracy; default: about 40 in the run"""
    measure_descent: int | None = None
    """steps between measurements of how far every loss falls in a step, at one more forward pass each"""
    checkpoint_every: int = 50
    """steps between checkpoints"""
    keep_features: int | None = None
    """test samples of every task whose features are kept, as they are when it ends and as they are at the end of the
    run; the report draws them (t-SNE, which needs scikit-learn). A few hundred are a good number"""

    def __post_init__(self) -> None:
        check_scenario(self.scenario)
        check_name("method", self.method, tuple(METHODS))
        for key, hint in get_type_hints(type(self)).items():
            _check_value(key, getattr(self, key), hint)
        if self.timeline == "iid" and self.starts is not None:
            raise ValueError("timeline: iid is one stream from step 0 on, and has no starts; leave one of them out")
        if self.grow is not None and not re.fullmatch("task|plateau|every:[1-9][0-9]*", self.grow):
            raise ValueError(f"grow: expected 'task', 'plateau' or 'every:N' with N steps, got {self.grow!r}")
        if self.share > 1:
            raise ValueError(f"share: expected a number above 0 and at most 1, got {self.share}")

    def resolved(self) -> "RunConfig":
        """The same settings with those of the scenario and of the method where this has None."""
        spec, method = find_scenario(self.scenario), METHODS[self.method]
        names = ("batch_size", "epochs", "memory_per_class", "lr", "edit_alpha")
        own = {name: getattr(spec, name) for name in names}
        if isinstance(spec.timeline, str):
            own["timeline"] = spec.timeline
        elif self.timeline is None:
            own["starts"] = spec.timeline
        own |= {"memory_tasks": WEIGHTINGS[method.weighting].memory_tasks}
        own |= {"memory": "class", "retrieval": "random", "head": "linear", "inference": "model", "optimizer": "adam"}
        if self.grow is not None:
            own["memory"] = "reservoir"  # which holds samples of running tasks, that alone have a gradient there
        own |= method.settings
        if (self.optimizer or own["optimizer"]) == "bgd":
            own["lr"] = 1.0  # the closed form
        if method.edit and EDITS[method.edit].alpha is not None:
            own["edit_alpha"] = EDITS[method.edit].alpha
        own["edit_when"] = EDITS[method.edit].when if method.edit else "after"
        own["loss_strength"] = LOSS_TERMS[method.loss_term].strength if method.loss_term else None
        return dataclasses.replace(self, **{name: own[name] for name in own if getattr(self, name) is None})


def _check_value(key: str, value: object, hint: Any) -> None:
    if get_origin(hint) is Literal:
        check_name(key, value, get_args(hint))
        return
    kinds = get_args(hint) or (hint,)
    if value is None and type(None) in kinds:
        return
    if get_origin(kinds[0]) is Literal:
        check_name(key, value, get_args(kinds[0]))
        return
    if key == "starts":
        if not isinstance(value, tuple) or not all(type(start) is int for start in value):
            raise ValueError(f"starts: expected a list of steps, got {value!r}")
        return
    kind = next(k for k in kinds if k is not type(None))
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise ValueError(f"{key}: expected {kind.__name__}, got {value!r}")
    least = 0 if key in ("seed", "label_set", "timeline_number") else 1
    if isinstance(value, int) and kind is int and value < least:
        raise ValueError(f"{key}: expected at least {least}, got {value}")
    if isinstance(value, (int, float)) and kind is float and not 0 < value < float("inf"):
        raise ValueError(f"{key}: expected a finite number above 0, got {value}")


def check_name(what: str, name: object, known: tuple[str, ...]) -> None:
    """Refuse a name that is not known, suggesting the nearest that is."""
    if name not in known:
        near = [k for k in known if k.startswith(str(name))] or difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {near[0]!r}? " if near else "; "
        listed = f"Known: {', '.join(known)}" if len(known) <= MOST_LISTED else "`pcl list` shows what there is"
        raise ValueError(f"{what}: unknown {name!r}{hint}{listed}")


def check_scenario(name: object) -> None:
    """Refuse what is neither the name of a scenario nor that of a file."""
    if not (isinstance(name, str) and name.endswith(FILE)):
        check_name("scenario", name, tuple(SCENARIOS))


def config_from(settings: Mapping[str, Any]) -> RunConfig:
    """Settings by name.

    Raises:
        ValueError: for an unknown setting or a bad value.
    """
    fields = tuple(field.name for field in dataclasses.fields(RunConfig))
    for key in settings:
        check_name("setting", key, fields)
    starts = settings.get("starts")
    return RunConfig(**{**settings, "starts": tuple(starts)} if isinstance(starts, list) else settings)


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, as written there.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not a TOML file: {error}") from error


def config_text(config: RunConfig) -> str:
    """The settings as TOML."""
    import tomli_w

    return tomli_w.dumps({key: value for key, value in dataclasses.asdict(config).items() if value is not None})
