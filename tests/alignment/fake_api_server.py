"""Stands in for vLLM's API server where it is started: does what the last part of its model's path says."""

from __future__ import annotations

import http.server
import sys
import time
from pathlib import Path


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()


if __name__ == "__main__":
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
    match Path(options["--model"]).name:
        case "breaks":
            print("loading\nValueError: no room for the cache", flush=True)
            sys.exit(3)
        case "loads for ever":
            print("loading", flush=True)
            time.sleep(600)
        case _:
            print("ready", flush=True)
            http.server.HTTPServer(("127.0.0.1", int(options["--port"])), Health).serve_forever()
