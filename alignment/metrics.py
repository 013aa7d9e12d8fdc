"""The name of every metric, said once: what it means, its unit and which way is better.

A key is either a name that means the same in every kind of stage, or `kind/name`. `*` stands for a part that a recipe
or a data set supplies (a policy's name, an error's kind). `documented` is how a name is looked up; a test holds every
`stage.log` and `stage.result` in the code to it. Knows no stage and no file.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
from typing import Literal

Better = Literal["higher", "lower", "neither"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """`unit` is "share" (0..1, shown as a percentage), "points" (a difference of shares), "count", "nats", "" ..."""

    meaning: str
    unit: str = ""
    better: Better = "neither"


METRICS: dict[str, Metric] = {
    # Training, any trainer
    "loss": Metric("the training loss of the step, as its trainer defines it", "nats", "lower"),
    "dev_loss": Metric("the loss on the dev split", "nats", "lower"),
    "learning_rate": Metric("the first parameter group's learning rate at this step"),
    "grad_norm": Metric("global norm of the gradient before clipping"),
    "num_tokens": Metric("tokens seen so far", "count"),
    "epoch": Metric("passes over the training set so far"),
    "steps": Metric("optimizer steps taken", "count"),
    "best_step": Metric("the step whose weights were kept", "count"),
    "train_rows": Metric("rows trained on", "count"),
    "dev_rows": Metric("rows of the dev split", "count"),
    "parameters": Metric("trainable parameters of the model", "count"),

    "dev_accuracy": Metric("dev questions whose greedy answer the rule finds right; a truncated one is wrong", "share",
                           "higher"),
    "pair_accuracy": Metric("pairs of the step's batch whose chosen side is ahead", "share", "higher"),
    "margin": Metric("chosen side's score minus the rejected side's, mean over the step's batch", "", "higher"),
    "chosen_logprob": Metric("log-probability of the chosen sides under the policy, sum over tokens", "nats"),
    "rejected_logprob": Metric("log-probability of the rejected sides under the policy, sum over tokens", "nats"),

    # pretrain: `*` is domain, general or drills, the held-out documents of each sort
    "pretrain/*_loss": Metric("mean -log p of a learnt token of these held-out documents, after the stage", "nats",
                              "lower"),
    "pretrain/*_perplexity": Metric("exp of that loss", "", "lower"),
    "pretrain/*_loss_before": Metric("the same loss before the stage", "nats", "lower"),

    # reward_model, dpo: on the dev pairs
    "dpo/chosen_logprob_change": Metric("change of the chosen sides' log-probability by the training, mean", "nats"),
    "dpo/rejected_logprob_change": Metric("change of the rejected sides' log-probability, mean", "nats"),
    "reward_model/accuracy": Metric("dev pairs ranked right (a tie counts half)", "share", "higher"),
    "reward_model/accuracy.*": Metric("the same on the dev pairs of one origin", "share", "higher"),
    "reward_model/margin.*": Metric("chosen side's score minus the rejected side's, mean over the dev pairs of one "
                                    "origin", "", "higher"),
    "reward_model/untrained_accuracy": Metric("the same pairs ranked by the model before training", "share", "higher"),
    "reward_model/length_accuracy": Metric("the same pairs ranked by length, shorter or longer, the stronger of the "
                                           "two", "share", "higher"),
    "reward_model/log_loss": Metric("mean -log sigmoid(score difference) of the dev pairs", "nats", "lower"),
    "reward_model/calibration_error": Metric("expected calibration error of sigmoid(score difference), 10 bins",
                                             "share", "lower"),

    "process_reward/step_accuracy": Metric("held-out steps called right or wrong as the judge does", "share", "higher"),
    "process_reward/right_steps": Metric("held-out steps that are right: the accuracy of calling all of them so",
                                         "share"),
    "process_reward/auc": Metric("chance that a right step scores above a wrong one", "share", "higher"),
    "process_reward/located": Metric("held-out wrong completions whose first step called wrong is the first wrong one",
                                     "share", "higher"),
    "process_reward/false_alarms": Metric("held-out right completions with a step that is called wrong", "share",
                                          "lower"),
    "process_reward/log_loss": Metric("mean -log p of the held-out steps' labels", "nats", "lower"),
    "process_reward/calibration_error": Metric("expected calibration error of the held-out steps' probabilities, 10 "
                                               "bins", "share", "lower"),

    "critic/*agreed*": Metric("held-out solutions called right or wrong as the rule does; `planted`: with errors of "
                              "ours, `policy`: a policy's; by the critic, or by a plain comparison of texts (diff)",
                              "share", "higher"),
    "critic/*located*": Metric("wrong ones in which the quoted first wrong step is the rule's", "share", "higher"),
    "critic/*corrected*": Metric("wrong ones of which, besides, the correction is the rule's to the letter", "share",
                                 "higher"),
    "critic/*false_alarms*": Metric("right ones that are called wrong, or not read", "share", "lower"),

    # sample, judge, pairs
    "questions": Metric("questions in the artifact", "count"),
    "completions": Metric("completions in the artifact", "count"),
    "truncated": Metric("completions that hit the length limit", "share", "lower"),
    "length": Metric("mean tokens of a completion, the end token included", "tokens"),
    "judge/accuracy": Metric("completions whose final answer the judge finds right; a truncated one is wrong",
                             "share", "higher"),
    "judge/solved": Metric("questions with at least one right completion", "share", "higher"),
    "judge/located": Metric("wrong completions in which the first wrong step was found", "share", "higher"),
    "judge/truncated": Metric("completions that hit the length limit; all count as wrong", "share", "lower"),
    "judge/error.*": Metric("wrong completions of this kind of error (`unknown`: none was found)", "count"),
    "replies": Metric("replies of a model behind a URL, or of a local judge, that were used", "count"),
    "requests": Metric("requests sent for them now; the others' replies were kept from before", "count"),
    "prompt_tokens": Metric("tokens the model read for these replies", "count"),
    "completion_tokens": Metric("tokens it wrote", "count"),
    "cost": Metric("what these replies cost, by prompt_price and completion_price", "", "lower"),
    "judge/unreadable.*": Metric("replies to this task that were no verdict, left out", "count", "lower"),
    "judge/comparisons": Metric("comparisons of two completions that could be read, each seen in both orders", "count"),
    "judge/agreed": Metric("comparisons in which both orders say the same", "share", "higher"),
    "judge/decided": Metric("comparisons in which one of the two is preferred", "share"),
    "pairs/pairs": Metric("preference pairs made, train and dev", "count"),
    "pairs/train": Metric("pairs to train on", "count"),
    "pairs/dev": Metric("pairs held out of training, split by question", "count"),
    "pairs/questions": Metric("distinct questions the pairs come from", "count"),
    "pairs/process": Metric("pairs of steps, which continue a begun answer", "count"),
    "pairs/gold": Metric("pairs whose chosen side is the gold solution, not a sample", "count"),
    "pairs/origin.*": Metric("pairs from this origin: rule, ai, human, simulated", "count"),
    "pairs/weight.*": Metric("sum of the weights of the pairs from this origin: its part in the loss"),
    "pairs/strength.*": Metric("strength of the preferences of this origin, mean: 0 barely, 1 clearly"),
    "pairs/shared": Metric("human pairs whose two answers have verdicts as well, one right and one wrong", "count"),
    "pairs/agreement": Metric("of those, pairs in which the human prefers what the verdicts find right", "share",
                              "higher"),
    "pairs/error.*": Metric("pairs whose rejected side goes wrong in this way", "count"),
    "pairs/dropped.*": Metric("pairs, questions or completions left out for this reason", "count"),

    "completions_per_second": Metric("completions generated per second of wall time", "1/s", "higher"),

    # ppo, grpo, rloo, each of one rollout batch unless it says otherwise
    "reward": Metric("mean score of a completion: the weighted parts, or truncation_reward where it was truncated, and "
                     "what its steps earned", "", "higher"),
    "reward_*": Metric("mean of this part of the reward, unweighted, its spans included: rule = the share of right "
                       "answers, rule_steps = the share of a completion's steps that are right", "", "higher"),
    "process_reward": Metric("the part of `reward` that steps earned: weighted sum of a completion's spans, mean", "",
                             "higher"),
    "trained_on": Metric("completions trained on; the rest were of questions whose scores lay within min_spread",
                         "share"),
    "level_questions": Metric("questions whose completions all scored the same, from which a group learns nothing",
                              "share", "lower"),
    "kl": Metric("KL of the policy to the reference per token, k1 estimator", "nats"),
    "kl_sequence": Metric("KL of the policy to the reference per completion, k1 estimator", "nats"),
    "kl_k3": Metric("KL of the policy to the reference per token, k3 estimator: less noisy, never negative", "nats"),
    "kl_exact": Metric("KL of the policy's next token to the reference's, over the vocabulary (or its likeliest "
                       "kl_top_k), mean over tokens", "nats"),
    "kl_coefficient": Metric("weight of the KL penalty in this iteration"),
    "update_kl": Metric("KL per token of the updated policy from the one that drew the batch, k3 estimator, mean over "
                        "the optimizer steps", "nats"),
    "policy_steps": Metric("optimizer steps the policy took", "count"),
    "entropy": Metric("entropy of the policy's next token at the completions' tokens", "nats"),
    "policy_loss": Metric("clipped surrogate, mean per token, without what is added to it"),
    "imitation_loss": Metric("-log-probability per token of the imitated completions, weighted by their gains", "nats",
                             "lower"),
    "value_loss": Metric("half the squared error of the critic, clipped, mean per token", "", "lower"),
    "values": Metric("mean value the critic gave the completions' tokens before the update"),
    "explained_variance": Metric("share of the returns' variance that the critic explained before the update", "share",
                                 "higher"),
    "clip_fraction": Metric("tokens whose gradient the ratio clip stopped", "share"),
    "ratio_mean": Metric("mean importance ratio of the update's tokens; 1 in the first step"),
    "ratio_first": Metric("mean importance ratio of the first optimizer step; 1 but for rounding"),
    "ratio_max": Metric("largest importance ratio of the update's tokens"),
    "policy_grad_norm": Metric("global norm of the policy's gradient before clipping"),
    "critic_grad_norm": Metric("global norm of the critic's gradient before clipping"),
    "logprob_gap_mean": Metric("mean absolute difference of the engine's and the trainer's log-probabilities", "nats",
                               "lower"),
    "logprob_gap_max": Metric("largest absolute difference of the engine's and the trainer's log-probabilities",
                              "nats", "lower"),
    "ppo/dev_accuracy_before": Metric("dev_accuracy of the policy that the stage starts from", "share", "higher"),
    "ppo/dev_lost": Metric("sets of operands with fewer dev questions right than at the best evaluation so far",
                           "count", "lower"),
    "ppo/dev_gained": Metric("sets of operands with more dev questions right than at the best evaluation so far",
                             "count", "higher"),
    "nonfinite_policy": Metric("policy steps left out because their loss or gradient was not finite; 1 where that "
                               "ended the iteration", "count", "lower"),
    "nonfinite_critic": Metric("the same of the critic's steps", "count", "lower"),
    "prefetched": Metric("1 where the completions were generated while the update before ran, with the weights from "
                         "before it", "count"),
    "push_failed": Metric("1 where the engine did not take the policy's weights", "count", "lower"),
    "rollbacks": Metric("times an alarm has led back to an earlier iteration; a line of its own, at that iteration",
                        "count", "lower"),
    "alarms": Metric("times an alarm went off, those of iterations undone since included", "count", "lower"),
    "seconds_generate": Metric("wall time of generation, the weight push included", "s", "lower"),
    "seconds_score": Metric("wall time of rewards, log-probabilities and values", "s", "lower"),
    "seconds_update": Metric("wall time of the optimizer steps", "s", "lower"),

    # evaluate: `*` is a policy's name, or "a - b" for the paired difference of two
    "evaluate/*.greedy": Metric("greedy exact match: held-out questions whose one greedy answer the rule finds right",
                                "share", "higher"),
    "evaluate/*.sampled": Metric("sampled exact match: mean over questions of the share of samples that are right",
                                 "share", "higher"),
    "evaluate/*.pass_at_*": Metric("pass@k: chance that at least one of k samples is right, unbiased estimate "
                                   "(Chen et al. 2021)", "share", "higher"),
    "evaluate/*.truncated": Metric("greedy completions that hit the length limit", "share", "lower"),
    "evaluate/*.length": Metric("mean tokens of a greedy completion", "tokens"),
    "evaluate/*.perplexity": Metric("perplexity per token of held-out general text, teacher-forced, end token "
                                    "left out", "", "lower"),
    "evaluate/*.bits_per_byte": Metric("bits the model needs per UTF-8 byte of the same text; comparable across "
                                       "tokenizers", "bits", "lower"),
    "evaluate/*.drills": Metric("held-out arithmetic drills, in a document of them, whose whole result is the "
                                "model's greedy continuation",
                                "share", "higher"),
    "evaluate/*.cloze": Metric("finance definitions whose missing term is the model's greedy continuation", "share",
                               "higher"),
    # evaluate: `*` is a reward model's role
    "evaluate/*.accuracy": Metric("reward model: held-out pairs, one a question, ranked right (a tie counts half)",
                                  "share", "higher"),
    "evaluate/*.likelihood_accuracy": Metric("the same pairs ranked by the untrained policy's log-likelihood, sum or "
                                             "mean over tokens, the stronger of the two", "share", "higher"),
    "evaluate/*.length_accuracy": Metric("the same pairs ranked by length, shorter or longer, the stronger of the two",
                                         "share", "higher"),
    "evaluate/*.over_likelihood": Metric("accuracy minus likelihood_accuracy, paired", "points", "higher"),
    "evaluate/*.over_length": Metric("accuracy minus length_accuracy, paired", "points", "higher"),
    "evaluate/*.auc": Metric("chance that a right completion scores above a wrong one of any question", "share",
                             "higher"),
    "evaluate/*.calibration_error": Metric("expected calibration error of sigmoid(score difference), 10 bins", "share",
                                           "lower"),
    "evaluate/*.best_of": Metric("accuracy of the completion with the highest score among best_of samples", "share",
                                 "higher"),
    "evaluate/*.best_of_mean": Metric("mean accuracy of those samples: what picking at random gives", "share",
                                      "higher"),
    "evaluate/*.oracle": Metric("questions with at least one right sample: the most that any ranking could reach",
                                "share", "higher"),
    "evaluate/*.best_of_gain": Metric("best_of minus best_of_mean, paired", "points", "higher"),
    "evaluate/*.best_of_likelihood": Metric("accuracy of the sample the untrained policy finds likeliest (sum of "
                                            "log-probabilities)", "share", "higher"),
}


@functools.lru_cache(maxsize=4096)
def documented(name: str, kind: str = "") -> Metric:
    """What `name` means in a stage of this kind. Raises KeyError for a name nobody has documented."""
    for candidate in (f"{kind}/{name}", name):
        if candidate in METRICS:
            return METRICS[candidate]
        for pattern, metric in METRICS.items():
            if "*" in pattern and fnmatch.fnmatchcase(candidate, pattern):
                return metric
    raise KeyError(f"metric {name!r} of a {kind or 'stage'} is not documented in alignment/metrics.py")


def is_documented(name: str, kind: str = "") -> bool:
    """Whether a stage of this kind may report `name`."""
    try:
        documented(name, kind)
    except KeyError:
        return False
    return True
