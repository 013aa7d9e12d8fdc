"""What every stage that trains through TRL shares: arguments, optimizer, checkpoints that resume, logging, silence.

`StageTrainer` is mixed into TRL's trainers. A checkpoint counts only once its marker is written, so one that a kill cut
short is never resumed; resumed and uninterrupted training give the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import datasets
import torch
import torch.nn.functional as F
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import align_special_tokens
from transformers.utils import SAFE_WEIGHTS_NAME
from transformers.utils import logging as transformers_logging
from trl import SFTTrainer

from alignment.adapters import trainable
from alignment.checkpoints import CHECKPOINTS, Termination, delete_broken, end_checkpoint, latest_checkpoint
from alignment.group import Group
from alignment.kinds import GroupTraining, TrainingConfig
from alignment.layout import DEEPSPEED, Layout, share_rows
from alignment.optim import make_optimizer
from alignment.sharding import load_trained, trained_state
from alignment.shares import Part, ShareCollator, parts
from alignment.stage import Stage
from data.schema import UserError

SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
LOGITS_LIMIT = 1 << 27  # logits kept for the backward pass; beyond it they are recomputed chunk by chunk
ALTERED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier",
                  "output_multiplier")  # config keys of models whose logits are not just hidden @ head


class Memory(Protocol):
    """What a stage remembers beside the trainer's own state, such as its best weights so far. All its processes save
    and load; the leading one alone writes."""

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...


def quiet() -> None:
    """No bars, prints or warnings of the training libraries: a stage speaks through its events alone."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for name in ("trl", "accelerate", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(trl|transformers|accelerate)\.")


def training_arguments(stage: Stage) -> dict[str, Any]:
    """Keyword arguments for TRL's config classes from a stage's config.

    Raises UserError where the batch cannot be split into the micro-batches asked for.
    """
    config: TrainingConfig | GroupTraining = stage.config
    cuda = torch.cuda.is_available()
    micro, passes = share_rows(config, stage.layout.world, where=stage.name)
    return {
        "output_dir": str(stage.scratch / CHECKPOINTS), "max_steps": config.max_steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": passes,
        "learning_rate": config.learning_rate, "lr_scheduler_type": SCHEDULES[config.schedule],
        "warmup_steps": config.warmup_steps, "max_grad_norm": config.max_grad_norm,
        "bf16": config.precision == "bf16", "use_cpu": not cuda, "dataloader_pin_memory": cuda,
        "ddp_find_unused_parameters": False,
        "gradient_checkpointing": config.gradient_checkpointing,
        "logging_steps": config.log_every, "logging_first_step": True, "logging_nan_inf_filter": False,
        "save_strategy": "steps", "save_steps": config.save_every, "save_total_limit": None,  # ours: end_checkpoint
        "eval_strategy": "no", "remove_unused_columns": False, "report_to": "none", "disable_tqdm": True,
        "log_level": "error", "seed": stage.derive("train"), "data_seed": stage.derive("order"),
        **strategy_arguments(stage.layout, config),
    }


def strategy_arguments(layout: Layout, config: TrainingConfig | GroupTraining) -> dict[str, Any]:
    """What has Accelerate share a model out by the layout's strategy; nothing where every process keeps all of it."""
    if layout.world == 1 or layout.strategy == "ddp":
        return {}
    if layout.strategy in DEEPSPEED:
        return {"deepspeed": {
            "zero_optimization": {"stage": int(layout.strategy.removeprefix("zero")), "overlap_comm": True,
                                  "stage3_gather_16bit_weights_on_model_save": True},
            "bf16": {"enabled": config.precision == "bf16"}, "gradient_clipping": "auto",
            "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
            "zero_allow_untested_optimizer": True}}
    return {"fsdp": True, "gradient_checkpointing": False, "fsdp_config": {
        "version": 2, "reshard_after_forward": True, "activation_checkpointing": config.gradient_checkpointing}}


IN_FORCE = {DistributedType.MULTI_CPU: ("ddp",), DistributedType.MULTI_GPU: ("ddp",), DistributedType.FSDP: ("fsdp",),
            DistributedType.DEEPSPEED: DEEPSPEED}


def check_strategy(layout: Layout, found: DistributedType) -> None:
    """Raises UserError where Accelerate would train by another strategy than was asked for: it says nothing itself."""
    if layout.world > 1 and layout.strategy not in IN_FORCE.get(found, ()):
        raise UserError(f"launch.strategy={layout.strategy}: Accelerate would train by {found.value} here; use "
                        "launch.strategy=ddp, or a machine with GPUs")


