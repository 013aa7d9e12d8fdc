"""The kinds of stage a recipe can name: for each its typed config, the inputs it takes and what it makes.

Pure declarations: nothing here imports torch, and nothing here runs. A key's default, help, limits and whether it can
change the result (keys that cannot are left out of a stage's identity) are said once, here and in the rooms
beside it, alignment/keys.py and alignment/preference_kinds.py.
"""

from __future__ import annotations

import dataclasses
import fnmatch

from alignment.keys import StageConfig, Watched, key
from alignment.preference_kinds import Judge, Pairs, Sample


@dataclasses.dataclass(kw_only=True)
class Adapter(StageConfig):
    """Keys of every stage that can train a low-rank adapter in place of all weights."""

    lora_rank: int = key(0, "rank of a LoRA adapter on a frozen model; 0 = train all weights", low=0)
    lora_alpha: int | None = key(None, "the adapter's scale times its rank; default: twice the rank", low=1)
    lora_dropout: float = key(0.0, "dropout on the adapter's inputs in training; PPO, GRPO and RLOO have none",
                               low=0, high=1)
    lora_targets: list[str] = key(["all-linear"], "names of the linear layers to adapt, e.g. [q_proj, v_proj]; "
                                                  "all-linear = all of the body's, not the head")


@dataclasses.dataclass(kw_only=True)
class Optimised(Adapter):
    """Keys of every stage whose steps TRL's trainers take."""

    micro_batch_size: int | None = key(None, "rows per forward pass; smaller saves memory, default: the whole batch",
                                       low=1)
    optimizer: str = key("adamw", "muon = Muon for the body's matrices and AdamW for the rest",
                         choices=("adamw", "muon"))
    learning_rate: float = key(1e-3, "peak learning rate of AdamW", low=0)
    muon_learning_rate: float = key(5e-3, "peak learning rate of Muon (RMS-matched to AdamW's)", low=0)
    weight_decay: float = key(0.0, "decoupled weight decay", low=0)
    warmup_steps: int = key(10, "steps of linear warm-up", low=0)
    schedule: str = key("cosine", "learning-rate schedule", choices=("constant", "linear", "cosine"))
    max_grad_norm: float = key(1.0, "gradient clipping by global norm", low=0)
    precision: str = key("fp32", "bf16 only where the processor has it natively", choices=("fp32", "bf16"))
    gradient_checkpointing: bool = key(False, "recompute activations to save memory")


@dataclasses.dataclass(kw_only=True)
class TrainingConfig(Optimised):
    """Keys of every stage that trains on rows it is given."""

    max_steps: int = key(200, "optimizer steps", low=1)
    batch_size: int = key(16, "sequences (packed rows, or pairs) per optimizer step, over all processes", low=1)
    log_every: int = key(10, "steps between lines in metrics.jsonl", low=1, identity=False)
    save_every: int = key(200, "steps between resumable checkpoints", low=1, identity=False)


@dataclasses.dataclass(kw_only=True)
class Pretrain(TrainingConfig):
    """Continual pre-training on documents, packed with documents isolated. Also trains the embedded base model."""

    initial: str = key("input", "input = continue from the input model; random = a new model of the shape below",
                       choices=("input", "random"))
    architecture: str = key("qwen3", "type of a new model (measured: Qwen3's QK-norm learns arithmetic faster)",
                            choices=("llama", "qwen3"))
    hidden_size: int = key(128, "width of a new model", low=8)
    num_layers: int = key(6, "layers of a new model", low=1)
    num_heads: int = key(4, "attention heads of a new model (32 wide each at the default size)", low=1)
    intermediate_size: int = key(352, "width of a new model's MLP", low=8)
    vocab_size: int = key(1200, "entries of a new model's tokenizer, trained on the stage's documents", low=300)
    max_length: int = key(256, "tokens per packed row", low=16)
    num_domain: int = key(4000, "domain documents (finance textbook) to draw", low=0)
    num_general: int = key(1500, "general documents to draw (replay against forgetting)", low=0)
    num_drills: int = key(1500, "arithmetic drill documents to draw", low=0)
    num_problems: int = key(0, "everyday word problems to draw", low=0)
    dev_documents: int = key(60, "held-out documents of each kind, whose loss is measured before and after", low=1)
    dataset: str | None = key(None, "a JSONL or Parquet file with a `text` column, in place of the data source")
    save_dtype: str = key("float32", "of the weights on disk; the embedded base is kept small in float16",
                          choices=("float32", "bfloat16", "float16"))

    def conflict(self) -> str:
        if self.initial == "random" and self.lora_rank:
            return f"lora_rank={self.lora_rank}: an adapter on a new model would leave its random weights frozen; use 0"
        return ""


