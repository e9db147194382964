"""OSCQuery: programs find out what can be played, watch it over a WebSocket, and find us on the network.

HTTP and WebSocket on one port, in a thread of its own; reads the instrument and never changes it, so nothing
here reaches the sound. After the OSCQuery proposal 1.0 (Vidvox): a GET of a path answers with its JSON,
`?ATTRIBUTE` with one attribute, `?HOST_INFO` with who we are; over the WebSocket LISTEN and IGNORE choose
addresses whose changes come as binary OSC, and PATH_ADDED, PATH_REMOVED and PATH_CHANGED tell of voices.
Needs the extra `oscquery`: websockets, and zeroconf for the announcement.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import unquote

from streamer.controls import Value, find
from streamer.models.errors import StreamerError
from streamer.osc_codec import write_message
from streamer.osc_instrument import Listener
from streamer.oscquery_tree import ATTRIBUTES, Readable, control_path, node_at, voice_path

try:
    import ifaddr  # comes with zeroconf
    from websockets.asyncio.server import ServerConnection, broadcast, serve
    from websockets.datastructures import Headers
    from websockets.exceptions import ConnectionClosed
    from websockets.http11 import Request, Response
    from zeroconf import Error as ZeroconfError
    from zeroconf import ServiceInfo, Zeroconf
except ImportError as error:
    raise StreamerError('OSCQuery needs two more packages: pip install "streamer[oscquery]"') from error

NAME = "streamer"
MAX_CLIENTS = 32
"""Connections at once, HTTP and WebSocket together; more are closed."""
MAX_UNSENT = 1 << 17
"""Bytes that may wait for a client, here and in the system each, before it is dropped."""
MAX_COMMAND = 4096
"""Bytes of a client's message."""

_EXTENSIONS = ("ACCESS", "VALUE", "RANGE", "DESCRIPTION", "CLIPMODE", "UNIT")
_PUSHED = ("LISTEN", "IGNORE", "PATH_ADDED", "PATH_REMOVED", "PATH_CHANGED")
_log = logging.getLogger(__name__)


# What the library says of every stranger that sends no HTTP is of no use to a performer.
_unheard = logging.Logger("websockets", logging.CRITICAL)


class Watched(Readable, Protocol):
    """What OSCQuery needs of the instrument."""

    def listen(self, listener: Listener) -> None:
        """Tell a listener from now on."""


