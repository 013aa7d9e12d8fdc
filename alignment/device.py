"""Where a stage's models live: the GPU if there is one, else the CPU."""

from __future__ import annotations

from typing import TypeVar

import torch

Module = TypeVar("Module", bound=torch.nn.Module)


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def placed(module: Module) -> Module:
    """The module, moved in place to the best device."""
    torch.nn.Module.to(module, best_device())
    return module
