"""Stands before the application: every request passes here first, and every answer on its way out."""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.sinks.web.access import Access, TooManyTries

PUBLIC = ("/login", "/assets/login.css", "/assets/login.js", "/assets/icon.svg")
"""What one may have without a login."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "referrer-policy": "same-origin",  # with "no-referrer" a form's Origin is null, and a login would be refused
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def cookie_name(scheme: str) -> str:
    """Over TLS with the prefix that keeps other hosts and plain HTTP from setting it."""
    return "__Host-session" if scheme in ("https", "wss") else "session"


class Guard:
    """ASGI middleware. It decides by headers alone and never reads a body."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._access.knows_host(host):
            return _said(421, f"this server is not known as {host[:80]!r}: name it in hosts of its configuration")
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        origin = headers.get("origin")
        if changes and origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return _said(403, "this request comes from another site's page")
        if not self._access.needed or scope["path"] in PUBLIC:
            return None
        try:
            if self._may_pass(scope, headers):
                return None
        except TooManyTries as error:
            return _said(429, str(error), {"retry-after": str(round(error.wait_s) + 1)})
        if scope["type"] == "http" and "text/html" in headers.get("accept", "") and self._access.by_password:
            return RedirectResponse("/login", 303)
        return _said(401, "log in, or send a token", {"www-authenticate": "Bearer"})

    def _may_pass(self, scope: Scope, headers: Headers) -> bool:
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            cookies = SimpleCookie()
        session = cookies.get(cookie_name(scope["scheme"]))
        if session is not None and (user := self._access.user_of(session.value)) is not None:
            scope["user"] = user
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return False
        return self._access.has_token(token.strip(), address_of(scope))


def address_of(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "?"


def _said(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status, headers)


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-cache" if "etag" in headers else "no-store")
        await send(message)

    return wrapped
