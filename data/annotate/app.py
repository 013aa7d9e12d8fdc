"""The desk over HTTP: the JSON API, the session, and the pages it is given, behind the guard.

    create_app(Desk.open("annotations.db"), pages=routes(), options=Options())

Every change is a POST that is on disk before it is answered; a GET changes nothing. Knows no rule of the desk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from data.annotate.database import Busy
from data.annotate.decisions import Invalid, has_half
from data.annotate.desk import UI_VERSION, Desk, Refused
from data.annotate.guard import LOOPBACK, Guard, Signer, error
from data.annotate.records import Annotator
from data.rows import parse_json, shown, to_line
from data.schema import UserError

STATIC = Path(__file__).parent / "static"
STATUS = {"no_session": 401, "forbidden": 403, "not_found": 404, "conflict": 409, "already_judged": 409,
          "invalid": 422, "too_large": 413}
MAX_LEAD_MS = 10 * 24 * 3600 * 1000
DAY = 24 * 3600  # seconds


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """How a server answers."""

    hosts: tuple[str, ...] = LOOPBACK
    personal_links: bool = False  # signing in takes the link that `invite` prints, as beyond loopback
    show_agreement: bool = False  # to annotators too, and with it something of others' answers


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One request to the API."""

    desk: Desk
    options: Options
    signer: Signer
    session: str  # the cookie's value, "" without one
    annotator: Annotator | None
    body: dict[str, Any]
    query: dict[str, str]

    @property
    def person(self) -> Annotator:
        """Who asks. Raises Refused without a session."""
        if self.annotator is None:
            raise Refused("no_session", "sign in first")
        return self.annotator

    def text(self, name: str, *, default: str | None = None) -> str:
        """A text of the body. Raises Invalid."""
        value = self.body.get(name, default)
        if not isinstance(value, str):
            raise Invalid(name, f"is {shown(value)}; it must be text")
        if "\0" in value or has_half(value):
            raise Invalid(name, f"is {shown(value)}, with what is no character in it; leave that out")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """An object of the body. Raises Invalid."""
        value = self.body.get(name)
        if not isinstance(value, dict):
            raise Invalid(name, f"is {shown(value)}; it must be an object")
        return value


Handler = Callable[[Call], Any]


# ------------------------------------------------------------------------------------------------------------- calls


def session(call: Call) -> dict[str, Any]:
    person = call.annotator
    batches = [] if person is None else call.desk.progress(person)["batches"]
    return {"annotator": person and person.name, "role": person and person.role,
            "csrf": call.signer.token(call.session), "ui_version": UI_VERSION,
            "preferences": call.desk.preferences(person.name) if person else {},
            "personal_links": call.options.personal_links,
            "batches": [{"id": b["id"], "name": b["name"], "left": b["left_for_me"]} for b in batches]}


def sign_in(call: Call) -> Response:
    if call.options.personal_links:
        raise Refused("forbidden", "open the personal link that `python -m data.annotate invite NAME` printed for you")
    name = call.text("annotator").strip()
    known = call.desk.person(name)
    if known is not None and known.role == "adjudicator":
        raise Refused("forbidden", f"{name} settles what others do not agree on; open the personal link that `python "
                                   "-m data.annotate invite` printed")
    person = call.desk.sign_in(name)
    signed = call.signer.sign("session", person.name)
    response = answer(session(dataclasses.replace(call, annotator=person, session=signed)))
    return with_session(response, call.signer, signed)


def sign_out(call: Call) -> Response:
    response = answer({"annotator": None})
    response.delete_cookie(call.signer.cookie, httponly=True, samesite="strict")
    return response


def preferences(call: Call) -> dict[str, Any]:
    call.desk.set_preferences(call.person.name, call.mapping("preferences"))
    return {"preferences": call.desk.preferences(call.person.name)}


def batch_of(call: Call) -> str | None:
    return None if call.body.get("batch") is None else call.text("batch")


def next_task(call: Call) -> dict[str, Any]:
    return call.desk.waiting(call.person, batch=batch_of(call))


def opened(call: Call) -> dict[str, Any]:
    return {"leased_until": call.desk.opened(call.person, call.text("assignment"))}


def draft(call: Call) -> dict[str, Any]:
    return {"saved_at": call.desk.save_draft(call.person, call.text("assignment"), call.mapping("draft"))}


def submit(call: Call) -> dict[str, Any]:
    lead = call.body.get("lead_time_ms")
    if lead is not None and (not isinstance(lead, int) or isinstance(lead, bool) or not 0 <= lead <= MAX_LEAD_MS):
        raise Invalid("lead_time_ms", f"is {shown(lead)}; it must be milliseconds from 0 to {MAX_LEAD_MS}")
    judgment = call.desk.submit(call.person, id=call.text("id"), assignment=call.text("assignment"),
                                decision=call.mapping("decision"), lead_time_ms=lead)
    return {"judgment": judgment.id, "status": judgment.status, "reveal": call.desk.revealed(judgment),
            "next": call.desk.waiting(call.person, batch=batch_of(call))}


