"""How large a decoder is, from its folder alone: the tensors in its safetensors headers and the widths of its layers.

Reads JSON; loads no model. A model that does not exist yet (`pretrain.initial: random`) is counted by formula.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.schema import UserError

Tensors = dict[str, tuple[int, ...]]
NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
MATRICES = re.compile(r"layers\.\d+\..*_proj\.weight$")  # the body's, which LoRA adapts and Muon updates
FOUR_NORMS = ("gemma2", "gemma3_text")  # types with a norm after attention and MLP as well as before
HEADER_LIMIT = 1 << 27  # bytes; no model's header is longer


@dataclasses.dataclass(frozen=True)
class Size:
    """A decoder's tensors and the widths its memory depends on."""

    tensors: Tensors
    vocabulary: int
    layers: int
    width: int
    heads: int  # width of all query heads together
    keys: int  # width of all key heads together
    inner: int  # of the MLP
    norms: int  # in a layer
    qk_norm: bool
    positions: float  # tokens of the longest text; infinite where the config does not say

    @property
    def parameters(self) -> int:
        return count(self.tensors)

    @property
    def matrices(self) -> int:
        """Weights in the linear layers of the body."""
        return count({name: shape for name, shape in self.tensors.items() if MATRICES.search(name)})

    @property
    def head(self) -> int:
        """Weights of an output layer that is not the embedding."""
        return count({name: shape for name, shape in self.tensors.items() if name.endswith("lm_head.weight")})

    def adapter(self, rank: int) -> int:
        """Weights of a LoRA adapter on every linear layer of the body."""
        return sum(rank * sum(shape) for name, shape in self.tensors.items() if MATRICES.search(name))

    def cut(self, layers: int | None) -> Size:
        """The trunk alone, without an output layer, and of it the first `layers` layers."""
        kept = self.layers if layers is None else min(layers, self.layers)
        places = {name: re.search(r"layers\.(\d+)\.", name) for name in self.tensors}
        return dataclasses.replace(self, layers=kept, tensors={
            name: shape for name, shape in self.tensors.items() if not name.endswith("lm_head.weight")
            and ((place := places[name]) is None or int(place[1]) < kept)})


def count(tensors: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in tensors.values())


def read_size(folder: Path) -> Size | None:
    """The size of a model folder, by its config alone where the weights are still to come; None where its config.json
    does not speak of a decoder in the usual words.

    Raises UserError where the weights are no whole safetensors files.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return from_config(config.get("text_config") or config, folder_tensors(folder, config) or None)


def from_config(config: Mapping[str, Any], tensors: Tensors | None = None) -> Size | None:
    """The size that a config describes, its tensors by formula where they are not given."""
    if any(name not in config for name in NEEDED):
        return None
    kind, heads = str(config.get("model_type")), int(config["num_attention_heads"])
    head_width = config.get("head_dim") or config["hidden_size"] // heads
    size = Size(
        tensors={}, vocabulary=config["vocab_size"], layers=config["num_hidden_layers"], width=config["hidden_size"],
        heads=heads * head_width, keys=(config.get("num_key_value_heads") or heads) * head_width,
        inner=config["intermediate_size"], norms=4 if kind in FOUR_NORMS else 2,
        qk_norm=kind in ("qwen3", "gemma3_text"), positions=config.get("max_position_embeddings") or math.inf)
    return dataclasses.replace(size, tensors=formula(config, size, head_width) if tensors is None else tensors)


def formula(config: Mapping[str, Any], size: Size, head_width: int) -> Tensors:
    """The tensors of a Llama, Mistral, Qwen2, Qwen3 or Gemma of this config."""
    found: Tensors = {"model.embed_tokens.weight": (size.vocabulary, size.width), "model.norm.weight": (size.width,)}
    if not config.get("tie_word_embeddings"):
        found["lm_head.weight"] = (size.vocabulary, size.width)
    biased = config.get("attention_bias", False)
    linear = {"self_attn.q_proj": (size.heads, size.width, biased or config.get("model_type") == "qwen2"),
              "self_attn.k_proj": (size.keys, size.width, biased or config.get("model_type") == "qwen2"),
              "self_attn.v_proj": (size.keys, size.width, biased or config.get("model_type") == "qwen2"),
              "self_attn.o_proj": (size.width, size.heads, biased),
              "mlp.gate_proj": (size.inner, size.width, config.get("mlp_bias", False)),
              "mlp.up_proj": (size.inner, size.width, config.get("mlp_bias", False)),
              "mlp.down_proj": (size.width, size.inner, config.get("mlp_bias", False))}
    norms = {f"norm_{number}": size.width for number in range(size.norms)}
    norms |= {"self_attn.q_norm": head_width, "self_attn.k_norm": head_width} if size.qk_norm else {}
    for layer in range(size.layers):
        place = f"model.layers.{layer}."
        found |= {f"{place}{name}.weight": (rows, columns) for name, (rows, columns, _) in linear.items()}
        found |= {f"{place}{name}.bias": (rows,) for name, (rows, _, bias) in linear.items() if bias}
        found |= {f"{place}{name}.weight": (width,) for name, width in norms.items()}
    return found


def folder_tensors(folder: Path, config: Mapping[str, Any]) -> Tensors:
    """name -> shape of all that a model folder's weights hold, a tied output layer left out."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        files = [folder / name for name in sorted(set(shards))]
    else:
        whole = folder / "model.safetensors"
        files = [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    tied = config.get("tie_word_embeddings", (config.get("text_config") or {}).get("tie_word_embeddings"))
    return {name: shape for path in files for name, shape in header(path).items()
            if not (tied and name.endswith("lm_head.weight"))}


def header(path: Path) -> Tensors:
    """name -> shape of the tensors in a safetensors file. Raises UserError where it is none, or not all there."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entries = json.loads(file.read(min(length, HEADER_LIMIT)))
        entries.pop("__metadata__", None)
        ends = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        tensors = {name: tuple(entry["shape"]) for name, entry in entries.items()}
    except FileNotFoundError:
        raise UserError(f"{path}: missing, although the folder's index names it; download the model again") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not a safetensors file (a Git LFS pointer?); download the model again") from None
    if path.stat().st_size < ends:
        raise UserError(f"{path}: cut short, {path.stat().st_size} of {ends} bytes; download the model again")
    return tensors
