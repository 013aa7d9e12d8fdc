"""The non-finance base corpus: simple general text and arithmetic drills, all from a seed.

General text teaches the language and later shows forgetting; drills teach the arithmetic of the worked steps. The
splits of general text differ in their combinations of words, those of drills in their operands: an expression whose
operands belong to test or dev never stands in a train drill.
"""

from __future__ import annotations

import functools
import random
from fractions import Fraction

from data.finance.generator import SYMBOLS, result_text, step_operands
from data.finance.kinds import KINDS, apply, evaluate, number, operand_key, operand_space, split_of
from data.finance.wording import SCALES, UNITS
from data.schema import Document, Language, Split, content_id

LINES = 9  # expressions of a drill document, about 90 tokens

WORDS: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "name": ("Anna", "Tom", "Mia", "Ben", "Lily", "Sam", "Rosa", "Max", "Nina", "Paul", "Emma", "Leo"),
        "who": ("teacher", "farmer", "doctor", "baker", "sailor", "painter", "driver", "student", "gardener", "cook"),
        "animal": ("dog", "cat", "horse", "bird", "fish", "rabbit", "fox", "bear", "cow", "duck", "mouse", "frog"),
        "place": ("village", "town", "forest", "garden", "school", "market", "beach", "farm", "park", "mountain",
                  "lake", "library", "kitchen", "valley"),
        "thing": ("book", "lamp", "ball", "box", "letter", "boat", "hat", "clock", "chair", "kite", "key", "map",
                  "cup", "bag", "stone", "basket"),
        "colour": ("red", "blue", "green", "yellow", "white", "black", "brown", "grey"),
        "nature": ("tall", "new", "small", "large", "kind", "quiet", "happy", "clever", "strong", "brave", "warm"),
        "food": ("bread", "soup", "rice", "apples", "cake", "cheese", "tea", "milk", "eggs", "honey"),
        "weather": ("sunny", "windy", "cold", "rainy", "warm", "cloudy", "snowy"),
        "time": ("morning", "evening", "afternoon", "night", "summer", "winter", "spring", "autumn"),
        "do": ("read", "sing", "walk", "swim", "draw", "play", "sleep", "cook", "run", "dance", "write", "rest"),
        "saw": ("found", "saw", "lost", "bought", "made", "carried", "kept", "painted", "cleaned"),
    },
    "zh": {
        "name": ("小明", "小红", "李华", "王芳", "张伟", "小雨", "阿福", "小梅", "刘洋", "陈晨"),
        "who": ("老师", "农民", "医生", "学生", "司机", "画家", "工人", "厨师"),
        "animal": ("狗", "猫", "马", "鸟", "鱼", "兔子", "牛", "鸭子", "熊", "羊"),
        "place": ("村子", "学校", "花园", "公园", "山上", "海边", "河边", "市场", "家里", "城里", "树林"),
        "thing": ("书", "灯", "球", "信", "船", "帽子", "椅子", "风筝", "杯子", "石头", "地图"),
        "colour": ("红色", "蓝色", "绿色", "黄色", "白色", "黑色"),
        "nature": ("新的", "旧的", "大的", "小的", "安静的", "聪明的", "高兴的", "勇敢的"),
        "food": ("面包", "米饭", "苹果", "牛奶", "茶", "鸡蛋", "面条", "水果"),
        "weather": ("晴天", "雨天", "阴天", "大风天", "雪天"),
        "time": ("早上", "晚上", "下午", "中午", "春天", "夏天", "秋天", "冬天"),
        "do": ("读书", "唱歌", "走路", "游泳", "画画", "睡觉", "做饭", "跑步", "写字"),
        "saw": ("找到了", "看见了", "买了", "做了", "拿着", "丢了"),
    },
}
SENTENCES: dict[Language, tuple[tuple[str, ...], ...]] = {  # a document draws one form, then its sentences
    "en": (
        ("{name} was a {nature} {who} in a {place}.",
         "One {time} it was {weather} and {name} {saw} a {colour} {thing}.",
         "A {nature} {animal} came to the {place} and wanted to {do}.", "They had {food} and {food2} together.",
         "Then the {who2} asked {name} about the {thing}.", "In the end {name} gave the {thing} to the {animal}.",
         "That {time2} they could {do2} at the {place2}."),
        ("The {place} is {nature} and {weather} in the {time}.", "There is a {colour} {thing} beside the {place2}.",
         "Many people go to the {place} to {do} or to {do2}.", "The {who} who lives there likes {food}.",
         "A {animal} and a {animal2} sleep near the {thing2}.", "In the {time2} the {place2} is more {nature2}."),
        ("A {animal} is an animal. It can {do} in the {place}.", "A {who} works at the {place} every {time}.",
         "The {thing} is a thing that you can keep in the {place2}.",
         "People eat {food} in the {time} and {food2} later.",
         "After the {time} the days are {weather}.", "A {animal} is not as {nature} as a {animal2}.",
         "Children learn to {do} and to {do2} at school."),
        ('"Where is the {thing}?" asked {name}.', '"It is in the {place}," said the {who}.',
         '"Do you want to {do} with me?" said {name2}.', '"Yes, but first I need some {food}."',
         '"Look, a {colour} {animal}!" said {name}.', '"It is too {weather} to {do2} this {time}."',
         '"Thank you for the {thing2}," said {name2}.'),
        ("Dear {name}, I am at the {place} with a {who}.", "It is {weather} here and we {do} every {time}.",
         "Yesterday I {saw} a {nature} {thing} and a {animal}.",
         "Please bring some {food} and the {colour} {thing2}.",
         "We will {do2} at the {place2} soon. Your friend, {name2}."),
    ),
    "zh": (
        ("{place}有一个{nature}{who}，名叫{name}。", "一天{time}是{weather}，{name}{saw}一个{colour}的{thing}。",
         "一只{nature}{animal}来到{place}，想{do}。", "他们一起吃{food}和{food2}。",
         "后来{who2}问{name}那个{thing}在哪里。",
         "最后{name}把{thing}送给了{animal}。", "那天{time2}他们在{place2}{do2}。"),
        ("{time}的{place}很安静，常常是{weather}。", "{place2}旁边有一个{colour}的{thing}。",
         "很多人去{place}{do}，也有人{do2}。",
         "住在那里的{who}喜欢吃{food}。", "{animal}和{animal2}在{thing2}旁边睡觉。", "到了{time2}，{place2}人更多。"),
        ("{animal}是一种动物，生活在{place}。", "{who}每天{time}在{place}工作。",
         "{thing}是{nature}东西，可以放在{place2}。",
         "人们{time}吃{food}，后来吃{food2}。", "孩子们在学校学习{do}和{do2}。", "{animal}没有{animal2}那么大。"),
        ("“{thing}在哪里？”{name}问。", "“在{place}。”{who}说。", "“你想和我一起{do}吗？”{name2}说。",
         "“好，我先吃一点{food}。”",
         "“看，一只{colour}的{animal}！”{name}说。", "“今天是{weather}，不要{do2}。”",
         "“谢谢你的{thing2}。”{name2}说。"),
        ("{name}你好，我和一位{who}在{place}。", "这里是{weather}，我们每天{time}{do}。",
         "昨天我{saw}{nature}{thing}，还有一只{animal}。",
         "请带一些{food}和{colour}的{thing2}。", "我们很快会去{place2}{do2}。你的朋友{name2}。"),
    ),
}


