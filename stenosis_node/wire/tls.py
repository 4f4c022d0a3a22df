"""TLS in both directions after BCP 195 (RFC 8996, RFC 9325), as DICOM PS3.15 annex B.12 profiles it.

TLS 1.3, or 1.2 with ephemeral elliptic curves and an AEAD cipher, and never a connection without TLS instead. Faults of
files are ConfigErrors that name their key, faults of handshakes sentences that say what to change.
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
import stat
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from stenosis_node.config import Peer, Tls
from stenosis_node.errors import ConfigError
from stenosis_node.wire.framing import SecurePeerSocket

log = logging.getLogger("stenosis_node.tls")

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:!PSK:!aNULL:@SECLEVEL=2"
"""Of TLS 1.2; all of TLS 1.3 are AEAD. Level 2: RSA keys of 2048 bits, elliptic curves of 224, no SHA-1 signatures."""
HANDSHAKE_S: Final = 10.0
"""A caller that has not finished its handshake by then is cut off."""

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class HandshakeFailed(OSError):
    """There is no TLS with this caller, and the text says why."""


# --------------------------------------------------------------------------- contexts


class _PeerSocket(SecurePeerSocket):
    """Tells its context why it failed: pynetdicom, which reads from it, keeps that to itself."""

    def do_handshake(self, block: bool = False) -> None:
        """As the base class."""
        try:
            super().do_handshake(block)
        except OSError as error:
            self._note(error)
            raise

    def recv(self, bufsize: int = 1024, flags: int = 0, /) -> bytes:
        """As the base class. In TLS 1.3 a peer says here what it thinks of our certificate."""
        try:
            return super().recv(bufsize, flags)
        except ssl.SSLError as error:
            self._note(error)
            raise

    def _note(self, error: OSError) -> None:
        if isinstance(self.context, PeerContext) and self.context.failure is None:
            self.context.failure = error


class PeerContext(ssl.SSLContext):
    """Settings of one association that we open."""

    failure: OSError | None = None
    """The first thing that went wrong with the connection; None while nothing has."""
    sslsocket_class = _PeerSocket


def caller_context(settings: Tls) -> ssl.SSLContext:
    """For those who call us. ConfigError names the key that is at fault."""
    assert settings.certificate is not None and settings.key is not None  # noqa: S101, PT018  by the configuration
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = SecurePeerSocket
    _harden(context)
    context.num_tickets = 0  # each association is authenticated by itself
    context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    _load_own(context, settings.certificate, settings.key, "receive.tls.")
    if settings.client_ca is not None:
        _load_authorities(context, settings.client_ca, "receive.tls.client_ca")
        context.verify_mode = ssl.CERT_REQUIRED if settings.require_client_certificate else ssl.CERT_OPTIONAL
    return context


def peer_context(peer: Peer, name: str = "") -> PeerContext:
    """For one association with a peer whose ``tls`` is true. Files are read anew each time.

    name    of the peer in the configuration, for sentences
    raises  ConfigError that names the key that is at fault
    """
    section = f"peers.{name}." if name else "the peer's "
    context = PeerContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    context.check_hostname = peer.check_server_name
    _load(context, peer.ca_file, peer.certificate, peer.key, section)
    return context


def server_context(ca_file: Path | None, certificate: Path | None, key: Path | None, section: str) -> ssl.SSLContext:
    """For connections to a server that is no peer, whose name is checked.

    section  what stands before ``ca_file``, ``certificate`` and ``key`` in the names of the keys, for sentences
    raises   ConfigError that names the key that is at fault
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    _load(context, ca_file, certificate, key, section)
    return context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION


def _load(
    context: ssl.SSLContext, ca_file: Path | None, certificate: Path | None, key: Path | None, section: str
) -> None:
    """What a client trusts, and what it shows."""
    if ca_file is not None:
        _load_authorities(context, ca_file, f"{section}ca_file")
    if certificate is not None and key is not None:
        _load_own(context, certificate, key, section)


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path, section: str) -> None:
    if not _CERTIFICATE.search(_read(certificate, f"{section}certificate")):
        raise ConfigError(f"{section}certificate: {certificate} holds no certificate in PEM")
    text = _read(key, f"{section}key")
    if "PRIVATE KEY-----" not in text:
        raise ConfigError(f"{section}key: {key} holds no private key in PEM")
    if "ENCRYPTED" in text:
        raise ConfigError(
            f"{section}key: {key} is encrypted, and there is nobody to ask for its password: write it without one "
            "('openssl pkey -in OLD -out NEW') and let nobody but the node's user read it"
        )
    try:
        context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError, ValueError) as error:
        match getattr(error, "reason", None):
            case "KEY_VALUES_MISMATCH" | "KEY_TYPE_MISMATCH" | "NO_CERTIFICATE_ASSIGNED":
                why = f"{key} is not the key of {certificate}"
            case "EE_KEY_TOO_SMALL" | "CA_KEY_TOO_SMALL":
                why = f"the key of {certificate} is too short: RSA needs 2048 bits, elliptic curves 256"
            case "CA_MD_TOO_WEAK" | "EE_MD_TOO_WEAK":
                why = f"{certificate} is signed with an outdated hash: have it made again with SHA-256"
            case reason:
                why = f"{certificate} and {key} cannot be used ({reason or error})"
        raise ConfigError(f"{section}certificate: {why}") from error


