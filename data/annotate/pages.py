"""The pages of the desk as HTML: sign-in, the desk, a task as a fragment that the desk's script puts in, progress.

    create_app(desk, pages=routes())

A task is rendered here, so that what reaches the browser is inert and blind: all it holds is what `Desk.shown` gives.
Long answers come in parts, of which the first is in the fragment and the others are fetched when they are unfolded.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from data.annotate import keymap
from data.annotate.characters import parts, visible
from data.annotate.desk import Desk, Refused
from data.annotate.differences import differences
from data.annotate.records import Annotator
from data.annotate.render import rendered
from data.annotate.told import told
from data.annotate.words import TAGS, term, words
from data.schema import Language

COOKIE = "desk_language"
THEMES = ("auto", "light", "dark")
COMPARED = 60_000  # characters of an answer whose differences are shown
HISTORY = 100  # judgments shown
LONGEST = 40_000  # characters of a prompt, an evidence, a step or a guideline that are shown as Markdown
MOST_STEPS = 500  # of a solution that can be walked through
STATUS = {"not_found": 404, "no_session": 401}
_TEMPLATES = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                         loader=FileSystemLoader(Path(__file__).parent / "templates"))


def long_markdown(text: str, *, breaks: bool = True) -> Markup:
    """Markdown as HTML; what is beyond LONGEST is folded, as it was written."""
    rest = text[LONGEST:]
    shown = rendered(text[:LONGEST], breaks=breaks)
    if rest:
        shown += f'<details><summary>+ {len(rest):,}</summary><div class="written">{visible(rest)}</div></details>'
    return Markup(shown)


_TEMPLATES.filters |= {"markdown": lambda text: Markup(rendered(text)), "visible": lambda text: Markup(visible(text)),
                       "long_markdown": long_markdown}


def routes() -> list[BaseRoute]:
    """All pages; the application mounts them beside the API and `static/`."""
    return [Route("/", desk_page), Route("/progress", progress_page),
            Route("/progress/agreement", _own(agreement_part)), Route("/guideline", _own(guideline)),
            Route("/task/{assignment}", _own(task)),
            Route("/task/{assignment}/part/{slot}/{number:int}", _own(task_part)),
            Route("/task/{assignment}/differences", _own(task_differences))]


# ------------------------------------------------------------------------------------------------------- whole pages


def desk_page(request: Request) -> Response:
    """The desk, or the sign-in for somebody unknown."""
    person = _person(request)
    if person is None:
        return _page("sign_in.html.jinja", request, personal_links=request.app.state.options.personal_links)
    return _page("desk.html.jinja", request)


def progress_page(request: Request) -> Response:
    """A person's own numbers and judgments, and what is left of each batch."""
    person = _person(request)
    if person is None:
        return RedirectResponse("/", status_code=303)
    desk: Desk = request.app.state.desk
    rows = desk.history(person, limit=HISTORY)
    replaced = {row["supersedes"] for row in rows if row["status"] != "void"}
    for row in rows:
        row["told"] = told(row["decision"], language(request))
        row["status"] = "superseded" if row["id"] in replaced else row["status"]
    undone = {row["supersedes"] for row in rows if row["status"] == "void"}
    return _page("progress.html.jinja", request, progress=desk.progress(person),
                 history=[row for row in rows if row["id"] not in undone], sees_agreement=_sees_agreement(request))


def language(request: Request) -> Language:
    """The person's choice, else the browser's."""
    chosen = _preferences(request).get("language", request.cookies.get(COOKIE))
    if chosen in get_args(Language):
        return "zh" if chosen == "zh" else "en"
    return "zh" if request.headers.get("accept-language", "").lower().startswith("zh") else "en"


def _page(template: str, request: Request, *, status: int = 200, **content: Any) -> HTMLResponse:
    spoken, preferences = language(request), _preferences(request)
    theme = preferences.get("theme")
    page = _TEMPLATES.get_template(template).render(
        **content, w=words(spoken), lang=TAGS[spoken], language=spoken, token=request.state.csrf,
        theme=theme if theme in THEMES else "auto", person=_person(request),
        preferences=preferences, actions=keymap.to_json(), keys=_keys(preferences))
    return HTMLResponse(page.encode("utf-8", "backslashreplace"), status_code=status)


