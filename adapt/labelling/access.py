"""Access to the server: the address has a secret, and other web sites are refused.

The server binds to 127.0.0.1 unless asked. A page of another site can still make the browser of the same person send
requests there. It does not know the token, which is the first part of every path; a foreign `Origin` or `Host`, as in
DNS rebinding, is refused before the path is looked at.
"""

from __future__ import annotations

import ipaddress
import pathlib
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse

from foundation.files.atomic import write_text

TOKEN_FILE = ".token"
Scope = MutableMapping[str, Any]

_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


def read_token(out: pathlib.Path) -> str:
    """Return the secret of a session, made at the first call, so that an open page survives a restart of the server."""
    path = out / TOKEN_FILE
    if path.is_file() and (token := path.read_text(encoding="ascii", errors="replace").strip()).isalnum():
        return token
    token = secrets.token_hex(16)
    write_text(path, token + "\n")
    path.chmod(0o600)
    return token


class AccessControl:
    """ASGI middleware that answers requests of this session's pages only, and adds security headers.

    token: the first part of every path, which is removed.
    host_names: names by which the server may be called; numeric addresses always may, as they cannot be rebound.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], *, token: str, host_names: frozenset[str]):
        self._app, self._token, self._host_names = app, token, host_names

    async def __call__(self, scope: Scope, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        problem = self._problem(scope)
        if problem:
            await PlainTextResponse(problem, 403)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _problem(self, scope: Scope) -> str:
        """Return why a request is refused, or an empty string."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not self._is_own(host):
            return f"host {host!r} is refused. Open the address that launch.py label has printed."
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return f"requests from {origin} are refused."
        if headers.get(b"sec-fetch-site") in ("cross-site", "same-site") and scope["method"] != "GET":
            return "requests from other sites are refused."
        given = scope["path"].split("/")[1]
        if not secrets.compare_digest(given.encode("utf-8", "surrogateescape"), self._token.encode()):
            return "the address lacks the secret of this session. Open the address that launch.py label has printed."
        return ""

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        if name in self._host_names:
            return True
        try:
            ipaddress.ip_address(name or "")
        except ValueError:
            return False
        return True