@dataclasses.dataclass(kw_only=True)
class Sft(TrainingConfig):
    """Supervised fine-tuning on worked solutions; stops at the best step on the dev questions."""

    num_examples: int = key(800, "worked solutions to train on (0 = all the source has)", low=0)
    max_length: int = key(256, "tokens per packed row; longer examples are dropped and counted", low=16)
    packing: bool = key(True, "pack several examples into a row, isolated from each other")
    eval_every: int = key(20, "steps between dev evaluations; the best one is kept", low=1)
    patience: int = key(4, "dev evaluations without improvement before stopping", low=1)
    dev_examples: int = key(240, "dev questions for choosing the step", low=1)
    select_by: str = key("loss", "what the dev optimum is measured by", choices=("loss", "accuracy"))
    dataset: str | None = key(None, "a TRL-format JSONL/Parquet file or hub dataset in place of the data source")
    from_verdicts: bool = key(False, "train on the completions of input `completions` that input `verdicts` calls "
                                     "correct (rejection-sampling fine-tuning)")


@dataclasses.dataclass(kw_only=True)
class RewardModel(TrainingConfig):
    """Bradley-Terry reward model."""

    features: str = key("likelihood", "what the score is made of; see reward/model.py",
                        choices=("scalar", "likelihood", "regret"))
    max_length: int = key(256, "tokens of prompt and completion; longer pairs are dropped and counted", low=16)
    center_rewards: float = key(0.01, "weight of the penalty on the squared sum of a pair's scores", low=0)


@dataclasses.dataclass(kw_only=True)
class ProcessReward(TrainingConfig):
    """A process reward model: whether each step is right, learnt from a judge's first wrong steps."""

    features: str = key("likelihood", "what a step's score is made of; see reward/process_model.py",
                        choices=("scalar", "likelihood", "regret"))
    max_length: int = key(256, "tokens of prompt and completion; longer completions are dropped and counted", low=16)
    dev_fraction: float = key(0.1, "share of questions held out", low=0, high=0.9)


@dataclasses.dataclass(kw_only=True)
class Critic(TrainingConfig):
    """A small generative judge, which walks through reference and solution side by side; see reward/walk.py."""

    num_examples: int = key(8000, "solutions to learn from, one a question, most of them with a planted error", low=1)
    reworded: float = key(0.1, "share of their steps under another label or the other way round, which are right or "
                               "wrong as before", low=0, high=1)
    marks: bool = key(True, "put a caret behind a wrong line's first difference from the reference's, to be learnt too")
    max_length: int = key(512, "tokens per packed row; longer examples are dropped and counted", low=16)
    num_held_out: int = key(600, "solutions of held-out questions to measure on", low=2)
    eval_every: int = key(200, "steps between measurements on some of them, for the learning curve", low=1,
                          identity=False)
    save_dtype: str = key("float32", "of the weights on disk; the embedded critic is kept small in float16",
                          choices=("float32", "bfloat16", "float16"))


BUILT_IN_REWARDS = ("rule", "rule_steps", "reward_model", "judge", "process_reward")


