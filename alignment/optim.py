"""Muon in fp32 for a transformer's weight matrices and AdamW for the rest, as one torch optimizer.

Muon (Jordan 2024, kellerjordan.github.io/posts/muon) replaces a matrix's momentum by its nearest semi-orthogonal
matrix, found by a quintic Newton-Schulz iteration, and Moonshot's scale 0.2*sqrt(max(rows, columns)) (Liu et al. 2025,
arXiv:2502.16982) makes the update's RMS that of AdamW's. `torch.optim.Muon` iterates in bfloat16, which is emulated on
CPUs without it and then costs 350-1400 ms a step for a 1M model; this one iterates in the gradient's precision and
stacks matrices of one shape into batched products.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a*x + b*x^3 + c*x^5: steepest at 0 that keeps singular values in 0.7..1.2
STACK_LIMIT = 1 << 25  # elements orthogonalised in one batched product: bounds the temporary memory


def orthogonalise(matrices: Tensor, *, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """The approximate nearest semi-orthogonal matrix U V^T of each U S V^T in a stack (matrices, rows, columns).

    Singular values end in about 0.7..1.2, not at 1: enough for Muon and cheaper than convergence.
    """
    transposed = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if transposed else matrices  # rows <= columns: the Gram matrix below is the smaller one
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)  # Frobenius >= spectral norm: singular values <= 1
    iterate = _iterate_gram if x.size(-1) >= 2 * x.size(-2) else _iterate
    x = iterate(x, steps)
    return x.mT if transposed else x


def _iterate(x: Tensor, steps: int) -> Tensor:
    """Newton-Schulz: X <- (a + b G + c G^2) X with G = X X^T, `steps` times."""
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT  # (matrices, rows, rows)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _iterate_gram(x: Tensor, steps: int) -> Tensor:
    """The same on G alone, for wide matrices: equal to `_iterate` but for rounding, with fewer operations.

    Every factor P = a + b G + c G^2 is a polynomial in X X^T, so they commute: G <- P G P, and their product meets X
    once, at the end.
    """
    a, b, c = COEFFICIENTS
    gram, product = x @ x.mT, None
    for step in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else factor @ product
        if step < steps - 1:
            gram = factor @ gram @ factor
    return x if product is None else product @ x


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(matrices for Muon, all other trainable parameters): embeddings, heads, norms, biases and the factors of a LoRA
    adapter, whose product is the matrix, stay with AdamW."""
    outside = {id(parameter) for name, module in model.named_modules() for parameter in module.parameters(recurse=False)
               if isinstance(module, nn.Embedding) or name.split(".")[-1] in ("lm_head", "embed_out", "score", "head")
               or ".lora_" in name}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.ndim == 2 and id(parameter) not in outside]
    chosen = {id(parameter) for parameter in matrices}
    return matrices, [parameter for parameter in trainable if id(parameter) not in chosen]


class MuonAdamW(torch.optim.Optimizer):
    """One optimizer with two algorithms; each param group names its own as `algorithm: "muon" | "adamw"`.

    Both decay weights decoupled: p <- p (1 - lr * weight_decay) before the update. State and learning-rate schedules
    work as with any torch optimizer, so trainers save, load and schedule it without knowing.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, momentum: float = 0.95, steps: int = 5,
                 betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8, weight_decay: float = 0.0) -> None:
        defaults = {"lr": 1e-3, "algorithm": "adamw", "momentum": momentum, "steps": steps, "betas": betas, "eps": eps,
                    "weight_decay": weight_decay, "fused": True}  # loading then puts the step beside its parameter
        super().__init__(groups, defaults)
        for group in self.param_groups:
            if group["algorithm"] not in ("muon", "adamw"):
                raise ValueError(f"algorithm must be muon or adamw, not {group['algorithm']!r}")
            if group["algorithm"] == "muon" and any(parameter.ndim != 2 for parameter in group["params"]):
                raise ValueError("Muon is for matrices; give vectors and higher tensors to adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                (self._muon if group["algorithm"] == "muon" else self._adamw)(group, parameters)
        return loss

    def _muon(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for alike in _same_shape(parameters):
            gradients = _gradients(alike)
            buffers = []
            for parameter in alike:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                buffers.append(state["momentum"])
            torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
            nesterov = torch._foreach_lerp(gradients, buffers, group["momentum"])
            directions = orthogonalise(torch.stack(nesterov), steps=group["steps"])  # (matrices, rows, columns)
            if group["weight_decay"]:
                torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"])
            scale = 0.2 * max(alike[0].shape) ** 0.5
            torch._foreach_add_(alike, list(directions.unbind()), alpha=-group["lr"] * scale)

    def _adamw(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Loshchilov & Hutter 2019, algorithm 2."""
        states = [self.state[parameter] for parameter in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                state.update(step=torch.zeros((), dtype=torch.float32, device=parameter.device),
                             exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
        adamw(
            parameters, _gradients(parameters), [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states], [], [state["step"] for state in states], fused=True,
            amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"],
            weight_decay=group["weight_decay"], eps=group["eps"], maximize=False)


def _gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _same_shape(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters of one shape together, in runs whose stack stays below STACK_LIMIT elements."""
    by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        by_shape[parameter.shape].append(parameter)
    for shape, alike in by_shape.items():
        count = max(1, STACK_LIMIT // shape.numel())
        for start in range(0, len(alike), count):
            yield alike[start:start + count]


def make_optimizer(model: nn.Module, *, optimizer: str, learning_rate: float, muon_learning_rate: float,
                   weight_decay: float) -> MuonAdamW:
    """The optimizer of a training config. Vectors (norms, biases) and embeddings never decay."""
    matrices, rest = split_parameters(model)
    factors = {id(parameter) for name, parameter in model.named_parameters() if ".lora_" in name}
    algorithm, rate = ("muon", muon_learning_rate) if optimizer == "muon" else ("adamw", learning_rate)
    groups = [{"params": matrices, "algorithm": algorithm, "lr": rate, "weight_decay": weight_decay},
              {"params": [parameter for parameter in rest if id(parameter) in factors], "algorithm": "adamw",
               "lr": learning_rate, "weight_decay": weight_decay},
              {"params": [parameter for parameter in rest if id(parameter) not in factors], "algorithm": "adamw",
               "lr": learning_rate, "weight_decay": 0.0}]
    return MuonAdamW([group for group in groups if group["params"]])