class OscQueryServer:
    """Answers OSCQuery's clients.

    The socket is bound when the object is made, so that a busy port is known at once; `start` begins to
    serve. Also a context manager that starts and closes.

    Args:
        instrument: what is described.
        osc_port: where our OSC server listens.
        port: 1..65535, or 0 for any free one; `port` then tells which.
        host: address to listen on. Beyond loopback, we announce ourselves by zeroconf.

    Raises:
        StreamerError: the port is busy or cannot be had.
    """

    def __init__(self, instrument: Watched, osc_port: int, port: int = 0, host: str = "127.0.0.1") -> None:
        self._instrument = instrument
        self._osc_port = osc_port
        self._host = host
        self._socket = _bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._listening: dict[ServerConnection, set[str]] = {}
        self._voices: Mapping[int, str] = {}
        self._lock = threading.Lock()
        self._changes: dict[str, Value] = {}
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="streamer-oscquery", daemon=True)

    def start(self) -> None:
        """Begin to serve, on a thread of its own."""
        self._voices = dict(self._instrument.voices())
        self._instrument.listen(self)
        self._thread.start()

    def close(self) -> None:
        """Stop serving and free the port; may be called twice."""
        if self._thread.is_alive():
            self._soon(self._closing.set)
            self._thread.join()
        self._loop.close()
        self._socket.close()

    def __enter__(self) -> OscQueryServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- what the instrument tells, on any thread ---------------------------------------------------------

    def changed(self, voice: int, control: str, value: Value) -> None:
        """A control was set. Only the latest value of each waits, so a flood of changes cannot pile up."""
        with self._lock:
            is_first = not self._changes
            self._changes[control_path(find(control), voice)] = value
        if is_first:
            self._soon(self._push_changes)

    def voices_changed(self) -> None:
        """A voice was added or removed."""
        self._soon(self._push_voices)

    def failed(self, voice: int, control: str, value: Value, error: str) -> None:
        """A change has failed: nothing to tell here."""

    def _soon(self, action: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # it has ended, and there is nobody to tell
            self._loop.call_soon_threadsafe(action)

    # --- the loop -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with (
                _announced(self._host, self.port, self._osc_port),
                asyncio.Runner(loop_factory=lambda: self._loop) as runner,
            ):
                runner.run(self._serve())
        except Exception:  # a fault of ours: the sound goes on without OSCQuery
            _log.exception("OSCQuery has ended")

    async def _serve(self) -> None:
        async with serve(
            self._talk,
            sock=self._socket,
            process_request=self._answer,
            create_connection=partial(_Connection, connected=set()),  # type: ignore[arg-type]
            max_size=MAX_COMMAND,
            close_timeout=1.0,
            compression=None,
            server_header=NAME,
            logger=_unheard,
        ):
            await self._closing.wait()

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a plain GET; None goes on to the WebSocket."""
        if request.headers.get("Upgrade", "").casefold() == "websocket":
            return None
        try:
            return self._describe(*request.path.partition("?")[::2])
        except Exception:  # a fault of ours or of the instrument: this answer is lost, nothing else
            _log.exception("fault while answering OSCQuery")
            return _response(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _describe(self, path: str, query: str) -> Response:
        if query == "HOST_INFO":
            return _response(HTTPStatus.OK, self._host_info())
        node = node_at(self._instrument, unquote(path))
        if node is None:
            return _response(HTTPStatus.NOT_FOUND)
        if not query:
            return _response(HTTPStatus.OK, node)
        if query not in ATTRIBUTES:
            return _response(HTTPStatus.BAD_REQUEST)
        if query not in node:
            return _response(HTTPStatus.NO_CONTENT)
        return _response(HTTPStatus.OK, {query: node[query]})

    def _host_info(self) -> dict[str, Any]:
        return {
            "NAME": NAME,
            "OSC_PORT": self._osc_port,
            "OSC_TRANSPORT": "UDP",
            "WS_PORT": self.port,
            "EXTENSIONS": dict.fromkeys((*_EXTENSIONS, *_PUSHED), True),
        }

    async def _talk(self, connection: ServerConnection) -> None:
        """Follow one client's commands until it leaves."""
        self._listening[connection] = set()
        try:
            async for message in connection:
                self._obey(message, self._listening[connection])
        except ConnectionClosed:
            pass
        finally:
            del self._listening[connection]

    def _obey(self, message: str | bytes, listening: set[str]) -> None:
        """LISTEN or IGNORE; whatever else is left aside, as the proposal wants it."""
        try:
            command = json.loads(message)
            name, path = command["COMMAND"], command["DATA"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return
        if not isinstance(path, str):
            return
        if name == "IGNORE":
            listening.discard(path)
        elif name == "LISTEN" and "TYPE" in (node_at(self._instrument, path) or {}):
            listening.add(path)

    # --- what clients are told ----------------------------------------------------------------------------

    def _push_changes(self) -> None:
        with self._lock:
            changes, self._changes = self._changes, {}
        for path, value in changes.items():
            listeners = [client for client, paths in self._listening.items() if path in paths]
            self._push(listeners, write_message(path, value))

    def _push_voices(self) -> None:
        before, self._voices = self._voices, dict(self._instrument.voices())
        for number in sorted(before.keys() | self._voices.keys()):
            if before.get(number) != self._voices.get(number):
                kind = "CHANGED" if number in before and number in self._voices else "ADDED"
                self._tell(kind if number in self._voices else "REMOVED", voice_path(number))

    def _tell(self, what: str, path: str) -> None:
        if what == "REMOVED":
            for paths in self._listening.values():
                paths.difference_update([each for each in paths if each.startswith(path + "/")])
        self._push(list(self._listening), json.dumps({"COMMAND": f"PATH_{what}", "DATA": path}))

    def _push(self, clients: list[ServerConnection], message: str | bytes) -> None:
        """Send without waiting; a client that does not read is dropped."""
        broadcast(clients, message)
        for client in clients:
            if client.transport.get_write_buffer_size() > MAX_UNSENT:
                client.transport.abort()


class _Connection(ServerConnection):
    """A connection that is closed at once where there are too many of them.

    connected: those there are.
    """

    def __init__(self, *arguments: Any, connected: set[ServerConnection], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._connected = connected

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connected.add(self)
        if len(self._connected) > MAX_CLIENTS:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connected.discard(self)
        super().connection_lost(exc)


def _response(status: HTTPStatus, node: Any = None) -> Response:
    body = b"" if node is None else json.dumps(node).encode()
    kind, length = ("Content-Type", "application/json"), ("Content-Length", str(len(body)))
    return Response(status.value, status.phrase, Headers([kind, length, ("Connection", "close")]), body)


def _bind(host: str, port: int) -> socket.socket:
    try:
        server = socket.create_server((host, port))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_UNSENT)  # of each connection, too
        return server
    except (OSError, OverflowError) as error:
        raise StreamerError(
            f"OSCQuery cannot listen on port {port} of {host} ({getattr(error, 'strerror', None) or error}): "
            "choose another with --oscquery-port"
        ) from error


def _announced(host: str, port: int, osc_port: int) -> AbstractContextManager[None]:
    """On loopback alone there is nobody to tell."""
    return nullcontext() if host.startswith("127.") else announcement(host, port, osc_port)


def _addresses(host: str) -> list[str]:
    """Where others reach us."""
    if host != "0.0.0.0":
        return [host]
    found = (str(ip.ip) for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4)
    return [address for address in found if not address.startswith("127.")]


@contextmanager
def announcement(host: str, port: int, osc_port: int) -> Iterator[None]:
    """Tell the network by zeroconf where we are, as long as this lasts; a refusal costs a warning."""
    try:
        zeroconf = Zeroconf() if host == "0.0.0.0" else Zeroconf(interfaces=[host])
    except OSError as error:
        _log.warning("OSCQuery is not announced: %s", error)
        yield
        return
    try:
        for kind, number in (("_oscjson._tcp.local.", port), ("_osc._udp.local.", osc_port)):
            server = f"{NAME}-{port}.local."
            info = ServiceInfo(
                kind, f"{NAME}.{kind}", number, server=server, parsed_addresses=_addresses(host)
            )
            zeroconf.register_service(info, allow_name_change=True)
    except (OSError, ZeroconfError) as error:
        _log.warning("OSCQuery is not announced: %s", error)
    try:
        yield
    finally:
        zeroconf.close()
