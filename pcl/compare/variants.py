"""Methods with settings of their own: ``emgd-gmc:temperature=5,memory=shared``."""

import dataclasses
import sys
from typing import Any

from pcl.config import RunConfig, check_name
from pcl.methods import METHODS
from pcl.without_effect import refuse_without_effect

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OF_THE_PLAN = frozenset(
    {
        "scenario", "method", "setting", "data_root", "seed", "label_set", "timeline", "timeline_number", "starts",
        "optimizer", "lr", "device", "evaluate_every", "checkpoint_every",
    }
)  # fmt: skip
"""Settings that all methods of a comparison share."""


def variant(text: str) -> tuple[str, dict[str, Any]]:
    """The method and its own settings: ``"emgd-gmc:temperature=5"`` gives ``("emgd-gmc", {"temperature": 5})``.

    Values are written as in a settings file; text may go without quotes. They go before those of the comparison.

    Raises:
        ValueError: for an unknown method or setting, one that all methods share or this one does not read, one without
            a value, or a bad value.
    """
    name, colon, rest = text.partition(":")
    check_name("methods", name, tuple(METHODS))
    known = tuple(field.name for field in dataclasses.fields(RunConfig) if field.name not in OF_THE_PLAN)
    settings: dict[str, Any] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = part.partition("=")
        check_name(f"{text}: setting", key, known)
        if not equals or not value:
            raise ValueError(f"{text}: setting {key!r} has no value; write {key}=VALUE")
        settings[key] = _value(value)
    refuse_without_effect(RunConfig(method=name, **settings))  # refuses bad values too
    return name, settings


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
