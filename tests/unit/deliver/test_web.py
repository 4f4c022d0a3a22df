"""send() and probe() over STOW-RS: an answer per document, each failure classified; over real sockets."""

from __future__ import annotations

import base64
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import EnhancedSRStorage

from stenosis_node.config import Peer
from stenosis_node.deliver import DocumentStatus, http, probe, send
from stenosis_node.domain import Document, DocumentKind
from stenosis_node.errors import PermanentError, TransientError
from tests.conftest import free_port
from tests.unit.deliver.conftest import dataset_bytes, make_document
from tests.unit.deliver.web_server import JSON, Reply, Web, make_certificate, outcome, web_server
from tests.unit.dicom_peers import orthanc, rest

Documents = tuple[Document, ...]
DICOMWEB = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as server:
        yield server


def run(documents: Documents, peer: Peer, confirmed: frozenset[str] = frozenset()) -> list[DocumentStatus]:
    statuses: list[DocumentStatus] = []
    send(documents, peer, calling_ae_title="S", confirmed=confirmed, on_status=statuses.append)
    return statuses


def failing(documents: Documents, peer: Peer, error: type[Exception]) -> tuple[str, list[DocumentStatus]]:
    """The sentence, and the answers until then."""
    statuses: list[DocumentStatus] = []
    with pytest.raises(error) as raised:
        send(documents, peer, calling_ae_title="S", confirmed=(), on_status=statuses.append)
    return str(raised.value), statuses


def test_one_request_per_document_in_order_and_byte_by_byte(documents: Documents, web: Web) -> None:
    statuses = run(documents, web.peer())
    assert [(s.sop_instance_uid, s.status, s.text, s.confirmed) for s in statuses] == [
        (d.sop_instance_uid, 0, "stored", True) for d in documents
    ]
    assert list(web.stored) == [d.sop_instance_uid for d in documents]
    assert all(web.stored[d.sop_instance_uid].endswith(dataset_bytes(d)) for d in documents)
    assert set(web.paths) == {"POST /dicom-web/studies"}
    assert {h["Host"] for h in web.headers} == {web.url.split("/")[2]}  # with the port
    assert not any("Transfer-Encoding" in h for h in web.headers)


def test_confirmed_documents_are_not_sent_again(documents: Documents, web: Web) -> None:
    overview, capture, report = documents
    run(documents, web.peer(), frozenset({overview.sop_instance_uid, report.alternatives[1].sop_instance_uid}))
    assert list(web.stored) == [capture.sop_instance_uid]


@pytest.mark.parametrize(
    ("reply", "status", "text"),
    [
        (lambda uid: Reply(200, b""), 200, "stored"),
        (lambda uid: Reply(204, b""), 204, "stored"),
        (lambda uid: Reply(200, b"<html>thank you</html>", "text/html"), 200, "stored"),
        (lambda uid: replace(outcome(200, stored={uid: None}), media_type=f"{JSON}; charset=utf-8"), 0, "stored"),
        (
            lambda uid: outcome(202, stored={uid: 0xB000}),
            0xB000,
            "stored, with coercion of data elements",
        ),
        (lambda uid: outcome(202, stored={uid: 0xA700}), 0xA700, "stored, with a warning"),
        (lambda uid: outcome(409, failed={uid: 0x0111}), 0x0111, "the peer has this instance already"),
        (lambda uid: outcome(409, failed={uid: 0xB00E}), 0xB00E, "the peer has this instance already"),
    ],
)
def test_what_counts_as_stored(
    documents: Documents, web: Web, reply: Callable[[str], Reply], status: int, text: str
) -> None:
    web.store = reply
    assert {(s.status, s.text, s.confirmed) for s in run(documents, web.peer())} == {(status, text, True)}


XML = """<?xml version="1.0"?><NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDicom">
<DicomAttribute tag="00081198" vr="SQ" keyword="FailedSOPSequence"><Item number="1">
<DicomAttribute tag="00081155" vr="UI"><Value number="1">{}</Value></DicomAttribute>
<DicomAttribute tag="00081197" vr="US"><Value number="1">43264</Value></DicomAttribute>
</Item></DicomAttribute></NativeDicomModel>"""


