"""Who may associate: one pure function, asked by every path that can open an association.

:func:`admit` decides about an association, :func:`admits_address` about a connection before anything is read from it.
:class:`Door` knows what they ask for: the addresses of the peers, who is here, and who came lately.
"""

from __future__ import annotations

import dataclasses
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from stenosis_node import config

log = logging.getLogger("stenosis_node.receive")

Address = IPv4Address | IPv6Address

MINUTE_S: Final = 60.0
RESOLVE_AGAIN_S: Final = 60.0
"""Names of peers are looked up again when a caller is turned away, and not more often than this."""
MAX_REMEMBERED: Final = 1_000
"""Callers whose last rejection is remembered, so that it is logged once a minute and not each time."""

MAX_ON_STOCK_PATH: Final = 10
"""Associations that pynetdicom serves beside the fast path: each costs more than half a percent of a core, idle."""

PERMANENT: Final = 1
TRANSIENT: Final = 2
SERVICE_USER: Final = 1
PRESENTATION: Final = 3
NO_REASON: Final = 1
CALLING_NOT_RECOGNISED: Final = 3
CALLED_NOT_RECOGNISED: Final = 7
TEMPORARY_CONGESTION: Final = 1
LOCAL_LIMIT_EXCEEDED: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationRequest:
    """What an A-ASSOCIATE-RQ and its connection say about the caller, and what we know of it."""

    called_ae_title: str
    calling_ae_title: str
    address: str
    """IP address of the caller."""
    open_associations: int
    """Associations we hold already, this one not counted."""
    open_of_caller: int = 0
    """Of them, from the same address or of the same calling AE title, whichever are more."""
    in_last_minute: int = 0
    """Associations from this address that were admitted in the last minute."""
    beside_fast_path: int = 0
    """Of the open ones, those that the fast path does not serve; 0 for an association that it serves, or without it."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Accepted, or result, source and diagnostic of the A-ASSOCIATE-RJ (PS3.8 table 9-21) with a sentence."""

    accepted: bool
    result: int = 0
    source: int = 0
    diagnostic: int = 0
    sentence: str = ""
    is_repeated: bool = False
    """The same caller was turned away like this less than a minute ago: nothing new for the log."""


ADMITTED = Admission(accepted=True)


@dataclass(frozen=True, slots=True)
class AccessRules:
    """The keys of ``[receive]``, and the peers, who are callers that nobody has to list."""

    settings: config.Receive
    peers: Mapping[Address, Collection[str]]
    """Addresses of the peers to the AE titles they may call from."""

    @property
    def is_open(self) -> bool:
        """Whether anyone who reaches the port may associate."""
        receive = self.settings
        return not receive.allowed_addresses and not receive.calling_ae_titles and (
            receive.allow_any or receive.is_loopback
        )  # fmt: skip


def admits_address(address: str, rules: AccessRules) -> bool:
    """Whether a caller at this address can be admitted at all. Pure, and cheap: nothing was read from it yet."""
    if rules.is_open:
        return True
    receive = rules.settings
    caller = canonical(address)
    if caller is not None and (caller in rules.peers or any(caller in known for known in receive.allowed_addresses)):
        return True
    if receive.allowed_addresses:
        return False
    return bool(receive.calling_ae_titles) or (caller is not None and caller.is_loopback)


def admit(request: AssociationRequest, rules: AccessRules) -> Admission:
    """Apply the access rules of the configuration. Pure: the same request and rules give the same answer."""
    receive = rules.settings
    called, calling = request.called_ae_title.strip(), request.calling_ae_title.strip()
    if receive.check_called_ae_title and called != receive.ae_title:
        return _refused(
            CALLED_NOT_RECOGNISED,
            f"{calling!r} called {called!r}, but this node is {receive.ae_title!r}: correct the called AE title "
            "at the sender, or set receive.ae_title",
        )
    if not admits_address(request.address, rules):
        return _refused(NO_REASON, not_allowed(request.address))
    if sentence := _why_not_title(calling, request.address, rules):
        return _refused(CALLING_NOT_RECOGNISED, sentence)
    return _within_limits(calling, request, receive)


