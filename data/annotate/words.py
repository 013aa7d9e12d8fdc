"""The words of the annotator's pages in English and Chinese: `words("zh")["do.submit"]`.

`{}` in a word is where the page puts a number or a name.
"""

from __future__ import annotations

import functools

from data.schema import Language

TAGS: dict[Language, str] = {"en": "en", "zh": "zh-CN"}  # the value of `lang`

_WORDS: dict[str, tuple[str, str]] = {  # name -> English, Chinese
    "title": ("Annotator's desk", "标注台"),
    "skip_to_task": ("Skip to the task", "跳到任务"),
    "needs_script": ("The desk needs JavaScript, which is switched off in this browser.",
                     "标注台需要 JavaScript，此浏览器已将其关闭。"),
    "theme.auto": ("Auto colours", "自动配色"),
    "theme.light": ("Light colours", "浅色"),
    "theme.dark": ("Dark colours", "深色"),
    # signing in
    "sign_in.title": ("Who is judging?", "请输入代号"),
    "sign_in.text": ("Choose a pseudonym and use the same one each time. It is written beside every judgment; "
                     "no name, address or password is asked for.",
                     "请取一个代号，每次都用同一个。每条判断都会记下代号；不需要姓名、邮箱或密码。"),
    "sign_in.name": ("Pseudonym", "代号"),
    "sign_in.hint": ("Letters a-z, digits, dot, dash, underscore", "英文字母、数字、点、连字符、下划线"),
    "sign_in.go": ("Open the desk", "进入标注台"),
    "sign_in.link": ("This desk is reached with a personal link. Ask whoever runs it for yours.",
                     "此标注台须用个人链接进入，请向管理者索取。"),
    "sign_out": ("Sign out", "退出"),
    # the task
    "loading": ("One moment …", "请稍候……"),
    "question": ("Question", "问题"), "conversation": ("Conversation", "对话"), "evidence": ("Evidence", "依据"),
    "role.user": ("User", "用户"), "role.assistant": ("Assistant", "助手"), "role.system": ("System", "系统"),
    "role.tool": ("Tool", "工具"),
    "answer": ("Answer {}", "回答 {}"), "solution": ("Solution", "解答"), "step": ("Step {}", "第 {} 步"),
    "characters": ("{} characters", "{} 个字符"), "truncated": ("cut off at the length limit", "因长度上限被截断"),
    "part": ("{} more characters (part {} of {})", "还有 {} 个字符（第 {} 部分，共 {} 部分）"),
    "others": ("What others decided", "其他人的判断"),
    "suggestion": ("A judge model suggests", "评审模型的建议"),
    "suggestion.recorded": ("recorded as shown", "已记录为可见"),
    "kind.pairwise": ("Which answer is better?", "哪个回答更好？"),
    "kind.ranking": ("Put the answers in order", "给回答排序"),
    "kind.rating": ("Rate each answer", "给每个回答打分"),
    "kind.stepwise": ("Find the first wrong step", "找出第一个错误的步骤"),
    "how_much": ("How much better?", "好多少？"),
    "ranking.how": ("Go to an answer by its letter, give it a place by its number. The same number is a tie.",
                    "按字母选回答，按数字定名次；名次相同即并列。"),
    "ranking.place": ("Place {}", "第 {} 名"), "ranking.order": ("Order", "顺序"),
    "rating.how": ("{} is best. The next line follows by itself.", "{} 为最好。打分后自动到下一项。"),
    "stepwise.how": ("Rate each step, given those before it. Steps after the first wrong one are not judged.",
                     "在前面各步的基础上评价每一步；第一个错误之后的步骤不再评价。"),
    "stepwise.many": ("This solution has {} lines: too many to walk through. Mark the first error among these, "
                      "or skip it.",
                      "此解答共 {} 行，无法逐步评价：请在所示步骤中标出第一个错误，或跳过。"),
    "not_judged": ("not judged", "未评价"),
    "correction": ("The step that belongs here", "此处应有的步骤"),
    "correction.hint": ("Enter: done", "回车：完成"),
    "correction.declined": ("No correction is given", "不给出更正"),
    "step_tag": ("Kind of error", "错误类型"), "none": ("none", "无"),
    "reason.label": ("Reason", "理由"),
    "reason.hint": ("Why? In your own words, if you like", "为什么？可用自己的话说明（选填）"),
    "rewrite.label": ("The better answer, as you would write it", "你认为更好的回答"),
    "rewrite.hint": ("It becomes the chosen answer, and an example to learn from",
                     "它将成为被选中的回答，并作为学习样例"),
    "rewrite.offer": ("Neither will do. Press {} to write the better answer.", "两者都不行。按 {} 写出更好的回答。"),
    "rewrite.copy": ("Start from answer {}", "从回答 {} 开始"), "rewrite.drop": ("Discard it", "删去"),
    "leave_field": ("Esc: back to the task", "Esc：回到任务"),
    "marks": ("Marked passages", "标出的片段"), "marks.remove": ("Remove", "删除"),
    "marks.how": ("← → move by word, with Shift they select. Enter marks; a number marks as: {}. "
                  "Backspace removes, Tab goes to the next answer, Esc ends.",
                  "← → 按词移动，加 Shift 选择。回车标出；按数字标出并注明：{}。退格删除，Tab 换回答，Esc 结束。"),
    "marks.not_found": ("The selection stands more than once in the text as written: mark it there.",
                        "所选文字在原文中不唯一：请在原文视图中标出。"),
    "tags.title": ("Kinds of error", "错误类型"),
    "tags.none": ("This batch has no list of errors.", "本批次没有错误类型列表。"),
    "skip.title": ("Skip: why?", "跳过：为什么？"), "flag.title": ("Report a problem: which?", "报告问题：是什么？"),
    "skip.1": ("Outside what I know", "超出我的知识范围"), "skip.2": ("The question is unclear", "问题不清楚"),
    "skip.3": ("I know who wrote this", "我知道是谁写的"), "flag.1": ("The task is broken", "任务有缺陷"),
    "flag.2": ("Wrong language", "语言不对"), "flag.3": ("Harmful or private content", "有害或隐私内容"),
    "own_words": ("In your own words", "用自己的话"), "send": ("Send", "提交"), "close": ("Close", "关闭"),
    "back": ("Back", "返回"),
    "differences.cut": ("The first {} characters are compared.", "只比较了前 {} 个字符。"),
    # what the page says
    "said.saved": ("Saved", "已保存"), "said.draft": ("Draft saved", "草稿已保存"),
    "said.local": ("Draft kept in this browser", "草稿保存在此浏览器中"),
    "said.undone": ("Taken back: here is your last judgment again", "已撤回：这是你上一次的判断"),
    "said.nothing": ("There is nothing to take back", "没有可撤回的判断"),
    "said.surplus": ("Kept, but no longer needed: somebody else had finished this task",
                     "已保存，但不再计入：他人已完成此任务"),
    "said.other_window": ("This task is judged already, in another window perhaps",
                          "此任务已判断过，可能是在另一个窗口"),
    "said.lost": ("The server does not answer. What you did is kept in this browser and is sent as soon as it is back.",
                  "服务器没有响应。你的操作已保存在此浏览器中，恢复后会自动发送。"),
    "said.trying": ("Trying again …", "正在重试……"), "said.back": ("The server is back", "服务器已恢复"),
    "said.refused": ("Not saved: {}", "未保存：{}"),
    "said.session": ("You are signed out. Load the page again; your draft is kept.",
                                                             "登录已失效。请重新载入页面，草稿已保存。"),
    "said.chosen": ("{} is better", "{} 更好"), "said.marked": ("Marked: {}", "已标出：{}"),
    "said.removed": ("Mark removed", "已删除标记"),
    "said.revising": ("You are changing an earlier judgment", "你正在修改先前的判断"),
    "said.judge_not": ("The judge {} said: {}", "评审 {} 的判断：{}"),
    "said.gold": ("As the known right decision", "与已知的正确判断一致"),
    "said.gold_not": ("The known right decision: {}", "已知的正确判断：{}"),
    "said.reference": ("Reference answer: {}", "参考答案：{}"),
    "need.choice": ("Choose first: {}", "请先选择：{}"), "need.strength": ("How much better? {}", "好多少？{}"),
    "need.places": ("Still without a place: {}", "尚未排名：{}"),
    "need.ratings": ("Still to rate: {}", "尚未打分：{}"),
    "need.steps": ("Still to rate: step {}", "尚未评价：第 {} 步"),
    "need.correction": ("Write the right step, or press {} to leave it out", "请写出正确的步骤，或按 {} 略过"),
    "need.changed": ("The text is empty or unchanged: change it, or discard it", "内容为空或未改动：请修改或删去"),
    "need.reason": ("Say why", "请说明原因"),
    "done.title": ("All done", "全部完成"),
    "done.text": ("Nothing is left for you to judge. Thank you.", "没有待判断的任务了。谢谢。"),
    "none.title": ("Nothing here yet", "还没有任务"),
    "none.text": ("No answers have been imported: python -m data.annotate import FILE",
                  "尚未导入回答：python -m data.annotate import FILE"),
    "leased.title": ("Others are at it", "任务在他人手中"),
    "leased.text": ("What is left lies with other annotators for now. This page looks again by itself.",
                    "剩下的任务暂时在其他标注者手中。本页会自动刷新。"),
    # progress
    "progress.title": ("Progress", "进度"),
    "progress.judged": ("judged", "已判断"),
    "progress.left": ("left for you", "待判断"),
    "progress.today": ("today", "今天"),
    "progress.skipped": ("skipped", "已跳过"),
    "progress.flagged": ("reported", "已报告"),
    "progress.median": ("seconds, median", "秒（中位数）"), "progress.batches": ("Batches", "批次"),
    "progress.batch": ("Batch", "批次"), "progress.done": ("complete", "已完成"),
    "progress.of": ("{} of {}", "{} / {}"),
    "history.title": ("Your last judgments", "你最近的判断"), "history.when": ("When (UTC)", "时间（UTC）"),
    "history.what": ("Decision", "判断"), "history.status.void": ("taken back", "已撤回"),
    "history.status.surplus": ("not needed", "不计入"), "history.status.submitted": ("counts", "计入"),
    "history.status.superseded": ("replaced", "已被替代"), "history.none": ("None yet.", "还没有。"),
    "agreement.title": ("Agreement", "一致性"),
    "agreement.hidden": ("Others' judgments stay unseen, so that each decides alone. Adjudicators see the agreement "
                         "here, and python -m data.annotate agreement shows it in the terminal.",
                         "为保证独立判断，看不到他人的判断。仲裁者可在此查看一致性，"
                         "或在终端运行 python -m data.annotate agreement。"),
    "agreement.blocks": ("Whole sets of {} tasks of each person are counted, so that nothing is told of any one task.",
                         "每人每满 {} 题统计一次，以免透露任何一题的情况。"),
    "agreement.and": ("and", "与"),
    "agreement.people": ("people", "人数"),
    "agreement.items": ("items", "条目"),
    "agreement.percent": ("percent", "一致率"),
    "agreement.judges": ("With AI judges", "与 AI 评审"), "agreement.annotators": ("Annotators", "标注者"),
    "agreement.none": ("Nothing has been judged yet.", "还没有判断。"),
    "profile.first": ("shown first", "选左侧"),
    "profile.longer": ("longer", "选较长"),
    "profile.quick": ("too quick", "过快"),
    "profile.gold": ("gold", "金标准"), "profile.repeats": ("repeats", "重复题"),
    "aspect.correctness": ("correctness", "正确性"), "aspect.clarity": ("clarity", "清晰度"),
    # outcomes in words
    "outcome.prefer": ("{} {} better", "{} {}"),
    "outcome.tie": ("tie", "平局"),
    "outcome.both_bad": ("both bad", "都不好"),
    "outcome.ranked": ("order {}", "顺序 {}"), "outcome.rated": ("ratings", "打分"),
    "outcome.stepped": ("first error: step {}", "第一个错误：第 {} 步"),
    "outcome.no_error": ("no wrong step", "没有错误步骤"),
    "outcome.skip": ("skipped", "跳过"), "outcome.flag": ("reported", "已报告"),
    "strength.1": ("slightly", "略好"), "strength.2": ("clearly", "更好"), "strength.3": ("much", "好得多"),
    # help and settings
    "help.title": ("Keys", "快捷键"),
    "help.text": ("Keys work outside text fields, with any input method on. Escape leaves a field.",
                                              "在文本框外按键有效，输入法开启时亦然。Esc 离开文本框。"),
    "keys.title": ("Settings", "设置"), "keys.change": ("Press the new key for: {}", "请按新的键：{}"),
    "keys.clash": ("{} is taken by: {}", "{} 已用于：{}"), "keys.reset": ("All keys as they were", "恢复默认按键"),
    "keys.quick": ("Send at once when the verdict is complete", "判断完整后立即提交"),
    "keys.saved": ("Key set", "按键已设置"),
    "group.verdict": ("Verdict", "判断"),
    "group.more": ("More", "更多"),
    "group.look": ("Look", "查看"),
    "group.page": ("Page", "页面"),
    # actions
    "do.prefer_a": ("A is better", "A 更好"), "do.prefer_b": ("B is better", "B 更好"), "do.tie": ("Tie", "平局"),
    "all_bad": ("All bad", "全都不好"),
    "do.both_bad": ("Both bad", "都不好"), "do.slightly": ("slightly", "略好"), "do.better": ("better", "更好"),
    "do.much": ("much better", "好得多"), "do.differences": ("Differences", "差异"),
    **{f"do.answer_{letter}": (f"Go to answer {letter.upper()}", f"到回答 {letter.upper()}") for letter in "abcdef"},
    **{f"do.rank_{n}": (f"Place {n}", f"第 {n} 名") for n in range(1, 10)},
    **{f"do.rate_{n}": (f"Rate {n}", f"打 {n} 分") for n in range(1, 11)},
    "do.right": ("Right", "正确"), "do.neutral": ("Neither", "中性"), "do.wrong": ("Wrong", "错误"),
    "do.first_error": ("First error", "第一个错误"),
    "do.correct": ("Correct it", "更正"),
    "do.decline": ("No correction", "不更正"),
    "do.clear": ("Clear", "清除"),
    "do.submit": ("Send", "提交"),
    "do.undo": ("Undo", "撤回"),
    "do.next": ("Next", "下一个"),
    "do.previous": ("Previous", "上一个"), "do.reason": ("Reason", "理由"), "do.tags": ("Errors", "错误类型"),
    "do.mark": ("Mark", "标出"), "do.rewrite": ("Write better", "写更好的"), "do.skip": ("Skip", "跳过"),
    "do.flag": ("Report", "报告"), "do.written": ("As written", "原文"), "do.unfold": ("Unfold", "展开"),
    "do.evidence": ("Evidence", "依据"),
    "do.guideline": ("Guideline", "准则"),
    "do.scroll_down": ("Scroll down", "向下滚动"),
    "do.scroll_up": ("Scroll up", "向上滚动"),
    "do.page_down": ("Page down", "下一屏"),
    "do.page_up": ("Page up", "上一屏"),
    "do.help": ("Keys", "快捷键"), "do.keys": ("Settings", "设置"), "do.progress": ("Progress", "进度"),
    "do.language": ("中文", "English"), "do.theme": ("Colours", "配色"),
}
_ERRORS = {  # the project's list of errors; a batch's own tags are shown as they are
    "wrong_fact": ("wrong figure", "数据用错"), "wrong_formula": ("wrong formula", "公式错误"),
    "slipped_digit": ("slipped digit", "数字写错"), "lost_unit": ("lost unit", "单位遗漏"),
    "skipped_step": ("skipped step", "跳步"),
    "wrong_reasoning": ("wrong reasoning", "推理错误"),
    "unclear": ("unclear", "表述不清"),
    "wrong_language": ("wrong language", "语言不对"), "other": ("other", "其他"),
}


