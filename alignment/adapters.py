"""Low-rank adapters (LoRA; Hu et al. 2021, arXiv:2106.09685): put into a model, switched off, merged, saved.

The model keeps its class and its other modules; an adapted layer is PEFT's, with the frozen one inside it. What is
merged is plain again and loads without PEFT, which takes seconds to import and is, only where an adapter is made or
saved. Knows no stage and no trainer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from alignment.kinds import Optimised, Ppo
from data.schema import UserError

ADAPTER = "default"  # PEFT's name of the only adapter a model gets
ALL_LINEAR = "all-linear"


def adapted(model: PreTrainedModel, config: Optimised | Ppo, *, seed: int) -> PreTrainedModel:
    """The same model with the adapter its config asks for; as it was where `lora_rank` is 0.

    A new adapter changes no output. Its weights, which alone train, are in fp32 and come from `seed`; the global
    generator is left as it was. With `precision: bf16` the frozen weights are held in bfloat16. UserError where
    `lora_targets` names a layer the model has not.
    """
    if not config.lora_rank:
        return model
    from peft import LoraConfig, TaskType, inject_adapter_in_model

    settings = LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=config.lora_rank, lora_alpha=config.lora_alpha or 2 * config.lora_rank,
        lora_dropout=config.lora_dropout, target_modules=targets(model, config.lora_targets))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        inject_adapter_in_model(settings, model, adapter_name=ADAPTER)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
        elif config.precision == "bf16":
            parameter.data = parameter.data.bfloat16()
    return model


def targets(model: PreTrainedModel, names: list[str]) -> list[str]:
    """The last names of the layers to adapt. UserError for one that no linear layer of the model's body has."""
    body: Any = model.base_model
    known = {name.rpartition(".")[2] for name, module in body.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    if names == [ALL_LINEAR]:
        return sorted(known)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UserError(f"lora_targets={names}: {unknown or 'nothing'} is no linear layer of this model's body; choose "
                        f"from {', '.join(sorted(known))}, or say [{ALL_LINEAR}]")
    return names


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """name -> PEFT's layer, of every adapted layer; none in a plain model."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(name, parameter) of all that training changes."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Within it the model computes what it did before it was adapted."""
    layers = adapted_layers(model).values()
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merged(model: nn.Module, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The model's weights `named` under their plain names, one at a time: W + scale * B A, in fp32, where a layer is
    adapted, any other as it is. The model stays as it is."""
    layers = adapted_layers(model)
    for name, weight in named:
        owner, _, last = name.rpartition(".")
        layer = layers.get(owner.removesuffix(".base_layer"))
        if layer is not None and last == "weight":
            weight = weight.float() + layer.get_delta_weight(ADAPTER).float()
        if ".lora_" not in name:
            yield name.replace(".base_layer.", "."), weight.detach()


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that the model would have with its adapter merged; a plain model's own."""
    return dict(merged(model, model.state_dict().items()))


def save_adapter(model: nn.Module, folder: Path) -> None:
    """Writes the adapter as PEFT does: `PeftModel.from_pretrained(base, folder)` puts it on the model it came from.

    Nothing where the model has none.
    """
    if not adapted_layers(model):
        return
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    save_file({f"base_model.model.{name}": value.detach().cpu().contiguous() for name, value in state.items()},
              folder / "adapter_model.safetensors", metadata={"format": "pt"})
    models: Any = model
    config = copy.copy(models.peft_config[ADAPTER])
    config.inference_mode, config.target_modules = True, sorted(config.target_modules)  # a set would be in any order
    config.save_pretrained(str(folder))
