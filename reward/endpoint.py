"""A model behind an OpenAI-compatible URL: structured output, concurrency, retries, rate limits, the tokens it took.

Only the configured URL is ever asked: no redirect is followed, and nothing a row or a reply says changes the address.
The key comes from an environment variable, goes into one header, and is in no log, error or file. A reply that may come
right when asked again (429, 5xx, a time-out, a cut connection, a body that is no JSON) is asked for again, later each
time and no earlier than `Retry-After` says; anything else ends the run with what the server said.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import ipaddress
import json
import math
import os
import random
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from data.schema import UserError
from reward.judge import Reply, Request

if TYPE_CHECKING:
    import httpx

AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)
MAX_BYTES = 4 << 20  # of a response
MAX_WAIT = 300.0  # seconds between two tries, whatever a server asks for
SHOWN = 300  # characters of a server's words that an error repeats
LIKELIEST = 20  # next tokens asked for, where a word's probability is wanted; the API gives no more


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Where a model is and how it is asked."""

    url: str  # up to and with the version, as in https://host/v1
    model: str
    key_variable: str | None = None  # environment variable that holds the API key
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    structured: str = "json_schema"  # | "json_object" | "none": how the server is told what JSON to write
    concurrency: int = 8
    requests_per_minute: float | None = None
    timeout: float = 60.0  # seconds, of one try
    tries: int = 6
    first_wait: float = 1.0  # seconds after the first failure, doubled with each


