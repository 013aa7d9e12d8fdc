"""A desk's server as its own process on loopback, and people who talk to it over real sockets."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[3]


class Server:
    """`python -m data.annotate serve` on a free port; `with Server(database) as server: ...`"""

    def __init__(self, database: Path, *options: str) -> None:
        self.connections: list[http.client.HTTPConnection] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "data.annotate", "serve", "--db", str(database), "--port", "0", *options], cwd=ROOT,
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONWARNINGS": "default"})
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found, f"the server said {line!r}"
        self.port = int(found[1])
        self.page = self.fetch("/")

    def connect(self) -> http.client.HTTPConnection:
        """A connection that is closed when the server is left."""
        self.connections.append(http.client.HTTPConnection("127.0.0.1", self.port, timeout=120))
        return self.connections[-1]

    def fetch(self, path: str) -> str:
        connection = self.connect()
        connection.request("GET", path)
        return connection.getresponse().read().decode()

    def kill(self) -> None:
        """As the machine's power would end it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=30)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        for connection in self.connections:
            connection.close()
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Person:
    """Signed in over a connection that stays open."""

    def __init__(self, server: Server, name: str) -> None:
        self.connection = server.connect()
        self.cookie = ""
        self.csrf = ""
        self.csrf = self.call("GET", "session")["csrf"]
        self.csrf = self.call("POST", "session", annotator=name)["csrf"]

    def call(self, method: str, name: str, **body: Any) -> Any:
        """The JSON of an answer that says yes."""
        headers = {"X-Desk-Token": self.csrf, "Content-Type": "application/json", "Cookie": self.cookie}
        self.connection.request(method, f"/api/{name}", body=json.dumps(body) if method == "POST" else None,
                                headers=headers)
        response = self.connection.getresponse()
        content = response.read()
        assert response.status == 200, content
        if cookie := response.headers.get("set-cookie"):
            self.cookie = cookie.split(";")[0]
        return json.loads(content)

    def page(self, path: str) -> str:
        """A page that says yes."""
        self.connection.request("GET", path, headers={"Cookie": self.cookie})
        response = self.connection.getresponse()
        content = response.read().decode()
        assert response.status == 200, content
        return content

    def submit(self, assignment: str, name: str | None = None) -> Any:
        return self.call("POST", "submit", id=name or str(uuid.uuid4()), assignment=assignment, lead_time_ms=10,
                         decision={"outcome": "prefer", "preferred": "a", "strength": 1})
