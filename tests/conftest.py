"""What holds for every test: the numbers' environment, pinned before any numerical library loads, and their order."""

from __future__ import annotations

import os
import signal

import pytest

from alignment.pinning import environment

os.environ.update(environment(threads=1, offline=True, portable=False))
signal.signal(signal.SIGINT, signal.default_int_handler)  # which workers of pytest-xdist ignore, and what they start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, then the uppermost, which run whole commands: no worker is to be left alone with one
    at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, len(item.path.parts)))
