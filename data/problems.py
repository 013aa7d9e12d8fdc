"""Everyday word problems without finance: numbers told in a sentence, then worked step by step.

They teach a base model to find a number by its name in a text and to carry it into a calculation. The operands are
those of the finance kinds, so the training split never holds an operand tuple of dev or test.
"""

from __future__ import annotations

import random
from fractions import Fraction

from data.finance.generator import SYMBOLS, result_text, split_operands
from data.finance.kinds import KINDS, evaluate, number, parse_step
from data.schema import Document, Language, Split, content_id

NAMES: dict[Language, tuple[str, ...]] = {
    "en": ("books", "lamps", "boats", "hats", "clocks", "chairs", "kites", "keys", "maps", "cups", "bags", "stones",
           "horses", "birds", "rabbits", "cows", "ducks", "apples", "cakes", "eggs", "trees", "roads", "letters",
           "old books", "new books", "red hats", "blue hats", "small boats", "large boats", "green cups", "white cups"),
    "zh": ("书", "灯", "球", "信", "船", "帽子", "椅子", "风筝", "杯子", "石头", "地图", "马", "鸟", "兔子", "牛",
           "鸭子", "苹果", "鸡蛋", "树", "旧书", "新书", "红帽子", "蓝帽子", "小船", "大船", "绿杯子", "白杯子"),
}
PLACES: dict[Language, tuple[str, ...]] = {
    "en": ("village", "town", "school", "market", "farm", "library", "island", "garden"),
    "zh": ("村子", "学校", "花园", "公园", "市场", "城里", "海边"),
}
OPENINGS: dict[Language, tuple[str, ...]] = {
    "en": ("In the {p} there are {f}.", "The {p} has {f}.", "{F} are in the {p}.", "A {p} counts {f}."),
    "zh": ("{p}有{f}。", "在{p}里，有{f}。", "{p}里一共有{f}。"),
}
WORDS: dict[Language, dict[str, tuple[str, ...]]] = {  # how an operation is told
    "en": {"+": ("{a} plus {b}", "{a} and {b} together"), "-": ("{a} less {b}", "{a} without {b}"),
           "*": ("{a} times {b}",), "/": ("{a} over {b}", "{a} divided by {b}"), "%": ("{a} as a share of {b}",)},
    "zh": {"+": ("{a}加{b}", "{a}与{b}一共"), "-": ("{a}减去{b}", "{a}除去{b}"), "*": ("{a}乘以{b}",),
           "/": ("{a}除以{b}",), "%": ("{a}占{b}的比例",)},
}
SCALES: dict[Language, tuple[str, ...]] = {"en": ("", "", " thousand", " million", " billion"),
                                           "zh": ("", "", " 万", " 百万", " 亿")}
BEFORE: dict[Language, str] = {"en": "that", "zh": "前面的数"}
DISTRACTORS = 0.4  # share of problems that tell a number nobody asks for


def _told(language: Language, name: str, value: str, scale: str, draw: random.Random) -> str:
    scale = "" if value.endswith("%") else scale
    if language == "zh":
        return draw.choice((f"{name} {value}{scale}", f" {value}{scale} {name}"))
    return draw.choice((f"{value}{scale} {name}", f"{name} ({value}{scale})"))


def _problem(language: Language, split: Split, draw: random.Random) -> tuple[tuple[str, bool], ...]:
    """The sentence with its numbers, which are random and not trained on, and the working, which is."""
    kind = KINDS[draw.choice(list(KINDS))]
    operands, _ = draw.choice(split_operands(kind.name, split))
    facts = dict(zip(kind.facts, operands, strict=True))
    names = dict(zip(facts, draw.sample(NAMES[language], len(facts) + 1), strict=False))
    scale = draw.choice(SCALES[language])
    told = [_told(language, names[fact], value, scale, draw) for fact, value in facts.items()]
    if draw.random() < DISTRACTORS:
        unused = next(name for name in NAMES[language] if name not in names.values())
        told.append(_told(language, unused, str(draw.randint(2, 99)), scale, draw))
    draw.shuffle(told)
    listed = {"en": " and ", "zh": "，"}[language].join(told)
    opening = draw.choice(OPENINGS[language]).format(p=draw.choice(PLACES[language]), f=listed,
                                                     F=listed[0].upper() + listed[1:])
    worked: list[tuple[str, bool]] = []
    shown = dict(facts)
    for index, (expression, (*_, result), unit) in enumerate(
            zip(kind.program, evaluate(kind.program, facts), kind.units, strict=True)):
        left, operator, right = parse_step(expression)
        told_names = [names.get(side, BEFORE[language] if side.startswith("s") else side) for side in (left, right)]
        told_as = draw.choice(WORDS[language]["%" if unit == "percent" else operator]).format(
            a=told_names[0], b=told_names[1])
        written = result_text(result, "percent", language, "") if unit == "percent" else number(Fraction(result)) + (
            scale if unit == "money" else "")
        worked.append((f" {told_as[0].upper() + told_as[1:]}:", False))
        worked.append((f" {shown.get(left, left)} {SYMBOLS[operator]} {shown.get(right, right)} = {written}\n", True))
        shown[f"s{index + 1}"] = number(result)
    return ((opening, False), *worked)


def everyday_problems(count: int, *, seed: int, split: Split = "train") -> list[Document]:
    """`count` documents of two problems each, English and Chinese in turn."""
    found = []
    for index in range(count):
        draw = random.Random(f"problems:{seed}:{split}:{index}")
        language: Language = "zh" if index % 2 else "en"
        segments = (*_problem(language, split, draw), *_problem(language, split, draw))
        found.append(Document(id=content_id("problems", seed, split, index), source="problem", segments=segments))
    return found