def general_documents(count: int, *, seed: int, split: Split = "train") -> list[Document]:
    """`count` small stories, descriptions, facts, dialogues and letters, English and Chinese in turn.

    Which split a document's words may belong to follows from the combination of its main words.
    """
    found = []
    for index in range(count):
        draw = random.Random(f"general:{seed}:{split}:{index}")
        language: Language = "zh" if index % 2 else "en"
        form = draw.randrange(len(SENTENCES[language]))
        while True:
            fill = {}
            for slot, words in WORDS[language].items():
                fill[slot], fill[slot + "2"] = draw.sample(words, 2)
            if split_of(content_id(form, *[fill[s] for s in ("name", "animal", "place", "thing", "do",
            "food")])) == split:
                break
        sentences = SENTENCES[language][form]
        kept = sorted(draw.sample(range(len(sentences)), draw.randint(3, len(sentences))))
        text = {"en": " ", "zh": ""}[language].join(sentences[i].format(**fill) for i in kept)
        found.append(Document(id=content_id("general", seed, split, index), source="general", segments=((text, True),)))
    return found


Expression = tuple[str, str]  # "46 - 40", "6" or "6 / 40", "15%"


@functools.cache
def _kind_expressions(kind_name: str) -> dict[tuple[int, Split], tuple[Expression, ...]]:
    """What the steps of a kind may compute, intermediate results included, by step and the split of its operands."""
    kind = KINDS[kind_name]
    found: dict[tuple[int, Split], dict[str, str]] = {}
    for operands, _ in operand_space(kind_name):
        facts = dict(zip(kind.facts, operands, strict=True))
        for step, (a, operator, b, result) in enumerate(evaluate(kind.program, facts)):
            shown = step_operands(kind.program[step], facts, a, b)
            written = result_text(result, "percent", "en", "") if kind.units[step] == "percent" else number(result)
            cell = found.setdefault((step, split_of(operand_key(shown))), {})
            cell[f"{shown[0]} {SYMBOLS[operator]} {shown[1]}"] = written
    return {cell: tuple(expressions.items()) for cell, expressions in found.items()}


