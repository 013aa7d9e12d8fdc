"""Torch's `fully_shard` in two gloo processes against a whole model, for tests; what was found goes into a file."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from alignment.group import Group
from alignment.optim import make_optimizer
from alignment.sharding import gathered, load_trained, trained_state
from tests.alignment.tiny_model import tiny_model

ROWS, STEPS = 8, 3


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(6, 96, (ROWS, 24), generator=generator) for _ in range(STEPS)]


def train(model: torch.nn.Module, rows: slice, both: Group) -> list[float]:
    """The losses of AdamW's steps, as means over the rows of both processes."""
    optimizer = make_optimizer(model, optimizer="adamw", learning_rate=1e-2, muon_learning_rate=0.0, weight_decay=0.0)
    losses = []
    for ids in batches():
        loss = model(input_ids=ids[rows], labels=ids[rows], use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().clone()
        both.add([total])
        losses.append(float(total) / both.size)
    return losses


def compare(folder: Path) -> None:
    """Trains both, in the group that this process belongs to; the leading one writes `folder`/found."""
    both = Group(torch.distributed.get_rank(), torch.distributed.get_world_size())
    shared = tiny_model(tied=False)
    mesh = init_device_mesh("cpu", (both.size,))
    for layer in shared.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(shared, mesh=mesh)
    losses = train(shared, slice(both.rank * ROWS // 2, (both.rank + 1) * ROWS // 2), both)
    parts = [isinstance(parameter, DTensor) and parameter.to_local().numel() < parameter.numel()
             for name, parameter in shared.named_parameters() if name.endswith("proj.weight")]
    whole = gathered(shared, lambda: tiny_model(tied=False), leads=both.rank == 0)
    state = trained_state(shared)
    if both.rank == 0:
        save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    both.wait()
    saved = load_file(folder / "model.safetensors")
    load_trained(shared, {name: torch.zeros_like(value) for name, value in saved.items()})
    load_trained(shared, saved)
    again = trained_state(shared)
    if both.rank == 0:
        alone = tiny_model(tied=False)
        found = {"shared": losses, "whole": train(alone, slice(0, ROWS), Group()), "parts": [all(parts), bool(parts)],
                 "apart": max(float((one - other).abs().max()) for one, other in zip(
                     whole.parameters(), alone.parameters(), strict=True)),
                 "put_back": max(float((again[name] - saved[name]).abs().max()) for name in saved)}
        (folder / "found").write_text(json.dumps(found), encoding="utf-8")
