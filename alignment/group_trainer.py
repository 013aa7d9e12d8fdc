"""What GRPO and RLOO share: TRL's trainers on this project's engines, rewards and questions.

TRL takes its own steps on its own losses and advantages. What it learns from comes from alignment/group_rollouts.py:
it never generates, and never looks at padding to know where a completion ends. Of several processes each goes through
all of its steps, on the log-probabilities of all rows; a row's are computed, and led back to the weights, by one of
them.
"""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
import trl.import_utils as trl_imports
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignment.adapters import adapted, trainable
from alignment.device import placed
from alignment.experience import Batch
from alignment.group import Group, stand_alone
from alignment.group_rollouts import GroupRollouts, Rollout, token_logprobs
from alignment.kinds import Grpo, Rloo
from alignment.layout import ALONE
from alignment.models import load_policy, load_tokenizer, save_policy
from alignment.question_pool import dev_questions, draw, greedy_accuracy, question_pool
from alignment.rewards import make_reward
from alignment.rollout import make_engine
from alignment.rollout.rows import Prompted
from alignment.stage import Stage
from alignment.stats import Estimate
from alignment.trainers import StageTrainer, has_plain_head, quiet, training_arguments
from data.schema import UserError
from reward import RewardError
from reward.mixture import Scale

_is_vllm_available = trl_imports.is_vllm_available
trl_imports.is_vllm_available = lambda min_version=None: False  # or these trainers import it, which takes seconds
try:
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
finally:
    trl_imports.is_vllm_available = _is_vllm_available

__all__ = ["GRPOConfig", "GRPOTrainer", "GroupTrainer", "RLOOConfig", "RLOOTrainer", "group_arguments", "train"]

RESULT_ITERATIONS = 10  # the last ones, over which reward and KL are averaged for the result
REFERENCE = "reference"  # in TRL's place for the reference model: its log-probabilities are in the rollout


