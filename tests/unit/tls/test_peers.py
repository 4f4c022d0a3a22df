"""Peers over TLS: what we send, ask and fetch, and what is said of those that are not who they should be."""

from __future__ import annotations

import logging
import shutil
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stenosis_node.config import Peer
from stenosis_node.deliver import probe, request_commitment, send
from stenosis_node.domain import Document
from stenosis_node.errors import PermanentError, TransientError
from stenosis_node.query import FetchedInstance, find_instances, get_instances, move_instances
from tests.conftest import free_port, require_tool
from tests.unit.certificates import Authority, Identity
from tests.unit.deliver.conftest import dataset_bytes
from tests.unit.dicom_peers import orthanc, rest, running
from tests.unit.query.conftest import Study
from tests.unit.query.conftest import study as study  # noqa: PLC0414  a fixture
from tests.unit.receive.conftest import Node
from tests.unit.tls.conftest import Hospital

Documents = tuple[Document, ...]
PEER_NAME = "pacs.example"


@contextmanager
def storescp(folder: Path, ca: Path, identity: Identity, *options: str) -> Iterator[int]:
    """DCMTK's, over TLS; it wants to see a certificate unless told otherwise."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    own = ["+tls", str(identity.key), str(identity.certificate), "+cf", str(ca)]
    with running([require_tool("storescp", "dcmtk"), "-B", "-od", str(folder), *own, *options, str(port)], port):
        yield port


def peer_at(port: int, ca: Path, identity: Identity | None, **more: object) -> Peer:
    own = {} if identity is None else {"certificate": identity.certificate, "key": identity.key}
    keys = {"ae_title": "ANY", "host": "127.0.0.1", "port": port, "timeout_s": 5, "server_name": PEER_NAME}
    return Peer.model_validate({**keys, "tls": True, "ca_file": ca, **own, **more})


def failing(peer: Peer) -> str:
    """What probe says."""
    report = probe(peer, calling_ae_title="STENOSIS")
    assert not report.echo_ok
    assert report.error is not None
    return report.error


def test_dcmtk_stores_what_we_send(documents: Documents, hospital: Hospital, tmp_path: Path) -> None:
    ca = hospital.authority.ca
    with storescp(tmp_path / "in", ca, hospital.pacs) as port:
        peer = peer_at(port, ca, hospital.node)
        report = probe(peer, calling_ae_title="STENOSIS")
        assert report.echo_ok
        assert report.address == f"ANY at 127.0.0.1 port {port} over TLS"
        send(documents, peer, calling_ae_title="STENOSIS", confirmed=(), on_status=lambda status: None)
    stored = [path.read_bytes() for path in (tmp_path / "in").iterdir()]
    assert len(stored) == len(documents)
    for document in documents:
        assert any(content.endswith(dataset_bytes(document)) for content in stored)


def test_peers_that_are_not_spoken_to(hospital: Hospital, stranger: tuple[Authority, Identity], tmp_path: Path) -> None:
    ca = hospital.authority.ca
    old = hospital.authority.issue(
        "expired", host="DNS:pacs.example", not_before="20200101000000Z", not_after="20210101000000Z"
    )
    with storescp(tmp_path / "in", ca, hospital.pacs) as port:
        said = failing(peer_at(port, stranger[0].ca, hospital.node))
        assert f"ANY at 127.0.0.1 port {port} over TLS has a certificate that is not accepted" in said
        assert "give its authority as ca_file" in said
        said = failing(peer_at(port, ca, hospital.node, server_name=None))
        assert "not valid for '127.0.0.1'" in said
        assert "set server_name" in said
        assert probe(peer_at(port, ca, hospital.node, server_name=None, check_server_name=False),
                     calling_ae_title="STENOSIS").echo_ok  # fmt: skip
        assert "does not accept our certificate" in failing(peer_at(port, ca, None))
        assert "does not accept our certificate" in failing(peer_at(port, ca, stranger[1]))
        plain = Peer(ae_title="ANY", host="127.0.0.1", port=port, timeout_s=5)
        assert "if it speaks TLS alone, set tls = true" in failing(plain)
        assert probe(peer_at(port, hospital.pacs.certificate, hospital.node), calling_ae_title="S").echo_ok  # pinned
    with storescp(tmp_path / "in", ca, old) as port:
        assert "certificate has expired" in failing(peer_at(port, ca, hospital.node))
    plain_port = free_port()
    with running([require_tool("storescp", "dcmtk"), "-od", str(tmp_path), str(plain_port)], plain_port):
        said = failing(peer_at(plain_port, ca, hospital.node, timeout_s=2))
        assert "TLS on this port" in said


def test_what_is_tried_again_and_what_is_not(documents: Documents, hospital: Hospital, tmp_path: Path) -> None:
    """A certificate that is not trusted needs a human; files that are being replaced, and silence, do not."""
    ca = hospital.authority.ca

    def deliver(peer: Peer) -> None:
        send(documents, peer, calling_ae_title="STENOSIS", confirmed=(), on_status=lambda status: None)

    with storescp(tmp_path / "in", ca, hospital.pacs) as port:
        with pytest.raises(PermanentError, match="certificate that is not accepted"):
            deliver(peer_at(port, ca, hospital.node, server_name="other.example"))
        missing = Identity(tmp_path / "new.crt", tmp_path / "new.key")
        with pytest.raises(TransientError, match=r"certificate: .*new.crt cannot be read"):
            deliver(peer_at(port, ca, missing))
        shutil.copy(hospital.node.certificate, missing.certificate)
        shutil.copy(hospital.node.key, missing.key)
        deliver(peer_at(port, ca, missing))  # read anew, no restart
    with pytest.raises(TransientError, match="refused the connection"):
        deliver(peer_at(port, ca, hospital.node))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        with pytest.raises(TransientError, match="did not finish the TLS handshake within 1 s"):
            deliver(peer_at(silent.getsockname()[1], ca, hospital.node, timeout_s=1))
        assert time.monotonic() - begin < 4


@pytest.mark.parametrize(
    ("weaken", "words"),
    [
        (lambda context: setattr(context, "maximum_version", ssl.TLSVersion.TLSv1_1), "TLS of 1.2 or above"),
        (
            lambda context: (
                setattr(context, "maximum_version", ssl.TLSVersion.TLSv1_2),
                context.set_ciphers("ECDHE-RSA-AES256-SHA384:AES256-GCM-SHA384:@SECLEVEL=0"),
            ),
            "no cipher of TLS 1.2 or 1.3",
        ),
    ],
    ids=["version", "cipher"],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_peers_that_are_out_of_date(hospital: Hospital, weaken: Callable[[ssl.SSLContext], object], words: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("ALL:@SECLEVEL=0")
    weaken(context)
    context.load_cert_chain(hospital.node.certificate, hospital.node.key)

    def answer() -> None:
        sock, _ = server.accept()
        with sock, pytest.raises(ssl.SSLError):
            context.wrap_socket(sock, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer)
        thread.start()
        said = failing(peer_at(server.getsockname()[1], hospital.authority.ca, hospital.node))
        thread.join()
    assert words in said


def test_orthanc_in_every_role(
    secure_node: Callable[..., Node],
    hospital: Hospital,
    documents: Documents,
    study: Study,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It stores, answers queries, gives images, and commits over a connection of its own: each over TLS both ways."""
    caplog.set_level(logging.INFO)
    ca = hospital.authority.ca
    node = secure_node()
    node.receiver.stop()
    settings = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(hospital.pacs.certificate),
        "DicomTlsPrivateKey": str(hospital.pacs.key),
        "DicomTlsTrustedCertificates": str(ca),
        "DicomModalities": {
            "node": {"AET": "STENOSIS", "Host": "127.0.0.1", "Port": node.port, "UseDicomTls": True, "AllowGet": True}
        },
    }
    with orthanc(tmp_path / "orthanc", **settings) as (port, url):
        peer = peer_at(port, ca, hospital.node, ae_title="ORTHANC", commitment=True, timeout_s=10)
        node.config = node.config.model_copy(update={"peers": {"pacs": peer}})
        node.receiver = type(node.receiver)(node.config, node.spool, node.store)
        node.receiver.start()
        send(documents, peer, calling_ae_title="STENOSIS", confirmed=(), on_status=lambda status: None)
        assert len(rest(f"{url}/instances")) == len(documents)

        request_commitment(
            [(d.sop_class_uid, d.sop_instance_uid) for d in documents],
            peer,
            transaction_uid="2.25.4711",
            calling_ae_title="STENOSIS",
            on_report=lambda report: False,
            wait_s=0,
        )
        deadline = time.monotonic() + 20
        while "report from ORTHANC that nobody asked for" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "report from ORTHANC that nobody asked for" in caplog.text  # it came over TLS, and was answered

        for path in study.write():
            with urllib.request.urlopen(f"{url}/instances", data=path.read_bytes(), timeout=20):
                pass
        known = find_instances(peer, study.uid, calling_ae_title="STENOSIS")
        assert {one.sop_instance_uid for one in known} == study.mr
        kept: dict[str, FetchedInstance] = {}
        outcome = get_instances(
            peer,
            study.uid,
            known,
            calling_ae_title="STENOSIS",
            keep=lambda one: kept.__setitem__(one.sop_instance_uid, one),
            max_object_bytes=10_000_000,
            progress=lambda done, total: None,
        )
        assert outcome.completed == len(known)
        assert kept.keys() == study.mr

        assert node.files() == []
        moved = move_instances(peer, study.uid, known, calling_ae_title="STENOSIS", destination="STENOSIS")
        assert (moved.completed, moved.failed) == (len(known), 0)
        assert {path.stem for path in node.files()} == study.mr
        assert "does not accept our certificate" in failing(peer.model_copy(update={"certificate": None, "key": None}))