@dataclasses.dataclass(kw_only=True)
class Rewarded(StageConfig):
    """Keys of every stage whose policy is trained on a reward."""

    rewards: dict[str, str] = key({}, "rewards of your own: name -> FILE.py:FUNCTION or MODULE:FUNCTION, Python code "
                                      "that the stage runs")
    reward_weights: dict[str, float] = key({"rule": 1.0, "reward_model": 0.0},
                                           "weight of each part of the reward; 0 = logged only. Further parts: "
                                           "rule_steps, the share of right steps, each paid where it ends; "
                                           "process_reward, the same by the model of that input; and `rewards`")
    judge_model: str | None = key(None, "the language model that the reward `judge` asks, by its name at judge_url")
    judge_url: str | None = key(None, "its OpenAI-compatible address up to the version, https://host/v1",
                                identity=False)
    judge_key_variable: str | None = key(None, "the environment variable that holds the API key", identity=False)
    judge_task: str = key("outcome", "what it is asked, the reference before it: outcome = right or wrong; "
                                     "outcome_token = how surely right; rubric = grades by the shipped principles",
                          choices=("outcome", "outcome_token", "rubric"))

    def conflict(self) -> str:
        if not any(self.reward_weights.values()):
            return "reward_weights: every weight is 0, so nothing would be rewarded; give one another"
        return super().conflict()


@dataclasses.dataclass(kw_only=True)
class SelfSampling(Rewarded):
    """Keys of every stage that trains a policy on completions of its own."""

    num_iterations: int = key(60, "rollout batches", low=1)
    num_prompts: int = key(192, "questions per rollout batch", low=1)
    num_samples: int = key(1, "completions per question", low=1)
    question_pool: int = key(4000, "distinct training questions to draw from", low=1)
    temperature: float = key(1.0, "sampling temperature of rollouts", low=0)
    max_new_tokens: int = key(96, "completion length limit", low=1)
    reward_normalisation: str = key("none", "running = the sum is divided by the deviation of all sums so far",
                                    choices=("none", "running"))
    truncation_reward: float = key(-1.0, "reward of a truncated completion, in place of the sum; what its steps "
                                         "earned stays")
    min_spread: float = key(0.0, "a question whose scores lie closer together than this is not trained on (just above "
                                 "0: DAPO's dynamic sampling)", low=0)
    num_epochs: int = key(1, "passes over each rollout batch", low=1)
    minibatch_size: int = key(48, "completions per optimizer step", low=1)
    clip_range: float = key(0.2, "policy ratio clip", low=0)
    clip_range_high: float | None = key(None, "upper side of the policy ratio clip, default: clip_range (DAPO)", low=0)
    save_every: int = key(5, "iterations between resumable checkpoints", low=1, identity=False)
    eval_every: int = key(20, "iterations between dev evaluations (logged, not used for selection)", low=1,
                          identity=False)
    dev_examples: int = key(200, "dev questions for those", low=1, identity=False)


