"""Textbook-like passages about the kinds of finance question, for continual pre-training.

A passage defines, explains or compares terms and may work an example in running prose, in another form than the chat
questions have. The part of a sentence in [[double brackets]] is what `definition_cloze` asks for.
"""

from __future__ import annotations

import random
import re

from data.finance.generator import result_text, split_operands, step_expressions
from data.finance.kinds import KINDS, evaluate
from data.finance.wording import COMPANIES, SCALES, WORDING
from data.schema import Document, Language, Split, content_id

ENGLISH: dict[str, tuple[str, ...]] = {
    "revenue_growth": (
        "Revenue growth is the change in revenue divided by the [[old]] revenue.",
        "First take the old revenue from the new revenue. Growth compares that change with where it started.",
        "A small firm can have high growth, as its old revenue is small."),
    "net_margin": (
        "Net margin is net profit divided by [[revenue]].",
        "It says what part of each dollar of sales is left as profit after all costs.",
        "Net margin is never higher than gross margin, as it counts all costs and tax."),
    "gross_margin": (
        "Gross margin is gross profit divided by [[revenue]].",
        "Gross profit is revenue less the [[cost]] of sales.",
        "A shop with dear goods has a low gross margin. It leaves out tax and interest."),
    "eps": (
        "EPS is net profit divided by the number of [[shares]].",
        "EPS means earnings per share: how much profit belongs to one share.",
        "When a firm makes new shares, EPS falls if profit stays the same."),
    "pe_ratio": (
        "The PE ratio is the price of a share divided by [[EPS]].",
        "It says how many years of the same profit would pay for the share. First find EPS, then the ratio.",
        "A high PE ratio means that people hope for growth."),
    "dividend_yield": (
        "Dividend yield is the yearly dividend divided by the [[price]] of the share.",
        "A year has [[four]] quarters, so a dividend paid each quarter is first taken 4 times.",
        "When the price falls and the dividend stays, the yield rises."),
    "net_debt": (
        "Net debt is all debt less [[cash]].",
        "Add the short debt and the long debt, then take away the cash.",
        "A firm with more cash than debt has no net debt at all."),
    "simple_interest": (
        "Simple interest is the principal times the rate times the number of [[years]].",
        "First find the interest of one year, then take it for every year.",
        "Simple interest pays nothing on interest. Compound interest does, so it grows faster."),
    "purchase_cost": (
        "The total cost of a purchase is the number of shares times the price, plus the [[fee]].",
        "First find what the shares cost, then add the fee.",
        "A fee matters more when few shares are bought."),
    "current_ratio": (
        "The current ratio is current assets divided by current [[liabilities]].",
        "Current assets are cash and [[receivables]] together.",
        "A current ratio below 1 is a warning: the firm may not be able to pay this year."),
    "dividend_per_share": (
        "The dividend per share is all dividends divided by the number of [[shares]].",
        "Dividends are the profit times the [[payout]].",
        "What is not paid out stays in the firm and can help it grow."),
    "break_even": (
        "Break even units are the fixed costs divided by the [[margin]] of one unit.",
        "The margin of a unit is its price less its unit [[cost]].",
        "Below break even the firm makes a loss, above it a profit."),
    "depreciation": (
        "Straight line depreciation is the loss of value divided by the [[years]] of life.",
        "The loss of value is the cost less the final value. Each year then has the same depreciation.",
        "Depreciation lowers profit but takes no cash."),
    "market_cap": (
        "Market value is the price of a share times the number of [[shares]].",
        "It says what it would cost to buy the whole firm at the price of today.",
        "Two firms with the same price can have very different market value."),
    "return_on_equity": (
        "Return on equity is profit divided by [[equity]].",
        "Equity is assets less [[liabilities]].",
        "It says what the owners earn on their own money. Debt can make it look better."),
    "after_tax_profit": (
        "Profit after tax is profit less [[tax]].",
        "Profit is revenue less costs, and tax is profit times the tax [[rate]].",
        "Tax is paid on profit and not on revenue."),
}