def undo(call: Call) -> dict[str, Any]:
    void = call.desk.undo(call.person, id=call.text("id"))
    return {"undone": void and void.supersedes, "next": call.desk.waiting(call.person, batch=batch_of(call))}


def progress(call: Call) -> dict[str, Any]:
    return call.desk.progress(call.person)


def history(call: Call) -> dict[str, Any]:
    limit = call.query.get("limit", "50")
    if not limit.isdecimal() or len(limit) > 4 or not 1 <= int(limit) <= 1000:
        raise Invalid("limit", f"is {shown(limit)}; it must be a number from 1 to 1000")
    return {"judgments": call.desk.history(call.person, limit=int(limit))}


def guideline(call: Call) -> dict[str, Any]:
    assert call.person
    return call.desk.guideline(call.query.get("version"))


GETS: dict[str, Handler] = {"session": session, "progress": progress, "history": history, "guideline": guideline}
POSTS: dict[str, Handler] = {"session": sign_in, "signout": sign_out, "preferences": preferences, "next": next_task,
                             "open": opened, "draft": draft, "submit": submit, "undo": undo}


# --------------------------------------------------------------------------------------------------------- plumbing


def answer(value: Any, *, status: int = 200) -> Response:
    """JSON, whatever text is in it: half surrogates of a draft are escaped."""
    return Response(to_line(value), status_code=status, media_type="application/json")


def with_session(response: Response, signer: Signer, signed: str) -> Response:
    response.set_cookie(signer.cookie, signed, max_age=90 * DAY, httponly=True, samesite="strict")
    return response


def endpoint(name: str, request: Request) -> Response:
    """Answers an API request whose body has been read; runs in a thread."""
    state = request.app.state
    handler = (POSTS if request.method == "POST" else GETS)[name]
    try:
        body = parse_json(request.state.body.decode("utf-8"), where="request") if request.method == "POST" else {}
        if not isinstance(body, dict):
            raise Invalid("request", f"is {shown(body)}; it must be an object")
        result = handler(Call(state.desk, state.options, state.signer, request.state.session, request.state.annotator,
                              body, dict(request.query_params)))
    except Refused as refused:
        return error(refused.code, str(refused), status=STATUS[refused.code])
    except UserError as wrong:
        return error("invalid", str(wrong), status=422, field=getattr(wrong, "field", None))
    except UnicodeDecodeError:
        return error("invalid", "the request is not UTF-8", status=422)
    except Busy as busy:
        return error("busy", f"{busy}; try again", status=503)
    return result if isinstance(result, Response) else answer(result)


def _route(name: str, method: str) -> Route:
    async def call(request: Request) -> Response:
        request.state.body = await request.body()
        return await run_in_threadpool(endpoint, name, request)

    return Route(f"/api/{name}", call, methods=[method])


class Sessions:
    """ASGI middleware: `request.state.annotator`, `.session` and `.csrf` for everything inside."""

    def __init__(self, app: ASGIApp, *, desk: Desk, signer: Signer) -> None:
        self.app, self.desk, self.signer = app, desk, signer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            signed = Request(scope).cookies.get(self.signer.cookie, "")
            name = self.signer.name("session", signed)
            person = await run_in_threadpool(self.desk.person, name) if name is not None else None
            scope.setdefault("state", {}).update(annotator=person, session=signed, csrf=self.signer.token(signed))
        await self.app(scope, receive, send)


class Files(StaticFiles):
    """Files the pages load; a browser asks each time whether they have changed."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


def enter(request: Request) -> Response:
    """A personal link: signs its holder in. A page and no redirect: a browser that comes from a mail withholds the new
    cookie from one."""
    signer: Signer = request.app.state.signer
    name = signer.name("invite", request.query_params.get("key", ""))
    if name is None or request.app.state.desk.person(name) is None:
        return error("forbidden", "this link is not valid here; ask for a new one", status=403)
    page = HTMLResponse('<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" '
                        'content="0; url=/"><title>The desk</title><a href="/">The desk</a></html>')
    return with_session(page, signer, signer.sign("session", name))


def healthy(request: Request) -> Response:
    return answer({"ok": True})


def create_app(desk: Desk, *, pages: Sequence[BaseRoute] = (), options: Options | None = None) -> Starlette:
    """The application. `pages` are served beside the API."""
    options = options or Options()
    signer = Signer(desk.secret())
    routes: list[BaseRoute] = [*(_route(name, "GET") for name in GETS), *(_route(name, "POST") for name in POSTS),
                               Route("/enter", enter), Route("/healthz", healthy), *pages]
    if STATIC.is_dir():
        routes.append(Mount("/static", Files(directory=STATIC)))
    app = Starlette(routes=routes, middleware=[Middleware(Guard, hosts=options.hosts, signer=signer),
                                               Middleware(Sessions, desk=desk, signer=signer)])
    app.state.desk, app.state.options, app.state.signer = desk, options, signer
    return app
