"""Each alarm's rule on lines of metrics: silent at its limit, off beyond it, deaf to noise."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from alignment import alarms
from alignment.alarms import AlarmError, Finding, Watch, stopped
from alignment.config import check_limits, load
from alignment.identity import config_part
from alignment.keys import ALARMS, SENSELESS
from alignment.kinds import KINDS, Ppo
from alignment.plan import PlannedStage
from alignment.stats import sign_test
from data.schema import UserError

HEALTHY = {"reward": 0.5, "kl_sequence": 1.0, "length": 36.0, "entropy": 0.06, "truncated": 0.0,
           "logprob_gap_mean": 1e-6, "policy_steps": 2.0}


def config(**changes: Any) -> Ppo:
    return Ppo(**({"gap_limit": 1e-3} | changes))


def found(lines: list[dict[str, float]], **changes: Any) -> list[Finding]:
    """What the last of these lines sets off in a new watch."""
    watch = Watch(config(**changes))
    told: list[Finding] = []
    for step, line in enumerate(lines, 1):
        told = watch.see(step, line)
    return told


def healthy(count: int, **changes: float) -> list[dict[str, float]]:
    return [HEALTHY | changes for _ in range(count)]


def test_every_alarm_has_a_policy_a_rule_and_a_way_out() -> None:
    assert set(ALARMS) == set(alarms.RULES) == set(alarms.REMEDIES) == set(Ppo().alarms)
    assert {name for name, policy in ALARMS.items() if policy == "stop"} == {"nonfinite", "push"}
    finding = Finding("kl", 7, "the KL is 12", trusted=5)
    assert stopped(finding, config()) == (
        "alarm kl, iteration 7: the KL is 12. A higher kl_coefficient, or a lower learning rate, starts the stage "
        "again; a larger kl_budget, or alarms.kl=warn, goes on from the last checkpoint")
    assert stopped(finding, config(alarms={"kl": "rollback"}, max_rollbacks=2)).endswith(
        "It went back max_rollbacks=2 times already; a larger max_rollbacks goes on from the last checkpoint")
    assert issubclass(AlarmError, RuntimeError)


def test_a_healthy_run_sets_nothing_off() -> None:
    draw = random.Random(0)
    lines = [HEALTHY | {"reward": 0.45 + step / 200 + draw.gauss(0, 0.04), "kl_sequence": step / 20,
                        "entropy": 0.077 - step / 2000, "length": 36 + draw.gauss(0, 1),
                        **({"dev_accuracy": 0.46 + step / 300, "dev_lost": 9.0, "dev_gained": 12.0}
                           if step % 10 == 0 else {})} for step in range(1, 41)]
    watch = Watch(config())
    assert [watch.see(step, line) for step, line in enumerate(lines, 1)] == [[]] * 40


@pytest.mark.parametrize(("alarm", "name", "at", "beyond"), [
    ("kl", "kl_sequence", 10.0, 10.01), ("gap", "logprob_gap_mean", 0.001, 0.0011)])
def test_one_iteration_beyond_the_limit_is_enough(alarm: str, name: str, at: float, beyond: float) -> None:
    assert found([*healthy(4), HEALTHY | {name: at}]) == []
    told = found([*healthy(4), HEALTHY | {name: beyond}], alarms={"push": "warn"})
    assert [(finding.alarm, finding.iteration) for finding in told if finding.alarm != "push"] == [(alarm, 5)]
    assert str(told[-1]).startswith(f"alarm {alarm}, iteration 5: ") and f"{beyond:.2g}"[:3] in told[-1].found


@pytest.mark.parametrize(("alarm", "name", "at", "beyond"), [
    ("length", "length", 54.0, 54.1), ("length", "length", 24.0, 23.9), ("entropy", "entropy", 0.012, 0.0119),
    ("truncation", "truncated", 0.25, 0.26)])
def test_three_iterations_running_must_be_beyond_the_limit(alarm: str, name: str, at: float, beyond: float) -> None:
    past, bad = healthy(3), {**HEALTHY, name: beyond}
    assert found([*past, *[HEALTHY | {name: at}] * 9]) == []
    assert found([*past, bad, bad]) == []
    assert found([*past, bad, bad, HEALTHY, bad, bad]) == []
    [told] = found([*past, HEALTHY, bad, bad, bad])
    assert (told.alarm, told.iteration) == (alarm, 7)
    assert told.trusted == 3  # iteration 4 drew from the weights after iteration 3, and was well


def test_a_metric_that_an_iteration_lacks_is_no_sign() -> None:
    warming_up = {name: value for name, value in HEALTHY.items() if name not in ("entropy", "policy_steps")}
    low = HEALTHY | {"entropy": 0.001}
    assert found([*[warming_up] * 5, *healthy(3), low, low, warming_up]) == []
    assert [finding.alarm for finding in found([*[warming_up] * 5, *healthy(3), low, low, low])] == ["entropy"]


def test_the_kl_alarm_trusts_the_state_before_the_one_that_was_sampled() -> None:
    assert [finding.trusted for finding in found([*healthy(4), HEALTHY | {"kl_sequence": 20.0}])] == [3]
    assert [finding.trusted for finding in found([HEALTHY | {"kl_sequence": 20.0}])] == [0]


def test_a_step_that_is_not_finite_is_named() -> None:
    [told] = found([*healthy(2), {"nonfinite_critic": 1.0, "nonfinite_policy": 3.0}])
    assert (told.alarm, told.trusted) == ("nonfinite", 2) and "3 of the policy, 1 of the critic" in told.found


def test_a_push_that_did_not_arrive_shows_against_the_gap_of_equal_weights() -> None:
    still = {name: value for name, value in HEALTHY.items() if name != "policy_steps"}
    coarse = {"logprob_gap_mean": 0.01}  # rounding of 16 bits
    lines = [*[still | coarse] * 2, HEALTHY | coarse]  # the iteration that first moves the policy drew before
    off = {"alarms": {"gap": "off"}}
    assert found([*lines, HEALTHY | {"logprob_gap_mean": 0.05}], **off) == []
    [told] = found([*lines, HEALTHY | {"logprob_gap_mean": 0.051}], **off)
    assert told.alarm == "push" and "0.051" in told.found and "0.01" in told.found
    assert [finding.alarm for finding in found([*healthy(2), HEALTHY | {"logprob_gap_mean": 2e-3}], **off)] == ["push"]
    assert found([*healthy(2), HEALTHY | {"logprob_gap_mean": 9e-4}], **off) == []
    assert [finding.alarm for finding in found([*healthy(2), HEALTHY | {"push_failed": 1.0}])] == ["push"]


def test_the_gap_may_be_larger_in_sixteen_bits() -> None:
    rounding = HEALTHY | {"logprob_gap_mean": 0.02}
    assert [finding.alarm for finding in Watch(Ppo()).see(1, rounding)] == ["gap"]
    assert Watch(Ppo(), coarse=True).see(1, rounding) == []
    assert Watch(Ppo(gap_limit=0.03)).see(1, rounding) == []


# The proxy against the held-out check -----------------------------------------------------------------------------


def run(rewards: list[float], examined: dict[int, tuple[float, int, int]], before: float = 0.5) -> list[Finding]:
    """All that is told of `accuracy` in a run; `examined`: iteration -> accuracy, lost, gained."""
    watch, told = Watch(config()), []
    for step, reward in enumerate(rewards, 1):
        line = HEALTHY | {"reward": reward} | ({"dev_accuracy_before": before} if step == 1 else {})
        if step in examined:
            line |= dict(zip(("dev_accuracy", "dev_lost", "dev_gained"), map(float, examined[step]), strict=True))
        told += [finding for finding in watch.see(step, line) if finding.alarm == "accuracy"]
    return told


RISING = [0.5 + step / 50 + (-1) ** step / 100 for step in range(20)]


def test_a_reward_that_rises_while_held_out_answers_are_lost_is_told() -> None:
    [told] = run(RISING, {10: (0.52, 10, 14), 20: (0.40, 30, 6)})
    assert (told.iteration, told.trusted) == (20, 10)  # the best evaluation
    assert "52.0% after iteration 10 to 40.0% (30 sets of operands lost, 6 gained)" in told.found
    assert [finding.trusted for finding in run(RISING, {10: (0.4, 30, 6)}, before=0.5)] == [0]


def test_neither_of_the_two_is_an_alarm_alone() -> None:
    assert run(RISING, {10: (0.52, 10, 14), 20: (0.50, 12, 8)}) == []  # 12 to 8 is noise
    flat = [0.5 + (-1) ** (step // 2) / 50 for step in range(20)]
    assert run(flat, {10: (0.52, 10, 14), 20: (0.40, 30, 6)}) == []
    assert run(RISING[::-1], {10: (0.52, 10, 14), 20: (0.40, 30, 6)}) == []


def test_too_few_iterations_since_the_best_say_nothing_of_the_reward() -> None:
    assert run(RISING[:5], {5: (0.2, 40, 0)}) == []
    assert len(run(RISING[:6], {6: (0.2, 40, 0)})) == 1


def test_the_more_evaluations_the_stricter_because_the_best_of_them_was_picked() -> None:
    lost, gained = 15, 4  # p = 0.0096
    assert 0.005 < sign_test(lost, gained) < 0.01
    assert len(run(RISING, {20: (0.4, lost, gained)})) == 1
    assert run(RISING, {10: (0.6, 0, 20), 20: (0.4, lost, gained)}) == []


def test_the_sign_test_counts_what_coin_flips_would_do() -> None:
    for losses, gains in itertools.product(range(6), range(6)):
        flips = list(itertools.product((0, 1), repeat=losses + gains))
        assert sign_test(losses, gains) == pytest.approx(sum(sum(flip) >= losses for flip in flips) / len(flips))


def test_noise_seldom_sets_it_off_and_a_real_loss_does() -> None:
    """150 questions, greedy answers that flip for no reason, a reward that rises: ten evaluations a run."""
    def told(fall: float, runs: int) -> int:
        count = 0
        for seed in range(runs):
            draw = random.Random(seed)
            watch, best, keys = Watch(config()), [], range(150)
            for step in range(1, 51):
                line = HEALTHY | {"reward": step / 50 + draw.gauss(0, 0.1)}
                if step % 5 == 0:
                    right = [float(draw.random() < (0.5 if key % 2 else 0.9) - fall * step / 50) for key in keys]
                    if best:
                        lost, gained = alarms.changed(best, right, keys)
                        line |= {"dev_lost": float(lost), "dev_gained": float(gained)}
                    line["dev_accuracy"] = sum(right) / 150
                    best = right if sum(right) > sum(best) else best
                if any(finding.alarm == "accuracy" for finding in watch.see(step, line)):
                    count += 1
                    break
        return count

    assert told(0.0, 60) <= 3 and told(0.3, 15) == 15


def test_questions_that_share_operands_count_once() -> None:
    keys = ["a", "a", "a", "b", "c", "c"]
    assert alarms.changed([1, 1, 1, 0, 1, 0], [0, 0, 1, 1, 0, 1], keys) == (1, 1)  # c changed, but not in sum


# Over a run -------------------------------------------------------------------------------------------------------


def test_a_warning_is_told_once_until_it_has_been_silent() -> None:
    watch, high = Watch(config()), HEALTHY | {"kl_sequence": 20.0}
    lines = [HEALTHY, high, high, HEALTHY, high]
    assert [len(watch.see(step, line)) for step, line in enumerate(lines, 1)] == [0, 1, 0, 0, 1]
    watch = Watch(config(alarms={"kl": "stop"}))  # as in a stage resumed after the key was changed
    assert [len(watch.see(step, line)) for step, line in enumerate(lines, 1)] == [0, 1, 1, 0, 1]
    watch = Watch(config(alarms={"kl": "off"}))
    assert [len(watch.see(step, line)) for step, line in enumerate(lines, 1)] == [0] * 5


def test_a_roll_back_undoes_lines_and_a_second_line_adds_to_its_iteration() -> None:
    watch = Watch(config(alarms={"kl": "rollback"}))
    for step in range(1, 7):
        watch.see(step, HEALTHY | {"reward": float(step)})
    watch.see(4, {"rollbacks": 1.0})
    assert [line["reward"] for line in watch.history] == [1, 2, 3, 4] and watch.returned_to == 4
    watch.see(5, HEALTHY | {"reward": 50.0})
    watch.see(5, {"dev_accuracy": 0.3})
    assert watch.history[4:] == [HEALTHY | {"reward": 50.0, "dev_accuracy": 0.3}]


def test_what_a_roll_back_may_need_is_kept() -> None:
    watch = Watch(config(alarms={"kl": "rollback"}))
    assert watch.needed(0, 5) == {0} and watch.needed(7, 5) == {0, 5} and watch.needed(8, 5) == {5}
    assert watch.needed(8, 1) == {5, 6, 7, 8} and watch.needed(18, 5) == {15}
    watch.returned_to = 10
    assert watch.needed(10, 5) == {10} and watch.needed(12, 5) == {10}
    best = Watch(config(alarms={"accuracy": "rollback"}))
    for step in range(1, 31):
        best.see(step, HEALTHY | ({"dev_accuracy": 0.7 if step == 12 else 0.6} if step % 6 == 0 else {}))
    assert best.needed(30, 5) == {10, 25, 30}


# Keys -------------------------------------------------------------------------------------------------------------


def test_unknown_alarms_and_policies_are_refused_with_the_nearest_one() -> None:
    for override, message in (("ppo.alarms.klx=warn", "ppo.alarms has no key 'klx'; did you mean kl?"),
                              ("ppo.alarms.push=off", "ppo.alarms.push=off: an engine that generates with other")):
        with pytest.raises(UserError) as error:
            load(["recipe=ppo_fin", override])
        assert message in str(error.value)
    for given, message in (({"lenght": "warn"}, "ppo.alarms.lenght: there is no such key; did you mean length?"),
                           ({"kl": "rolback"}, "ppo.alarms.kl=rolback: not one of warn, stop, rollback, off; did you"
                                               " mean rollback?")):
        with pytest.raises(UserError) as error:
            check_limits(Ppo(alarms=given), "ppo")
        assert message in str(error.value)
    for (name, policy), why in SENSELESS.items():
        assert Ppo(alarms={name: policy}).conflict() == f"alarms.{name}={policy}: {why}"
    assert Ppo().conflict() == ""


def test_a_recipe_says_what_differs_and_yaml_may_spell_off_bare(tmp_path: Any) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text("# @package _global_\ndefaults: [ppo_fin, _self_]\n"
                                                   "ppo: {alarms: {kl: rollback, length: off}}\n")
    ppo = load(["recipe=mine", "ppo.alarms.entropy=off"], config_dirs=[str(tmp_path)]).stages["ppo"]
    assert isinstance(ppo, Ppo)
    assert ppo.alarms == ALARMS | {"kl": "rollback", "length": "off", "entropy": "off"}
    tiny = load(["recipe=ppo_fin", "scale=tiny"]).stages["ppo"]
    assert isinstance(tiny, Ppo) and tiny.alarms == ALARMS | {"truncation": "off"}


def test_only_what_can_change_the_weights_is_part_of_a_stages_identity() -> None:
    def part(**changes: Any) -> dict[str, Any]:
        stage = PlannedStage("ppo", KINDS["ppo"], Ppo(kind="ppo", **changes), {})
        return config_part(stage)[0]

    plain = part()
    assert plain == part(alarms={"kl": "stop", "length": "off"}, kl_budget=3.0, save_every=9, max_rollbacks=1)
    rolling = part(alarms={"kl": "rollback"})
    assert rolling.keys() - plain.keys() == {"rolling", "patience", "kl_budget", "rollback_factor", "save_every"}
    assert rolling == part(alarms={"kl": "rollback", "entropy": "stop"}, entropy_floor=0.5, max_rollbacks=9)
    assert rolling != part(alarms={"kl": "rollback"}, save_every=9)
    assert "dev_examples" in part(alarms={"accuracy": "rollback"})