CHINESE: dict[str, tuple[str, ...]] = {
    "revenue_growth": ("营收增长率等于营收的变化除以[[去年]]的营收。",
                       "先用今年的营收减去去年的营收，再除以去年的营收。",
                       "小公司的增长率可以很高，因为去年的营收不多。"),
    "net_margin": ("净利率等于净利润除以[[营收]]。", "它说明每一元销售额中有多少留下来成为利润。",
                   "净利率不会高于毛利率，因为它算上全部成本和税。"),
    "gross_margin": ("毛利率等于毛利除以[[营收]]。", "毛利等于营收减去销售[[成本]]。", "毛利率不算税和利息。"),
    "eps": ("每股收益等于净利润除以[[股数]]。", "它说明每一股赚了多少元。", "利润不变时，股数增加，每股收益就减少。"),
    "pe_ratio": ("市盈率等于股价除以每股[[收益]]。", "先求每股收益，再用股价除以它。",
                 "市盈率高，说明人们相信公司会增长。"),
    "dividend_yield": ("股息率等于全年股息除以[[股价]]。", "一年有[[四]]个季度，每季度的股息要先乘以 4 。",
                       "股价减少而股息不变时，股息率就增加。"),
    "net_debt": ("净债务等于总债务减去[[现金]]。", "先把短期债务和长期债务加起来，再减去现金。",
                 "现金多于债务的公司没有净债务。"),
    "simple_interest": ("单利利息等于本金乘以利率，再乘以[[年数]]。", "先求每年利息，再乘以年数。",
                        "单利不在利息上再算利息，所以比复利慢。"),
    "purchase_cost": ("买股的总成本等于股数乘以股价，再加上[[手续费]]。", "先求股款，再加手续费。",
                      "买得少的时候，手续费更重要。"),
    "current_ratio": ("流动比率等于流动资产除以流动[[负债]]。", "流动资产是现金和[[应收款]]之和。",
                      "流动比率低于 1 时，公司今年可能还不了债。"),
    "dividend_per_share": ("每股股息等于全部股息除以[[股数]]。", "股息等于利润乘以[[派息率]]。",
                           "没有派出的利润留在公司里，可以用来增长。"),
    "break_even": ("保本销量等于固定成本除以单位[[毛利]]。", "单位毛利等于售价减去单位[[成本]]。",
                   "卖得比保本销量少就亏，多就赚。"),
    "depreciation": ("直线法的每年折旧等于减值除以[[年数]]。", "减值等于成本减去残值，每年的折旧都一样。",
                     "折旧让利润减少，但是不用现金。"),
    "market_cap": ("市值等于股价乘以[[股数]]。", "它说明按今天的股价买下全部公司要多少元。",
                   "股价一样的两家公司，市值可以很不一样。"),
    "return_on_equity": ("净资产收益率等于利润除以[[净资产]]。", "净资产等于资产减去[[负债]]。",
                         "它说明股东自己的钱赚了多少。"),
    "after_tax_profit": ("税后利润等于利润减去[[税]]。", "利润等于营收减去成本，税等于利润乘以[[税率]]。",
                         "税按利润来付，不按营收来付。"),
}
SENTENCES: dict[Language, dict[str, tuple[str, ...]]] = {"en": ENGLISH, "zh": CHINESE}

