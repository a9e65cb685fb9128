"""Who may ask what: the checks and the headers of every request, whatever page it belongs to."""

import hmac
import re
import secrets
from collections.abc import Collection
from contextlib import suppress
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_REQUESTS = 32  # at a time, that may take long
SURPLUS = "is_surplus"  # in the state of a connection that is one too many
_DRAINED_BYTES = 100_000_000  # of a body that is refused, so that its sender reads the answer
_PUBLIC = ("/", "/healthz", "/openapi.json")  # without token, as all of /static/
_READS = ("GET", "HEAD")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",  # no image tag elsewhere shows what is here
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def new_token() -> str:
    """Return a secret that nobody guesses."""
    return secrets.token_urlsafe(24)


class Guard:
    """ASGI middleware: checks Host, Origin and token, and limits requests.

    A web page elsewhere cannot write, as its Origin differs; cannot read, as there is no CORS; and
    cannot pass for this origin by its DNS (rebinding), as its Host is a name that is not allowed.
    """

    def __init__(
        self, app: ASGIApp, token: str | None = None, allowed_hosts: Collection[str] = ()
    ) -> None:
        """Wrap an app.

        Requests must bring the token; without one every program on this machine may ask. Allowed
        hosts are names of this server, besides localhost and IP addresses.
        """
        self._app, self._token = app, token
        self._hosts = {"localhost", *(name.lower() for name in allowed_hosts)}
        self._num_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the app answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        problem = self._check(scope, Headers(scope=scope))
        is_write = scope["method"] not in _READS
        is_surplus = scope.get("state", {}).get(SURPLUS, False)
        if problem is None and (is_surplus or (is_write and self._num_requests >= MAX_REQUESTS)):
            problem = 429, "too many requests at once; try again"
        if problem is not None:
            status, detail = problem
            headers = {"Retry-After": "1"} if status == 429 else {}
            headers |= {"WWW-Authenticate": "Bearer"} if status == 401 else {}
            headers |= {"Connection": "close"} if is_surplus else {}
            response = JSONResponse({"detail": detail}, status, headers)
            await response(scope, exchange.receive, exchange.send)
            return
        self._num_requests += is_write
        try:
            with suppress(ClientDisconnect):
                await self._app(scope, exchange.receive, exchange.send)
        finally:
            self._num_requests -= is_write

    def _check(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """Return a status and a message if the request is refused."""
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self._is_allowed(host):
            return 421, "this name is not allowed; start the server with --allowed-host NAME"
        if scope["method"] not in _READS:
            origins = headers.getlist("origin")
            if any(origin.lower().rpartition("//")[2] != host.lower() for origin in origins):
                return 403, "a page of another origin may not ask"
            if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
                return 403, "a page of another origin may not ask"
        path = scope["path"]
        is_public = path in _PUBLIC or path.startswith("/static/")
        if self._token is not None and not is_public:
            name, offered = cookie_name(host), []
            kind, _, value = headers.get("authorization", "").partition(" ")
            if kind.lower() == "bearer":
                offered.append(value)
            offered += [cookie_parser(each).get(name, "") for each in headers.getlist("cookie")]
            if not any(_is_equal(self._token, each) for each in offered):
                return 401, "the token is missing or wrong; open the address that was printed"
        return None

    def _is_allowed(self, host: str) -> bool:
        name = host.lower().rpartition(":")[0] if re.search(r":\d*$", host) else host.lower()
        try:
            ip_address(name.strip("[]"))
        except ValueError:
            return name in self._hosts
        return True  # an address has no DNS to be rebound


def cookie_name(host: str) -> str:
    """Return the name of the token's cookie, which browsers send to all ports of a host."""
    return f"neither_{host.rpartition(':')[2]}" if ":" in host else "neither_80"


def _is_equal(token: str, offered: str) -> bool:
    return hmac.compare_digest(token.encode(), offered.encode(errors="replace"))


class _Exchange:
    """A request and its response: adds the headers, and reads the rest of a refused body."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._is_complete = False
        # Who waits for "100 Continue" has not sent the body yet.
        self._num_to_drain = 0 if "expect" in Headers(scope=scope) else _DRAINED_BYTES

    async def receive(self) -> Message:
        message = await self._receive()
        self._is_complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            while not self._is_complete and self._num_to_drain > 0:
                self._num_to_drain -= len((await self.receive()).get("body", b""))
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if not self._is_complete:
                headers["Connection"] = "close"
        await self._send(message)
