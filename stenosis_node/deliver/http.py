"""An HTTP session in which nothing is endless: no redirects, no surprises from the environment, every wait bounded."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from stenosis_node.config import Peer
from stenosis_node.deliver.statuses import SLOWEST_BYTES_PER_S, NoAnswer
from stenosis_node.errors import PermanentError, TransientError
from stenosis_node.wire.association import describe

MAX_BODY_BYTES: Final = 1 << 20
"""Of an answer; a longer one is cut, and then says nothing."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What a server answered."""

    status: int
    media_type: str
    """Without parameters, in lower case."""
    body: bytes

    @property
    def ok(self) -> bool:
        """A 2xx status."""
        return 200 <= self.status < 300


class BoundedSession(requests.Session):
    """A session for ``dicomweb_client``. The answer to the last request is in :attr:`answer`, whatever its status.

    A redirected POST would become a GET, whose success would look like that of the POST: redirects are answers here.
    Proxies, ``.netrc`` and certificates are not taken from the environment. A peer that sends or takes a few bytes at a
    time is cut off when the time for the whole request is over.
    """

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self.answer: HttpAnswer | None = None
        self._peer = peer
        self._socket: socket.socket | None = None
        self.trust_env = False
        self.verify = True if peer.ca_file is None else str(peer.ca_file)
        if peer.certificate is not None and peer.key is not None:
            self.cert = (str(peer.certificate), str(peer.key))
        self.headers["Accept"] = "application/dicom+json"
        if peer.token is not None:
            self.headers["Authorization"] = f"Bearer {peer.token.get_secret_value()}"
        elif peer.username is not None and peer.password is not None:
            both = f"{peer.username}:{peer.password.get_secret_value()}".encode()  # requests would take Latin-1
            self.headers["Authorization"] = f"Basic {base64.b64encode(both).decode()}"
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(self._opened))
        self.hooks["response"] = [self._keep]

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere."""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """As the base class, within a time limit for the whole request."""
        self.answer = None
        request.headers.pop("Host", None)  # dicomweb_client forgets the port
        size = 0
        if isinstance(request.body, bytes):
            size = len(request.body)
            # in small pieces, so that the time limit of the connection holds for each and not for all
            request.body = BytesIO(request.body)
        options["timeout"] = self._peer.timeout_s
        with self._limit(2 * self._peer.timeout_s + size / SLOWEST_BYTES_PER_S):
            return super().send(request, **options)

    def _keep(self, response: requests.Response, *_: Any, **__: Any) -> None:
        """Read the answer and leave an empty one: what it means is not for ``dicomweb_client`` to say."""
        body = response.raw.read(MAX_BODY_BYTES + 1, decode_content=True)
        if len(body) > MAX_BODY_BYTES:
            body = b""
            response.close()
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        self.answer = HttpAnswer(response.status_code, media_type, body)
        response.raw = BytesIO()

    def _opened(self, connected: socket.socket) -> None:
        self._socket = connected

    @contextlib.contextmanager
    def _limit(self, limit_s: float) -> Iterator[None]:
        timer = threading.Timer(limit_s, self._hang_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _hang_up(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


class _Adapter(HTTPAdapter):
    """Tells which socket a request goes through."""

    def __init__(self, opened: Callable[[socket.socket], None]) -> None:
        self._opened = opened
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Use connections that report their socket."""
        super().init_poolmanager(*args, **kwargs)
        opened = self._opened

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                opened(self.sock)

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                opened(self.sock)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}


@contextlib.contextmanager
def translated(peer: Peer, what: str) -> Iterator[None]:
    """Turn what ``requests`` raises into our errors. An error *status* is no exception: see the session's answer.

    what    what was sent, for sentences
    raises  TransientError (not reachable), NoAnswer (what left may have arrived), PermanentError (TLS, CA file)
    """
    try:
        yield
    except requests.HTTPError:
        pass
    except requests.exceptions.SSLError as error:
        raise _tls_error(peer, str(error)) from error
    except requests.ConnectTimeout as error:
        raise TransientError(
            f"no connection to {describe(peer)} within {peer.timeout_s:g} s: is it up and reachable?"
        ) from error
    except requests.ConnectionError as error:
        raise _connection_error(peer, str(error), what) from error
    except (requests.RequestException, HTTPError) as error:
        raise NoAnswer(f"{describe(peer)} did not answer for {what} in time, or broke off") from error
    except OSError as error:
        if peer.ca_file is not None and "CA certificate" in str(error):
            raise _no_certificates(peer) from error
        raise NoAnswer(f"the connection to {describe(peer)} broke while {what} was sent") from error


def _no_certificates(peer: Peer) -> PermanentError:
    return PermanentError(f"{peer.ca_file} cannot be read or holds no certificates: correct ca_file of the peer")


def _tls_error(peer: Peer, text: str) -> TransientError | PermanentError:
    if peer.ca_file is not None and ("[X509" in text or "[PEM" in text):
        return _no_certificates(peer)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = found.group(1) if (found := re.search(r"verify failed: ([^(\n]*?) ?\(", text)) else "unknown reason"
        return PermanentError(
            f"the certificate of {describe(peer)} is not trusted ({reason}): give its authority as ca_file of the "
            "peer, or renew it"
        )
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        return PermanentError(f"{describe(peer)} does not speak TLS: does its url begin with http://?")
    return TransientError(f"no TLS connection to {describe(peer)}")


def _connection_error(peer: Peer, text: str, what: str) -> TransientError:
    if "Connection refused" in text:
        return TransientError(f"{describe(peer)} refused the connection: nothing listens there; is it up?")
    if "Failed to resolve" in text or "Name or service not known" in text:
        return TransientError(f"{peer.address} cannot be resolved: check the url of the peer")
    if "Failed to establish a new connection" in text:
        return TransientError(f"no connection to {describe(peer)}: is it up and reachable?")
    return NoAnswer(f"{describe(peer)} broke the connection off, or did not answer for {what} in time")
