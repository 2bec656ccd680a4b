"""The web server of a labelling session: its page, and what the page asks for."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import pathlib
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from adapt.labelling.access import AccessControl
from adapt.labelling.export import Exported
from adapt.labelling.session import LabellingSession
from adapt.labelling.thumbnails import Thumbnails
from adapt.labelling.views import MOST, View, list_pictures, session_state
from adapt.photos.folders import readable
from adapt.photos.sorted_folders import COPY, LINK
from data.sources.base import BadRecord
from foundation.error_text import error_text, is_full

logger = logging.getLogger(__name__)

PAGE = pathlib.Path(__file__).with_name("page")
STATIC = {
    "label.css": "text/css",
    **dict.fromkeys((path.name for path in PAGE.glob("*.js")), "text/javascript"),
}
_POLL_SECONDS = 0.1
_MOST_CONNECTIONS = 200  # others are answered 503; a page has one for events and a browser six at most
_SHUTDOWN_SECONDS = 2  # that open requests get to finish
_MOST_BYTES = 4_000_000  # of a request: the names of every picture of a large selection
_NOTHING = base64.b64decode("R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==")  # one transparent pixel
_KEEP = {"cache-control": "private, max-age=86400"}

Export = Callable[[str, Callable[[str, int, int], None]], Exported]


class LabellingServer:
    """A server of the page of a session.

    export: writes the results, given "copy" or "link" and a function for its progress.
    on_class: called with the name of each new class.
    token, host_names: see `AccessControl`.
    """

    def __init__(
        self,
        session: LabellingSession,
        *,
        export: Export,
        on_class: Callable[[str], None],
        token: str,
        host_names: frozenset[str],
    ):
        self._session, self._export, self._on_class = session, export, on_class
        self._thumbnails = Thumbnails(session.pictures, session.out)
        self._exporting = threading.Lock()
        self._exports: dict[str, Any] = {"state": "none"}
        self._exports_version = 0
        routes = [
            Route("/", self._page),
            Route("/static/{name}", self._static),
            Route("/api/state", self._state, methods=["POST"]),
            Route("/api/events", self._events),
            Route("/api/pictures", self._pictures),
            Route("/api/label", self._label, methods=["POST"]),
            Route("/api/remove_class", self._remove_class, methods=["POST"]),
            Route("/api/rename_class", self._rename_class, methods=["POST"]),
            Route("/api/undo", self._undo, methods=["POST"]),
            Route("/api/export", self._start_export, methods=["POST"]),
            Route("/small/{number:int}", self._small),
            Route("/large/{number:int}", self._large),
        ]
        app = Starlette(
            routes=[Mount(f"/{token}", routes=routes)],
            middleware=[Middleware(AccessControl, token=token, host_names=host_names)],
            exception_handlers={ValueError: _refuse, OSError: _report_failure, HTTPException: _refuse_http},
            max_body_size=_MOST_BYTES,
        )
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="off",
                ws="none",
                proxy_headers=False,
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            )
        )

    def run(self, listener: socket.socket) -> None:
        """Serve until `stop`, or in the main thread until SIGINT or SIGTERM, which are raised again."""
        self._server.run(sockets=[listener])

    def stop(self) -> None:
        """Make `run` return."""
        self._server.should_exit = True

    @property
    def started(self) -> bool:
        """Whether requests are answered."""
        return self._server.started

    async def _page(self, request: Request) -> Response:
        return FileResponse(PAGE / "label.html", media_type="text/html", headers={"cache-control": "no-store"})

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            raise HTTPException(404, f"there is no file {name!r}.")
        return FileResponse(PAGE / name, media_type=STATIC[name], headers={"cache-control": "no-cache"})

    async def _state(self, request: Request) -> Response:
        return await run_in_threadpool(self._answer, await _json_body(request))

    async def _label(self, request: Request) -> Response:
        body = await self._own_body(request)
        numbers = body.get("pictures")
        if not isinstance(numbers, list):
            raise ValueError(f"pictures {numbers!r:.80} is not a list of numbers.")
        if "class" not in body:
            raise ValueError("the request has no class. Send null to remove labels.")
        name, session = body["class"], self._session

        def label() -> None:
            with session.lock:
                if body.get("existing") and name not in session.class_names:
                    raise ValueError(f"class {name!r:.80} was renamed or removed meanwhile. Nothing was labelled.")
                session.label(numbers, name)

        return await self._change(body, label)

    async def _remove_class(self, request: Request) -> Response:
        body = await self._own_body(request)
        return await self._change(body, lambda: self._session.remove_class(body.get("class")))

    async def _rename_class(self, request: Request) -> Response:
        body = await self._own_body(request)
        return await self._change(body, lambda: self._session.rename_class(body.get("class"), body.get("to")))

    async def _undo(self, request: Request) -> Response:
        return await self._change(await self._own_body(request), self._session.undo)

    async def _change(self, body: dict[str, Any], action: Callable[[], object]) -> Response:
        """Change the session, and answer its new state."""

        def change() -> Response:
            known = self._session.class_names
            action()
            for name in self._session.class_names:
                if name not in known:
                    self._on_class(name)
            return self._answer(body)

        return await run_in_threadpool(change)

    def _pictures(self, request: Request) -> Response:
        query = request.query_params
        similar = query.get("similar_to")
        view = View(
            show=query.get("show", "all"),
            order=query.get("order", "unsure"),
            similar_to=None if similar is None else _number(similar, "similar_to"),
            text=query.get("text", "").strip(),
        )
        start, count = _number(query.get("start", "0"), "start"), _number(query.get("count", str(MOST)), "count")
        return JSONResponse(list_pictures(self._session, view, start=start, count=count))

    def _small(self, request: Request) -> Response:
        return self._picture(request, self._thumbnails.small)

    def _large(self, request: Request) -> Response:
        return self._picture(request, self._thumbnails.large)

    def _picture(self, request: Request, make: Callable[[int], bytes]) -> Response:
        number = request.path_params["number"]
        if number >= len(self._session.pictures):
            raise HTTPException(404, f"there is no picture {number}.")
        try:
            return Response(make(number), media_type="image/webp", headers=_KEEP)
        except (BadRecord, FileNotFoundError, PermissionError) as error:
            self._session.add_bad(number, readable(error_text(error)))
            return Response(_NOTHING, media_type="image/gif", headers={"cache-control": "no-store"})

    async def _events(self, request: Request) -> Response:
        """Stream the version of the session whenever it changes, as server-sent events."""

        async def events() -> AsyncIterator[str]:
            last = None
            while not (self._server.should_exit or await request.is_disconnected()):
                now = [self._session.identity, self._session.version, self._exports_version]
                if now != last:
                    last = now
                    yield f"data: {json.dumps(now)}\n\n"
                await asyncio.sleep(_POLL_SECONDS)

        return StreamingResponse(events(), media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def _start_export(self, request: Request) -> Response:
        body = await self._own_body(request)
        placement = body.get("placement")
        if placement not in (COPY, LINK):
            raise ValueError(f"placement {placement!r:.80} is unknown. Use {COPY} or {LINK}.")
        if not self._exporting.acquire(blocking=False):
            raise ValueError("an export is already running. Wait until it ends.")
        self._set_export(state="running", step="fitting the classifier", done=0, total=1)
        threading.Thread(target=self._run_export, args=(placement,), name="export", daemon=True).start()
        return await run_in_threadpool(self._answer, body)

    def _run_export(self, placement: str) -> None:
        try:
            found = self._export(
                placement,
                lambda step, done, total: self._set_export(state="running", step=step, done=done, total=total),
            )
            self._set_export(state="done", out=str(self._session.out), **found._asdict())
            logger.info(
                f"exported {found.pictures:,} pictures, {found.labelled:,} of them labelled, to {self._session.out}"
            )
        except (ValueError, OSError) as error:
            self._set_export(state="failed", problem=readable(error_text(error)))
            logger.warning(f"the export failed: {error_text(error)}")
        except BaseException:
            self._set_export(state="failed", problem="an unexpected error; see the terminal")
            raise
        finally:
            self._exporting.release()

    async def _own_body(self, request: Request) -> dict[str, Any]:
        """Return the body of a request of this session's page.

        The numbers of pictures hold for one process: after a restart with another folder, those of a page that is
        still open would name other pictures.
        """
        body = await _json_body(request)
        if body.get("session") != self._session.identity:
            raise HTTPException(409, "the job was started again. Reload the page.")
        return body

    def _set_export(self, **state: Any) -> None:
        self._exports = state
        self._exports_version += 1

    def _answer(self, body: dict[str, Any]) -> Response:
        keep = body.get("keep", [])
        if not isinstance(keep, list) or not all(type(number) is int for number in keep) or len(keep) > MOST:
            raise ValueError(f"keep {keep!r:.80} is not a short list of numbers.")
        exports = {"export": self._exports, "exports": self._exports_version}
        return JSONResponse(session_state(self._session, keep=keep) | exports)


async def _json_body(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request; raises `ValueError` for anything else."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise ValueError("the request is not JSON.")
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise ValueError("the request is not JSON.") from error
    if not isinstance(body, dict):
        raise ValueError("the request is not a JSON object.")
    return body


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"{name} {text!r:.40} is not a number.")
    return int(text)


def _refuse(request: Request, error: Exception) -> Response:
    return JSONResponse({"problem": readable(error_text(error))}, 400)


def _report_failure(request: Request, error: Exception) -> Response:
    """Answer an error of the file system, such as a full disk."""
    text = readable(error_text(error)) + (". Free space and try again" if is_full(error) else "")
    logger.error(f"{request.method} {request.url.path.rpartition('/')[2]}: {text}")
    return JSONResponse({"problem": f"nothing was saved: {text}."}, 500)


def _refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"problem": error.detail}, error.status_code)
