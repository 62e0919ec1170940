"""Scenarios in TOML files: read, and written so that they come back exactly.

A file with every key; all may be left out but the tasks::

    name = "two-domains"          # what random draws are named after; the file's own name if left out
    data = "mnist"                # under the data root mnist.npz, or a folder mnist with train/<class>/*.png and
                                  # test/<class>/*.png; without it scikit-learn's digits
    image_size = 64               # height and width to which images of a folder are brought
    timeline = "serial"           # random, serial, together; or starts = [0, 40, ...], one for each task
    batch_size = 10               # all from here on may be left out
    epochs = 1
    blur = 0.25                   # one stream without boundaries, with transitions of that width; inf for an iid stream
    label_set = 0                 # number of the draw; otherwise the run says it
    fingerprint = "..."           # refuse to run on anything else

    shared = false                # tasks with a class in common divide its images; true: each has all of them
    [[tasks]]                     # one after the other; or one table drawn, split, blurring, grouped, permuted,
    name = "upright"              # rotated, with the attributes of the cut of that name in pcl.cuts
    classes = [0, 1, 2]           # by number, or by name
    images = 500
    [[tasks]]
    classes = [2, 3]
    rotate = 90.0                 # or permute = 1

    [training]                    # defaults of a run
    hidden = [128, 64]            # of an MLP; or resnet = 20, the width of a ResNet-18
    lr = 0.003
    memory_per_class = 5
    edit_alpha = 1e-5
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pcl.cuts import Blurring, Cut, Drawn, Grouped, Listed, Part, Permuted, Rotated, Split
from pcl.data.transforms import TRANSFORMS, Transform
from pcl.scenarios import SCENARIOS, MLPFor, ResNetFor, ScenarioSpec
from pcl.streams.scenario import Scenario
from pcl.streams.task_free import TaskFree
from pcl.training.checkpoint import write_atomically

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = ".toml"
"""How the name of a scenario file ends."""

CUTS: dict[str, type[Cut]] = {
    "drawn": Drawn, "split": Split, "blurring": Blurring, "grouped": Grouped, "permuted": Permuted, "rotated": Rotated,
}  # fmt: skip
TYPES: dict[str, type] = {"overlap": bool, "shuffled": bool, "degrees": float, "rotate": float}
PLAIN = {
    "name": str, "summary": str, "data": str, "batch_size": int, "epochs": int, "blur": float, "label_set": int,
    "fingerprint": str, "shared": bool, "image_size": int,
}  # fmt: skip
TRAINING = {"lr": float, "memory_per_class": int, "edit_alpha": float}
DEFAULTS = {"hidden": (128, 64), "batch_size": 16, "lr": 3e-3, "memory_per_class": 5}


def find_scenario(name: str) -> ScenarioSpec:
    """What belongs to a name of :data:`pcl.scenarios.SCENARIOS`, or what the scenario file of that name says.

    Raises:
        KeyError: for an unknown name.
        FileNotFoundError, ValueError: as :func:`read_scenario`.
    """
    return read_scenario(Path(name)) if name.endswith(FILE) else SCENARIOS[name]


def read_scenario(path: Path) -> ScenarioSpec:
    """What a scenario file says; the head of this module shows one.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not TOML, lacks something, or holds what is not understood; names the file and the key.
    """
    try:
        content = tomllib.loads(path.read_bytes().decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file: {error}") from error
    try:
        return _spec(content, path.stem)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def write_scenario(path: Path, spec: ScenarioSpec, scenario: Scenario | TaskFree, label_set: int = 0) -> None:
    """Write what ``spec`` has built with draw number ``label_set`` so that the file gives the same again, and nothing
    else: starts, number of the draw and fingerprint are fixed in it.

    Raises:
        ValueError: for a backbone that files have no words for.
    """
    import tomli_w

    plain = scenario.hidden if isinstance(scenario, TaskFree) else scenario
    content: dict[str, Any] = {"name": plain.name, "summary": spec.summary}
    content |= {} if spec.file is None else {"data": spec.file}
    content |= {} if spec.image_size is None else {"image_size": spec.image_size}
    content |= {"starts": list(plain.timeline.starts), "batch_size": plain.batch_size, "epochs": scenario.epochs}
    content |= {"blur": scenario.blur} if isinstance(scenario, TaskFree) else {}
    content |= {"label_set": label_set if spec.label_set is None else spec.label_set}
    content |= {"fingerprint": scenario.describe()["fingerprint"]}
    content |= _cut_table(spec.cut)
    content["training"] = {**_backbone_words(spec), **{key: getattr(spec, key) for key in TRAINING}}
    write_atomically(path, tomli_w.dumps(content).encode())


def _spec(content: dict[str, Any], stem: str) -> ScenarioSpec:
    training = _table(content.pop("training", {}), "[training]", {"hidden", "resnet", *TRAINING})
    _table(content, "scenario", {"timeline", "starts", "tasks", *PLAIN, *CUTS})
    given = {key: _of(kind, key, content[key]) for key, kind in PLAIN.items() if key in content}
    given |= {key: _of(kind, key, training[key]) for key, kind in TRAINING.items() if key in training}
    for one, other, where in (("timeline", "starts", content), ("hidden", "resnet", training)):
        if one in where and other in where:
            raise ValueError(f"{one}, {other}: expected at most one of them")
    if "shared" in content and "tasks" not in content:
        raise ValueError("shared: expected beside [[tasks]] alone")
    given["file"] = given.pop("data", None)
    given.pop("shared", None)  # of the cut
    timeline = content.get("timeline", "random")
    if "starts" in content:
        timeline = tuple(_of(int, "starts", start) for start in content["starts"])
    elif timeline not in ("random", "serial", "together"):
        hint = "; for all samples in one stream, in random order, write blur = inf" if timeline == "iid" else ""
        raise ValueError(f"timeline: expected 'random', 'serial' or 'together', got {timeline!r}{hint}")
    defaults: dict[str, Any] = {key: value for key, value in DEFAULTS.items() if key != "hidden"}
    backbone, features = _backbone(training)
    return ScenarioSpec(
        **{
            **defaults, "name": stem, "summary": given.get("name", stem), **given, "timeline": timeline,
            "cut": _cut(content), "backbone": backbone, "features": features,
        }
    )  # fmt: skip


def _cut(content: Mapping[str, Any]) -> Cut:
    kinds = [kind for kind in ("tasks", *CUTS) if kind in content]
    if len(kinds) != 1:
        raise ValueError(f"expected exactly one of [[tasks]], {', '.join(f'[{kind}]' for kind in CUTS)}; got {kinds}")
    (kind,) = kinds
    if kind == "tasks":
        return Listed([_part(task) for task in content["tasks"]], content.get("shared", False))
    given = _table(content[kind], f"[{kind}]", {field.name for field in fields(CUTS[kind])})  # type: ignore[arg-type]
    return CUTS[kind](**{key: _of(TYPES.get(key, int), f"[{kind}] {key}", given[key]) for key in given})


def _part(task: dict[str, Any]) -> Part:
    _table(task, "[[tasks]]", {"name", "classes", "images", *TRANSFORMS})
    changes: list[Transform] = [
        make(_of(TYPES.get(key, int), key, task[key])) for key, make in TRANSFORMS.items() if key in task
    ]
    if len(changes) > 1 or "classes" not in task:
        raise ValueError(f"[[tasks]]: expected classes and at most one of {', '.join(TRANSFORMS)} in every task")
    classes = task["classes"]
    if not isinstance(classes, list) or not all(type(c) in (int, str) for c in classes):
        raise ValueError(f"[[tasks]] classes: expected a list of numbers or names, got {classes!r}")
    name, images = (
        _of(kind, key, task[key]) if key in task else None for key, kind in (("name", str), ("images", int))
    )
    return Part(classes, name, images, changes[0] if changes else None)


def _backbone(training: Mapping[str, Any]) -> tuple[MLPFor | ResNetFor, int]:
    if "resnet" in training:
        width = _width("resnet", training["resnet"])
        return ResNetFor(width), 8 * width
    widths = training.get("hidden", DEFAULTS["hidden"])
    if not isinstance(widths, (list, tuple)) or not widths:
        raise ValueError(f"hidden: expected a list of at least one width, got {widths!r}")
    hidden = tuple(_width("hidden", width) for width in widths)
    return MLPFor(hidden), hidden[-1]


def _width(key: str, value: object) -> int:
    width: int = _of(int, key, value)
    if width < 1:
        raise ValueError(f"{key}: expected a width of at least 1, got {width}")
    return width


def _backbone_words(spec: ScenarioSpec) -> dict[str, Any]:
    if isinstance(spec.backbone, MLPFor):
        return {"hidden": list(spec.backbone.hidden)}
    if isinstance(spec.backbone, ResNetFor):
        return {"resnet": spec.backbone.width}
    raise ValueError(f"the backbone of {spec.summary!r} cannot be written into a scenario file; an MLP or a ResNet can")


def _cut_table(cut: Cut) -> dict[str, Any]:
    if isinstance(cut, Listed):
        return {"shared": cut.shared, "tasks": [_part_table(part) for part in cut.parts]}
    kind = next(name for name, of in CUTS.items() if isinstance(cut, of))
    return {kind: {key: value for key, value in asdict(cut).items() if value is not None}}  # type: ignore[call-overload]


def _part_table(part: Part) -> dict[str, Any]:
    named = {"name": part.name, "classes": list(part.classes), "images": part.images}
    named |= {} if part.transform is None else part.transform.describe()
    return {key: value for key, value in named.items() if value is not None}


def _table(table: object, what: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ValueError(f"{what}: expected a table, got {table!r}")
    unknown = sorted(set(table) - known)
    if unknown:
        raise ValueError(f"{what}: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    return table


def _of(kind: type, key: str, value: object) -> Any:
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise ValueError(f"{key}: expected {kind.__name__}, got {value!r}")
    if isinstance(value, float) and not (math.isfinite(value) or (key == "blur" and value == math.inf)):
        raise ValueError(f"{key}: expected a finite number, got {value!r}")
    return value