FACT_WORDS: dict[Language, dict[str, str]] = {  # how an example tells a fact; "kind.fact" comes before "fact"
    "en": {
        "new": "{v} {m} of revenue now", "old": "{v} {m} of revenue before", "profit": "{v} {m} of profit",
        "revenue": "{v} {m} of revenue", "cost": "{v} {m} of costs", "shares": "{v} {m} shares",
        "price": "a price of {v} dollars", "dividend": "{v} dollars of dividend a quarter", "cash": "{v} {m} of cash",
        "short": "{v} {m} of short debt", "long": "{v} {m} of long debt", "principal": "{v} {m} of principal",
        "rate": "a rate of {v}", "years": "{v} years", "fee": "a fee of {v} dollars", "payout": "a payout of {v}",
        "receivables": "{v} {m} of receivables", "liabilities": "{v} {m} of liabilities",
        "assets": "{v} {m} of assets",
        "fixed": "{v} dollars of fixed costs", "variable": "a unit cost of {v} dollars",
        "salvage": "a final value of {v} {m}", "purchase_cost.shares": "{v} shares",
    },
    "zh": {
        "new": "今年营收 {v} {m}元", "old": "去年营收 {v} {m}元", "profit": "利润 {v} {m}元",
        "revenue": "营收 {v} {m}元",
        "cost": "成本 {v} {m}元", "shares": "股数 {v} {m}股", "price": "价格 {v} 元", "dividend": "每季度股息 {v} 元",
        "cash": "现金 {v} {m}元", "short": "短期债务 {v} {m}元", "long": "长期债务 {v} {m}元",
        "principal": "本金 {v} {m}元",
        "rate": "利率 {v}", "years": "期限 {v} 年", "fee": "手续费 {v} 元", "payout": "派息率 {v}",
        "receivables": "应收款 {v} {m}元", "liabilities": "负债 {v} {m}元", "assets": "资产 {v} {m}元",
        "fixed": "固定成本 {v} 元", "variable": "单位成本 {v} 元", "salvage": "残值 {v} {m}元",
        "purchase_cost.shares": "股数 {v} 股", "after_tax_profit.rate": "税率 {v}",
    },
}
_OPENINGS = {"en": ("Take {c} with", "Say that {c} has", "For example, {c} shows", "Think of {c} with"),
             "zh": ("例如，{c}有", "以{c}为例，", "设{c}有", "看看{c}：")}


def _example(kind_name: str, *, language: Language, split: Split, draw: random.Random) -> tuple[tuple[str, bool], ...]:
    """A worked example in one flowing sentence; its random facts are not trained on, what follows from them is."""
    kind = KINDS[kind_name]
    operands, _ = draw.choice(split_operands(kind_name, split))
    facts = dict(zip(kind.facts, operands, strict=True))
    company, scale = draw.choice(COMPANIES[language]), draw.choice(SCALES[language])
    words = FACT_WORDS[language]
    told = [words.get(f"{kind_name}.{name}", words[name]).format(v=value, m=scale) for name, value in facts.items()]
    draw.shuffle(told)
    results = [result_text(row[3], unit, language, scale)
               for row, unit in zip(evaluate(kind.program, facts), kind.units, strict=True)]
    worked = list(zip(WORDING[language][kind_name].labels, step_expressions(kind, facts), results, strict=True))
    opening = draw.choice(_OPENINGS[language]).format(c=company)
    if language == "en":
        given = f" {opening} {' and '.join(told)}."
        shown = " and the ".join(f"{label if label.isupper() else label.lower()} is {left} = {right}"
                                 for label, left, right in worked)
        return (given, False), (f" Then the {shown}.", True)
    shown = "，".join(f"{label}是 {left} = {right}" for label, left, right in worked)
    return (f"{opening}{'，'.join(told)}。", False), (f"那么{shown}。", True)


def passages(count: int, *, seed: int, split: Split = "train", examples: bool = True) -> list[Document]:
    """`count` passages, English and Chinese in turn. Worked examples use operands of `split` alone."""
    found = []
    for index in range(count):
        draw = random.Random(f"textbook:{seed}:{split}:{index}")
        language: Language = "zh" if index % 2 else "en"
        name = draw.choice(list(KINDS))
        told = list(SENTENCES[language][name])
        if draw.random() < 0.5:
            draw.shuffle(told)
        other = draw.choice(list(KINDS))
        if draw.random() < 0.3 and other != name:
            told += [{"en": "It must not be confused with other terms.", "zh": "不要和别的概念混在一起。"}[language],
                     SENTENCES[language][other][0]]
        joined = {"en": " ", "zh": ""}[language].join(told)
        segments: list[tuple[str, bool]] = [(re.sub(r"\[\[|\]\]", "", joined), True)]
        for _ in range(draw.choice((1, 2)) if examples else 0):
            segments += _example(name, language=language, split=split, draw=draw)
        found.append(Document(id=content_id("textbook", seed, split, index, examples), source="textbook",
                              segments=tuple(segments)))
    return found


def definition_cloze(language: Language) -> list[tuple[str, str]]:
    """(prefix, answer) for the definitions: the answer starts with its leading space where the language has one."""
    found = []
    for sentences in SENTENCES[language].values():
        for sentence in sentences:
            if match := re.search(r"^(.*?)( ?)\[\[(.+?)\]\]", sentence):
                found.append((match[1], match[2] + match[3]))
    return found
