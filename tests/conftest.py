"""What holds for every test: the numbers' environment, pinned before any numerical library loads."""

from __future__ import annotations

import os
import signal

from alignment.pinning import environment

os.environ.update(environment(threads=1, offline=True, portable=False))
signal.signal(signal.SIGINT, signal.default_int_handler)  # which workers of pytest-xdist ignore, and what they start