def _keys(preferences: dict[str, Any]) -> dict[str, str]:
    """Each action's key: the person's own where it is one."""
    own = preferences.get("keys")
    own = own if isinstance(own, dict) else {}
    return {action.name: own[action.name] if isinstance(own.get(action.name), str) else action.key
            for action in keymap.ACTIONS}


# -------------------------------------------------------------------------------------------- what the script fetches


def task(request: Request) -> Response:
    """One of the person's assignments, ready to be put into the desk."""
    shown = _shown(request)
    answers = [{**slot, "letter": slot["slot"].upper(), "parts": _first_part(slot["text"])} for slot in shown["slots"]]
    others = [told(decision, language(request)) for decision in shown.get("others", ())]
    said = shown["suggestion"] and told(shown["suggestion"]["decision"], language(request))
    return _page("task.html.jinja", request, task=shown, answers=answers, others=others, suggestion=said,
                 most_steps=MOST_STEPS)


def task_part(request: Request) -> Response:
    """A further part of an answer, rendered and as written."""
    number, slots = request.path_params["number"], {slot["slot"]: slot["text"] for slot in _shown(request)["slots"]}
    found = parts(slots.get(request.path_params["slot"], ""))
    if not 0 < number < len(found):
        raise Refused("not_found", "there is no such part")
    return _page("part.html.jinja", request, part=found[number])


def task_differences(request: Request) -> Response:
    """What differs between two answers: HTML of each as written, by slot."""
    shown = _shown(request)
    if shown["kind"] != "pairwise":
        raise Refused("not_found", "only two answers are compared")
    texts = [slot["text"] for slot in shown["slots"]]
    sides = differences(*(text[:COMPARED] for text in texts))
    marked = {slot["slot"]: "".join(f"<mark>{visible(each.text)}</mark>" if each.differs else visible(each.text)
                                    for each in side) for slot, side in zip(shown["slots"], sides, strict=True)}
    return _json({"slots": marked, "cut": COMPARED if any(len(text) > COMPARED for text in texts) else None})


def guideline(request: Request) -> Response:
    """A version of the guideline as HTML."""
    found = request.app.state.desk.guideline(request.query_params.get("version"))
    return _page("guideline.html.jinja", request, guideline=found)


def agreement_part(request: Request) -> Response:
    """The agreement of all, for those who may see others' judgments."""
    if not _sees_agreement(request):
        raise Refused("not_found", "agreement is shown to adjudicators")
    person = _person(request)
    content = importlib.import_module("data.annotate.agreement_page").content(
        request.app.state.desk.snapshot(), whole=person is not None and person.role == "adjudicator")
    return _page("agreement.html.jinja", request, term=functools.partial(term, language=language(request)), **content)


def _own(answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """A route for those who are signed in; what the desk refuses is said as in its API."""
    def checked(request: Request) -> Response:
        try:
            if _person(request) is None:
                raise Refused("no_session", "sign in first")
            return answer(request)
        except Refused as refused:
            return JSONResponse({"error": {"code": refused.code, "message": str(refused), "field": None}},
                                status_code=STATUS.get(refused.code, 403))
    return checked


def _json(value: Any) -> Response:
    return Response(json.dumps(value).encode("ascii"), media_type="application/json")


def _first_part(text: str) -> dict[str, Any]:
    """The part that is shown at once, and how long the folded ones are."""
    first, *rest = parts(text)
    return {"first": first, "rest": [len(part.text) for part in rest]}


def _person(request: Request) -> Annotator | None:
    person: Annotator | None = request.state.annotator
    return person


def _shown(request: Request) -> dict[str, Any]:
    person = _person(request)
    assert person is not None
    shown: dict[str, Any] = request.app.state.desk.shown(person.name, request.path_params["assignment"])
    return shown


def _preferences(request: Request) -> dict[str, Any]:
    person = _person(request)
    return {} if person is None else request.app.state.desk.preferences(person.name)


def _sees_agreement(request: Request) -> bool:
    person = _person(request)
    return person is not None and (person.role == "adjudicator" or request.app.state.options.show_agreement)
