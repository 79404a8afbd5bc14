"""Web servers on loopback that answer with the files of a test."""

import mimetypes
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def website(files: Mapping[str, bytes | str]) -> Iterator[str]:
    """Serve the bytes of each path, or redirect to the path that a text names; the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = files.get(self.path)
            self.send_response(404 if found is None else 302 if isinstance(found, str) else 200)
            if isinstance(found, str):
                self.send_header("Location", found)
            self.send_header("Content-Type", mimetypes.guess_type(self.path)[0] or "text/plain")
            self.end_headers()
            if isinstance(found, bytes):
                with suppress(OSError):  # where it is too much, the client hangs up
                    self.wfile.write(found)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