@dataclasses.dataclass(kw_only=True)
class Ppo(Adapter, SelfSampling, Watched):
    """Proximal policy optimisation with a critic."""

    truncation: str = key("penalty", "a truncated completion: penalty = scores truncation_reward; mask = is not "
                                     "trained on (DAPO); bootstrap = scores what the critic expects after its last "
                                     "token", choices=("penalty", "mask", "bootstrap"))
    optimizer: str = key("adamw", "muon = Muon for the body's matrices and AdamW for the rest",
                         choices=("adamw", "muon"))
    learning_rate: float = key(3e-4, "the policy's learning rate (AdamW)", low=0)
    muon_learning_rate: float = key(1e-3, "the policy's learning rate (Muon, RMS-matched to AdamW's)", low=0)
    critic_learning_rate: float = key(1e-3, "the critic's learning rate (AdamW)", low=0)
    critic_muon_learning_rate: float = key(2e-3, "the critic's learning rate (Muon)", low=0)
    critic_layers: int | None = key(None, "layers of the trunk that the critic keeps, from below; default: all",
                                    low=1)
    schedule: str = key("constant", "of all four rates over the iterations; linear = down to 0",
                        choices=("constant", "linear"))
    precision: str = key("fp32", "bf16 only where the processor has it natively", choices=("fp32", "bf16"))
    critic_warmup: int = key(2, "first iterations that train the critic alone", low=0)
    critic_from: str = key("policy", "where the critic's trunk starts; shared = a head on the policy's own trunk, "
                                     "trained with it", choices=("policy", "reward_model", "shared"))
    value_coefficient: float = key(0.1, "weight of a shared trunk's value loss beside the policy's", low=0)
    micro_batch_tokens: int = key(2048, "tokens per forward pass, padding included; 1024-2048 is fastest on a CPU",
                                  low=16)
    advantages: str = key("gae", "gae = from the critic; group = a score less the mean of the question's completions, "
                                 "over their deviation, without a critic and with the KL penalty, k3, in the loss "
                                 "(GRPO; Shao et al. 2024)", choices=("gae", "group"))
    group_baseline: bool = key(False, "subtract from a score the mean score of the question's other completions "
                                      "(leave-one-out; Kool et al. 2019); the critic then values what is left")
    gamma: float = key(1.0, "discount", low=0, high=1)
    gae_lambda: float = key(0.95, "GAE's lambda", low=0, high=1)
    critic_lambda: float | None = key(None, "lambda of the critic's targets, default: gae_lambda (decoupled GAE; Yuan "
                                            "et al. 2025, VC-PPO)", low=0, high=1)
    dual_clip: float | None = key(3.0, "bound of the policy loss where the advantage is negative, in advantages; "
                                       "null = none (Ye et al. 2020)", low=1)
    value_clip_range: float | None = key(0.2, "value clip; null = none", low=0)
    importance_cap: float | None = key(None, "bound of the weights that correct for what the engine's probabilities "
                                             "differ from the trainer's; null = no correction", low=0)
    prefetch: bool = key(False, "generate the next iteration's completions while this one's update runs, with the "
                                "weights from before it; takes rollout=server and importance_cap")
    max_update_kl: float | None = key(None, "KL per token of the updated policy from the one that drew the batch, in "
                                            "nats, beyond which the batch's other policy steps are left out", low=0)
    normalisation: str = key("token", "what weighs the same in a loss: every token, or every completion",
                             choices=("token", "sequence"))
    kl_coefficient: float = key(0.02, "weight of the KL penalty to the reference in the reward", low=0)
    kl_target: float | None = key(None, "KL per completion, in nats, that kl_coefficient is steered towards (Ziegler "
                                        "et al. 2019); null = it stays", low=0)
    kl_horizon: int = key(10000, "completions in which that steering can change it at most 1.2-fold", low=1)
    kl_estimator: str = key("k1", "of the KL in the reward: at the tokens drawn (Schulman 2020), or exact = over all "
                                  "next tokens", choices=("k1", "k2", "k3", "exact"))
    kl_top_k: int | None = key(None, "exact over the likeliest next tokens, all others as one; null = over all", low=1)
    entropy_coefficient: float = key(0.0, "weight of the entropy bonus", low=0)
    whiten_advantages: bool = key(True, "zero mean, unit variance over the whole batch")
    imitation_steps: int = key(0, "optimizer steps an iteration spends on imitating the best completions so far "
                                  "(self-imitation; Oh et al. 2018)", low=0)
    imitation_batch_size: int = key(16, "completions per such step", low=1)
    imitation_memory: int = key(4096, "completions remembered for that, the latest", low=1)
    max_grad_norm: float = key(1.0, "gradient clipping by global norm", low=0)

    def conflict(self) -> str:
        if self.num_samples == 1 and (self.group_baseline or self.min_spread or self.advantages == "group"):
            name = "group_baseline" if self.group_baseline else "min_spread" if self.min_spread else "advantages"
            return f"{name}={getattr(self, name)}: compares a question's completions, so num_samples must be 2 or more"
        if self.advantages == "group":
            if self.group_baseline:
                return "group_baseline=True: advantages=group subtracts the group's mean already; leave one out"
            if self.truncation == "bootstrap":
                return "truncation=bootstrap: asks the critic, and advantages=group has none"
        if self.kl_target is not None and not self.kl_coefficient:
            return f"kl_target={self.kl_target}: steers kl_coefficient, which cannot leave 0; start it above"
        if self.prefetch and self.importance_cap is None:
            return ("prefetch=True: trains on what the weights before the last update have written, and importance_cap "
                    "corrects for that; set it, to 2 for example")
        if self.kl_top_k is not None and self.kl_estimator != "exact":
            return f"kl_top_k={self.kl_top_k}: says how kl_estimator=exact sums, but that is {self.kl_estimator}"
        return super().conflict()


