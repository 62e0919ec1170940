"""The settings of a run: a dataclass, read from and written to TOML."""

import dataclasses
import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pcl.methods import METHODS
from pcl.scenarios import SCENARIOS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_CHOICES = {
    "scenario": tuple(SCENARIOS),
    "method": tuple(METHODS),
    "setting": ("task", "class"),
    "timeline": ("random", "serial", "together"),
    "scale": ("paper", "unit"),
    "gradients_over": ("backbone", "all"),
    "optimizer": ("adam", "sgd"),
}


@dataclass(frozen=True)
class RunConfig:
    """All that a run depends on. A value of 0 in batch_size, epochs, memory_per_class, lr or edit_alpha stands
    for the scenario's own; :meth:`resolved` fills it in.

    Raises:
        ValueError: for an unknown name (with the nearest known one) or a number out of range.
    """

    scenario: str = "ps-digits"
    """see `pcl list`"""
    method: str = "emgd-gmc+me"
    """see `pcl list`"""
    setting: str = "task"
    """task-incremental or class-incremental"""
    data_root: str = "data"
    """folder with the npz files"""
    seed: int = 1234
    """of initial weights, sample order and memory"""
    label_set: int = 0
    """number of the random label sets"""
    timeline: str = "random"
    """random, serial or together"""
    timeline_number: int = 0
    """number of the random timeline"""
    batch_size: int = 0
    """samples per task and step"""
    epochs: int = 0
    """how often every sample is used"""
    memory_per_class: int = 0
    """stored samples per class"""
    optimizer: str = "adam"
    """adam or sgd"""
    lr: float = 0.0
    """learning rate"""
    scale: str = "paper"
    """EMGD's step length: paper, or unit (weights sum to 1)"""
    temperature: float = 1.0
    """of EMGD's softmax"""
    gradients_over: str = "backbone"
    """parameters in the Gramian: backbone, or all"""
    edit_alpha: float = 0.0
    """step size of memory editing, in pixel units"""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    evaluate_every: int = 0
    """steps between accuracy measurements; 0: about 40 in the run"""
    checkpoint_every: int = 50
    """steps between checkpoints"""

    def __post_init__(self) -> None:
        for key, known in _CHOICES.items():
            check_name(key, getattr(self, key), known)
        for key, kind in get_type_hints(type(self)).items():
            value = getattr(self, key)
            if kind is not str and (not isinstance(value, (int, kind)) or isinstance(value, bool)):
                raise ValueError(f"{key}: expected {kind.__name__}, got {value!r}")
            if kind is not str and not 0 <= value < float("inf"):
                raise ValueError(f"{key}: expected a number >= 0, got {value}")
        if self.temperature == 0 or self.checkpoint_every == 0:
            raise ValueError("temperature and checkpoint_every must be above 0")

    def resolved(self) -> "RunConfig":
        """The same settings with the scenario's own where this has 0."""
        spec = SCENARIOS[self.scenario]
        names = ("batch_size", "epochs", "memory_per_class", "lr", "edit_alpha")
        return dataclasses.replace(self, **{n: getattr(spec, n) for n in names if getattr(self, n) == 0})


def check_name(what: str, name: str, known: tuple[str, ...]) -> None:
    """Refuse a name that is not known, suggesting the nearest that is."""
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{what}: unknown {name!r}{hint} Known: {', '.join(known)}")


def config_from(settings: Mapping[str, Any]) -> RunConfig:
    """Settings by name.

    Raises:
        ValueError: for an unknown setting or a bad value.
    """
    fields = tuple(field.name for field in dataclasses.fields(RunConfig))
    for key in settings:
        check_name("setting", key, fields)
    return RunConfig(**settings)


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

    return tomli_w.dumps(dataclasses.asdict(config))