def _load_authorities(context: ssl.SSLContext, path: Path, key: str) -> None:
    """Certificates that others' must descend from or be. Revocation lists among them are applied to the others' own."""
    text = _read(path, key)
    try:
        context.load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigError(f"{key}: {path} holds no certificates in PEM, or broken ones") from error
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    if "BEGIN X509 CRL" in text:
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF


def _read(path: Path, key: str) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read: {error.strerror}") from error


# --------------------------------------------------------------------------- callers


class CallersTls:
    """Makes TLS connections of accepted ones. Files that change are taken up for the next caller."""

    def __init__(self, settings: Tls) -> None:
        """ConfigError when the files cannot be used."""
        self._settings = settings
        self._files = [p for p in (settings.certificate, settings.key, settings.client_ca) if p is not None]
        self._lock = threading.Lock()
        self._seen = _stamps(self._files)
        self._context = caller_context(settings)

    def secure(self, connected: socket.socket) -> SecurePeerSocket:
        """The connection, from now on over TLS; HandshakeFailed after ten seconds at most when there is none.

        Its timeout bounds the handshake, if that is shorter, and then every PDU. ``connected`` is used up.
        """
        pdu_limit_s = connected.gettimeout() or HANDSHAKE_S
        limit_s = min(HANDSHAKE_S, pdu_limit_s)
        connected.settimeout(limit_s)
        try:
            made = self._current().wrap_socket(connected, server_side=True)
        except OSError as error:
            raise HandshakeFailed(_why_not_with_caller(error, limit_s)) from error
        assert isinstance(made, SecurePeerSocket)  # noqa: S101  what sslsocket_class asked for
        return made.watch(limit_s=pdu_limit_s)

    def _current(self) -> ssl.SSLContext:
        with self._lock:
            stamps = _stamps(self._files)
            if stamps != self._seen:
                self._seen = stamps
                try:
                    self._context = caller_context(self._settings)
                except ConfigError as error:
                    log.error(  # noqa: TRY400
                        "changed TLS files are not taken up, the old ones stay in use: %s", error,
                        extra={"event": "tls_kept"},
                    )  # fmt: skip
                else:
                    log.info("changed TLS files are in use from now on", extra={"event": "tls_reloaded"})
            return self._context


def _stamps(files: Iterable[Path]) -> list[tuple[int, int, int] | None]:
    """What tells a file from its successor; None for one that is not there."""
    stamps: list[tuple[int, int, int] | None] = []
    for path in files:
        try:
            found = path.stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append((found.st_ino, found.st_mtime_ns, found.st_size))
    return stamps


