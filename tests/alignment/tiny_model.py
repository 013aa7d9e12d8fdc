"""A random Llama of a few thousand parameters, and its folder, for tests of engines and trainers."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

EOS, PAD = 2, 0


def tiny_model(*, tied: bool = True, seed: int = 0, width: int = 32, layers: int = 2, vocab: int = 96,
               eos: int | list[int] = EOS, scale: float = 1.0) -> LlamaForCausalLM:
    """A model in evaluation mode. `scale` widens the random weights, so that greedy choices are clear."""
    config = LlamaConfig(vocab_size=vocab, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
                         num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256,
                         tie_word_embeddings=tied, bos_token_id=None, eos_token_id=eos, pad_token_id=PAD,
                         initializer_range=0.02 * scale)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).float().eval()
    model.generation_config.eos_token_id = eos
    model.generation_config.pad_token_id = PAD
    return model


def save(model: LlamaForCausalLM, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def perturb(model: LlamaForCausalLM, scale: float, seed: int) -> None:
    """Adds noise to every weight, in place."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
