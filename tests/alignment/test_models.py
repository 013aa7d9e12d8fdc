"""Model folders: what is refused, what is filled in, and that saving and loading lose nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from alignment.models import PLAIN_TEMPLATE, check_loads, load_policy, load_tokenizer, new_model, save_policy
from data.chat import render_prompt
from data.schema import UserError
from data.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer(["revenue was 46 million"] * 20, vocab_size=290)


SHAPE = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 48}


@pytest.fixture
def folder(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    save_policy(new_model(tokenizer, **SHAPE, seed=1), tokenizer, tmp_path / "model", description="A test.")
    return tmp_path / "model"


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_saved_and_loaded_models_agree(tokenizer: PreTrainedTokenizerBase, tmp_path: Path, architecture: str) -> None:
    model = new_model(tokenizer, **SHAPE, seed=1, architecture=architecture)
    model.config.use_cache = False  # as a trainer leaves it
    save_policy(model, tokenizer, tmp_path)
    loaded = load_policy(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(model(ids).logits, loaded(ids).logits)
    assert loaded.config.use_cache
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert loaded.config.eos_token_id == loaded.generation_config.eos_token_id == tokenizer.eos_token_id
    assert loaded.config.pad_token_id == loaded.generation_config.pad_token_id == tokenizer.pad_token_id
    assert load_tokenizer(tmp_path).chat_template == tokenizer.chat_template
    card = (tmp_path / "README.md").read_text()
    assert f"{model.num_parameters():,} parameters" in card
    assert type(model).__name__ in card


def test_half_precision_folders_are_half_the_size_and_load_in_fp32(tokenizer: PreTrainedTokenizerBase,
                                                                  folder: Path, tmp_path: Path) -> None:
    model = load_policy(folder)
    save_policy(model, tokenizer, tmp_path / "half", dtype="bfloat16")
    sizes = [(place / "model.safetensors").stat().st_size for place in (folder, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = load_policy(tmp_path / "half")
    assert loaded.dtype == model.dtype == torch.float32
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight.bfloat16().float())
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto").dtype == torch.bfloat16


def test_a_new_model_comes_from_its_seed_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = (new_model(tokenizer, **SHAPE, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert one.config.vocab_size == len(tokenizer)
    with pytest.raises(UserError, match="multiple of 2 x num_heads"):
        new_model(tokenizer, **(SHAPE | {"hidden_size": 34}), seed=0)


def test_pickled_weights_are_refused(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*\.safetensors.*pytorch_model\.bin.*refused"):
        load_policy(folder)


def test_code_that_comes_with_a_model_is_never_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mine", "auto_map": {
        "AutoModelForCausalLM": "modeling.Mine", "AutoConfig": "modeling.MineConfig"}}))
    (folder / "modeling.py").write_text("raise SystemExit('was run')")
    with pytest.raises(UserError, match="model_type 'mine' needs code"):
        load_policy(folder)


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    build_tokenizer(["profit fell by nine percent in the third quarter"] * 20, vocab_size=300).save_pretrained(folder)
    with pytest.raises(UserError, match="belongs to another model"):
        load_policy(folder)


def test_a_tokenizer_keeps_its_own_rules_beside_a_model_of_any_type(tokenizer: PreTrainedTokenizerBase,
                                                                    folder: Path) -> None:
    """Qwen2's, which AutoTokenizer takes for every model of that type, glue a space to no digit."""
    config = json.loads((folder / "config.json").read_text())
    text = "revenue was 46 million"
    for model_type in ("llama", "qwen2", "gemma"):
        (folder / "config.json").write_text(json.dumps(config | {"model_type": model_type}))
        loaded = load_tokenizer(folder)
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"] and len(loaded) == len(tokenizer)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        load_policy(tmp_path)
    with pytest.raises(UserError, match="no such model folder"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_base_model_without_template_or_pad_token_gets_them(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    bare = build_tokenizer(["revenue was 46 million"] * 20, vocab_size=290)
    bare.chat_template, bare.pad_token = None, None
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    bare.save_pretrained(folder)
    loaded = load_tokenizer(folder)
    assert loaded.chat_template == PLAIN_TEMPLATE
    assert loaded.pad_token_id == loaded.eos_token_id
    prompt = render_prompt(loaded, [{"role": "user", "content": "revenue?"}])
    assert loaded.decode(prompt) == "user: revenue?\nassistant: "


def test_without_an_end_token_nothing_could_end(folder: Path) -> None:
    bare = build_tokenizer(["revenue was 46 million"] * 20, vocab_size=290)
    bare.eos_token = None
    bare.save_pretrained(folder)
    with pytest.raises(UserError, match="no EOS token"):
        load_tokenizer(folder)


def test_a_whole_folder_is_one_that_loads(folder: Path) -> None:
    check_loads(folder)
    (folder / "model.safetensors").unlink()  # still to be fetched
    check_loads(folder)


@pytest.mark.parametrize(("name", "change", "said"), [
    ("config.json", {"model_type": "of my own"}, "model_type 'of my own' needs code that comes with the model"),
    ("config.json", {"hidden_size": 64}, r"in the weights, but config.json makes it \[.*64"),
    ("config.json", {"intermediate_size": 40}, r"is \[32, 48\] in the weights, but config.json makes it \[32, 40\]"),
    ("config.json", {"num_hidden_layers": 2}, "config.json speaks of model.layers.1.*, which the weights do not hold"),
    ("config.json", {"num_attention_heads": "two"}, "transformers cannot load this model"),
    ("config.json", {"tie_word_embeddings": False}, "config.json speaks of lm_head.weight"),
    ("tokenizer_config.json", {"eos_token": None}, "no EOS token"),
    ("chat_template.jinja", "{% for", "its chat template cannot write a question and an answer"),
    ("chat_template.jinja", "{{ raise_exception('no user') }}", "no user"),
    ("chat_template.jinja", "Hello!", "leaves out what was said"),
    ("generation_config.json", "{", "generation_config.json: cannot be used"),
])
def test_a_folder_that_could_not_be_trained_is_found(folder: Path, name: str, change: str | dict[str, object],
                                                     said: str) -> None:
    path = folder / name
    path.write_text(change if isinstance(change, str) else json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=said):
        check_loads(folder)
    if name == "config.json":
        with pytest.raises(UserError, match=said):
            load_policy(folder)
