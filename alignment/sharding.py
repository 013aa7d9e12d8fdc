"""Weights that are shared out to the processes of a stage (FSDP2): made whole again, and put back.

A weight shared out is a DTensor, of which each process holds a part. To make one whole all processes must ask for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.tensor import DTensor, distribute_tensor

from alignment.adapters import trainable

Model = TypeVar("Model", bound=nn.Module)


def is_shared_out(model: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on the CPU where it was shared out."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole value, or a part already, laid out as the parameter is."""
    if isinstance(parameter, DTensor) and not isinstance(value, DTensor):
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """name -> weight of all that training changes, whole and on the CPU; in the leading process alone where they are
    shared out."""
    names = {name for name, _ in trainable(model)}
    if not is_shared_out(model):
        return {name: parameter.detach() for name, parameter in trainable(model)}
    state: dict[str, Any] = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name: value for name, value in state.items() if name in names}


def load_trained(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Puts whole weights into a model, shared out or not; what `state` does not name stays."""
    if is_shared_out(model):
        set_model_state_dict(model, dict(state), options=StateDictOptions(full_state_dict=True, strict=False))
    else:
        model.load_state_dict(dict(state), strict=False)


@torch.no_grad()
def gathered(model: Model, make: Callable[[], Model], *, leads: bool) -> Model:
    """The model, whole, in the leading process: itself, or where it is shared out a new one by `make`, on the CPU, with
    what was trained put in."""
    if not is_shared_out(model):
        return model
    state = trained_state(model)
    if not leads:
        return model
    made = make()
    load_trained(made, state)
    return made
