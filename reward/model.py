"""A reward model: a causal LM, the trunk, and a small head that turns what it sees in a completion into one score.

What the score is made of, `features`, with h the trunk's last hidden state at the completion's last token (EOS where it
was written), v learnt from zero, and y_t the completion's tokens, EOS included, never the prompt's:

    scalar       v.h                                                     the stock form
    likelihood   v.h + a * sum_t log p(y_t)
    regret       v.h + a * sum_t r_t + b * min_t r_t,   r_t = log p(y_t) - max_y log p(y)

In a small causal LM the prediction of the next token exists only at the top layer, one position before the token it
could be compared with, so h alone hardly tells right from wrong; the two others hand the comparison over. Regret is 0
for whatever the trunk would have written itself, so that it pays nothing for confident, repetitive text, which a
likelihood does. A constant offset centres the scores. The module knows no stage and no trainer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from data.chat import completion_ids, render_prompt
from data.schema import Completion, Question, UserError
from data.tokenizer import read_tokenizer
from reward import Scores
from reward.completion_states import READ_TOKENS, batches, completion_states

FEATURES = ("scalar", "likelihood", "regret")
LOGITS_LIMIT = 1 << 27  # logits kept for the backward pass; beyond it they are recomputed chunk by chunk


class RewardModel(nn.Module):
    """Scores (prompt, completion) rows. Gradients reach the trunk through every feature."""

    head_files: ClassVar[tuple[str, str]] = ("reward.json", "reward.safetensors")  # settings, weights
    made: ClassVar[str] = "reward model"

    def __init__(self, trunk: PreTrainedModel, *, features: str = "likelihood") -> None:
        super().__init__()
        if features not in FEATURES:
            raise UserError(f"features must be one of {', '.join(FEATURES)}, not {features!r}")
        self.trunk, self.features = trunk, features
        options: dict[str, Any] = {"dtype": torch.float32, "device": trunk.device}
        self.direction = nn.Parameter(torch.zeros(trunk.config.get_text_config().hidden_size, **options))
        self.offset = nn.Parameter(torch.zeros(1, **options))  # one number each, as vectors: FSDP2 takes no scalars
        if features != "scalar":
            self.token_weight = nn.Parameter(torch.ones(1, **options))
        if features == "regret":
            self.worst_weight = nn.Parameter(torch.zeros(1, **options))

    def forward(self, input_ids: Tensor, completion_mask: Tensor) -> Tensor:
        """(rows, length) ids and 0/1 mask of the completion's tokens, padded on the right -> (rows,) scores.

        A row without a completion is scored at its first token.
        """
        prompts, completions = split_rows(input_ids, completion_mask)
        states = completion_states(self.trunk.base_model, prompts, completions)  # (B, T + 1, D)
        last = torch.tensor([len(tokens) for tokens in completions], device=states.device)  # (B,)
        scores = states[torch.arange(len(last), device=states.device), last].float() @ self.direction + self.offset
        if self.features == "scalar" or not last.any():
            return scores
        ids, mask = pad_rows([((), tokens) for tokens in completions])  # (B, T)
        tokens = self._token_scores(states[:, :-1], ids.to(states.device), mask.to(states.device))
        scores = scores + self.token_weight * tokens.sum(dim=1)
        if self.features == "regret":
            scores = scores + self.worst_weight * tokens.amin(dim=1)  # regrets are <= 0, so the 0s never win
        return scores

    def _token_scores(self, before: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Each token's log p, or regret, by the state before it: (B, T, D), (B, T), (B, T) -> (B, T), 0 where the mask
        is. Logits exist only for what the mask lets through."""
        mask = mask.bool()
        states, targets = before[mask], tokens[mask]
        head = self.trunk.get_output_embeddings()
        vocabulary = head.weight.size(0)
        if states.size(0) * vocabulary <= LOGITS_LIMIT:
            values = self._compare(states, head, targets)
        else:
            size = max(1, LOGITS_LIMIT // (8 * vocabulary))
            values = torch.cat([checkpoint(self._compare, some, head, few, use_reentrant=False)
                                for some, few in zip(states.split(size), targets.split(size), strict=True)])
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    def _compare(self, states: Tensor, head: nn.Module, targets: Tensor) -> Tensor:
        logits = head(states).float()  # (tokens, vocabulary)
        if self.features == "likelihood":
            return -F.cross_entropy(logits, targets, reduction="none")
        return logits.gather(1, targets[:, None])[:, 0] - logits.amax(dim=1)

    @torch.no_grad()
    def score(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *,
              max_tokens: int = READ_TOKENS) -> Tensor:
        """(N,) scores on the CPU, in the rows' order, for prompt ids and completion ids (EOS included if written).

        Rows of one prompt, or of like length, share a batch of at most `max_tokens` tokens.
        """
        scores, was_training = torch.empty(len(prompts)), self.training
        self.eval()
        for batch in batches(prompts, completions, range(len(prompts)), max_tokens,
                             trunk=self.trunk.base_model):
            ids, mask = pad_rows([(prompts[row], completions[row]) for row in batch])
            scores[batch] = self(ids.to(self.device), mask.to(self.device)).float().cpu()
        self.train(was_training)
        return scores

    @torch.no_grad()
    def standardise(self, scores: Tensor) -> None:
        """Rescales the head so that rows which now have these scores get mean 0 and variance 1.

        Sums of log-probabilities span tens of nats; an untrained model would be sure of every pair, rightly or not.
        """
        spread = float(scores.std()) if scores.numel() > 1 else 0.0
        factor = 1 / spread if spread > 0 else 1.0
        for name, parameter in self.named_parameters():
            if not name.startswith("trunk."):
                parameter.mul_(factor)
        self.offset.sub_(float(scores.mean()) * factor)

    @property
    def device(self) -> torch.device:
        return self.direction.device

    @property
    def config(self) -> Any:
        """The trunk's; this and what follows are what trainers ask of a Hugging Face model."""
        return self.trunk.config

    @property
    def _no_split_modules(self) -> Any:
        return self.trunk._no_split_modules

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        self.trunk.gradient_checkpointing_enable(**options)

    def add_model_tags(self, tags: list[str]) -> None:
        """Nothing: the folder has its own card."""

    def head_state(self) -> dict[str, Tensor]:
        """All weights but the trunk's, single numbers as scalars."""
        return {name: value.detach().cpu().reshape(value.shape if name == "direction" else ())
                for name, value in self.state_dict().items() if not name.startswith("trunk.")}

    def save(self, folder: str | Path, tokenizer: PreTrainedTokenizerBase, *,
             trunk_state: dict[str, Tensor] | None = None) -> None:
        """A Hugging Face folder of the trunk and its tokenizer, plus reward.json and reward.safetensors.

        `trunk_state` is what to save of a trunk whose own state is not that of its class.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.trunk.config.use_cache = True  # trainers switch it off
        self.trunk.save_pretrained(folder, state_dict=trunk_state)
        tokenizer.save_pretrained(folder)
        settings, weights = self.head_files
        save_file(self.head_state(), folder / weights)
        (folder / settings).write_text(json.dumps({"features": self.features}) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, *, dtype: str = "float32") -> Self:
        """The model of a folder that `save` wrote. Raises UserError where a file is missing or does not fit."""
        folder = Path(folder)
        missing = [name for name in cls.head_files if not (folder / name).is_file()]
        if missing:
            raise UserError(f"{folder}: no {' and no '.join(missing)}, so this is not a {cls.made}'s folder")
        trunk = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="sdpa", use_safetensors=True,
            trust_remote_code=False, local_files_only=True)
        features = json.loads((folder / cls.head_files[0]).read_text(encoding="utf-8")).get("features")
        model = cls(trunk, features=features)
        model.load_head(folder)
        return model

    def load_head(self, folder: Path) -> None:
        path = folder / self.head_files[1]
        state, wanted = load_file(path), self.head_state()
        shapes = [{name: value.shape for name, value in values.items()} for values in (state, wanted)]
        if shapes[0] != shapes[1]:
            raise UserError(f"{path}: holds {sorted(state)}, which does not fit features="
                            f"{self.features} and this trunk ({sorted(wanted)})")
        self.load_state_dict({name: value.reshape(-1) for name, value in state.items()}, strict=False)


def pad_rows(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[Tensor, Tensor]:
    """(prompt ids, completion ids) rows -> ids and completion mask, (rows, longest), padded on the right with 0."""
    longest = max(len(prompt) + len(completion) for prompt, completion in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for row, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        ids[row, :end] = torch.tensor([*prompt, *completion], dtype=torch.long)
        mask[row, len(prompt):end] = 1
    return ids, mask


def split_rows(input_ids: Tensor, completion_mask: Tensor) -> tuple[list[list[int]], list[list[int]]]:
    """What `pad_rows` put together; a prompt has its row's first token at least."""
    starts = completion_mask.argmax(dim=1)
    ends = (starts + completion_mask.sum(dim=1)).tolist()
    rows = list(zip(input_ids.tolist(), starts.clamp_min(1).tolist(), ends, strict=True))
    return [ids[:start] for ids, start, _ in rows], [ids[start:end] for ids, start, end in rows]


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of all that decides which ids a text gets."""
    rules = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else json.dumps(tokenizer.get_vocab())
    parts = [rules, str(tokenizer.chat_template), str(tokenizer.eos_token_id)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class ModelReward:
    """A reward model as a `Reward`: questions and completions in, scores out.

    Sampled token ids are scored as they are where the policy's tokenizer is the reward model's own; otherwise the text
    is tokenised anew, with the reward model's EOS if the completion came to its end.
    """

    def __init__(self, model: RewardModel, tokenizer: PreTrainedTokenizerBase,
                 policy_tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.same_ids = policy_tokenizer is not None and fingerprint(policy_tokenizer) == fingerprint(tokenizer)

    @classmethod
    def load(cls, folder: str | Path, policy_tokenizer: PreTrainedTokenizerBase | None = None, *,
             device: str | torch.device = "cpu", dtype: str = "float32") -> ModelReward:
        return cls(RewardModel.load(folder, dtype=dtype).to(device), read_tokenizer(Path(folder)), policy_tokenizer)

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        prompts = [render_prompt(self.tokenizer, question) for question in questions]
        scores = self.model.score(prompts, [self._ids(completion) for completion in completions]).tolist()
        return Scores(total=scores, parts={"reward_model": scores})

    def _ids(self, completion: Completion) -> Sequence[int]:
        if self.same_ids and completion.token_ids:
            return completion.token_ids
        return completion_ids(self.tokenizer, completion.text, completion.finish_reason == "stop")
