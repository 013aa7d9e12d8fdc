"""An OpenAI-compatible server on this machine that answers, fails and cuts by a script, for tests of the client."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclasses.dataclass
class Answer:
    """What the server does with one request."""

    body: str = ""
    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    wait: float = 0.0  # seconds before it answers
    cut: bool = False  # ends the connection in the middle of the body
    drip: float = 0.0  # seconds between one byte and the next


def completion(content: str | None, **more: Any) -> str:
    """A chat completion's body."""
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
                       "usage": {"prompt_tokens": 7, "completion_tokens": 3}} | more)


def next_tokens(probabilities: dict[str, float]) -> str:
    """A chat completion of one token, with what else might have come."""
    likely = [{"token": token, "logprob": math.log(share)} for token, share in probabilities.items()]
    return json.dumps({"choices": [{"message": {"content": likely[0]["token"]}, "logprobs": {"content": [
        {"token": likely[0]["token"], "top_logprobs": likely}]}}], "usage": {"prompt_tokens": 7}})


Script = Callable[[int, dict[str, Any]], Answer]  # number of the request from 0, its body


@dataclasses.dataclass
class Server:
    """What came in, in order; `answered` counts what was answered to the end, by the request's body."""

    url: str
    bodies: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    headers: list[dict[str, str]] = dataclasses.field(default_factory=list)
    paths: list[str] = dataclasses.field(default_factory=list)
    times: list[float] = dataclasses.field(default_factory=list)
    answered: list[str] = dataclasses.field(default_factory=list)
    at_once: int = 0  # the most requests that were under way together
    under_way: int = 0
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


@contextmanager
def serve(script: Script) -> Iterator[Server]:
    """A server that answers by the script until the block ends."""
    record = Server("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with record.lock:
                number = len(record.bodies)
                record.bodies.append(body)
                record.headers.append({name.lower(): value for name, value in self.headers.items()})
                record.paths.append(self.path)
                record.times.append(time.monotonic())
                record.under_way += 1
                record.at_once = max(record.at_once, record.under_way)
            answer = script(number, body)
            time.sleep(answer.wait)
            with record.lock:
                record.under_way -= 1
            self.send_answer(answer, json.dumps(body, sort_keys=True))

        def do_GET(self) -> None:
            record.paths.append(f"GET {self.path}")
            self.send_answer(Answer("{}"), "")

        def send_answer(self, answer: Answer, key: str) -> None:
            content = answer.body.encode()
            try:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                for place in range(len(content)) if answer.drip else ():
                    self.wfile.write(content[place:place + 1])
                    time.sleep(answer.drip)
                if not answer.drip:
                    self.wfile.write(content[:len(content) // 2] if answer.cut else content)
                self.wfile.flush()
            except OSError:
                return  # whoever asked is gone
            if answer.cut:
                self.close_connection = True
            elif answer.status == 200:
                record.answered.append(key)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on the screen."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    record.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield record
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
