"""The report: whole, partial and hostile runs give a page that loads and runs nothing."""

from __future__ import annotations

import html.parser
import json
import math
import re
import subprocess
import sys

import pytest

from alignment import charts, report
from alignment.metrics import Metric
from data.schema import UserError
from tests.alignment.fake_run import ACCURACY, fake_run

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }} \u202egnorw\u0007 & \"quoted\" 'too'"
VOID = {"meta"}


class Page(html.parser.HTMLParser):
    """Tags with their attributes, the text, and whether every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)
        self.close()
        self.text = " ".join(self.words)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes <{self.open[-1:]}>"
        self.open.pop()

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def page_of(folder):
    return Page(report.write_report(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = fake_run(tmp_path_factory.mktemp("runs") / "run")
    return folder, page_of(folder)


def is_inert(page):
    """No script, nothing loaded, no handler."""
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "link", "base", "form", "img"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "src", "action", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    return True


def test_the_page_is_well_formed_inert_and_forbids_what_it_does_not_need(whole):
    _, page = whole
    assert page.open == [] and is_inert(page)
    policy = next(attributes["content"] for tag, attributes in page.tags
                  if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "script" not in policy


def test_the_headline_numbers_are_on_the_page(whole):
    folder, page = whole
    found = json.loads((folder / "stages/evaluate/evaluation.json").read_text())
    for name in ACCURACY:
        row = found["policies"][name]["greedy"]
        assert f"{100 * row['value']:.1f}%" in page.text
        assert f"[{100 * row['low']:.1f}%, {100 * row['high']:.1f}%]" in page.text
    gain = found["differences"]["ppo - sft"]["greedy"]
    assert f"{100 * gain['value']:+.1f}" in page.text
    assert f"{100 * found['reward_models']['reward_model']['accuracy']['value']:.1f}%" in page.text


def test_every_section_is_there(whole):
    _, page = whole
    for text in ("Held-out results", "Paired differences", "Reward models", "calibration", "best of n",
                 "Where it is right", "What is forgotten", "Learning curves", "reward against KL",
                 "Samples side by side", "ppo right, sft wrong", "Stages and data", "120 rows kept", "Provenance",
                 "recipe=ppo_fin", "2.13.0", "c0ffee", "avx2"):
        assert text in page.text, text
    assert sum(tag == "svg" for tag, _ in page.tags) >= 12


def test_parts_of_the_reward_share_a_chart(whole):
    folder, _ = whole
    sections = {section["stage"]: section for section in report.curves(report.read_run(folder))}
    titles = [chart["title"] for chart in sections["ppo"]["charts"]]
    assert titles == ["reward against KL", "reward", "kl_sequence", "KL per token", "entropy",
                      "length"]
    assert all(name in sections["ppo"]["charts"][1]["svg"] for name in ("reward_rule", "reward_reward_model"))
    assert sections["sft"]["charts"][0]["title"] == "loss"


def circles(svg):
    """name -> the points of a chart: (root of the KL, value as written)."""
    found = {}
    for name, x, value in re.findall(r"<title>(\w+) ([\d.e-]+): ([^<]+)</title>", svg):
        found.setdefault(name, []).append((float(x), value))
    return found


def test_reward_and_held_out_accuracy_are_drawn_against_the_root_of_the_kl():
    series = {"kl_sequence": [(1, 0.0), (2, 4.0), (3, -0.1), (4, 9.0)], "reward": [(n, n / 10) for n in range(1, 5)],
              "dev_accuracy_before": [(1, 0.5)], "dev_accuracy": [(2, 0.6), (4, 0.3)]}
    chart = report.distance_chart(series)
    assert circles(chart["svg"]) == {
        "reward": [(0, "0.1"), (0, "0.3"), (2, "0.2"), (3, "0.4")],  # an iteration's reward is at its own KL
        "dev_accuracy": [(0, "0.5"), (0, "0.6"), (3, "0.3")]}  # that after iteration 2 at the KL of iteration 3
    assert "root of the KL" in chart["svg"]
    assert report.distance_chart({"reward": [(1, 0.5), (2, 0.6)]}) is None


def test_alarms_are_listed_and_what_was_undone_is_not_drawn(tmp_path):
    folder = fake_run(tmp_path / "run", evaluated=False)
    lines = [{"stage": "ppo", "step": step, "time": 0.0, "reward": reward} for step, reward in
             ((1, 0.1), (2, 0.2), (3, 99.0), (4, 98.0))]
    lines += [{"stage": "ppo", "step": 2, "time": 0.0, "rollbacks": 1.0},
              {"stage": "ppo", "step": 3, "time": 0.0, "reward": 0.3}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = json.loads((folder / "run.json").read_text())
    record["stages"]["ppo"]["notes"] = ["120 rows kept", f"alarm kl, iteration 4: {HOSTILE}",
                                        "roll-back 1 of at most 3"]
    (folder / "run.json").write_text(json.dumps(record))
    page = page_of(folder)
    assert is_inert(page) and "Alarms of ppo" in page.text and "Alarms of sft" not in page.text
    assert page.text.count("alarm kl, iteration 4") == page.text.count("roll-back 1 of at most 3") == 1
    [section] = [section for section in report.curves(report.read_run(folder)) if section["stage"] == "ppo"]
    [chart] = section["charts"]
    assert circles(chart["svg"]) == {"reward": [(1, "0.1"), (2, "0.2"), (3, "0.3")]}


def test_hostile_text_is_shown_and_inert(tmp_path):
    """From a model's answer, a question, a note, an error, a policy's name and the config."""
    folder = fake_run(tmp_path / "run", text=HOSTILE)
    record = json.loads((folder / "run.json").read_text())
    record["stages"]["sft"]["notes"] = [HOSTILE]
    record["stages"]["ppo"] |= {"error": HOSTILE, "status": HOSTILE}
    record |= {"recipe": HOSTILE, "argv": [HOSTILE], "packages": {HOSTILE: HOSTILE},
               "gates": [{"stage": "ppo", "require": HOSTILE, "evidence": HOSTILE, "stopped": True}]}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text(HOSTILE)
    stage = folder / "stages/evaluate"
    found = (stage / "evaluation.json").read_text().replace('"ppo"', json.dumps(HOSTILE)).replace(
        '"net_margin"', json.dumps(HOSTILE))
    (stage / "evaluation.json").write_text(found)
    rows = [json.loads(line) | {"prompt": HOSTILE} for line in (stage / "questions.jsonl").read_text().splitlines()]
    (stage / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = page_of(folder)
    assert page.open == [] and is_inert(page)
    assert "<script>alert(1)</script>" in page.text and "{{ 7 * 7 }}" in page.text
    assert "49" not in re.findall(r"onerror=alert\(2\)>(\S+)", page.text)
    assert "\u202e" not in page.text and "\u0007" not in page.text and "⟨U+202E⟩" in page.text


def test_lone_surrogates_do_not_stop_the_report(tmp_path):
    folder = fake_run(tmp_path / "run")
    rows = (folder / "stages/evaluate/generations.jsonl").read_text().replace("Answer:", "\\ud800")
    (folder / "stages/evaluate/generations.jsonl").write_text(rows)
    assert "ud800" in page_of(folder).text


def test_a_run_without_an_evaluation(tmp_path):
    page = page_of(fake_run(tmp_path / "run", evaluated=False))
    assert page.open == [] and "No evaluation was finished" in page.text
    assert "Learning curves" in page.text and "Held-out results" not in page.text


def test_a_failed_run_names_its_stage_and_error(tmp_path):
    folder = fake_run(tmp_path / "run", evaluated=False)
    record = json.loads((folder / "run.json").read_text())
    record["status"] = "failed"
    record["stages"]["ppo"] = {"kind": "ppo", "identity": "00", "status": "failed", "error": "out of luck"}
    (folder / "run.json").write_text(json.dumps(record))
    text = page_of(folder).text
    assert "Stage ppo failed" in text and "out of luck" in text


def test_a_run_that_was_killed_in_its_first_stage(tmp_path):
    """run.json alone, with a stage that never ended, and half a line of metrics."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({
        "recipe": "ppo_fin", "name": "seed1", "scale": "full", "status": "running", "started": 1.7e9, "seconds": 1.0,
        "stages": {"sft": {"kind": "sft", "identity": "00", "status": "running"}}}))
    (folder / "metrics.jsonl").write_text('{"stage": "sft", "step": 1, "loss": 1.0, "time": 0}\n{"stage": "sf')
    page = page_of(folder)
    assert page.open == [] and "running" in page.text


