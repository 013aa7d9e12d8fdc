"""What holds for every test: the numbers' environment, pinned before any numerical library loads."""

from __future__ import annotations

import os

from alignment.pinning import environment

os.environ.update(environment(threads=1, offline=True, portable=False))