def _spread(draw: random.Random, split: Split) -> Expression:
    """A general expression beyond the kinds: sums, differences, products, quotients, percentages, averages."""
    while True:
        shape = draw.choice(("+", "-", "*", "/", "%", "of", "mean"))
        unit = Fraction(10) ** draw.choice((-1, 0, 0, 1))
        a, b, small = draw.randint(2, 99), draw.randint(2, 99), draw.randint(2, 9)
        if shape == "-" and a <= b:
            continue
        operands: tuple[str, ...]
        if shape in ("+", "-"):
            operands, shown, result = (number(a * unit), number(b * unit)), shape, apply(shape, a * unit, b * unit)
        elif shape == "*":
            operands, shown, result = (number(a * unit), number(small)), "×", a * unit * small
        elif shape == "/" and a * small < 100:
            operands, shown, result = (number(a * small * unit), number(small)), "/", a * unit
        elif shape == "%" and a < b and a * 200 % b == 0:
            operands, shown, result = (number(a * unit), number(b * unit)), "/", Fraction(a, b)
        elif shape == "of" and a * small % 10 == 0:
            operands, shown, result = (number(a * 10 * unit), f"{small}%"), "×", Fraction(a * small, 10) * unit
        elif shape == "mean" and (a + b) % 2 == 0:
            operands, shown, result = (number(a * unit), number(b * unit), "2"), "", Fraction(a + b, 2) * unit
        else:
            continue
        if split_of(operand_key(operands)) == split:
            left = f" {shown} ".join(operands) if shown else f"({operands[0]} + {operands[1]}) / 2"
            return left, f"{number(result * 100)}%" if shape == "%" else number(result)


def drills(count: int, *, seed: int, split: Split = "train") -> list[Document]:
    """`count` documents of `LINES` expressions as worked steps write them; only the results are trained on.

    Three in four expressions are steps of a finance kind, one in four is of the general spread. In half of the
    documents the results carry a unit, as they do in worked steps.
    """
    cells = [(name, step) for name, kind in KINDS.items() for step in range(len(kind.program))]
    money = [UNITS[language]["money"].format(m=scale) for language in ("en", "zh") for scale in SCALES[language]]
    found = []
    for index in range(count):
        draw = random.Random(f"drills:{seed}:{split}:{index}")
        unit = draw.choice((*money, " dollars", " 元")) if draw.random() < 0.5 else ""
        segments: list[tuple[str, bool]] = []
        for _ in range(LINES):
            if draw.random() < 0.25:
                left, right = _spread(draw, split)
            else:
                name, step = draw.choice(cells)
                left, right = draw.choice(_kind_expressions(name)[step, split])
            segments += [(f" {left} =", False), (f" {right}{'' if right.endswith('%') else unit}\n", True)]
        found.append(Document(id=content_id("drills", seed, split, index), source="drill", segments=tuple(segments)))
    return found
