"""Completions a second of both engines, on a random model of the embedded default's size.

    OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python -m tests.bench.rollout [engine ...]
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

from alignment.rollout import Sampling, make_engine
from alignment.stage import Rollout

PROMPTS, MAX_NEW_TOKENS, VOCABULARY = 512, 96, 1024
STOP = list(range(2, 31))  # of 1024 nearly equally likely tokens: completions of 32 tokens on average


def main(engines: list[str]) -> None:
    """Prints a line for each engine and number of sequences side by side."""
    draw = random.Random(0)
    prompts = [[draw.randrange(40, VOCABULARY) for _ in range(draw.randint(34, 46))] for _ in range(PROMPTS)]
    with tempfile.TemporaryDirectory() as folder:
        config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=160, intermediate_size=448, num_hidden_layers=4,
                             num_attention_heads=5, num_key_value_heads=5, max_position_embeddings=512,
                             tie_word_embeddings=True, bos_token_id=None, eos_token_id=STOP, pad_token_id=0)
        model = LlamaForCausalLM(config)
        model.generation_config.eos_token_id = STOP
        model.save_pretrained(folder)
        for name in engines:
            for side_by_side in (64, 128, 256, 512):
                started = time.perf_counter()
                engine = make_engine(Path(folder), Rollout(engine=name, max_num_seqs=side_by_side), max_length=256,
                                     model=model)
                built = time.perf_counter() - started
                for sampling in (Sampling(max_new_tokens=MAX_NEW_TOKENS),
                                 Sampling(max_new_tokens=MAX_NEW_TOKENS, temperature=0.0)):
                    engine.generate(prompts[:16], sampling, range(16))
                    started = time.perf_counter()
                    tokens = sum(len(g.token_ids) for g in engine.generate(prompts, sampling, range(PROMPTS)))
                    seconds = time.perf_counter() - started
                    print(f"{name:12} {side_by_side:4} side by side, temperature {sampling.temperature:g}: "
                          f"{PROMPTS / seconds:6.0f} completions/s, {tokens / seconds:6.0f} tokens/s, "
                          f"built in {built:.1f} s", flush=True)
                engine.close()


if __name__ == "__main__":
    main(sys.argv[1:] or ["transformers", "vllm"])
