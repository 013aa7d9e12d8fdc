"""Who may talk to the desk: its own pages, from the hosts it answers for, by people who signed in.

Another site's page cannot reach it: a request names one of our hosts (so a rebound DNS name gets nowhere), a POST comes
from our origin, says JSON and carries the session's token, and the cookie is not sent across sites. What is shown can
run no script but ours and load nothing from elsewhere. Knows no record of the desk.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY = 4_000_000  # bytes of a request
TOKEN_HEADER = "x-desk-token"
CSP = "; ".join(("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:",
                 "font-src 'self'", "connect-src 'self'", "form-action 'self'", "base-uri 'none'",
                 "frame-ancestors 'none'"))
HEADERS = {"content-security-policy": CSP, "x-content-type-options": "nosniff", "x-frame-options": "DENY",
           "referrer-policy": "no-referrer", "cross-origin-resource-policy": "same-origin",
           "cross-origin-opener-policy": "same-origin"}


class Signer:
    """Signs names with a secret: what goes into the cookie, the page's token and a personal link."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.cookie = f"desk_{self._mac('cookie', '')[:8]}"  # cookies know no port: two desks, two names

    def _mac(self, purpose: str, text: str) -> str:
        return hmac.new(self._secret, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()

    def sign(self, purpose: str, name: str) -> str:
        """`name.mac`: nobody without the secret can make it."""
        return f"{name}.{self._mac(purpose, name)}"

    def name(self, purpose: str, signed: str) -> str | None:
        """The name that was signed for this purpose, or None."""
        name, _, mac = signed.rpartition(".")
        return name if name and hmac.compare_digest(self._mac(purpose, name).encode(), mac.encode()) else None

    def token(self, session: str) -> str:
        """What a POST of that session carries in the header x-desk-token."""
        return self._mac("token", session)

    def is_token(self, session: str, token: str) -> bool:
        return hmac.compare_digest(self.token(session).encode(), token.encode())


def host_of(value: str) -> str:
    """The host of a Host header, without its port."""
    return (urlsplit(f"//{value}").hostname or "") if value else ""


class Guard:
    """ASGI middleware: refuses what does not come from our own pages, and puts the headers on every answer."""

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str], signer: Signer) -> None:
        self.app, self.hosts, self.signer = app, frozenset(hosts), signer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self.refusal(Request(scope))
        if refusal is not None:
            code, status, text = refusal
            await error(code, text, status=status)(scope, receive, with_headers)
        else:
            await self.app(scope, receive, with_headers)

    def refusal(self, request: Request) -> tuple[str, int, str] | None:
        """(code, HTTP status, sentence) of why a request goes no further."""
        headers, host = request.headers, request.headers.get("host", "")
        try:
            known = host_of(host) in self.hosts
        except ValueError:
            known = False
        if not known:
            return "forbidden", 400, "this desk does not answer for that host; serve --allow-host NAME adds one"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not _is_visit(request):
            return "forbidden", 403, "another site's page may not use the desk"
        if request.method in ("GET", "HEAD"):
            return None
        if request.method != "POST":
            return "forbidden", 405, "the desk takes GET and POST"
        return self._post_refusal(request, headers, host)

    def _post_refusal(self, request: Request, headers: Headers, host: str) -> tuple[str, int, str] | None:
        origin = headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return "forbidden", 403, "another site's page may not use the desk"
        if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            return "forbidden", 403, "a POST to the desk is application/json"
        if not self.signer.is_token(request.cookies.get(self.signer.cookie, ""), headers.get(TOKEN_HEADER, "")):
            return "forbidden", 403, "the page is out of date; load it again"
        length = headers.get("content-length", "")
        if not length.isdecimal() or len(length) > len(str(MAX_BODY)) or int(length) > MAX_BODY:
            return "too_large", 413, f"a request says its length, at most {MAX_BODY} bytes"
        return None


def _is_visit(request: Request) -> bool:
    """A link followed from elsewhere: a page may be opened from anywhere, and what it shows stays with the browser."""
    return request.method == "GET" and request.headers.get("sec-fetch-mode") == "navigate" and (
        request.headers.get("sec-fetch-dest") == "document")


def error(code: str, message: str, *, status: int, field: str | None = None) -> JSONResponse:
    """An answer that says no, in the API's form."""
    return JSONResponse({"error": {"code": code, "message": message, "field": field}}, status_code=status)
