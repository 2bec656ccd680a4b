"""A proxy on loopback that fails some requests and delays others, as an unreliable object store does."""

import random
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FlakyProxy:
    """Forward requests to `target`, unreliably.

    A fraction `failing` of the requests gets 500, 503 or a closed connection; a fraction `stalling` gets its answer
    after `stall_seconds` only. Both are counted.
    """

    def __init__(self, target: str, *, failing: float, stalling: float, stall_seconds: float, seed: int = 0):
        self.requests = self.failed = self.stalled = 0
        rng, lock, proxy = random.Random(seed), threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                with lock:
                    proxy.requests += 1
                    fails, stalls, how = rng.random() < failing, rng.random() < stalling, rng.choice((500, 503, None))
                    proxy.failed += fails
                    proxy.stalled += stalls
                if stalls:
                    time.sleep(stall_seconds)
                if fails and how is None:
                    self.close_connection = True
                    self.connection.close()
                    return
                if fails:
                    self.answer(how, {}, b"")
                    return
                names = [name for name in self.headers if name.lower() not in ("connection", "accept-encoding")]
                headers = {name: self.headers[name] for name in names}
                request = urllib.request.Request(f"{target}{self.path}", headers=headers, method=self.command)
                try:
                    with urllib.request.urlopen(request, timeout=30) as found:
                        self.answer(found.status, dict(found.headers), found.read())
                except urllib.error.HTTPError as error:
                    self.answer(error.code, dict(error.headers), error.read())
                except OSError:
                    self.answer(502, {}, b"")

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                        self.send_header(name, value)
                length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = forward

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop the proxy."""
        self._server.shutdown()
        self._server.server_close()