_TERMS = {  # what the numbers of agreement say, as the terminal shows it too -> Chinese
    "verdict": "判断", "strength": "强度", "rating": "打分", "step": "步骤", "first error": "第一个错误",
    "correctness": "正确性", "clarity": "清晰度", "all": "全部", "gold tasks": "金标准题", "batch": "批次",
    "language": "语言", "with others": "与他人", "suggestion shown": "看到建议", "suggestion hidden": "未看到建议",
    "not recorded": "未记录", "nominal": "名义", "ordinal": "顺序", "interval": "间距", "n/a": "无",
    "no data": "无数据", "no variation": "无差异", "no overlap": "无重叠", "unknown": "未知", "too quick": "过快",
    "prefers what is shown first": "偏向先显示的回答", "prefers what is shown second": "偏向后显示的回答",
    "prefers longer answers": "偏向较长的回答", "prefers shorter answers": "偏向较短的回答",
    "gets gold tasks wrong": "金标准题判断有误"}


def term(text: str, language: Language) -> str:
    """A term of agreement in a language: `rating: clarity`, `n/a (no data)`. Names and numbers stay as they are."""
    if language == "en":
        return text
    for between, shown, end in ((": ", "：", ""), (" (", "（", "）")):
        head, found, tail = text.partition(between)
        if found and head in _TERMS:
            tail = tail.removesuffix(")") if end else tail
            return _TERMS[head] + shown + _TERMS.get(tail, tail) + end
    return _TERMS.get(text, text)


@functools.cache
def words(language: Language) -> dict[str, str]:
    """Every word of the pages in one language; an error tag's word is `tag.<tag>`."""
    place = ("en", "zh").index(language)
    return {**{name: pair[place] for name, pair in _WORDS.items()},
            **{f"tag.{name}": pair[place] for name, pair in _ERRORS.items()}}