def not_allowed(address: str) -> str:
    """Why a caller at this address is turned away."""
    return (
        f"{address} is neither in receive.allowed_addresses nor the address of a peer: add it there if it may "
        "route studies to the node"
    )


def _why_not_title(calling: str, address: str, rules: AccessRules) -> str | None:
    """None when this AE title may call from this address, which itself is admitted."""
    receive, caller = rules.settings, canonical(address)
    peer_titles = () if caller is None else rules.peers.get(caller, ())
    if rules.is_open or calling in receive.calling_ae_titles or calling in peer_titles:
        return None
    elsewhere = any(calling in titles for titles in rules.peers.values())
    if receive.calling_ae_titles:
        hint = "; it is the title of a peer, but this is not that peer's host" if elsewhere else ""
        return (
            f"calling AE title {calling!r} is not in receive.calling_ae_titles: add it there if this sender "
            f"may route studies to the node{hint}"
        )
    if receive.allowed_addresses and caller is not None and any(caller in net for net in receive.allowed_addresses):
        return None
    if caller is not None and caller.is_loopback and not receive.allowed_addresses:
        return None
    return (
        f"calling AE title {calling!r} is not that of the peer at {address} ({', '.join(sorted(peer_titles))}): add it "
        "to receive.calling_ae_titles, or the address to receive.allowed_addresses, if it may route studies to the node"
    )


def _within_limits(calling: str, request: AssociationRequest, receive: config.Receive) -> Admission:
    if request.open_associations >= receive.max_associations:
        return _later(
            LOCAL_LIMIT_EXCEEDED,
            f"{request.open_associations} associations are open already (receive.max_associations); "
            f"{calling!r} may try again later",
        )
    if request.beside_fast_path >= MAX_ON_STOCK_PATH:
        return _later(
            LOCAL_LIMIT_EXCEEDED,
            f"{request.beside_fast_path} associations that ask for more than to store or verify are open already; "
            f"{calling!r} may try again later, or ask for storage alone",
        )
    if receive.is_loopback:
        return ADMITTED
    if 0 < receive.max_associations_per_caller <= request.open_of_caller:
        return _later(
            LOCAL_LIMIT_EXCEEDED,
            f"{calling!r} at {request.address} has {request.open_of_caller} associations open already "
            "(receive.max_associations_per_caller)",
        )
    if 0 < receive.max_associations_per_minute <= request.in_last_minute:
        return _later(
            TEMPORARY_CONGESTION,
            f"{calling!r} at {request.address} began {request.in_last_minute} associations within a minute "
            "(receive.max_associations_per_minute)",
        )
    return ADMITTED


def _refused(diagnostic: int, sentence: str) -> Admission:
    return Admission(False, PERMANENT, SERVICE_USER, diagnostic, sentence)


def _later(diagnostic: int, sentence: str) -> Admission:
    return Admission(False, TRANSIENT, PRESENTATION, diagnostic, sentence)


def canonical(address: str) -> Address | None:
    """The address itself: an IPv4 address that an IPv6 socket shows is one, and a zone says nothing about a caller."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return (isinstance(parsed, IPv6Address) and parsed.ipv4_mapped) or parsed


def resolve(host: str) -> frozenset[Address]:
    """Every address of a host name or address. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return frozenset(address for *_, where in found if (address := canonical(str(where[0]))) is not None)