@pytest.mark.parametrize(
    ("reply", "error", "status", "says"),
    [
        (lambda uid: outcome(409, failed={uid: 0xA700}), TransientError, 0xA700, "out of resources"),
        (lambda uid: outcome(200, failed={uid: 0x0110}), TransientError, 0x0110, "processing failure"),
        (lambda uid: outcome(200, failed={"1.9": 0x0110}), TransientError, 0x0110, "processing failure"),
        (lambda uid: outcome(409, failed={uid: 0xB00F}), TransientError, 0xB00F, "another request"),
        (lambda uid: outcome(409, failed={uid: 0}), TransientError, 0, "not stored"),
        (lambda uid: outcome(409, failed={uid: 0xA900}), PermanentError, 0xA900, "does not match"),
        (lambda uid: outcome(409, failed={uid: 0xC122}), PermanentError, 0xC122, "cannot understand"),
        (
            lambda uid: Reply(200, XML.format(uid).encode(), "application/dicom+xml"),
            PermanentError,
            0xA900,
            "does not match",
        ),
        (lambda uid: Reply(202, b""), TransientError, 202, "does not say"),
        (lambda uid: Reply(409, b"conflict"), TransientError, 409, "does not say"),
        (lambda uid: Reply(409, b'{"00081198": [7], "00081199": 3}'), TransientError, 409, "does not say"),
        (lambda uid: Reply(400), PermanentError, 400, "Bad Request"),
        (lambda uid: Reply(401), PermanentError, 401, "username and password, or token"),
        (lambda uid: Reply(403), PermanentError, 403, "username and password, or token"),
        (lambda uid: Reply(404), PermanentError, 404, "correct url"),
        (lambda uid: Reply(413), PermanentError, 413, "must be set up"),
        (lambda uid: Reply(415), PermanentError, 415, "must be set up"),
        (lambda uid: Reply(429), TransientError, 429, "Too Many Requests"),
        (lambda uid: Reply(408), TransientError, 408, "Request Timeout"),
        (lambda uid: Reply(500, b"Hong^Gildong"), TransientError, 500, "Internal Server Error"),
        (lambda uid: Reply(501), PermanentError, 501, "Not Implemented"),
        (lambda uid: Reply(503), TransientError, 503, "Service Unavailable"),
        (lambda uid: Reply(599), TransientError, 599, "unknown status"),
    ],
)  # fmt: skip
def test_what_does_not(
    documents: Documents, web: Web, reply: Callable[[str], Reply], error: type[Exception], status: int, says: str
) -> None:
    bad = documents[1].sop_instance_uid
    web.store = lambda uid: reply(uid) if uid == bad else outcome(200, stored={uid: None})
    sentence, statuses = failing(documents, web.peer(), error)
    assert says in sentence
    assert web.url in sentence
    assert "Hong" not in sentence
    assert [(s.status, s.confirmed) for s in statuses] == [(0, True), (status, False)]
    assert documents[2].sop_instance_uid not in web.stored  # the report is not sent after a failed capture
    assert list(web.stored).count(bad) == 1


@pytest.mark.parametrize("status", [202, 409])
def test_without_an_explanation_a_search_tells_whether_the_server_has_it(
    documents: Documents, web: Web, status: int
) -> None:
    """Some servers answer a bare 409 to an instance that they have."""
    web.store = lambda uid: Reply(status, b"already exists", "text/plain")
    found = b'[{"00080018": {"vr": "UI", "Value": ["%s"]}}]'
    web.search = lambda path: Reply(200, found % path.rpartition("=")[2].encode())
    assert {(s.status, s.confirmed) for s in run(documents, web.peer())} == {(0x0111, True)}
    web.search = lambda path: Reply(200, found % b"1.2.3")
    failing(documents, web.peer(), TransientError)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(documents: Documents, web: Web, status: int) -> None:
    """A redirected POST becomes a GET, whose success says nothing."""
    web.store = lambda uid: Reply(status, headers={"Location": f"{web.url}/elsewhere"})
    sentence, _ = failing(documents, web.peer(), PermanentError)
    assert "has moved" in sentence
    assert web.paths == ["POST /dicom-web/studies"]