class _Progress(TrainerCallback):
    """Moves the stage's bar, a few times a second at most."""

    def __init__(self, trainer: StageTrainer) -> None:
        self.trainer, self.last = trainer, 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        now = time.monotonic()
        if self.trainer.stage.leads and (now - self.last > 0.25 or state.global_step >= state.max_steps):
            self.last = now
            done, total = (steps // self.trainer.unit_steps for steps in (state.global_step, state.max_steps))
            self.trainer.stage.progress(done, total, unit=self.trainer.unit)


class _StopWhenAsked(TrainerCallback):
    """On SIGTERM: a checkpoint at the end of the step, or of the unit of steps, and no further step.

    The checkpoint does not say that training is to stop, unless that was its last step anyway: see `has_ended`.
    """

    def __init__(self, termination: Termination, group: Group, unit_steps: int) -> None:
        self.termination, self.group, self.unit_steps = termination, group, unit_steps
        self.asked = self.stopped = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.asked = self.group.any(self.termination.asked)  # by all in the same step
        if self.asked and state.global_step % self.unit_steps == 0:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.asked and not control.should_training_stop:
            self.stopped = control.should_training_stop = True


def has_ended(state: TrainerState) -> bool:
    """Whether the step of a checkpoint was the last one; the trainer would add another."""
    callbacks: Any = state.stateful_callbacks
    return bool(callbacks["TrainerControl"]["args"]["should_training_stop"])


class StageTrainer(Trainer):
    """The mixin: name it before the TRL trainer, `class MyTrainer(StageTrainer, DPOTrainer)`."""

    metric_names: Mapping[str, str] = MappingProxyType({})  # TRL's name of a metric -> ours, beside those all have
    row_tokens: Callable[[dict[str, Any]], int] | None = None  # what a loss without labels is a mean over, of a row
    by_accelerate = True  # whether Accelerate shares out batches and models; else the trainer does itself
    unit, unit_steps = "step", 1  # what is counted on the screen and in the log, and how many optimizer steps it has
    model: Any

    def __init__(self, *args: Any, stage: Stage, memory: Memory | None = None, **kwargs: Any) -> None:
        self.stage, self.memory, self.group = stage, memory, Group.of(stage)
        self.line: dict[str, float] = {}  # metrics for the next line of the log, beside TRL's
        self.history: list[dict[str, float]] = []  # all lines, those before a restart included
        self._parts: Iterator[Part] = iter(())
        super().__init__(*args, **kwargs)
        if self.by_accelerate:
            check_strategy(stage.layout, self.accelerator.distributed_type)
        self.remove_callback(PrinterCallback)
        self.add_callback(_Progress(self))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            config: TrainingConfig | GroupTraining = self.stage.config
            self.optimizer = make_optimizer(
                self.model if model is None else model, optimizer=config.optimizer, learning_rate=config.learning_rate,
                muon_learning_rate=config.muon_learning_rate, weight_decay=config.weight_decay)
        return self.optimizer

    def run(self) -> None:
        """Trains, from the last complete checkpoint where a restart left one. SystemExit after SIGTERM, which leaves a
        checkpoint of the step it came in."""
        folder = self.stage.scratch / CHECKPOINTS
        checkpoint = latest_checkpoint(folder)
        if checkpoint is not None and self.memory is not None:
            self.memory.load(checkpoint)
        if self.stage.leads:
            delete_broken(folder)
        self.history = [line for _, line in self.stage.resume_log(checkpoint)]
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
            if has_ended(state):
                self.state = state
                self._load_from_checkpoint(str(checkpoint))
                align_special_tokens(self.model, self.processing_class)  # as `train` does first
                return
        with Termination() as termination:
            stop = _StopWhenAsked(termination, self.group, self.unit_steps)
            self.add_callback(stop)
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if stop.stopped:
            sys.exit(128 + signal.SIGTERM)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches one process would see; of several, each takes its rows of them."""
        if self.group.size == 1 or not self.by_accelerate:
            return super().get_train_dataloader()
        rows: Any = self.train_dataset
        collator: Any = self.data_collator
        loader: DataLoader[Any] = DataLoader(
            rows, batch_size=self._train_batch_size * self.group.size, sampler=self._get_train_sampler(),
            collate_fn=ShareCollator(collator, self.group, type(self).row_tokens),
            pin_memory=self.args.dataloader_pin_memory)
        return prepare_data_loader(
            loader, self.accelerator.device, num_processes=1, process_index=0, put_on_device=True,
            use_seedable_sampler=True, data_seed=self.accelerator.dataloader_config.data_seed)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._parts = iter(parts(batches, self.group))
        return batches, count

    def part(self) -> Part:
        """Of the next forward pass of an optimizer step."""
        return next(self._parts, Part())

    def over_all(self, mean: Tensor, part: Part) -> float:
        """The mean over all rows, of which `mean` is that over this process's."""
        if self.group.size == 1:
            return mean.item()
        total = part.rows * mean
        self.group.add([total])
        return total.item() / self.group.size

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.by_accelerate or self.stage.leads:  # where not, every process takes itself for the leading one
            Trainer._save_checkpoint(self, model, trial)  # not TRL's, which adds a model card each time
        folder = self.stage.scratch / CHECKPOINTS / f"checkpoint-{self.state.global_step}"
        if self.memory is not None:
            self.memory.save(folder)
        self.group.wait()  # for what each of them has written
        if self.stage.leads:
            self.stage.save_log(folder)
            end_checkpoint(folder)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """A checkpoint's weights: what training changes, as the rest is that of the stage's input."""
        assert output_dir is not None
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        state = trained_state(self.model) if state_dict is None else {
            name: state_dict[name] for name, _ in trainable(self.model)}
        save_file({name: value.contiguous() for name, value in state.items()}, Path(output_dir) / SAFE_WEIGHTS_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.model, load_file(Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One line of metrics.jsonl. Raises FloatingPointError where training has diverged."""
        super().log(logs, start_time)
        step, loss = self.state.global_step, logs.get("loss")
        if loss is None:  # the summary at the end
            return
        if not math.isfinite(loss):
            raise FloatingPointError(f"{self.stage.name}: the loss is {loss} at step {step}; lower the learning rate")
        names = {"loss": "loss", "grad_norm": "grad_norm", "learning_rate": "learning_rate", **self.metric_names}
        line = {ours: logs[theirs] for theirs, ours in names.items() if theirs in logs} | self.line
        self.stage.log(step // self.unit_steps, **line)
        self.history.append(line)
        self.line = {}

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # counting parameters at every step is not free

    def _send_telemetry(self) -> None:
        """None leaves this program."""


class LanguageModelTrainer(StageTrainer, SFTTrainer):
    """Next-token loss on the rows of alignment/packing.py.

    On one CPU process the LM head runs only where there is a label, without TRL's entropy and token accuracy; otherwise
    TRL's fused head does it.
    """

    def __init__(self, *args: Any, stage: Stage, **kwargs: Any) -> None:
        super().__init__(*args, stage=stage, **kwargs)
        self.plain_head = (self.accelerator.num_processes == 1 and self.args.device.type == "cpu"
                           and has_plain_head(self.model))

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False,
                     num_items_in_batch: Tensor | int | None = None) -> Any:
        if not self.plain_head or return_outputs:
            return super().compute_loss(model, inputs, return_outputs=return_outputs,
                                        num_items_in_batch=num_items_in_batch)
        total, count = labelled_nll(model, inputs)
        return total / max(1, int(count if num_items_in_batch is None else num_items_in_batch))


def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether the model's logits are its last hidden states times its head, and nothing more."""
    config = model.config.get_text_config()
    return all(getattr(config, key, None) in (None, 1.0) for key in ALTERED_LOGITS)


def labelled_nll(model: PreTrainedModel, inputs: dict[str, Tensor]) -> tuple[Tensor, int]:
    """(sum of -log p over the labelled tokens, their number) of a batch of rows; logits exist only at those tokens."""
    hidden = model.base_model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"],
                              use_cache=False).last_hidden_state  # (rows, length, width)
    labels = inputs["labels"][:, 1:]
    learnt = labels != -100
    states, targets = hidden[:, :-1][learnt], labels[learnt]  # (tokens, width), (tokens,)
    head = model.get_output_embeddings()
    if states.size(0) * head.weight.size(0) <= LOGITS_LIMIT:
        return _nll(states, head, targets), targets.numel()
    rows = max(1, LOGITS_LIMIT // (8 * head.weight.size(0)))
    parts = [checkpoint(_nll, some, head, few, use_reentrant=False)
             for some, few in zip(states.split(rows), targets.split(rows), strict=True)]
    return torch.stack(parts).sum(), targets.numel()


def _nll(states: Tensor, head: torch.nn.Module, targets: Tensor) -> Tensor:
    return F.cross_entropy(head(states).float(), targets, reduction="sum")