@dataclasses.dataclass(kw_only=True)
class GroupTraining(Optimised, SelfSampling):
    """Keys of every stage that trains through TRL on what a question's completions score against each other."""

    num_prompts: int = key(64, "questions per rollout batch", low=1)
    num_samples: int = key(4, "completions per question", low=2)
    truncation: str = key("penalty", "a truncated completion: penalty = scores truncation_reward; mask = is not "
                                     "trained on (DAPO)", choices=("penalty", "mask"))
    minibatch_size: int = key(64, "completions per optimizer step; a divisor of a rollout batch", low=1)
    micro_batch_size: int | None = key(None, "completions per forward pass, a divisor of minibatch_size; smaller saves "
                                             "memory, default: the whole minibatch", low=1)
    learning_rate: float = key(3e-4, "peak learning rate of AdamW", low=0)
    muon_learning_rate: float = key(1e-3, "peak learning rate of Muon (RMS-matched to AdamW's)", low=0)
    warmup_steps: int = key(0, "optimizer steps of linear warm-up", low=0)
    schedule: str = key("constant", "learning-rate schedule over all optimizer steps",
                        choices=("constant", "linear", "cosine"))

    @property
    def steps_per_iteration(self) -> int:
        """Optimizer steps on a rollout batch."""
        return self.num_epochs * (self.num_prompts * self.num_samples // self.minibatch_size)

    @property
    def max_steps(self) -> int:
        """Optimizer steps in all."""
        return self.num_iterations * self.steps_per_iteration

    @property
    def batch_size(self) -> int:
        """Completions per optimizer step."""
        return self.minibatch_size

    @property
    def log_every(self) -> int:
        """Optimizer steps between lines in metrics.jsonl: one line an iteration."""
        return self.steps_per_iteration

    def conflict(self) -> str:
        batch = self.num_prompts * self.num_samples
        if batch % self.minibatch_size:
            return (f"minibatch_size={self.minibatch_size}: must divide the {batch} completions of a rollout batch "
                    "(num_prompts x num_samples)")
        if self.micro_batch_size is not None and self.minibatch_size % self.micro_batch_size:
            return f"micro_batch_size={self.micro_batch_size}: must divide minibatch_size={self.minibatch_size}"
        if not self.temperature:
            return "temperature=0: the completions of a question would be one and the same; sample them"
        return super().conflict()


CLIPPED = ("grpo", "dapo", "dr_grpo", "bnpo", "luspo")  # losses with PPO's clip


@dataclasses.dataclass(kw_only=True)
class Grpo(GroupTraining):
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300) by TRL's trainer, and its descendants."""

    loss: str = key("dapo", "what weighs the same: dapo = every token of a rollout batch (Yu et al. 2025); grpo = "
                            "every completion (Shao et al. 2024); dr_grpo = every token, divided by max_new_tokens "
                            "(Liu et al. 2025); bnpo = every token of a micro-batch; or another objective: cispo "
                            "(arXiv:2506.13585), sapo (2511.20347), luspo (2602.05261), vespo (2602.10693)",
                    choices=(*CLIPPED, "cispo", "sapo", "vespo"))
    scale_rewards: str = key("group", "what a score less its group's mean is divided by: group = the group's deviation "
                                      "(Shao et al. 2024); batch = that of the whole batch; none (Liu et al. 2025)",
                             choices=("group", "batch", "none"))
    importance_level: str = key("token", "whose ratio is clipped: token; sequence = a completion's, the mean over its "
                                         "tokens (GSPO; Zheng et al. 2025)", choices=("token", "sequence"))
    dual_clip: float | None = key(None, "largest ratio where the advantage is negative; null = none (Ye et al. 2020)",
                                  low=1)
    importance_cap: float | None = key(None, "bound of the weights that correct for what the engine's probabilities "
                                             "differ from the trainer's; null = no correction", low=0)
    kl_coefficient: float = key(0.02, "weight of the KL penalty to the reference, k3, in the loss: beta, 0.04 in Shao "
                                      "et al. 2024, 0 in Yu et al. 2025", low=0)
    kl_corrected: bool = key(False, "multiply that penalty by the importance ratio, so that its gradient is the "
                                    "KL's own (DeepSeek-AI 2025, V3.2)")
    entropy_coefficient: float = key(0.0, "weight of the entropy bonus", low=0)

    def conflict(self) -> str:
        levels = {"grpo": ("token", "sequence"), "sapo": ("token", "sequence"), "luspo": ("sequence",)}
        if self.importance_level not in levels.get(self.loss, ("token",)):
            return (f"importance_level={self.importance_level}: loss={self.loss} is defined for the ratios of "
                    f"{levels.get(self.loss, ('token',))[0]}s alone")
        if self.dual_clip is not None and self.loss not in CLIPPED:
            return f"dual_clip={self.dual_clip}: loss={self.loss} has no clip that it could go with; leave it out"
        if self.loss == "cispo" and (self.clip_range_high or 0) < 1:
            return (f"clip_range_high={self.clip_range_high}: of loss=cispo it is the largest ratio itself, so 1 or "
                    "more, such as 5")
        return super().conflict()


