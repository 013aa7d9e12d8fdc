"""Weights on disk into other weights on disk: cast to a number format, or an adapter merged into its base model.

Reads and writes safetensors alone. Knows no stage and no store.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from alignment.models import load_policy, load_tokenizer, save_policy
from data.schema import UserError


def cast(files: Sequence[Path], out: Path, dtype: str) -> int:
    """Writes each file's tensors, floating ones as `dtype`, under the same name into `out`; their bytes together.

    Raises UserError for a file that cannot be read and for a weight that `dtype` cannot hold.
    """
    total = 0
    for path in files:
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path}: cannot be read as safetensors ({error})") from None
        for name, tensor in tensors.items():
            tensors[name] = held = tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
            if held.isinf().any() and not tensor.isinf().any():
                raise UserError(f"{path}: {name} holds {tensor.abs().max():.3g}, too large for {dtype}; use bfloat16")
            total += held.numel() * held.element_size()
        save_file(tensors, out / path.name, metadata={"format": "pt"})
    return total


def merge(adapter: Path, base: Path, out: Path, *, dtype: str) -> None:
    """Writes `base` with the PEFT adapter in the folder `adapter` merged, in fp32, and saved as `dtype`.

    Raises UserError where the adapter belongs to another model, or is of a type that is not merged.
    """
    policy = load_policy(base)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            merged = PeftModel.from_pretrained(policy, str(adapter)).merge_and_unload(safe_merge=True)
    except (AttributeError, RuntimeError, UserWarning, ValueError) as error:
        raise UserError(f"{adapter}: cannot be merged into {base} ({str(error).strip().splitlines()[0]})") from None
    tokenizer = load_tokenizer(adapter if (adapter / "tokenizer_config.json").is_file() else base)
    save_policy(merged, tokenizer, out, dtype=dtype, name=adapter.name,
                description=f"{base.name} with the adapter {adapter.name} merged.")
