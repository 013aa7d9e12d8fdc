"""The words of the finance questions in English and Chinese: paraphrases, step labels, units, company names.

Every number stands after a space and is written without a currency sign, so that it has the same tokens in the
question and in the worked steps. `{c}` is the company, `{m}` the scale word, `{noise}` a number nobody needs.
"""

from __future__ import annotations

import dataclasses

from data.schema import Language

SCALES: dict[Language, tuple[str, ...]] = {"en": ("thousand", "million", "billion"), "zh": ("万", "亿")}
ANSWER: dict[Language, str] = {"en": "Answer:", "zh": "答案:"}
UNITS: dict[Language, dict[str, str]] = {  # what follows a result; {m} is the scale word
    "en": {"money": " {m}", "percent": "", "price": " dollars", "times": " times", "units": " units"},
    "zh": {"money": " {m}元", "percent": "", "price": " 元", "times": " 倍", "units": " 件"},
}
_FIRST = {
    "en": ("Harbor", "Summit", "River", "Stone", "North", "Green", "Silver", "Maple", "Ocean", "Bright", "Union",
           "Crown", "Delta", "Eagle", "Cedar", "Solar"),
    "zh": ("海港", "远山", "江河", "北方", "绿源", "银星", "枫林", "大洋", "光明", "联合", "东方", "新城", "长青",
           "金石", "天一", "华泰"),
}
_SECOND = {
    "en": ("Foods", "Steel", "Bank", "Motors", "Energy", "Media", "Health", "Paper", "Retail", "Power", "Water",
           "Tools"),
    "zh": ("食品", "钢铁", "银行", "汽车", "能源", "传媒", "医药", "纸业", "零售", "电力", "水务", "机械"),
}
COMPANIES: dict[Language, tuple[str, ...]] = {
    "en": tuple(f"{first} {second}" for first in _FIRST["en"] for second in _SECOND["en"]),
    "zh": tuple(first + second for first in _FIRST["zh"] for second in _SECOND["zh"]),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Wording:
    """One kind in one language."""

    labels: tuple[str, ...]  # of the steps
    templates: tuple[str, ...]


ENGLISH: dict[str, Wording] = {
    "revenue_growth": Wording(("Change", "Growth"), (
        "{c} had revenue of {old} {m} last year and {new} {m} this year. What is the revenue growth?",
        "Revenue of {c} rose from {old} {m} to {new} {m}. By what percent did it grow?",
        "This year {c} sold goods for {new} {m}, after {old} {m} the year before. Find the growth rate.",
        "Sales at {c} were {old} {m} and are now {new} {m}. How fast did sales grow?",
        "Work out the revenue growth of {c}: before {old} {m}, now {new} {m}.",
        "{c} has {noise} shops. Its revenue went from {old} {m} to {new} {m}. What growth is that?",
    )),
    "net_margin": Wording(("Net margin",), (
        "{c} made a net profit of {profit} {m} on revenue of {revenue} {m}. What is the net margin?",
        "With revenue of {revenue} {m} and net profit of {profit} {m}, what is the net margin of {c}?",
        "Find the net margin of {c}: net profit {profit} {m}, revenue {revenue} {m}.",
        "{c} keeps {profit} {m} of its {revenue} {m} revenue as profit. What percent is that?",
        "Of revenue of {revenue} {m}, {profit} {m} was left as profit at {c}. Give the net margin.",
        "Revenue of {c} is {revenue} {m}, assets are {noise} {m} and net profit is {profit} {m}. Net margin?",
    )),
    "gross_margin": Wording(("Gross profit", "Gross margin"), (
        "{c} had revenue of {revenue} {m} and cost of sales of {cost} {m}. What is the gross margin?",
        "Goods that cost {cost} {m} were sold by {c} for {revenue} {m}. Find the gross margin.",
        "What is the gross margin of {c} if revenue is {revenue} {m} and cost of sales is {cost} {m}?",
        "Work out the gross margin: {c}, revenue {revenue} {m}, cost {cost} {m}.",
        "{c} paid {cost} {m} for goods and sold them for {revenue} {m}. What gross margin is that?",
        "Cost of sales at {c} was {cost} {m} on sales of {revenue} {m}. Give the gross margin in percent.",
    )),
    "eps": Wording(("EPS",), (
        "{c} made a net profit of {profit} {m} and has {shares} {m} shares. What is the EPS?",
        "Find the EPS of {c}: net profit {profit} {m}, shares {shares} {m}.",
        "With {shares} {m} shares and a profit of {profit} {m}, what does {c} earn a share?",
        "How much profit is there for each share of {c} if {profit} {m} is split over {shares} {m} shares?",
        "{c} has {shares} {m} shares. Its net profit was {profit} {m}. Give the EPS.",
        "{c} has {noise} shops, {shares} {m} shares and a net profit of {profit} {m}. What is the EPS?",
    )),
    "pe_ratio": Wording(("EPS", "PE"), (
        "A share of {c} costs {price} dollars. Net profit is {profit} {m} and there are {shares} {m} shares. "
        "What is the PE ratio?",
        "{c} made {profit} {m} with {shares} {m} shares. At a price of {price} dollars, find the PE ratio.",
        "What is the PE ratio of {c} with price {price} dollars, net profit {profit} {m} and {shares} {m} shares?",
        "Net profit of {c}: {profit} {m}. Shares: {shares} {m}. Price: {price} dollars. PE ratio?",
        "How many times earnings is the price of {price} dollars if {c} made {profit} {m} on {shares} {m} shares?",
        "The price of {c} is {price} dollars. It has {shares} {m} shares and made {profit} {m}. Give the PE ratio.",
    )),
    "dividend_yield": Wording(("Dividend", "Yield"), (
        "{c} pays {dividend} dollars a share each quarter. The price is {price} dollars. What is the dividend yield?",
        "Find the dividend yield of {c}: price {price} dollars, dividend {dividend} dollars a quarter.",
        "At a price of {price} dollars, {c} pays a dividend of {dividend} dollars every quarter. What yield is that?",
        "A share of {c} costs {price} dollars and pays {dividend} dollars a quarter. What does it yield a year?",
        "What is the yearly dividend yield of {c} with {dividend} dollars each quarter and a price of {price} dollars?",
        "{c} has a PE ratio of {noise}, a price of {price} dollars and pays {dividend} dollars a quarter. Yield?",
    )),
    "net_debt": Wording(("Debt", "Net debt"), (
        "{c} has short debt of {short} {m}, long debt of {long} {m} and cash of {cash} {m}. What is its net debt?",
        "Find the net debt of {c}: short debt {short} {m}, long debt {long} {m}, cash {cash} {m}.",
        "{c} owes {short} {m} this year and {long} {m} later, and holds {cash} {m} of cash. Give the net debt.",
        "After using its cash of {cash} {m}, what would {c} still owe on loans of {short} {m} and {long} {m}?",
        "With cash of {cash} {m}, short debt of {short} {m} and long debt of {long} {m}, what is the net debt of {c}?",
        "Work out net debt for {c} from loans of {short} {m} and {long} {m} and cash of {cash} {m}.",
    )),
    "simple_interest": Wording(("Interest a year", "Interest"), (
        "{c} lends {principal} {m} at {rate} simple interest for {years} years. How much interest is earned?",
        "Find the simple interest on {principal} {m} at {rate} a year for {years} years.",
        "A loan of {principal} {m} to {c} costs {rate} a year. What is the simple interest over {years} years?",
        "How much simple interest does {c} pay in {years} years on {principal} {m} at {rate}?",
        "For {years} years {c} leaves {principal} {m} in a bank at {rate} simple interest. Give the interest.",
        "At a rate of {rate} a year, what interest does {principal} {m} earn in {years} years without compounding?",
    )),
    "purchase_cost": Wording(("Cost of shares", "Total"), (
        "You buy {shares} shares of {c} at {price} dollars with a fee of {fee} dollars. What is the total cost?",
        "What do {shares} shares of {c} cost at {price} dollars each plus a fee of {fee} dollars?",
        "The fee is {fee} dollars. Find the total cost of {shares} shares of {c} at {price} dollars.",
        "A share of {c} costs {price} dollars. Pay for {shares} shares and a fee of {fee} dollars: how much?",
        "How much is paid for {shares} shares of {c}, price {price} dollars, fee {fee} dollars?",
        "Work out the total paid: {shares} shares of {c}, {price} dollars a share, {fee} dollars fee.",
    )),
    "current_ratio": Wording(("Current assets", "Current ratio"), (
        "{c} has cash of {cash} {m}, receivables of {receivables} {m} and current liabilities of {liabilities} {m}. "
        "What is the current ratio?",
        "Find the current ratio of {c}: cash {cash} {m}, receivables {receivables} {m}, "
        "current liabilities {liabilities} {m}.",
        "Current liabilities of {c} are {liabilities} {m}; it has {cash} {m} cash and {receivables} {m} receivables. "
        "Current ratio?",
        "How many times do cash of {cash} {m} and receivables of {receivables} {m} cover the current liabilities "
        "of {liabilities} {m} at {c}?",
        "With receivables of {receivables} {m}, cash of {cash} {m} and {liabilities} {m} due this year, "
        "what is the current ratio of {c}?",
        "Work out the current ratio: {c} holds {cash} {m} cash, is owed {receivables} {m} and must pay "
        "{liabilities} {m} this year.",
    )),
    "dividend_per_share": Wording(("Dividends", "Each share"), (
        "{c} made {profit} {m} and pays out {payout}. With {shares} {m} shares, what is the dividend per share?",
        "Find the dividend per share of {c}: profit {profit} {m}, payout {payout}, shares {shares} {m}.",
        "{c} pays {payout} of its profit of {profit} {m} to {shares} {m} shares. How much does each share get?",
        "At a payout of {payout}, what dividend per share does {c} pay on a profit of {profit} {m} "
        "with {shares} {m} shares?",
        "{c} has {shares} {m} shares and a profit of {profit} {m}. The payout is {payout}. Dividend per share?",
        "Profit of {c}: {profit} {m}. Payout: {payout}. Shares: {shares} {m}. Dividend per share?",
    )),
    "break_even": Wording(("Margin", "Break even"), (
        "{c} has fixed costs of {fixed} dollars. It sells a unit for {price} dollars that costs {variable} dollars. "
        "How many units to break even?",
        "Find the break even units of {c}: fixed costs {fixed}, price {price}, unit cost {variable} dollars.",
        "At a price of {price} dollars and a unit cost of {variable} dollars, how many units cover fixed costs of "
        "{fixed} dollars at {c}?",
        "How many units must {c} sell to break even with fixed costs {fixed}, unit cost {variable} and price {price}?",
        "Each unit of {c} costs {variable} dollars and sells for {price} dollars. Fixed costs are {fixed} dollars. "
        "Break even?",
        "Fixed costs of {c} are {fixed} dollars, the price is {price} and the unit cost is {variable}. "
        "Work out the break even units.",
    )),
    "depreciation": Wording(("Loss of value", "Each year"), (
        "{c} buys a machine for {cost} {m}. After {years} years it is worth {salvage} {m}. "
        "What is the yearly straight line depreciation?",
        "Find the yearly depreciation for {c}: cost {cost} {m}, final value {salvage} {m}, {years} years.",
        "A machine of {c} falls from {cost} {m} to {salvage} {m} in {years} years. How much depreciation a year?",
        "Over {years} years {c} writes a machine down from {cost} {m} to {salvage} {m}. What is it a year?",
        "With a cost of {cost} {m}, a life of {years} years and a final value of {salvage} {m}, "
        "what does {c} write off a year?",
        "What is straight line depreciation a year on {cost} {m} if {salvage} {m} is left after {years} years at {c}?",
    )),
    "market_cap": Wording(("Market value",), (
        "{c} has {shares} {m} shares at {price} dollars. What is its market value?",
        "Find the market value of {c}: price {price} dollars, shares {shares} {m}.",
        "At {price} dollars a share, what are the {shares} {m} shares of {c} worth?",
        "A share of {c} costs {price} dollars and there are {shares} {m} of them. Give the market value.",
        "What would it cost to buy all {shares} {m} shares of {c} at {price} dollars each?",
        "{c} has a PE ratio of {noise}, a price of {price} dollars and {shares} {m} shares. Market value?",
    )),
    "return_on_equity": Wording(("Equity", "Return on equity"), (
        "{c} made {profit} {m}. It has assets of {assets} {m} and liabilities of {liabilities} {m}. "
        "What is the return on equity?",
        "Find the return on equity of {c}: profit {profit} {m}, assets {assets} {m}, liabilities {liabilities} {m}.",
        "With assets of {assets} {m} and liabilities of {liabilities} {m}, {c} made {profit} {m}. Return on equity?",
        "{c} owns {assets} {m} and owes {liabilities} {m}. Its profit is {profit} {m}. Give the return on equity.",
        "What percent did {c} earn on equity with profit of {profit} {m}, assets of {assets} {m} "
        "and liabilities of {liabilities} {m}?",
        "Liabilities of {c} are {liabilities} {m}, assets {assets} {m} and profit {profit} {m}. "
        "Work out the return on equity.",
    )),
    "after_tax_profit": Wording(("Profit", "Tax", "After tax"), (
        "{c} had revenue of {revenue} {m} and costs of {cost} {m}. The tax rate is {rate}. What is profit after tax?",
        "Find the profit after tax of {c}: revenue {revenue} {m}, costs {cost} {m}, tax {rate}.",
        "After tax of {rate}, what profit is left at {c} from revenue of {revenue} {m} and costs of {cost} {m}?",
        "{c} pays {rate} tax on profit. Revenue is {revenue} {m} and costs are {cost} {m}. Give profit after tax.",
        "Costs of {c} are {cost} {m}, revenue is {revenue} {m} and the tax rate is {rate}. How much is left after tax?",
        "With a tax rate of {rate}, work out profit after tax for {c}: costs {cost} {m}, revenue {revenue} {m}.",
    )),
}

CHINESE: dict[str, Wording] = {
    "revenue_growth": Wording(("变化", "增长率"), (
        "{c}去年营收 {old} {m}元，今年营收 {new} {m}元。营收增长率是多少？",
        "{c}的营收从 {old} {m}元增加到 {new} {m}元，增长了百分之几？",
        "今年{c}的销售额为 {new} {m}元，去年为 {old} {m}元，求增长率。",
        "计算{c}的营收增长率：上年 {old} {m}元，本年 {new} {m}元。",
        "{c}去年的销售额是 {old} {m}元，现在是 {new} {m}元，销售额增长多快？",
        "{c}有 {noise} 家门店，营收由 {old} {m}元升至 {new} {m}元。求营收增长率。",
    )),
    "net_margin": Wording(("净利率",), (
        "{c}营收 {revenue} {m}元，净利润 {profit} {m}元。净利率是多少？",
        "{c}的净利润为 {profit} {m}元，营收为 {revenue} {m}元，求净利率。",
        "计算{c}的净利率：净利润 {profit} {m}元，营收 {revenue} {m}元。",
        "{c}从 {revenue} {m}元营收中得到 {profit} {m}元净利润，占百分之几？",
        "在 {revenue} {m}元的营收中，{c}留下 {profit} {m}元利润。净利率是多少？",
        "{c}营收 {revenue} {m}元，资产 {noise} {m}元，净利润 {profit} {m}元，求净利率。",
    )),
    "gross_margin": Wording(("毛利", "毛利率"), (
        "{c}营收 {revenue} {m}元，销售成本 {cost} {m}元。毛利率是多少？",
        "{c}把成本 {cost} {m}元的商品卖了 {revenue} {m}元，求毛利率。",
        "计算{c}的毛利率：营收 {revenue} {m}元，成本 {cost} {m}元。",
        "{c}的销售成本为 {cost} {m}元，销售额为 {revenue} {m}元，毛利率是多少？",
        "如果{c}的营收是 {revenue} {m}元，成本是 {cost} {m}元，求毛利率。",
        "{c}花 {cost} {m}元进货，卖出 {revenue} {m}元，毛利率是百分之几？",
    )),
    "eps": Wording(("每股收益",), (
        "{c}净利润 {profit} {m}元，共有 {shares} {m}股。每股收益是多少？",
        "计算{c}的每股收益：净利润 {profit} {m}元，股数 {shares} {m}股。",
        "{c}有 {shares} {m}股，净利润为 {profit} {m}元，每股赚多少？",
        "{c}的 {profit} {m}元利润由 {shares} {m}股平分，求每股收益。",
        "如果{c}的股数是 {shares} {m}股，净利润是 {profit} {m}元，每股收益是多少？",
        "{c}有 {noise} 家门店，股数 {shares} {m}股，净利润 {profit} {m}元，求每股收益。",
    )),
    "pe_ratio": Wording(("每股收益", "市盈率"), (
        "{c}股价 {price} 元，净利润 {profit} {m}元，共有 {shares} {m}股。市盈率是多少？",
        "计算{c}的市盈率：股价 {price} 元，净利润 {profit} {m}元，股数 {shares} {m}股。",
        "{c}用 {shares} {m}股赚了 {profit} {m}元，股价是 {price} 元，求市盈率。",
        "{c}净利润为 {profit} {m}元，股数为 {shares} {m}股。股价 {price} 元时市盈率是多少？",
        "股价 {price} 元是{c}每股收益的几倍？净利润 {profit} {m}元，股数 {shares} {m}股。",
        "如果{c}的股价是 {price} 元，有 {shares} {m}股，净利润 {profit} {m}元，求市盈率。",
    )),
    "dividend_yield": Wording(("全年股息", "股息率"), (
        "{c}每季度每股派息 {dividend} 元，股价 {price} 元。股息率是多少？",
        "计算{c}的股息率：股价 {price} 元，每季度股息 {dividend} 元。",
        "{c}的股价是 {price} 元，每季度派息 {dividend} 元，求全年股息率。",
        "买入{c}要 {price} 元，每季度得到股息 {dividend} 元，一年的股息率是多少？",
        "如果{c}每季度股息为 {dividend} 元，股价为 {price} 元，求股息率。",
        "{c}市盈率 {noise} 倍，股价 {price} 元，每季度派息 {dividend} 元，股息率是多少？",
    )),
    "net_debt": Wording(("总债务", "净债务"), (
        "{c}短期债务 {short} {m}元，长期债务 {long} {m}元，现金 {cash} {m}元。净债务是多少？",
        "计算{c}的净债务：短期债务 {short} {m}元，长期债务 {long} {m}元，现金 {cash} {m}元。",
        "{c}今年要还 {short} {m}元，以后要还 {long} {m}元，有现金 {cash} {m}元，求净债务。",
        "{c}用 {cash} {m}元现金还债，借款有 {short} {m}元和 {long} {m}元，还欠多少？",
        "如果{c}有现金 {cash} {m}元，短期债务 {short} {m}元，长期债务 {long} {m}元，求净债务。",
        "{c}有两笔借款， {short} {m}元和 {long} {m}元，现金为 {cash} {m}元。净债务是多少？",
    )),
    "simple_interest": Wording(("每年利息", "利息"), (
        "{c}以年利率 {rate} 借出 {principal} {m}元，单利 {years} 年。利息是多少？",
        "计算单利利息：本金 {principal} {m}元，年利率 {rate} ，期限 {years} 年。",
        "{c}借款 {principal} {m}元，年利率 {rate} ，按单利 {years} 年要付多少利息？",
        "{c}把 {principal} {m}元存入银行 {years} 年，年利率 {rate} ，按单利求利息。",
        "本金 {principal} {m}元，按单利 {rate} 计算，{c}在 {years} 年里得到多少利息？",
        "如果年利率是 {rate} ，{c}的 {principal} {m}元存 {years} 年，单利利息是多少？",
    )),
    "purchase_cost": Wording(("股款", "总成本"), (
        "买入{c} {shares} 股，每股 {price} 元，手续费 {fee} 元。总成本是多少？",
        "计算总成本：{c} {shares} 股，股价 {price} 元，手续费 {fee} 元。",
        "{c}的股价是 {price} 元，买 {shares} 股再付手续费 {fee} 元，共付多少？",
        "手续费 {fee} 元，以每股 {price} 元买入 {shares} 股{c}，求总成本。",
        "如果以 {price} 元买入{c} {shares} 股，手续费为 {fee} 元，要付多少元？",
        "要买 {shares} 股{c}，每股 {price} 元，加上手续费 {fee} 元，一共多少元？",
    )),
    "current_ratio": Wording(("流动资产", "流动比率"), (
        "{c}现金 {cash} {m}元，应收款 {receivables} {m}元，流动负债 {liabilities} {m}元。流动比率是多少？",
        "计算{c}的流动比率：现金 {cash} {m}元，应收款 {receivables} {m}元，流动负债 {liabilities} {m}元。",
        "{c}流动负债为 {liabilities} {m}元，现金为 {cash} {m}元，应收款为 {receivables} {m}元，求流动比率。",
        "{c}有现金 {cash} {m}元和应收款 {receivables} {m}元，是流动负债 {liabilities} {m}元的几倍？",
        "如果{c}今年要还 {liabilities} {m}元，有应收款 {receivables} {m}元和现金 {cash} {m}元，求流动比率。",
        "{c}的现金和应收款为 {cash} {m}元和 {receivables} {m}元，流动负债 {liabilities} {m}元，流动比率是多少？",
    )),
    "dividend_per_share": Wording(("股息", "每股股息"), (
        "{c}利润 {profit} {m}元，派息率 {payout} ，共有 {shares} {m}股。每股股息是多少？",
        "计算{c}的每股股息：利润 {profit} {m}元，派息率 {payout} ，股数 {shares} {m}股。",
        "{c}把 {profit} {m}元利润的 {payout} 分给 {shares} {m}股，每股得到多少？",
        "{c}有 {shares} {m}股，利润为 {profit} {m}元，派息率为 {payout} ，求每股股息。",
        "按 {payout} 的派息率，{c}利润 {profit} {m}元，股数 {shares} {m}股，每股股息是多少？",
        "如果{c}赚了 {profit} {m}元，派出 {payout} ，有 {shares} {m}股，求每股股息。",
    )),
    "break_even": Wording(("单位毛利", "保本销量"), (
        "{c}固定成本 {fixed} 元，每件售价 {price} 元，每件成本 {variable} 元。要卖多少件才保本？",
        "计算{c}的保本销量：固定成本 {fixed} 元，售价 {price} 元，单位成本 {variable} 元。",
        "{c}每件商品成本 {variable} 元，卖 {price} 元，固定成本为 {fixed} 元，求保本销量。",
        "售价 {price} 元，单位成本 {variable} 元，{c}要卖几件才能付清固定成本 {fixed} 元？",
        "如果{c}的固定成本是 {fixed} 元，单位成本是 {variable} 元，售价是 {price} 元，求保本销量。",
        "{c}固定成本为 {fixed} 元。一件卖 {price} 元，成本 {variable} 元，保本销量是多少？",
    )),
    "depreciation": Wording(("减值", "每年折旧"), (
        "{c}花 {cost} {m}元买机器， {years} 年后值 {salvage} {m}元。按直线法每年折旧多少？",
        "计算{c}的每年折旧：成本 {cost} {m}元，残值 {salvage} {m}元，期限 {years} 年。",
        "{c}的机器在 {years} 年里从 {cost} {m}元减到 {salvage} {m}元，求每年折旧。",
        "机器成本 {cost} {m}元，用 {years} 年，残值 {salvage} {m}元，{c}每年折旧多少？",
        "如果残值是 {salvage} {m}元，成本是 {cost} {m}元，{c}按直线法 {years} 年折旧，每年是多少？",
        "{c}按直线法把 {cost} {m}元的机器 {years} 年后减为 {salvage} {m}元，求每年折旧。",
    )),
    "market_cap": Wording(("市值",), (
        "{c}共有 {shares} {m}股，股价 {price} 元。市值是多少？",
        "计算{c}的市值：股价 {price} 元，股数 {shares} {m}股。",
        "每股 {price} 元，{c}的 {shares} {m}股一共值多少？",
        "{c}股价为 {price} 元，股数为 {shares} {m}股，求市值。",
        "如果以 {price} 元买入{c}全部 {shares} {m}股，要付多少？",
        "{c}市盈率 {noise} 倍，股价 {price} 元，股数 {shares} {m}股，求市值。",
    )),
    "return_on_equity": Wording(("净资产", "净资产收益率"), (
        "{c}利润 {profit} {m}元，资产 {assets} {m}元，负债 {liabilities} {m}元。净资产收益率是多少？",
        "计算{c}的净资产收益率：利润 {profit} {m}元，资产 {assets} {m}元，负债 {liabilities} {m}元。",
        "{c}资产为 {assets} {m}元，负债为 {liabilities} {m}元，赚了 {profit} {m}元，求净资产收益率。",
        "{c}有资产 {assets} {m}元，欠 {liabilities} {m}元，利润是 {profit} {m}元，净资产收益率是多少？",
        "如果{c}负债 {liabilities} {m}元，资产 {assets} {m}元，利润 {profit} {m}元，求净资产收益率。",
        "{c}用净资产赚了 {profit} {m}元，资产 {assets} {m}元，负债 {liabilities} {m}元，收益率是百分之几？",
    )),
    "after_tax_profit": Wording(("利润", "税", "税后利润"), (
        "{c}营收 {revenue} {m}元，成本 {cost} {m}元，税率 {rate} 。税后利润是多少？",
        "计算{c}的税后利润：营收 {revenue} {m}元，成本 {cost} {m}元，税率 {rate} 。",
        "{c}成本为 {cost} {m}元，营收为 {revenue} {m}元，税率为 {rate} ，求税后利润。",
        "按 {rate} 的税率，{c}营收 {revenue} {m}元，成本 {cost} {m}元，税后还有多少利润？",
        "如果{c}的营收是 {revenue} {m}元，成本是 {cost} {m}元，付 {rate} 的税，求税后利润。",
        "{c}付税 {rate} ，成本 {cost} {m}元，营收 {revenue} {m}元，付税后利润是多少？",
    )),
}

WORDING: dict[Language, dict[str, Wording]] = {"en": ENGLISH, "zh": CHINESE}