@dataclasses.dataclass(kw_only=True)
class Rloo(GroupTraining):
    """REINFORCE with a leave-one-out baseline (Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740) by TRL's
    trainer: a completion is one action, with one ratio."""

    kl_coefficient: float = key(0.02, "weight of the KL penalty to the reference in the reward, k1 summed over a "
                                      "completion", low=0)
    whiten_advantages: bool = key(False, "zero mean, unit variance over the whole batch")


@dataclasses.dataclass(kw_only=True)
class Dpo(TrainingConfig):
    """Preference optimisation: DPO, plain or with NLL on the chosen answers, and TRL's other losses, KTO among them."""

    beta: float = key(0.1, "strength of the pull to the reference", low=0)
    loss: list[str] = key(["sigmoid", "sft"], "TRL loss types, summed; `sft` alone = the NLL-only control; `kto` and "
                                              "`apo_zero_unpaired` stand alone and count single answers, not pairs")
    loss_weights: list[float] = key([1.0, 1.0], "weight of each loss")
    label_smoothing: float = key(0.0, "chance that a preference is the wrong way round, for exo_pair, robust and aot",
                                 low=0, high=0.499)
    process_form: str = key("continue", "what a pair of steps is: continue = the answer begun so far goes on; ask = "
                                        "FinDAP's own form, a user turn of question, begun answer and \"What is the "
                                        "next step?\"", choices=("continue", "ask"))
    precompute_reference: str = key("never", "the reference reads the pairs once before training, not in each step: "
                                             "auto = where the steps go over more than all of them",
                                    choices=("never", "auto", "always"))
    max_length: int = key(256, "tokens of prompt and completion; longer pairs are dropped and counted", low=16)


