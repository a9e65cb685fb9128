"""The HTTP server: a socket, limits on slow senders, and an orderly end."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from neither.runtime import signals
from neither.runtime.errors import OutputError, UsageError
from neither.serving.guard import SURPLUS

_MAX_CONNECTIONS = 500  # each takes a file descriptor, of which a process often has 1,024
_MAX_HEADER_BYTES = 1 << 14
_SECONDS_TO_ANSWER = 30  # after a signal
# A sender is cut off after 10 s without a byte, or if 60 s bring less than 256 KB. Counted in ticks
# of a second, so that a suspended machine cuts nobody off.
_MAX_SILENT_TICKS, _MAX_SLOW_TICKS, _SLOW_BYTES = 10, 60, 1 << 18
# Each chunk of a chunked body takes microseconds, also one of a single byte.
_MAX_CHUNKS, _MIN_CHUNK_BYTES = 1000, 64


def open_socket(host: str, port: int) -> socket.socket:
    """Listen at the first address of a host, a name or IP address; port 0 is any that is free.

    Raises:
        OutputError: if the port is in use or not permitted, or no network has this address.
        UsageError: if the name is unknown.
    """
    if not 0 <= port < 2**16:
        raise UsageError(f"--port {port}: must be from 0 to 65,535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host}: this name is unknown") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(256)
    except OSError as error:
        listener.close()
        remedy = "end the program that uses it, or choose another with --port"
        if error.errno == errno.EADDRNOTAVAIL:
            remedy = "choose an address of this machine with --host"
        raise OutputError(f"{host}, port {port}: {error.strerror}; {remedy}") from error
    return listener


def is_local(listener: socket.socket) -> bool:
    """Return whether only programs on this machine reach a socket."""
    return ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def address_of(listener: socket.socket) -> str:
    """Return the address for a browser; if all networks reach it, that of the first one."""
    host, port = listener.getsockname()[:2]
    if ip_address(host.partition("%")[0]).is_unspecified:
        host = _network_address(listener.family) or host
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _network_address(family: socket.AddressFamily) -> str:
    """Return the address that this machine has for others; empty without a network."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:  # connecting UDP sends nothing; the address is for documentation (RFC 5737, 3849)
            probe.connect(("2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1", 9))
        except OSError:
            return ""
        name: str = probe.getsockname()[0]
        return name


def run_server(app: ASGIApp, listener: socket.socket, close: Callable[[], None]) -> None:
    """Serve until a signal asks to stop; then answer what is running, and call `close`.

    Raises:
        Stopped: by the signal.
    """
    # Only defects are worth a line, and what uvicorn says of requests is not for logs.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        http=_TimedProtocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_SECONDS_TO_ANSWER,
    )
    try:
        with signals.deferred(True):  # the forward pass of a request is not stopped halfway
            _Server(config).run([listener])
    finally:
        close()
    signals.poll()


class _Server(uvicorn.Server):
    """Ends at a signal that this project handles, and cuts off slow senders."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # each second
            for connection in list(self.server_state.connections):
                if isinstance(connection, _TimedProtocol):
                    connection.tick()
        self.should_exit = self.should_exit or bool(signals.received())
        return await super().on_tick(counter)


class _Parser(h11.Connection):
    """Refuses a body of tiny chunks, which would keep the server from others."""

    _num_chunks = _num_bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._num_chunks = self._num_bytes = 0
        elif isinstance(event, h11.Data):
            self._num_chunks += 1
            self._num_bytes += len(event.data)
            if self._num_chunks > _MAX_CHUNKS + self._num_bytes // _MIN_CHUNK_BYTES:
                raise h11.RemoteProtocolError("too many chunks")
        return event


class _TimedProtocol(H11Protocol):
    """HTTP/1.1 for senders of limited patience."""

    _num_received = _num_unsent = _silent_ticks = _slow_ticks = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.conn = _Parser(h11.SERVER, _MAX_HEADER_BYTES)
        if len(self.connections) > _MAX_CONNECTIONS:  # the guard answers
            self.app_state = {SURPLUS: True}

    def data_received(self, data: bytes) -> None:
        self._silent_ticks = 0
        self._num_received += len(data)
        if self._num_received >= _SLOW_BYTES:
            self._num_received = self._slow_ticks = 0
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._num_received = self._silent_ticks = self._slow_ticks = 0
        super().on_response_complete()

    def tick(self) -> None:
        """Count a second of waiting for the other side; cut it off after too many."""
        num_unsent = self.transport.get_write_buffer_size()
        is_sending = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        is_awaited = is_sending and not self.flow.read_paused
        self._silent_ticks += is_awaited or (num_unsent > 0 and num_unsent == self._num_unsent)
        self._slow_ticks += is_awaited or num_unsent > 0
        self._num_unsent = num_unsent
        if self._silent_ticks > _MAX_SILENT_TICKS or self._slow_ticks > _MAX_SLOW_TICKS:
            self.transport.abort()