def test_a_report_class_the_server_does_not_support_is_replaced(documents: Documents, web: Web) -> None:
    overview, capture, report = documents
    plain, text = report.alternatives

    def store(uid: str) -> Reply:
        taken = uid not in (report.sop_instance_uid, plain.sop_instance_uid)
        return outcome(200, stored={uid: None}) if taken else outcome(409, failed={uid: 0x0122})

    web.store = store
    statuses = run(documents, web.peer())
    assert [(s.sop_instance_uid, s.confirmed) for s in statuses] == [
        (overview.sop_instance_uid, True),
        (capture.sop_instance_uid, True),
        (report.sop_instance_uid, False),
        (plain.sop_instance_uid, False),
        (text.sop_instance_uid, True),
    ]
    web.stored.clear()
    send(
        documents, web.peer(), calling_ae_title="S", confirmed=(), on_status=lambda _: None,
        report_class=text.sop_class_uid,
    )  # fmt: skip
    assert list(web.stored)[2:] == [text.sop_instance_uid]
    web.store = lambda uid: outcome(409, failed={uid: 0x0122})
    assert "SOP class not supported" in failing(documents, web.peer(), PermanentError)[0]


# ------------------------------------------------------------------- who we are, and who the server is


def test_credentials_are_sent_and_never_shown(documents: Documents, web: Web, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    web.store = lambda uid: Reply(401)
    basic = web.peer(username="node", password="geheim-密")
    bearer = web.peer(token="abc.def.ghi")
    told = failing(documents, basic, PermanentError)[0] + failing(documents, bearer, PermanentError)[0]
    sent = [headers["Authorization"] for headers in web.headers]
    assert sent == [f"Basic {base64.b64encode('node:geheim-密'.encode()).decode()}", "Bearer abc.def.ghi"]
    for secret in ("geheim", "abc.def.ghi", sent[0][6:]):
        assert secret not in told + caplog.text


def test_the_environment_changes_nothing(documents: Documents, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert len(run(documents, web.peer())) == 3


def test_tls(documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with web_server(certificate) as web:
        assert "is not trusted (self-signed certificate)" in failing(documents, web.peer(), PermanentError)[0]
        assert not web.stored
        assert len(run(documents, web.peer(ca_file=certificate))) == 3
        (tmp_path / "nothing.pem").write_text("nothing")
        for path in (tmp_path / "nothing.pem", tmp_path / "missing.pem"):
            assert "ca_file" in failing(documents, web.peer(ca_file=path), PermanentError)[0]
    with web_server(certificate, client_ca=certificate) as strict:
        failing(documents, strict.peer(ca_file=certificate), TransientError)
        assert not strict.stored
        own = {"certificate": certificate, "key": certificate}
        assert len(run(documents, strict.peer(ca_file=certificate, **own))) == 3
    with web_server() as plain:
        plain.url = plain.url.replace("http://", "https://")
        assert "does not speak TLS" in failing(documents, plain.peer(), PermanentError)[0]


# ------------------------------------------------------------------- peers that are away or rude


def test_nobody_there(documents: Documents) -> None:
    nobody = Peer.model_validate({"protocol": "dicomweb", "url": f"http://127.0.0.1:{free_port()}/x", "timeout_s": 2})
    assert "refused the connection" in failing(documents, nobody, TransientError)[0]
    unknown = nobody.model_copy(update={"url": "http://no-such-host.invalid/x"})
    sentence, statuses = failing(documents, unknown, TransientError)
    assert "cannot be resolved" in sentence
    assert statuses == []


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n"


@contextmanager
def rude(behave: Callable[[socket.socket, threading.Event], None]) -> Iterator[Peer]:
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            connection, _ = listener.accept()
            with connection:
                behave(connection, stop)
        except OSError:
            return

    thread = threading.Thread(target=serve)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
    yield Peer.model_validate({"protocol": "dicomweb", "url": url, "timeout_s": 0.6})
    stop.set()
    listener.close()
    thread.join(5)


def trickle(connection: socket.socket, stop: threading.Event, first: bytes) -> None:
    connection.sendall(first)
    while not stop.wait(0.2):
        connection.sendall(b"x")


@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(lambda connection, stop: stop.wait(20), id="silent"),
        pytest.param(lambda connection, stop: None, id="closes"),
        pytest.param(lambda connection, stop: connection.sendall(b"\x02\x00\x00\x00" * 5), id="garbage"),
        pytest.param(lambda connection, stop: connection.sendall(HEAD + b"Content-Length: 9\r\n\r\n{"), id="half"),
        pytest.param(lambda connection, stop: trickle(connection, stop, b"HTTP/1.1 200"), id="trickles head"),
        pytest.param(
            lambda connection, stop: trickle(connection, stop, HEAD + b"Content-Length: 999\r\n\r\n"),
            id="trickles body",
        ),
    ],
)
def test_a_rude_server_costs_no_more_than_its_time_limit(
    documents: Documents, behave: Callable[[socket.socket, threading.Event], None]
) -> None:
    threads = set(threading.enumerate())
    begin = time.monotonic()
    with rude(behave) as peer:
        _, statuses = failing(documents[:1], peer, TransientError)
        assert time.monotonic() - begin < 4
    assert [(s.status, s.text, s.confirmed) for s in statuses] == [(None, "no answer", False)]
    deadline = time.monotonic() + 3
    while set(threading.enumerate()) - threads and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not set(threading.enumerate()) - threads


def test_a_server_that_takes_the_bytes_in_driblets(documents: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SLOWEST_BYTES_PER_S", 10_000_000)

    def sip(connection: socket.socket, stop: threading.Event) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while not stop.wait(0.05) and connection.recv(16_384):
            pass

    ds = dcmread(BytesIO(documents[0].content))
    ds.PixelData = bytes(16_000_000)
    content = BytesIO()
    ds.save_as(content)
    begin = time.monotonic()
    with rude(sip) as peer:
        failing((replace(documents[0], content=content.getvalue()),), peer, TransientError)
        assert time.monotonic() - begin < 7


def test_an_endless_answer_is_cut(documents: Documents, web: Web) -> None:
    web.store = lambda uid: Reply(409, b"x" * (http.MAX_BODY_BYTES + 1))
    assert "does not say" in failing(documents, web.peer(), TransientError)[0]


# ------------------------------------------------------------------- probe


def test_probe(web: Web) -> None:
    report = probe(web.peer(), calling_ae_title="S")
    assert (report.echo_ok, report.error, report.accepted, report.refused) == (True, None, (), ())
    assert report.address == web.url
    assert web.paths[0].startswith("GET /dicom-web/studies?")
    assert "limit=1" in web.paths[0]
    web.search = lambda path: Reply(404)  # a server that only stores
    assert probe(web.peer(), calling_ae_title="S").echo_ok
    web.options = Reply(404)
    wrong = probe(web.peer(), calling_ae_title="S")
    assert "correct url of the peer" in (wrong.error or "")
    web.search = lambda path: Reply(403)
    web.options = Reply(200)
    assert "username and password" in (probe(web.peer(), calling_ae_title="S").error or "")
    away = web.peer(url=f"http://127.0.0.1:{free_port()}/x")
    assert "refused the connection" in (probe(away, calling_ae_title="S").error or "")


# ------------------------------------------------------------------- an independent implementation


def test_orthanc_holds_what_we_sent(documents: Documents, tmp_path: Path) -> None:
    if not Path(DICOMWEB).exists():
        pytest.skip("the DICOMweb plugin of Orthanc is not installed (Debian package orthanc-dicomweb)")
    access = {
        "Plugins": [DICOMWEB],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"node": "geheim"},
    }
    enhanced = make_document(9, EnhancedSRStorage, DocumentKind.SR)
    with orthanc(tmp_path / "orthanc", **access) as (_, url):
        settings = {"protocol": "dicomweb", "url": f"{url}/dicom-web/", "username": "node", "password": "geheim"}
        peer = Peer.model_validate(settings)
        assert probe(peer, calling_ae_title="S").echo_ok
        statuses = run((*documents, enhanced), peer)
        again = run((*documents, enhanced), peer)
        wrong = Peer.model_validate({**settings, "password": "falsch"})
        assert "username and password" in (probe(wrong, calling_ae_title="S").error or "")
        assert "username and password" in failing(documents, wrong, PermanentError)[0]
        assert "correct url" in failing(documents, peer.model_copy(update={"url": f"{url}/wrong"}), PermanentError)[0]
        held = {}
        for name in rest(f"{url}/instances", login="node:geheim"):
            content = rest(f"{url}/instances/{name}/file", login="node:geheim")
            held[rest(f"{url}/instances/{name}/tags?simplify", login="node:geheim")["SOPInstanceUID"]] = content
    assert all(s.confirmed for s in statuses + again)
    assert set(held) == {d.sop_instance_uid for d in (*documents, enhanced)}
    for document in documents:
        assert held[document.sop_instance_uid].endswith(dataset_bytes(document))
