"""The application: which address answers with what. ``page/openapi.json`` describes it for others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import zmq.asyncio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from pipeline import __version__
from pipeline.errors import Disconnected
from pipeline.sinks.view import SiteView
from pipeline.sinks.web.access import SESSION_S, Access, TooManyTries
from pipeline.sinks.web.disk import Disk, DiskTrouble
from pipeline.sinks.web.door import REQUEST_WITHIN_S
from pipeline.sinks.web.download import Download, look_at
from pipeline.sinks.web.feed import Feed
from pipeline.sinks.web.figures import Figures
from pipeline.sinks.web.guard import Guard, address_of, cookie_name
from pipeline.sinks.web.history import BadQuery, History
from pipeline.sinks.web.news import News
from pipeline.sinks.web.recordings import Recordings
from pipeline.sinks.web.stills import Stills
from pipeline.sinks.web.streams import Streaming, mjpeg, send_video

PAGE = Path(__file__).parent / "page"
_FORM_MAX, _FIELDS_MAX = 4096, 8


class Pages:
    """What answers; one object a server, in its event loop."""

    def __init__(
        self, site: SiteView, figures: Figures, access: Access, executor: Executor, closing: asyncio.Event
    ) -> None:
        """closing: set when the server ends."""
        self.access = access
        self._site = site
        self._executor = executor
        self._closing = closing
        self._figures = figures
        self._history = History(site.event_log, site.evidence)
        self._recordings = Recordings(site.recordings)
        self._evidence_disk, self._recordings_disk = Disk("evidence"), Disk("recordings")
        self._news = News(figures, self._history, executor)
        self._feeds: dict[str, Feed] = {}
        self._stills: dict[str, Stills] = {}

    def connect(self, context: zmq.asyncio.Context) -> None:
        """In the event loop: the ends of the sockets inside this machine."""
        site = self._site
        self._feeds = {name: Feed(context, address) for name, address in site.packets.items()}
        self._stills = {name: Stills(context, site.bells[name], v, self._executor) for name, v in site.views.items()}

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.ensure_future(self._news.watch()), asyncio.ensure_future(self._end())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for feed in self._feeds.values():
                feed.close()

    async def _end(self) -> None:
        await self._closing.wait()
        self._evidence_disk.give_up()
        self._recordings_disk.give_up()

    def routes(self) -> list[BaseRoute]:
        api = "/api/v1"
        return [
            Route("/", self._index),
            Route("/api", self._api_page),
            Route("/login", self._login, methods=["GET", "POST"]),
            Route("/logout", self._logout, methods=["POST"]),
            Route(f"{api}/health", self._health),
            Route(f"{api}/openapi.json", self._openapi),
            Route(f"{api}/sources", self._sources),
            Route(f"{api}/counts", self._counts),
            Route(f"{api}/sources/{{source}}", self._source),
            Route(f"{api}/sources/{{source}}/picture.jpg", self._picture),
            Route(f"{api}/sources/{{source}}/live.mjpg", self._mjpeg),
            WebSocketRoute(f"{api}/sources/{{source}}/live", self._video),
            Route(f"{api}/events", self._events),
            Route(f"{api}/events/stream", self._stream),
            Route(f"{api}/clips", self._clips),
            Route(f"{api}/clips/{{event}}/{{kind}}", self._evidence),
            Route(f"{api}/recordings", self._recordings_there),
            Route(f"{api}/recordings/{{name}}", self._recording),
            Mount("/assets", StaticFiles(directory=PAGE / "assets")),
        ]

    # -- pages

    async def _index(self, _: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def _api_page(self, _: Request) -> Response:
        return FileResponse(PAGE / "api.html")

    async def _login(self, request: Request) -> Response:
        if not self.access.by_password:
            return RedirectResponse("/", 303)
        if request.method == "GET":
            return FileResponse(PAGE / "login.html")
        form = await _form(request)
        try:
            session = await self.access.log_in(
                form.get("user", ""), form.get("password", ""), address_of(request.scope)
            )
        except TooManyTries as error:
            return RedirectResponse(f"/login?wait={error.wait_s:.0f}", 303)
        if session is None:
            return RedirectResponse("/login?failed=1", 303)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            cookie_name(request.url.scheme), session, max_age=SESSION_S, httponly=True, samesite="strict",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return answer

    async def _logout(self, request: Request) -> Response:
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(
            cookie_name(request.url.scheme), httponly=True, samesite="strict", secure=request.url.scheme == "https"
        )
        return answer

    # -- the API

    async def _health(self, _: Request) -> Response:
        sources = self._figures.sources()
        live = sum(source["live"] for source in sources)
        viewers = {name: feed.viewers for name, feed in self._feeds.items()}
        return JSONResponse(
            {
                "site": self._site.name,
                "version": __version__,
                "healthy": live == len(sources),
                "sources": len(sources),
                "live": live,
                "viewers": viewers,
                "login": self.access.by_password,
            }
        )

    async def _openapi(self, _: Request) -> Response:
        return FileResponse(PAGE / "openapi.json", media_type="application/json")

    async def _sources(self, _: Request) -> Response:
        return JSONResponse(self._figures.sources())

    async def _source(self, request: Request) -> Response:
        return JSONResponse(self._figures.source(self._known(request)))

    async def _counts(self, _: Request) -> Response:
        return JSONResponse(self._figures.counts())

    async def _picture(self, request: Request) -> Response:
        still = await self._stills[self._known(request)].newest()
        if still is None:
            raise HTTPException(404, "there is no picture of this source yet")
        return Response(still.jpeg, media_type="image/jpeg", headers={"x-frame": str(still.seq)})

    async def _mjpeg(self, request: Request) -> Streaming:
        return mjpeg(self._stills[self._known(request)], self._closing)

    async def _video(self, socket: WebSocket) -> None:
        name = socket.path_params["source"]
        if name not in self._feeds:
            await socket.close(4404)
            return
        await send_video(socket, self._feeds[name], self._site.views[name])

    async def _events(self, request: Request) -> Response:
        return JSONResponse(await self._in_thread(self._history.events, dict(request.query_params)))

    async def _stream(self, request: Request) -> Streaming:
        last = request.headers.get("last-event-id") or request.query_params.get("after", "")
        return Streaming(lambda: self._news.listen(last[:64]), "text/event-stream; charset=utf-8", self._closing)

    async def _clips(self, request: Request) -> Response:
        return JSONResponse(await self._in_thread(self._history.clips, dict(request.query_params)))

    async def _evidence(self, request: Request) -> Download:
        names = request.path_params["event"], request.path_params["kind"]
        return await self._file(self._evidence_disk, self._history.evidence, *names)

    async def _recordings_there(self, _: Request) -> Response:
        return JSONResponse(await self._recordings_disk.do(self._recordings.listed))

    async def _recording(self, request: Request) -> Download:
        return await self._file(self._recordings_disk, self._recordings.find, request.path_params["name"])

    async def _file(self, disk: Disk, find: Callable[..., Path | None], *names: str) -> Download:
        file = await disk.do(look_at, find, *names)
        if file is None:
            raise HTTPException(404, "there is no such file")
        return Download(file, disk, self._closing)

    def _known(self, request: Request) -> str:
        name: str = request.path_params["source"]
        if name not in self._site.views:
            raise HTTPException(404, f"there is no source {name[:40]!r}; there are: {', '.join(self._site.views)}")
        return name

    async def _in_thread(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)


def application(pages: Pages, context: zmq.asyncio.Context) -> Guard:
    """To be called in the event loop that serves it."""
    pages.connect(context)
    app = Starlette(
        routes=pages.routes(),
        lifespan=pages.lifespan,
        exception_handlers={
            HTTPException: _http_error,
            BadQuery: _bad_query,
            DiskTrouble: _not_now,
            Disconnected: _not_now,
        },
    )
    return Guard(app, pages.access)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _bad_query(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


async def _not_now(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 503)


async def _form(request: Request) -> Mapping[str, str]:
    body = b""
    try:
        async with asyncio.timeout(REQUEST_WITHIN_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _FORM_MAX:
                    raise HTTPException(413, f"a login has at most {_FORM_MAX} bytes")
        values = parse_qs(body.decode("utf-8", "replace"), max_num_fields=_FIELDS_MAX)
    except TimeoutError as error:
        raise HTTPException(408, f"a login has to come within {REQUEST_WITHIN_S:.0f} s") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the login has broken off") from error
    except ValueError as error:
        raise HTTPException(400, f"a login has user and password, and at most {_FIELDS_MAX} fields") from error
    return {name: found[0] for name, found in values.items()}