class Door:
    """Asks the rules on behalf of the receiver. Its methods are called from many threads, and never wait for long."""

    def __init__(
        self,
        settings: config.Config,
        *,
        clock: Callable[[], float] = time.monotonic,
        look_up: Callable[[str], frozenset[Address]] = resolve,
        turned_away: Callable[[str, str], None] = lambda address, why: None,
    ) -> None:
        """Looks the peers' host names up; one that has no address now is tried again when a caller is turned away.

        turned_away  is told the address whose connection is closed unread, and why
        """
        self._settings = settings
        self._clock = clock
        self._look_up = look_up
        self._turned_away = turned_away
        self._lock = threading.Lock()
        self._begun: dict[str, deque[float]] = {}
        self._rejected: dict[Hashable, float] = {}
        self._looked_up_at = clock()
        self.rules = self._make_rules({})

    def admits_address(self, address: str) -> bool:
        """Whether to read anything from a connection; logged when not, at most once a minute for an address."""
        if admits_address(address, self.rules):
            return True
        self._look_up_again()
        if not self._is_repeated(address):
            log.warning("connection closed: %s", not_allowed(address), extra={"event": "address_rejected"})
            self._turned_away(address, not_allowed(address))
        return False

    def admit(
        self,
        *,
        called: str,
        calling: str,
        address: str,
        present: Iterable[tuple[str, str]],
        beside_fast_path: int = 0,
    ) -> Admission:
        """Admit or reject an association.

        present           calling AE title and address of each association that is open
        beside_fast_path  as in :class:`AssociationRequest`
        """
        title = calling.strip()
        others = list(present)
        same_title = sum(other == title for other, _ in others)
        same_address = sum(other == address for _, other in others)
        with self._lock:
            now = self._clock()
            request = AssociationRequest(
                called_ae_title=called,
                calling_ae_title=calling,
                address=address,
                open_associations=len(others),
                open_of_caller=max(same_title, same_address),
                in_last_minute=self._in_last_minute(address, now),
                beside_fast_path=beside_fast_path,
            )
            admission = admit(request, self.rules)
            if admission.accepted:
                self._begun.setdefault(address, deque()).append(now)
                return admission
        self._look_up_again()
        repeated = self._is_repeated((address, title, admission.result, admission.diagnostic))
        return dataclasses.replace(admission, is_repeated=repeated)

    def _in_last_minute(self, address: str, now: float) -> int:
        if len(self._begun) >= MAX_REMEMBERED:
            self._begun = {who: when for who, when in self._begun.items() if when and now - when[-1] < MINUTE_S}
        times = self._begun.get(address)
        if times is None:
            return 0
        while times and now - times[0] >= MINUTE_S:
            times.popleft()
        return len(times)

    def _is_repeated(self, what: Hashable) -> bool:
        with self._lock:
            now = self._clock()
            last = self._rejected.pop(what, None)
            if last is not None and now - last < MINUTE_S:
                self._rejected[what] = last
                return True
            if len(self._rejected) >= MAX_REMEMBERED:
                del self._rejected[next(iter(self._rejected))]
            self._rejected[what] = now
            return False

    # ----------------------------------------------------------------- names of peers

    def _look_up_again(self) -> None:
        """In a thread of its own: a name server that is away must not keep anybody waiting."""
        with self._lock:
            now = self._clock()
            if now - self._looked_up_at < RESOLVE_AGAIN_S or not any(_name(p) for p in self._settings.peers.values()):
                return
            self._looked_up_at = now
        threading.Thread(target=self._refresh, name="look-up", daemon=True).start()

    def _refresh(self) -> None:
        self.rules = self._make_rules(self.rules.peers)

    def _make_rules(self, before: Mapping[Address, Collection[str]]) -> AccessRules:
        """Rules with the peers' addresses as they are now. ``before``: kept for a peer that has none at the moment."""
        peers: dict[Address, set[str]] = {}
        for name, peer in self._settings.peers.items():
            if peer.ae_title is None:
                continue
            addresses: Collection[Address]
            try:
                addresses = self._look_up(peer.address)
            except OSError as error:
                addresses = [address for address, titles in before.items() if peer.ae_title in titles]
                if not addresses:
                    log.warning(
                        "the host of peer %s has no address (%s): until it has, it is not admitted as a peer",
                        name, error, extra={"event": "peer_unresolved"},
                    )  # fmt: skip
            for address in addresses:
                peers.setdefault(address, set()).add(peer.ae_title)
        return AccessRules(self._settings.receive, peers)


def _name(peer: config.Peer) -> bool:
    """Whether the peer is configured by a name that may come to mean another address."""
    return peer.ae_title is not None and canonical(peer.address) is None
