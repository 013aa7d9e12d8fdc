"""Muon against torch's own, against the singular value decomposition, and the composite optimizer's bookkeeping."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from alignment.optim import MuonAdamW, _iterate, _iterate_gram, make_optimizer, orthogonalise, split_parameters


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                                        num_key_value_heads=2, intermediate_size=48, tie_word_embeddings=True))


def gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 16, 24), (2, 16, 48), (2, 48, 16), (1, 1, 8)])
def test_orthogonalise_keeps_singular_vectors_and_flattens_singular_values(shape: tuple[int, ...]) -> None:
    """U and V of the input stay, and each singular value ends near 1: the closed form is U V^T."""
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
    result = orthogonalise(matrices)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    inside = left.mT @ result @ right.mT  # diagonal where the singular vectors are kept
    diagonal = inside.diagonal(dim1=-2, dim2=-1)
    assert torch.allclose(inside, torch.diag_embed(diagonal), atol=1e-9)
    large = values > 0.05 * values.amax(dim=-1, keepdim=True)
    assert diagonal[large].min() > 0.6
    assert diagonal.max() < 1.3
    assert diagonal.min() > 0


def test_the_short_cut_for_wide_matrices_is_the_same_iteration() -> None:
    """On G alone and on X itself, also where singular values span four decades."""
    for decades in (0, 4):
        wide = torch.randn(3, 16, 48) * torch.logspace(0, -decades, 16)[:, None]
        wide = wide / wide.norm(dim=(-2, -1), keepdim=True)
        difference = (_iterate(wide, 5) - _iterate_gram(wide, 5)).abs()
        assert difference.max() < 1e-3
        assert difference.mean() < 1e-5


def test_orthogonalise_is_scale_free_and_odd() -> None:
    matrix = torch.randn(1, 12, 20, dtype=torch.float64)
    assert torch.allclose(orthogonalise(matrix), orthogonalise(1e3 * matrix), atol=1e-9)
    assert torch.allclose(orthogonalise(matrix), -orthogonalise(-matrix))


def test_a_step_equals_torchs_muon() -> None:
    """Same update as torch.optim.Muon up to its bfloat16 iteration, over several steps with momentum and decay."""
    ours, theirs = llama(), llama()
    matrices, _ = split_parameters(ours)
    muon = MuonAdamW([{"params": matrices, "algorithm": "muon", "lr": 0.02, "weight_decay": 0.1}])
    reference = torch.optim.Muon(split_parameters(theirs)[0], lr=0.02, momentum=0.95, nesterov=True, weight_decay=0.1,
                                 adjust_lr_fn="match_rms_adamw")
    start = copy.deepcopy(ours)
    for step in range(3):
        for model, optimizer in ((ours, muon), (theirs, reference)):
            gradients(model, step)
            optimizer.step()
    for old, one, other in zip(split_parameters(start)[0], matrices, split_parameters(theirs)[0], strict=True):
        moved, moved_there = one - old, other - old
        assert (moved - moved_there).norm() < 0.02 * moved_there.norm()
        assert (moved - moved_there).abs().mean() < 0.02 * moved_there.abs().mean()


def test_muons_update_has_the_root_mean_square_of_adamws() -> None:
    model = llama()
    matrices, _ = split_parameters(model)
    before = [parameter.detach().clone() for parameter in matrices]
    gradients(model, 0)
    MuonAdamW([{"params": matrices, "algorithm": "muon", "lr": 1.0}]).step()
    for old, new in zip(before, matrices, strict=True):
        size = math.sqrt(float(((new.detach() - old) ** 2).mean()))
        assert 0.12 < size < 0.26  # 0.2 at singular values of 1


def test_the_rest_follows_torchs_adamw_exactly() -> None:
    ours, theirs = llama(), llama()
    optimizer = make_optimizer(ours, optimizer="adamw", learning_rate=3e-3, muon_learning_rate=9.0, weight_decay=0.1)
    matrices, rest = split_parameters(theirs)
    reference = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
                                  lr=3e-3, betas=(0.9, 0.95), fused=True)
    for step in range(3):
        gradients(ours, step)
        gradients(theirs, step)
        optimizer.step()
        reference.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


def test_embeddings_heads_and_vectors_are_left_to_adamw() -> None:
    model = llama()
    matrices, rest = split_parameters(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(parameter)].split(".")[-2] for parameter in matrices} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert "model.embed_tokens.weight" in {names[id(parameter)] for parameter in rest}
    assert len(matrices) + len(rest) == len(list(model.parameters()))
    model.model.layers[0].requires_grad_(False)
    assert len(split_parameters(model)[0]) == 7


def test_state_goes_to_disk_and_back_without_a_trace() -> None:
    """Two steps, state saved and loaded into a new optimizer, one more step: the same weights, bit for bit."""
    model = llama()
    settings = {"optimizer": "muon", "learning_rate": 1e-2, "muon_learning_rate": 1e-2, "weight_decay": 0.1}
    optimizer = make_optimizer(model, **settings)
    for step in range(2):
        gradients(model, step)
        optimizer.step()
    twin = copy.deepcopy(model)
    resumed = make_optimizer(twin, **settings)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, its in ((model, optimizer), (twin, resumed)):
        gradients(each, 2)
        its.step()
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), twin.parameters(), strict=True))
    assert {group["algorithm"] for group in resumed.param_groups} == {"muon", "adamw"}


def test_schedules_scale_both_learning_rates() -> None:
    optimizer = make_optimizer(llama(), optimizer="muon", learning_rate=1e-3, muon_learning_rate=5e-3, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [2.5e-3, 5e-4]
    assert schedule.get_last_lr() == [2.5e-3, 5e-4]


def test_what_muon_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="matrices"):
        MuonAdamW([{"params": [nn.Parameter(torch.zeros(3))], "algorithm": "muon"}])
    with pytest.raises(ValueError, match="algorithm"):
        MuonAdamW([{"params": [nn.Parameter(torch.zeros(3))], "algorithm": "sgd"}])
