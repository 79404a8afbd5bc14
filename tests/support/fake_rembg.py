#!/usr/bin/env python3
"""In place of the program `rembg`: gives back every picture that it is sent, by its own model."""

import os
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODELS = Path(os.environ["U2NET_HOME"])


class Handler(BaseHTTPRequestHandler):
    """Knows the models of its folder, and the addresses of `rembg s`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/api" else 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        model = re.search(rb'name="model"\r\n(?:.+\r\n)*\r\n(.+)\r\n', body)
        known = model and (MODELS / f"{model[1].decode()}.onnx").stat().st_size
        self._answer(200 if self.path == "/api/remove" and known else 400)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    assert sys.argv[1:5] == ["s", "--no-ui", "-h", "127.0.0.1"]
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[6])), Handler).serve_forever()
