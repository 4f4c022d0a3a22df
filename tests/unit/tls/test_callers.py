"""Callers over TLS: DCMTK, Orthanc, OpenSSL as others configure it, and those that say nothing."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stenosis_node.errors import ConfigError
from tests.conftest import require_tool
from tests.unit.certificates import Authority, Identity
from tests.unit.dicom_peers import orthanc, rest
from tests.unit.receive.conftest import Node, StartNode, dataset_of, make_instance
from tests.unit.receive.raw_scu import associate_rq
from tests.unit.tls.conftest import Hospital, tls_keys

StartSecure = Callable[..., Node]


def dcmtk(
    name: str, node: Node, ca: Path, identity: Identity | None, *more: str | Path
) -> subprocess.CompletedProcess[str]:
    """One of DCMTK's programs, over TLS with or without a certificate of its own."""
    own = ["+tla"] if identity is None else ["+tls", identity.key, identity.certificate]
    command = [require_tool(name, "dcmtk"), "-v", *own, "+cf", ca, "-aec", "STENOSIS", "127.0.0.1", node.port, *more]
    done = subprocess.run([str(word) for word in command], capture_output=True, timeout=60, check=False)
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )


def trusting(ca: Path, identity: Identity | None = None) -> ssl.SSLContext:
    """What another program might use."""
    context = ssl.create_default_context(cafile=ca)
    if identity is not None:
        context.load_cert_chain(identity.certificate, identity.key)
    return context