def test_closed_gates_are_shown(tmp_path):
    folder = fake_run(tmp_path / "run", evaluated=False)
    record = json.loads((folder / "run.json").read_text())
    record |= {"status": "gate closed", "gates": [
        {"stage": "sft", "require": "accuracy >= 0.2", "value": 0.1, "evidence": "accuracy = 0.1", "stopped": True}]}
    (folder / "run.json").write_text(json.dumps(record))
    text = page_of(folder).text
    assert "Gate closed at sft" in text and "accuracy >= 0.2" in text and "accuracy = 0.1" in text


def test_a_policy_without_differences_or_reward_models(tmp_path):
    folder = fake_run(tmp_path / "run")
    path = folder / "stages/evaluate/evaluation.json"
    found = json.loads(path.read_text()) | {"differences": {}, "reward_models": {}}
    path.write_text(json.dumps(found))
    page = page_of(folder)
    assert page.open == [] and "Paired differences" not in page.text and "Reward models" not in page.text


def test_an_evaluation_of_one_model_alone(tmp_path):
    """Nothing to compare with and nothing trained; filled and hollow still say which answers are greedy."""
    folder = fake_run(tmp_path / "run")
    path = folder / "stages/evaluate/evaluation.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"policies": {"model": found["policies"]["ppo"]}, "differences": {},
                                        "reward_models": {}}))
    (folder / "metrics.jsonl").unlink()
    page = page_of(folder)
    assert page.open == [] and "Held-out results" in page.text and "Learning curves" not in page.text
    keys = [attributes["class"] for tag, attributes in page.tags if tag == "i"]
    assert keys == ["key disc", "key ring"]


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"no run\.json"):
        report.write_report(tmp_path)
    assert report.main([str(tmp_path)]) == 2