_CALLER_IS_OLD = "the caller's TLS is older than 1.2: update it, or set it to TLS 1.2 or 1.3"
_CALLER_IS_PLAIN = "the caller does not speak TLS: switch it on there, for DICOM with certificates"
_CALLER_IS_WEAK = "the caller has no cipher in common with us: it needs TLS 1.3, or 1.2 with ECDHE and AES-GCM"
_OF_CALLERS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": (
        "the caller has no certificate: give it one of an authority in receive.tls.client_ca"
    ),
    **dict.fromkeys(("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "UNKNOWN_PROTOCOL"), _CALLER_IS_OLD),
    **dict.fromkeys(("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"), _CALLER_IS_PLAIN),
    **dict.fromkeys(("NO_SHARED_CIPHER", "NO_SHARED_SIGNATURE_ALGORITHMS"), _CALLER_IS_WEAK),
}


def _why_not_with_caller(error: OSError, limit_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"the caller did not finish its TLS handshake within {limit_s:g} s"
    reason = getattr(error, "reason", None)
    if not isinstance(reason, str) or isinstance(error, ssl.SSLEOFError):
        return "the caller hung up during the TLS handshake"
    if reason == "CERTIFICATE_VERIFY_FAILED":
        return (
            f"the caller's certificate is not accepted ({_verify_message(error)}): it must descend from an "
            "authority in receive.tls.client_ca"
        )
    if _is_about_our_certificate(reason):
        return (
            f"the caller does not accept our certificate ({_plain(reason)}): give it the authority of "
            "receive.tls.certificate"
        )
    return _OF_CALLERS.get(reason, f"the TLS handshake failed ({_plain(reason)})")


# --------------------------------------------------------------------------- peers


_PEER_IS_OLD = "offers no TLS of 1.2 or above: update it"
_PEER_IS_PLAIN = "does not speak TLS on this port: correct the port, or set tls = false"
_PEER_IS_WEAK = (
    "agrees to no cipher of TLS 1.2 or 1.3: ECDHE with AES-GCM is needed; or it wants to see a certificate of ours"
)
_OF_PEERS: Final = {
    **dict.fromkeys(("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE"), _PEER_IS_OLD),
    **dict.fromkeys(("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"), _PEER_IS_PLAIN),
    **dict.fromkeys(("SSLV3_ALERT_HANDSHAKE_FAILURE", "TLSV1_ALERT_INSUFFICIENT_SECURITY"), _PEER_IS_WEAK),
}


def why_not_with_peer(error: OSError) -> tuple[str, bool] | None:
    """What to say of a peer with whom there is no TLS, and whether it stays so until somebody changes something.

    The sentence goes on after the name of the peer. None for an error of the network, not of TLS.
    """
    reason = getattr(error, "reason", None)
    if isinstance(error, ssl.SSLEOFError):
        return "hung up during the TLS handshake: does it speak TLS on this port, and accept our certificate?", False
    if not isinstance(error, ssl.SSLError) or not isinstance(reason, str):
        return None
    if reason == "CERTIFICATE_VERIFY_FAILED":
        message = _verify_message(error)
        what = (
            "set server_name to the name in it, or have one made for its host"
            if "mismatch" in message
            else "give its authority as ca_file, or renew it"
        )
        return f"has a certificate that is not accepted ({message}): {what}", True
    if _is_about_our_certificate(reason):
        what = "give it the authority of our certificate, or set certificate and key to one that it accepts"
        return f"does not accept our certificate ({_plain(reason)}): {what}", True
    sentence = _OF_PEERS.get(reason)
    return (f"cannot be spoken to over TLS ({_plain(reason)})", False) if sentence is None else (sentence, True)


def _is_about_our_certificate(reason: str) -> bool:
    """Whether this is an alert by which the other side refuses a certificate, or the lack of one."""
    return "ALERT" in reason and bool(re.search("CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED|BAD_CERT", reason))


def _plain(reason: str) -> str:
    return re.sub(r"^(SSLV3|TLSV1|TLSV13)_ALERT_", "", reason).replace("_", " ").lower()


def _verify_message(error: OSError) -> str:
    return str(getattr(error, "verify_message", "")) or "it cannot be verified"


# --------------------------------------------------------------------------- what the files say


def certificates_end(path: Path) -> datetime | None:
    """When the first of the certificates in a PEM file ends; None when there is none. OSError, ValueError."""
    ends = [_end(ssl.PEM_cert_to_DER_cert(text)) for text in _CERTIFICATE.findall(path.read_text(encoding="utf-8"))]
    return min(ends, default=None)


def readers_of(key: Path) -> str | None:
    """Who beside its owner may read a private key: ``its group``, ``everybody``; None for nobody, or no such file."""
    try:
        mode = key.stat().st_mode
    except OSError:
        return None
    if mode & stat.S_IROTH:
        return "everybody"
    return "its group" if mode & stat.S_IRGRP else None


def _end(der: bytes) -> datetime:
    """notAfter of a certificate (RFC 5280 section 4.1): the only thing wanted of it, so it is walked by hand."""
    certificate = _value(der, 0)[1]
    signed = _value(certificate, 0)[1]
    position = _value(signed, 0)[2] if signed[0] == 0xA0 else 0  # version
    for _ in ("serialNumber", "signature", "issuer"):
        position = _value(signed, position)[2]
    validity = _value(signed, position)[1]
    kind, text, _ = _value(validity, _value(validity, 0)[2])
    form = "%y%m%d%H%M%SZ" if kind == 0x17 else "%Y%m%d%H%M%SZ"  # UTCTime: two digits, 1950 to 2049
    end = datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC)
    return end.replace(year=end.year - 100) if kind == 0x17 and end.year >= 2050 else end


def _value(der: bytes, position: int) -> tuple[int, bytes, int]:
    """Tag and content of the element at ``position``, and where the next begins. ValueError when it breaks off."""
    try:
        tag, length = der[position], der[position + 1]
    except IndexError:
        raise ValueError("a certificate breaks off") from None
    begin = position + 2
    if length & 0x80:
        octets = length & 0x7F
        length = int.from_bytes(der[begin : begin + octets], "big")
        begin += octets
    if begin + length > len(der):
        raise ValueError("a certificate breaks off")
    return tag, der[begin : begin + length], begin + length
