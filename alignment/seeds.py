"""One root seed, and every other seed derived from it by name, so that adding a stage does not move the others."""

from __future__ import annotations

import hashlib


def derive(root: int, *path: str | int) -> int:
    """A 31-bit seed for a place such as ("ppo", step, prompt_id, sample): uniform, stable across versions."""
    text = "/".join([str(root), *(f"{type(part).__name__}:{part}" for part in path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