@contextmanager
def connected(node: Node, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection(("127.0.0.1", node.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        yield secure


def associates(node: Node, context: ssl.SSLContext) -> bool:
    """Whether an association is accepted: in TLS 1.3 a refused certificate shows at the first answer."""
    with connected(node, context) as made:
        made.sendall(associate_rq())
        return made.recv(1) == b"\x02"


def logged(caplog: pytest.LogCaptureFixture, words: str, limit_s: float = 5) -> bool:
    """Whether the words come into the log."""
    deadline = time.monotonic() + limit_s
    while words not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.02)
    return words in caplog.text


@pytest.mark.parametrize("fast_path", [True, False])
def test_dcmtk_echoes_and_stores(secure_node: StartSecure, hospital: Hospital, tmp_path: Path, fast_path: bool) -> None:
    node = secure_node(fast_path=fast_path)
    ca = hospital.authority.ca
    assert dcmtk("echoscu", node, ca, hospital.scanner).returncode == 0
    files = [make_instance(tmp_path, number) for number in range(1, 6)]
    files.append(
        make_instance(tmp_path, 6, EncapsulatedDocument=os.urandom(1 << 21))
    )  # many PDUs, each many TLS records
    done = dcmtk("storescu", node, ca, hospital.scanner, *files)
    assert done.returncode == 0, done.stderr
    assert [dataset_of(file) for file in node.files()] == [dataset_of(file) for file in files]


def test_orthanc_sends(secure_node: StartSecure, hospital: Hospital, tmp_path: Path) -> None:
    node = secure_node()
    modality = {"AET": "STENOSIS", "Host": "127.0.0.1", "Port": node.port, "UseDicomTls": True}
    settings = {
        "DicomModalities": {"node": modality},
        "DicomTlsCertificate": str(hospital.pacs.certificate),
        "DicomTlsPrivateKey": str(hospital.pacs.key),
        "DicomTlsTrustedCertificates": str(hospital.authority.ca),
    }
    with orthanc(tmp_path / "orthanc", **settings) as (_, url):
        with urllib.request.urlopen(f"{url}/instances", data=make_instance(tmp_path, 1).read_bytes(), timeout=20):
            pass
        rest(f"{url}/modalities/node/echo", {})
        outcome = rest(f"{url}/modalities/node/store", rest(f"{url}/instances"))
    assert outcome["FailedInstancesCount"] == 0
    assert len(node.files()) == 1


def test_callers_that_are_turned_away(
    secure_node: StartSecure,
    hospital: Hospital,
    stranger: tuple[Authority, Identity],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By what they are, with what to do about it; and a proper one is served after each."""
    node = secure_node()
    ca = hospital.authority.ca
    old = hospital.authority.issue("old", not_before="20200101000000Z", not_after="20210101000000Z")

    assert dcmtk("echoscu", node, ca, None).returncode != 0
    assert logged(caplog, "the caller has no certificate: give it one of an authority in receive.tls.client_ca")
    assert dcmtk("echoscu", node, ca, stranger[1]).returncode != 0
    assert logged(caplog, "it must descend from an authority in receive.tls.client_ca")
    assert dcmtk("echoscu", node, ca, old).returncode != 0
    assert logged(caplog, "the caller's certificate is not accepted (certificate has expired)")
    assert dcmtk("echoscu", node, stranger[0].ca, hospital.scanner).returncode != 0
    assert logged(caplog, "the caller does not accept our certificate (unknown ca)")
    tool = require_tool("echoscu", "dcmtk")
    plain = subprocess.run([tool, "-aec", "STENOSIS", "127.0.0.1", str(node.port)], capture_output=True, check=False)
    assert plain.returncode != 0
    assert logged(caplog, "the caller does not speak TLS: switch it on there")
    with socket.create_connection(("127.0.0.1", node.port), timeout=5) as browser:
        browser.sendall(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            while browser.recv(100):
                pass
    assert dcmtk("echoscu", node, ca, hospital.scanner).returncode == 0


def test_old_versions_and_weak_ciphers(
    secure_node: StartSecure, hospital: Hospital, caplog: pytest.LogCaptureFixture
) -> None:
    node = secure_node()
    context = trusting(hospital.authority.ca, hospital.scanner)
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        associates(node, context)
    assert logged(caplog, "the caller's TLS is older than 1.2")
    for weak in ("ECDHE-RSA-AES256-SHA384", "AES256-GCM-SHA384", "DHE-RSA-AES256-GCM-SHA384", "NULL-SHA256"):
        caplog.clear()
        node = secure_node()  # each says the same reason to the same caller once a minute
        context = trusting(hospital.authority.ca, hospital.scanner)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(f"{weak}:@SECLEVEL=0")
        with pytest.raises(ssl.SSLError):
            associates(node, context)
        assert logged(caplog, "no cipher in common"), weak
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = trusting(hospital.authority.ca, hospital.scanner)
        context.minimum_version = context.maximum_version = version
        assert associates(node, context)


def test_callers_without_certificates_where_none_is_asked_for(
    start_node: StartNode, hospital: Hospital, stranger: tuple[Authority, Identity]
) -> None:
    settings = tls_keys(hospital.node, hospital.authority.ca, require_client_certificate=False)
    node = start_node(tls=settings)
    ca = hospital.authority.ca
    assert dcmtk("echoscu", node, ca, None).returncode == 0
    assert dcmtk("echoscu", node, ca, hospital.scanner).returncode == 0
    assert dcmtk("echoscu", node, ca, stranger[1]).returncode != 0  # who shows one must show a good one


def test_who_says_nothing_holds_up_nobody(
    secure_node: StartSecure, hospital: Hospital, caplog: pytest.LogCaptureFixture
) -> None:
    node = secure_node(network_timeout_s=1)
    silent = [socket.create_connection(("127.0.0.1", node.port), timeout=10) for _ in range(20)]
    half = socket.create_connection(("127.0.0.1", node.port), timeout=10)
    half.sendall(b"\x16\x03\x01\x02\x00\x01")
    begin = time.monotonic()
    assert associates(node, trusting(hospital.authority.ca, hospital.scanner))
    assert time.monotonic() - begin < 1
    for sock in (*silent, half):
        assert sock.recv(10) in (b"", b"\x15\x03\x01\x00\x02\x02\x28")  # hung up on, perhaps with an alert
        sock.close()
    assert time.monotonic() - begin < 5
    assert logged(caplog, "did not finish its TLS handshake within 1 s")


def test_changed_files_are_taken_up(
    start_node: StartNode,
    hospital: Hospital,
    stranger: tuple[Authority, Identity],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Certificate, key and authority, for the next caller; open associations go on, and broken files change nothing."""
    caplog.set_level(logging.INFO)
    certificate, key, ca = (tmp_path / name for name in ("node.crt", "node.key", "ca.crt"))

    def put(identity: Identity, authority: Authority) -> None:
        for source, target in ((identity.certificate, certificate), (identity.key, key), (authority.ca, ca)):
            shutil.copy(source, tmp_path / "new")
            (tmp_path / "new").replace(target)

    put(hospital.node, hospital.authority)
    node = start_node(tls=tls_keys(Identity(certificate, key), ca))
    before = trusting(hospital.authority.ca, hospital.scanner)
    with connected(node, before) as open_one:
        open_one.sendall(associate_rq())
        first = open_one.recv(100_000)
        assert first[0] == 2

        certificate.write_text("-----BEGIN CERTIFICATE-----\nhalf of")
        assert associates(node, before)
        assert "changed TLS files are not taken up, the old ones stay in use: receive.tls.certificate" in caplog.text
        key.unlink()
        assert associates(node, before)
        assert associates(node, before)
        assert caplog.text.count("are not taken up") == 2  # once for each change

        new = stranger[0].issue("node", kind="rsa")
        put(new, stranger[0])
        assert associates(node, trusting(stranger[0].ca, stranger[1]))
        assert "changed TLS files are in use from now on" in caplog.text
        with pytest.raises(ssl.SSLError):
            associates(node, before)

        open_one.sendall(b"\x05\0\0\0\0\x04\0\0\0\0")
        assert open_one.recv(10)[0] == 6


def test_revoked_certificates(
    start_node: StartNode, hospital: Hospital, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost = hospital.authority.issue("lost")
    ca = tmp_path / "ca.crt"
    shutil.copy(hospital.authority.ca, ca)
    node = start_node(tls=tls_keys(hospital.node, ca))
    assert associates(node, trusting(hospital.authority.ca, lost))
    ca.write_text(hospital.authority.ca.read_text() + hospital.authority.revoke(lost))
    with pytest.raises(ssl.SSLError):
        associates(node, trusting(hospital.authority.ca, lost))
    assert logged(caplog, "certificate revoked")
    assert associates(node, trusting(hospital.authority.ca, hospital.scanner))


def test_access_rules_hold_inside_of_tls(
    secure_node: StartSecure, hospital: Hospital, caplog: pytest.LogCaptureFixture
) -> None:
    node = secure_node(calling_ae_titles=["CT1"])
    assert dcmtk("echoscu", node, hospital.authority.ca, hospital.scanner).returncode != 0
    assert logged(caplog, "'ECHOSCU' is not in receive.calling_ae_titles")
    assert dcmtk("echoscu", node, hospital.authority.ca, hospital.scanner, "-aet", "CT1").returncode == 0


def test_files_that_cannot_be_used_are_found_at_start(
    start_node: StartNode, hospital: Hospital, tmp_path: Path
) -> None:
    node, ca = hospital.node, hospital.authority.ca
    encrypted = tmp_path / "encrypted.key"
    tool = require_tool("openssl", "openssl")
    command = [tool, "pkey", "-in", str(node.key), "-aes256", "-passout", "pass:x", "-out", str(encrypted)]
    subprocess.run(command, check=True, capture_output=True)
    short = hospital.authority.issue("short", kind="short")
    for settings, words in [
        (tls_keys(Identity(tmp_path / "none.crt", node.key), ca), "receive.tls.certificate: .*none.crt cannot be read"),
        (tls_keys(Identity(node.certificate, hospital.pacs.key), ca), "receive.tls.certificate: .* is not the key of"),
        (tls_keys(Identity(node.certificate, node.certificate), ca), "receive.tls.key: .* holds no private key"),
        (tls_keys(Identity(node.key, node.key), ca), "receive.tls.certificate: .* holds no certificate"),
        (tls_keys(Identity(node.certificate, encrypted), ca), "receive.tls.key: .* is encrypted"),
        (tls_keys(short, ca), "receive.tls.certificate: .* is too short"),
        (tls_keys(node, node.key), "receive.tls.client_ca: .* holds no certificates"),
    ]:
        with pytest.raises(ConfigError, match=words):
            start_node(tls=settings)