class _EndOfIteration(TrainerCallback):
    """Before an iteration's line is logged: what belongs into it."""

    def __init__(self, trainer: GroupTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        iteration, rest = divmod(state.global_step, self.trainer.unit_steps)
        if not rest:
            self.trainer.end_iteration(iteration)


class GroupTrainer(StageTrainer):
    """The mixin: name it before the TRL trainer, `class MyTrainer(GroupTrainer, GRPOTrainer)`, whose `_generate` then
    calls `roll`. A dataset's `prompt` is a question's place in the pool."""

    metric_names = MappingProxyType({"entropy": "entropy", "clip_ratio/region_mean": "clip_fraction"})
    unit = "iteration"
    by_accelerate = False
    args: Any
    beta: Any
    ref_model: Any
    rollout: Rollout

    def __init__(self, *, rollouts: GroupRollouts, stage: Stage, dev: Prompted, args: Any) -> None:
        self.rollouts, self.dev = rollouts, dev
        config: Grpo | Rloo = stage.config
        self.unit_steps = config.steps_per_iteration
        order = [index for iteration in range(config.num_iterations)
                 for index in draw(len(rollouts.pool.questions), config.num_prompts, iteration, stage.seed)]
        super().__init__(model=rollouts.policy, args=args, reward_funcs=[self.paid], stage=stage, memory=rollouts,
                         train_dataset=Dataset.from_dict({"prompt": order}), processing_class=rollouts.tokenizer)
        vars(self.model).pop("forward")  # TRL's output layer: ours leaves out what no loss asks for
        self.beta, self.ref_model = config.kl_coefficient, REFERENCE
        self.add_callback(_EndOfIteration(self))

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:  # the last forward pass before an optimizer step
            self.group.add_gradients([parameter for _, parameter in trainable(self.model)])
        return loss

    def roll(self, chosen: Sequence[int]) -> Rollout:
        """The rollout of the questions at these places, each as often as it has completions."""
        self.rollout = self.rollouts.roll(chosen, self.state.global_step // self.unit_steps)
        self.line |= self.rollout.metrics
        self.rolled = time.perf_counter()
        return self.rollout

    def end_iteration(self, iteration: int) -> None:
        config: Grpo | Rloo = self.stage.config
        self.line["seconds_update"] = time.perf_counter() - self.rolled
        if iteration % config.eval_every == 0 and iteration < config.num_iterations:
            self.line["dev_accuracy"] = self.dev_accuracy().value

    def dev_accuracy(self) -> Estimate:
        return greedy_accuracy(self.rollouts.engine, self.model, self.rollouts.tokenizer, self.dev,
                               self.stage.config.max_new_tokens)

    def paid(self, **kwargs: Any) -> list[float]:
        """What TRL asks of a reward function; a rollout is scored where it is made."""
        found: list[float] = self.rollout.final.tolist()
        return found

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        try:
            output = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        except RewardError:  # nothing has changed yet, so that all up to here can be kept
            if self.state.global_step:
                self._save_checkpoint(self.model, None)
            raise
        return trained_on(output, self.rollout.kept, parts=self.args.steps_per_generation)

    def _get_per_token_logps_and_entropies(self, model: Any, input_ids: Tensor, attention_mask: Tensor,
                                           logits_to_keep: int, *args: Any, **kwargs: Any
                                           ) -> tuple[Tensor, Tensor | None, None]:
        """Log-probabilities and entropies (B, C) of the completions' tokens, C = `logits_to_keep`; 0 at padding."""
        if not torch.is_grad_enabled():  # before the update, of the whole rollout
            seen = self.rollout.batch
            return (seen.reference_logprobs if model is REFERENCE else seen.old_logprobs), None, None
        batch = without_padding(input_ids, attention_mask.bool(), logits_to_keep)
        rows = self.group.mine(range(len(batch.prompts)))
        logprobs, entropies = (input_ids.new_zeros(batch.mask.shape, dtype=torch.float32) for _ in range(2))
        if rows:
            found = token_logprobs(self.model, batch, rows, self.stage.config, with_entropy=True)
            for values, tokens in zip((logprobs, entropies), found, strict=True):
                assert tokens is not None
                batch.fill(values, rows, tokens)
        else:  # so that there is something to lead back, if only to 0
            logprobs = logprobs + 0.0 * next(weight for _, weight in trainable(self.model)).sum()
        logprobs, entropies = self._with_others(logprobs), self._with_others(entropies)
        spare = (0, logits_to_keep - batch.mask.shape[1])
        return torch.nn.functional.pad(logprobs, spare), torch.nn.functional.pad(entropies, spare), None

    def _with_others(self, values: Tensor) -> Tensor:
        """A process's rows of a table that is 0 elsewhere, and everyone else's, through which no gradient goes."""
        if self.group.size == 1:
            return values
        everyone = values.detach().clone()
        self.group.add([everyone])
        return values + (everyone - values.detach())


def trained_on(output: dict[str, Tensor], kept: Sequence[int], *, parts: int) -> dict[str, Tensor]:
    """TRL's rollout cut to the `kept` rows, and as many others, which count for nothing, as it takes to make equal
    `parts` of it."""
    total = len(output["completion_ids"])
    left_out = sorted(set(range(total)) - set(kept))[:-len(kept) % parts]
    rows = torch.tensor([*kept, *left_out], device=output["completion_ids"].device)
    output = {name: value[rows] if value.ndim and len(value) == total else value for name, value in output.items()}
    counts = torch.arange(len(rows), device=rows.device) < len(kept)
    output["advantages"] = output["advantages"] * counts
    output["tool_mask"] = output["completion_mask"] * counts[:, None]  # TRL's name for the tokens that count
    output["num_items_in_batch"] = output["tool_mask"].sum()
    return output


def without_padding(input_ids: Tensor, real: Tensor, completion_width: int) -> Batch:
    """TRL's rows, (B, P + C): prompts padded on the left, completions on the right."""
    rows = [(ids[:-completion_width][mask[:-completion_width]].tolist(),
             ids[-completion_width:][mask[-completion_width:]].tolist())
            for ids, mask in zip(input_ids, real, strict=True)]
    return Batch.of([prompt for prompt, _ in rows], [completion for _, completion in rows], input_ids.device)


def group_arguments(stage: Stage) -> dict[str, Any]:
    """Keyword arguments that both of TRL's config classes take."""
    config: Grpo | Rloo = stage.config
    if stage.layout != ALONE:
        stand_alone()
    return training_arguments(dataclasses.replace(stage, layout=ALONE)) | {
        "save_steps": config.save_every * config.steps_per_iteration, "logging_first_step": False,
        "bf16": False,  # the precision is that of `token_logprobs`; the engine has its own
        "num_generations": config.num_samples, "generation_batch_size": config.num_prompts * config.num_samples,
        "num_iterations": config.num_epochs, "max_completion_length": config.max_new_tokens,
        "temperature": config.temperature, "epsilon": config.clip_range, "epsilon_high": config.clip_range_high,
        "beta": 0.0,  # at first, or TRL would load a reference of its own
        "disable_dropout": True, "shuffle_dataset": False, "router_aux_loss_coef": 0.0}


def train(stage: Stage, trainer_class: type[GroupTrainer], args: Any, *, method: str) -> None:
    """Trains the policy, measures it, leaves its folder in `stage.output`."""
    quiet()
    config: Grpo | Rloo = stage.config
    group = Group.of(stage)
    tokenizer, policy = load_tokenizer(stage.inputs["policy"]), placed(load_policy(stage.inputs["policy"]))
    if not has_plain_head(policy):
        raise UserError(f"{stage.name}: {method} cannot train a model of type {policy.config.model_type!r}: it changes "
                        "its logits after the output layer")
    reference = None if config.lora_rank else copy.deepcopy(policy).requires_grad_(False).eval()
    policy = adapted(policy, config, seed=stage.derive("adapter"))
    pool, dev = question_pool(stage, tokenizer, policy), dev_questions(stage, tokenizer, policy)
    engine = make_engine(stage.inputs["policy"], stage.rollout, max_length=max(pool.max_length, dev.max_length),
                         model=policy, group=group, serving=stage.serving)
    scales: dict[str, Scale] = {}
    rollouts = GroupRollouts(config, policy, reference=reference, tokenizer=tokenizer, engine=engine, pool=pool,
                             reward=make_reward(stage, tokenizer, scales, rehearsal=pool.questions[:2]), scales=scales,
                             seed=stage.seed, group=group)
    trainer = trainer_class(rollouts=rollouts, stage=stage, dev=dev, args=args)
    trainer.run()
    final = trainer.dev_accuracy()
    stage.log(config.num_iterations, dev_accuracy=final.value)
    engine.close()
    if stage.leads:
        save_policy(policy, tokenizer, stage.output, name=stage.name,
                    description=f"Aligned by {method} in finalign's stage `{stage.name}`: {config.num_iterations} "
                                f"iterations of {config.num_prompts * config.num_samples} completions.")
    last = trainer.history[-RESULT_ITERATIONS:]
    stage.result(dev_accuracy=final.to_json(), **{name: statistics.fmean(metrics[name] for metrics in last)
                                                  for name in ("reward", "reward_rule", "kl_sequence", "truncated")})