def test_pairs_are_told_by_source(tmp_path):
    """Counts, weights and strengths of people's and the judge's pairs, and what each reward model makes of them."""
    folder = fake_run(tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    accuracy = {"value": 0.75, "low": 0.5, "high": 0.9, "n": 12}
    record["stages"] |= {
        "pairs": {"kind": "pairs", "metrics": {
            "pairs": 300, "origin.human": 41, "origin.rule": 259, "weight.human": 82.0, "weight.rule": 259.0,
            "strength.human": 0.67, "strength.rule": 1.0, "shared": 16, "agreement": 0.875}},
        "scorer": {"kind": "reward_model", "metrics": {
            "accuracy.human": accuracy, "margin.human": 2.31, "margin.rule": math.nan,
            "accuracy.rule": {"value": 0.62, "low": math.nan, "high": math.nan, "n": 12}}},  # of one question
        "other": {"kind": "reward_model", "metrics": {"accuracy.human": accuracy}}}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text("scorer: {inputs: {pairs: pairs}}\nother: {inputs: {pairs: elsewhere}}\n")
    page = page_of(folder)
    text = " ".join(page.text.partition("Preference pairs by source")[2].partition("Learning curves")[0].split())
    assert "prefer the same answer in 87.5% of 16 comparisons" in text
    assert "human 41 82 0.67 75% [50%, 90%], 12 pairs 2.31" in text
    assert "rule 259 259 1 62% 12 pairs –" in text
    assert "scorer: ranked right" in text and "other: ranked right" not in text
    assert page.open == [] and is_inert(page)


def test_the_report_draws_without_heavy_imports(tmp_path):
    """The page is made in well under a second, so nothing slow may be loaded for it."""
    code = ("import sys, alignment.report as r; assert r.main([sys.argv[1]]) == 0; "
            "print(sorted({'torch', 'matplotlib', 'transformers'} & set(sys.modules)))")
    folder = fake_run(tmp_path / "run")
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


@pytest.mark.parametrize(("value", "unit", "text"), [
    (0.4123, "share", "41.2%"), (0.0987, "points", "+9.9"), (-0.01, "points", "-1.0"), (5.4321, "", "5.43"),
    (None, "share", "–"), (1234.5, "count", "1,234"), (0.00002, "", "2e-05")])
def test_numbers_are_shown_in_their_unit(value, unit, text):
    assert report.shown(value, Metric("m", unit)) == text


@pytest.mark.parametrize(("low", "high", "wanted"), [
    (0, 1, [0, 0.25, 0.5, 0.75, 1.0]), (0.31, 0.58, [0.3, 0.4, 0.5, 0.6]), (-3, 17, [-5, 0, 5, 10, 15, 20])])
def test_ticks_are_round_and_cover_the_range(low, high, wanted):
    assert charts.ticks(low, high) == pytest.approx(wanted)


@pytest.mark.parametrize(("low", "high"), [(5.0, 5.0), (0.0, 0.0), (-1e-9, 1e-9), (1e6, 3e8)])
def test_ticks_of_awkward_ranges(low, high):
    found = charts.ticks(low, high)
    assert 2 <= len(found) <= 12 and found[0] <= low and found[-1] >= high


def test_points_in_one_place_are_drawn():
    assert "<svg" in charts.line_chart([charts.Line("reward", [(0.0, 1.0), (0.0, 2.0)])], title="t")


def test_points_that_are_not_finite_are_left_out():
    values = [(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 0.5)]
    drawn = charts.line_chart([charts.Line("loss", values)], title="t")
    assert drawn.count("<circle") == 2 and "nan" not in drawn and "inf" not in drawn
    assert charts.line_chart([charts.Line("loss", [(0, float("nan"))])], title="t") == ""


def test_the_moving_average():
    zigzag = [(x, float(x % 2)) for x in range(4)]
    assert charts.smoothed(zigzag, window=3) == [(0, 0.5), (1, 1 / 3), (2, 2 / 3), (3, 0.5)]
