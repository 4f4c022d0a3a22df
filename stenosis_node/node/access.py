"""Who may call, and over what: checked before the node starts, and told by ``doctor`` and ``status``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from stenosis_node.audit.syslog import client_context
from stenosis_node.config import Config
from stenosis_node.errors import ConfigError
from stenosis_node.wire.tls import caller_context, certificates_end, peer_context, readers_of

ENDS_SOON: Final = timedelta(days=30)
"""A certificate that ends within this is a warning: hospitals take weeks to make one."""


def check_access(config: Config) -> None:
    """A node that others can reach lets somebody in, and not everybody by accident. ConfigError."""
    receive = config.receive
    if receive.is_loopback or receive.allow_any or receive.allowed_addresses or receive.calling_ae_titles:
        return
    if not any(peer.ae_title for peer in config.peers.values()):
        raise ConfigError(
            f"receive.host: others can reach {receive.host or 'every address'}, but nobody is allowed to send; list "
            'senders in receive.allowed_addresses (such as ["10.1.0.0/16"]) or receive.calling_ae_titles, add them as '
            "peers, or let anyone send with receive.allow_any = true"
        )


def check_tls(config: Config) -> None:
    """Every certificate, key and authority can be used. ConfigError."""
    if config.receive.tls.is_on:
        caller_context(config.receive.tls)
    for name, peer in config.peers.items():
        if peer.tls:
            peer_context(peer, name)
    if config.audit.syslog_host is not None:
        client_context(config.audit)


def describe_access(config: Config) -> str:
    """Who may send to the node, as a phrase."""
    receive = config.receive
    lists = [
        _count(receive.allowed_addresses, "address or network", "addresses and networks"),
        _count(receive.calling_ae_titles, "calling AE title", "calling AE titles"),
    ]
    peers = [name for name, peer in config.peers.items() if peer.ae_title]
    if any(lists):
        return f"{' with '.join(one for one in lists if one)}{', and the peers' if peers else ''}"
    if receive.is_loopback:
        return "every program on this machine"
    if receive.allow_any:
        return "anyone who reaches the port"
    return f"{', '.join(peers) or 'nobody'} and every program on this machine"


def describe_tls(config: Config) -> str:
    """How callers speak to the node, as a phrase."""
    tls = config.receive.tls
    if not tls.is_on:
        return "no TLS"
    return "TLS with certificates" if tls.require_client_certificate else "TLS, callers need no certificate"


@dataclass(frozen=True, slots=True)
class CertificateState:
    """A certificate of ours."""

    key: str
    """Of the configuration."""
    path: Path
    end: datetime | None
    """None when the file cannot be read or holds none."""

    def is_over(self, now: datetime | None = None) -> bool:
        """Whether nobody accepts it any more."""
        return self.end is not None and self.end <= (now or datetime.now(UTC))

    def is_over_soon(self, now: datetime | None = None) -> bool:
        """Whether it is time for another."""
        return self.end is not None and self.end <= (now or datetime.now(UTC)) + ENDS_SOON


def own_certificates(config: Config) -> tuple[CertificateState, ...]:
    """Each file once, under the first key that names it."""
    states: dict[Path, CertificateState] = {}
    for key, path in _certificates(config):
        if path in states:
            continue
        try:
            end = certificates_end(path)
        except (OSError, ValueError):
            end = None
        states[path] = CertificateState(key, path, end)
    return tuple(states.values())


def exposed_keys(config: Config) -> tuple[tuple[str, Path, str], ...]:
    """Private keys that others than their owner can read: key of the configuration, file, and who."""
    exposed: dict[Path, tuple[str, Path, str]] = {}
    for key, path in _keys(config):
        if (readers := readers_of(path)) is not None:
            exposed.setdefault(path, (key, path, readers))
    return tuple(exposed.values())


def _certificates(config: Config) -> Iterator[tuple[str, Path]]:
    if config.receive.tls.certificate is not None:
        yield "receive.tls.certificate", config.receive.tls.certificate
    for name, peer in config.peers.items():
        if peer.certificate is not None:
            yield f"peers.{name}.certificate", peer.certificate
    if config.audit.syslog_certificate is not None:
        yield "audit.syslog_certificate", config.audit.syslog_certificate


def _keys(config: Config) -> Iterator[tuple[str, Path]]:
    if config.receive.tls.key is not None:
        yield "receive.tls.key", config.receive.tls.key
    for name, peer in config.peers.items():
        if peer.key is not None:
            yield f"peers.{name}.key", peer.key
    if config.audit.syslog_key is not None:
        yield "audit.syslog_key", config.audit.syslog_key


def _count(things: tuple[object, ...], one: str, many: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else many}" if things else ""
