"""Notices that a user should see once, not once a step."""

import warnings

_said: set[str] = set()


def say_once(text: str) -> None:
    """Warn with ``text`` the first time it comes up in this process."""
    if text not in _said:
        _said.add(text)
        warnings.warn(text, stacklevel=3)