@dataclasses.dataclass(kw_only=True)
class Evaluate(StageConfig):
    """All policies of the recipe on the same held-out questions. Inputs called `reward_...` are reward models, all
    others policies."""

    num_questions: int = key(1200, "held-out questions", low=1)
    num_samples: int = key(4, "sampled completions per question (mean accuracy, pass@k)", low=1)
    temperature: float = key(1.0, "sampling temperature", low=0)
    max_new_tokens: int = key(96, "completion length limit", low=1)
    num_pairs: int = key(2000, "held-out pairs for the reward model, one a question", low=1)
    best_of: int = key(8, "completions per question for best-of-n and for making the pairs", low=2)
    reward_policy: str = key("sft", "the policy whose samples the reward models are judged on")
    num_documents: int = key(200, "held-out general documents for perplexity", low=1)
    num_drills: int = key(300, "held-out drill expressions", low=1)
    compare: list[str] = key([], "paired differences to report, e.g. 'ppo - sft'")
    bootstrap: int = key(2000, "bootstrap resamples for the 95% intervals", low=100)

    @property
    def questions_drawn(self) -> int:
        """Held-out questions to hold ready: three for each pair, as not all have both a right and a wrong sample."""
        judged = any(role.startswith("reward_") for role in self.inputs)
        return max(self.num_questions, 3 * self.num_pairs if judged else 0)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the controller must know of a kind before it runs one."""

    config: type[StageConfig]
    makes: str  # "model", "completions", "verdicts", "pairs", "reward_model", "process_reward", "evaluation"
    takes: dict[str, str]  # role -> what it must be; a trailing "?" = optional; "*" = any other text
    reads_data: bool = False  # asks the recipe's data source for rows
    uses_rollout: bool = False  # generates text with the rollout engine

    @property
    def trains(self) -> bool:
        """Whether a stage of this kind changes a model."""
        return issubclass(self.config, Adapter)

    def wants(self, role: str) -> str:
        """What an input of this role must be; "" where the kind takes no such role."""
        found = (what for pattern, what in self.takes.items() if fnmatch.fnmatchcase(role, pattern))
        return next(found, "").rstrip("?")


PAID = {"policy": "model", "reward_model": "reward_model?", "process_reward": "process_reward?"}
KINDS: dict[str, Kind] = {
    "pretrain": Kind(Pretrain, "model", {"model": "model?"}, reads_data=True),
    "sft": Kind(Sft, "model", {"model": "model", "completions": "completions?", "verdicts": "verdicts?"},
                reads_data=True, uses_rollout=True),
    "sample": Kind(Sample, "completions", {"policy": "model?"}, reads_data=True, uses_rollout=True),
    "judge": Kind(Judge, "verdicts", {"completions": "completions", "model": "model?"}, uses_rollout=True),
    "pairs": Kind(Pairs, "pairs", {"completions": "completions", "verdicts": "verdicts"}),
    "reward_model": Kind(RewardModel, "reward_model", {"model": "model", "pairs": "pairs"}),
    "process_reward": Kind(ProcessReward, "process_reward", {"model": "model", "completions": "completions",
                                                             "verdicts": "verdicts"}),
    "critic": Kind(Critic, "model", {"model": "model", "completions": "completions?"}, reads_data=True,
                   uses_rollout=True),
    "ppo": Kind(Ppo, "model", PAID, reads_data=True, uses_rollout=True),
    "grpo": Kind(Grpo, "model", PAID, reads_data=True, uses_rollout=True),
    "rloo": Kind(Rloo, "model", PAID, reads_data=True, uses_rollout=True),
    "dpo": Kind(Dpo, "model", {"policy": "model", "pairs": "pairs"}),
    "evaluate": Kind(Evaluate, "evaluation", {"reward_*": "reward_model?", "*": "model"}, reads_data=True,
                     uses_rollout=True),
}