class Endpoint:
    """An `Ask`. Whoever calls it keeps each reply as it comes (reward/replies.py): they are paid for."""

    def __init__(self, settings: Settings, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Raises UserError for an address or a key that cannot be used. `sleep` is for tests."""
        import httpx  # here, so that a judge who asks nobody does without

        self._broken = (httpx.TransportError, httpx.DecodingError, EndlessBody)
        self.settings, self._sleep = settings, sleep
        self._key = read_key(settings.key_variable)
        self._address = check_url(settings.url, secret=self._key is not None).rstrip("/") + "/chat/completions"
        self._client = httpx.Client(
            timeout=settings.timeout, follow_redirects=False, limits=httpx.Limits(max_connections=settings.concurrency),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {})
        self._pace = Pace(settings.requests_per_minute, sleep)

    def __call__(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        """Raises UserError where the server refuses, or fails more often than `tries` allows: then no further request
        is sent, and the replies to those under way come first."""
        failed: BaseException | None = None
        stop = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(self.settings.concurrency) as pool:
            waiting = {pool.submit(self._ask, request, stop): number for number, request in enumerate(requests)}
            try:
                for future in concurrent.futures.as_completed(waiting):
                    if (error := future.exception()) is not None:
                        failed = failed or error
                        stop.set()
                    elif (reply := future.result()) is not None:
                        yield waiting[future], reply
            finally:
                stop.set()
        if failed is not None:
            raise failed

    def _ask(self, request: Request, stop: threading.Event) -> Reply | None:
        """One reply; None once the others are to stop. Raises UserError as above."""
        body = self._body(request)
        draw = random.Random(request.key())
        for number in range(1, self.settings.tries + 1):
            self._pace.wait()
            if stop.is_set():
                return None
            reply, why, wait = self._try(body, request)
            if reply is not None:
                return reply
            if number < self.settings.tries:
                backoff = self.settings.first_wait * 2 ** (number - 1) * draw.uniform(0.5, 1.0)
                self._sleep(min(max(backoff, wait), MAX_WAIT))
        raise UserError(f"{self._address} failed {self.settings.tries} times, last with: {why}. Run the same command "
                        "again: what was answered is kept. If it goes on, lower `concurrency` or "
                        "`requests_per_minute`, or raise `timeout` or `tries`")

    def close(self) -> None:
        self._client.close()

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.settings.model, "messages": list(request.messages),
                                "temperature": self.settings.temperature, "max_tokens": self.settings.max_tokens}
        body |= {"top_p": self.settings.top_p} if self.settings.top_p < 1 else {}
        body |= {"seed": request.seed} if request.seed is not None else {}
        if request.options:
            return body | {"max_tokens": 1, "logprobs": True, "top_logprobs": LIKELIEST}
        if request.schema is None or self.settings.structured == "none":
            return body
        form: dict[str, Any] = {"type": self.settings.structured}
        if self.settings.structured == "json_schema":
            form["json_schema"] = {"name": "verdict", "schema": request.schema, "strict": True}
        return body | {"response_format": form}

    def _try(self, body: dict[str, Any], request: Request) -> tuple[Reply | None, str, float]:
        """(the reply, or what went wrong, seconds that the server asks to wait). Raises UserError where no further try
        would mend it."""
        deadline = time.monotonic() + self.settings.timeout
        try:
            with self._client.stream("POST", self._address, json=body) as response:
                content = b"".join(limited(response, deadline))
        except self._broken as error:
            return None, f"{type(error).__name__} ({error})", 0.0
        said = content.decode("utf-8", "replace").replace(self._key or "\0", "[key]")  # some repeat a wrong one
        if response.status_code in AGAIN:
            return None, f"status {response.status_code}: {said[:SHOWN]}", retry_after(response)
        if response.status_code != 200:
            place = response.headers.get("location")
            raise UserError(f"{self._address} answers with status {response.status_code}"
                            + (f" and sends on to {place[:SHOWN]!r}, which is not followed; put the right address into "
                               "`url`" if place else f": {said[:SHOWN]}"))
        try:
            value = json.loads(said)
        except (ValueError, RecursionError):
            return None, f"status 200 with a body that is no JSON: {said[:SHOWN]!r}", 0.0
        try:
            return read_completion(value, request), "", 0.0
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{self._address} answers with what is no chat completion ({type(error).__name__}: "
                            f"{error}): {said[:SHOWN]}") from error


class EndlessBody(Exception):
    """A response longer than any reply, or one that takes for ever."""


class Pace:
    """Spaces requests out to a number a minute, over all threads."""

    def __init__(self, per_minute: float | None, sleep: Callable[[float], None],
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._gap, self._sleep, self._clock = 60.0 / per_minute if per_minute else 0.0, sleep, clock
        self._next, self._lock = 0.0, threading.Lock()

    def wait(self) -> None:
        if not self._gap:
            return
        with self._lock:
            now = self._clock()
            start = max(now, self._next)
            self._next = start + self._gap
        if start > now:
            self._sleep(start - now)


def check_url(url: str, *, secret: bool) -> str:
    """The URL. Raises UserError unless it is http or https, holds no credentials and does not send a key in the clear
    over a network."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"url={url}: is no URL ({error}); write it as in https://host/v1") from error
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise UserError(f"url={url}: must begin with https:// or http:// and name a host, as in https://host/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError("url: holds a name, a password, a query or a fragment; a key goes into the environment "
                        "variable that key_variable names")
    if secret and parts.scheme == "http" and not is_loopback(host):
        raise UserError(f"url={url}: would send the key of key_variable unencrypted; use https://")
    return url


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_key(variable: str | None) -> str | None:
    """The API key in an environment variable, where one is asked for. Raises UserError where it is not set."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"key_variable={variable}: that environment variable is not set; export it, "
                        "or set key_variable=null for a server that asks for no key")
    if not key.isascii() or not key.isprintable():
        raise UserError(f"key_variable={variable}: that environment variable holds characters that "
                        "no key has; export it again")
    return key


def limited(response: httpx.Response, deadline: float) -> list[bytes]:
    """The body's pieces. Raises EndlessBody."""
    pieces, size = [], 0
    for piece in response.iter_bytes():
        size += len(piece)
        if size > MAX_BYTES:
            raise EndlessBody(f"the body is longer than {MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise EndlessBody("the body comes too slowly")
        pieces.append(piece)
    return pieces


def retry_after(response: httpx.Response) -> float:
    """Seconds the server asks to wait; 0 where it says none. A date in place of seconds is not read."""
    try:
        seconds = float(response.headers.get("retry-after", "0"))
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def read_completion(value: Any, request: Request) -> Reply:
    """A chat completion's text, or the probabilities of the options as its next token, with what it took."""
    choice, usage = value["choices"][0], value.get("usage") or {}
    found: dict[str, float] = {}
    if request.options:
        for token in choice["logprobs"]["content"][0]["top_logprobs"]:
            for option in request.options:
                if token["token"].strip().casefold() == option.casefold():
                    found[option] = found.get(option, 0.0) + math.exp(min(float(token["logprob"]), 0.0))
    text = "" if request.options else choice["message"]["content"] or ""
    if not isinstance(text, str):
        raise TypeError("the message's content is not text")
    return Reply(text, found, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0),
                 choice.get("finish_reason") != "length")
