"""What holds for all tests."""

from __future__ import annotations

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Coverage looks at the first case of every test: that takes as long as the test, and the others go the same ways.

    `-m gpu` on a machine without a device skips, and says why.
    """
    known: set[str] = set()
    for item in items:
        test = item.nodeid.partition("[")[0]
        if test in known:
            item.add_marker(pytest.mark.no_cover)
        known.add(test)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
