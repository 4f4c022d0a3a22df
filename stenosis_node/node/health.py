"""Is the node healthy: one judgement, for ``stenosis-node status``, its exit code, and ``/health``.

Silence must never read as healthy: whatever waits for a human stays a problem until somebody retried or cancelled it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from stenosis_node.audit import unsent_since
from stenosis_node.config import Config
from stenosis_node.jobs import NodeStatus, PeerSummary
from stenosis_node.node.access import own_certificates
from stenosis_node.spool import least_free_bytes, nearest

FAILING_S: Final = 120.0
"""A peer whose deliveries have failed for less than this, the time of a restart, is not reported."""
WAITING_S: Final = 3600.0
"""A complete study that has not been graded for this long is reported, and a delivery that nobody has tried."""


UNSENT: Final = timedelta(minutes=5)
"""An audit message that the syslog server does not have for this long is reported."""

UNSERVED: Final = "it is not configured to get results"


class PeerState(StrEnum):
    """What an administrator must know of a peer, the worst first."""

    UNKNOWN = "unknown"  # work waits for it, but it is not configured, or gets no results
    DEAD_LETTERS = "dead-letters"  # deliveries or withdrawals that nobody tries any more
    FAILING = "failing"  # what waits for it was tried, and failed
    PAUSED = "paused"
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that an administrator must look at."""

    about: str
    sentence: str
    fix: str


def peer_state(peer: PeerSummary, config: Config) -> PeerState:
    """The state of one peer."""
    waits = _waits(peer)
    if not _is_served(peer, config):
        return PeerState.UNKNOWN if waits or peer.failed or peer.failed_withdrawals else PeerState.OK
    if peer.failed or peer.failed_withdrawals:
        return PeerState.DEAD_LETTERS
    if peer.paused:
        return PeerState.PAUSED
    return PeerState.FAILING if waits and _failed_last(peer) else PeerState.OK


def unknown_peers(status: NodeStatus, config: Config) -> dict[str, int]:
    """How many deliveries and withdrawals wait for peers that nobody works for, by name."""
    return {peer.name: _waits(peer) for peer in status.peers if _waits(peer) and not _is_served(peer, config)}


def _waits(peer: PeerSummary) -> int:
    return peer.pending + peer.waiting_commitment + peer.pending_withdrawals


def _is_served(peer: PeerSummary, config: Config) -> bool:
    """Whether the delivering process has a queue for it."""
    configured = config.peers.get(peer.name)
    return configured is not None and configured.results


def every_peer(status: NodeStatus, config: Config) -> tuple[PeerSummary, ...]:
    """The peers of the status, and those of the configuration that nothing was ever done with, by name."""
    known = {peer.name: peer for peer in status.peers}
    return tuple(known.get(name) or _untouched(name) for name in sorted(known.keys() | config.peers.keys()))


def _untouched(name: str) -> PeerSummary:
    return PeerSummary(
        name=name,
        paused_at=None,
        paused_why=None,
        pending=0,
        waiting_commitment=0,
        failed=0,
        oldest_pending_at=None,
        pending_withdrawals=0,
        failed_withdrawals=0,
        by_hand=0,
        last_success_at=None,
        last_error=None,
        last_error_at=None,
        report_class=None,
    )


def is_listening(config: Config) -> bool:
    """Whether somebody takes connections where this node receives."""
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(config.receive.host, config.receive.host)
    try:
        socket.create_connection((host, config.receive.port), timeout=2.0).close()
    except OSError:
        return False
    return True


def free_bytes(config: Config) -> int | None:
    """Room on the fullest disk of the node; None when there is no spool yet."""
    try:
        return least_free_bytes(config.written_folders) if config.spool.exists() else None
    except OSError:
        return None


def certificate_problems(config: Config) -> tuple[Problem, ...]:
    """Certificates of ours that end soon, or have, or cannot be read."""
    found = []
    for one in own_certificates(config):
        if one.end is None:
            found.append(Problem("certificate", f"{one.key}: {one.path} cannot be read", "put a certificate there"))
        elif one.is_over_soon():
            verb = "ended" if one.is_over() else "ends"
            fix = "have a new one made, and put it in place: that needs no restart"
            found.append(Problem("certificate", f"{one.key}: {one.path.name} {verb} on {one.end:%Y-%m-%d}", fix))
    return tuple(found)


def audit_problems(config: Config) -> tuple[Problem, ...]:
    """What keeps audit messages from being written, or from reaching the syslog server."""
    return tuple(filter(None, (audit_file_problem(config), syslog_problem(config))))


def audit_file_problem(config: Config) -> Problem | None:
    """The audit file cannot be written by this user."""
    file = config.audit_file
    if os.access(nearest(file), os.W_OK):
        return None
    fix = "let the node's user write it; until then messages are held in memory, and commands are refused"
    return Problem("audit", f"audit.file: {file} cannot be written", fix)


def syslog_problem(config: Config) -> Problem | None:
    """The syslog server has not taken the messages for a while."""
    since = unsent_since(config)
    if since is None or datetime.now(UTC) - since <= UNSENT:
        return None
    where = f"{config.audit.syslog_host} port {config.audit.syslog_port}"
    fix = "nothing is lost, they stay in the audit file; the log of 'serve' says why"
    return Problem("audit", f"messages are not sent to {where} since {since:%Y-%m-%d %H:%M} UTC", fix)


def every_problem(status: NodeStatus, config: Config, *, free: int | None) -> tuple[Problem, ...]:
    """What can be told without asking whether the node runs: jobs, peers and disk, certificates, audit stream."""
    return (*problems(status, config, free=free), *certificate_problems(config), *audit_problems(config))


def problems(status: NodeStatus, config: Config, *, free: int | None) -> tuple[Problem, ...]:
    """Everything that needs a human, the worst first.

    free  bytes left on the disk of the spool
    """
    return tuple(_problems(status, config, free))


def _problems(status: NodeStatus, config: Config, free: int | None) -> Iterator[Problem]:
    limit_mb = config.receive.min_free_mb
    if free is not None and free < limit_mb * 1_000_000:
        yield Problem(
            "disk", f"{free // 1_000_000} MB free: below {limit_mb} MB nothing is received",
            "free space, or lower retention.instances_days",
        )  # fmt: skip
    if status.failed:
        yield Problem(
            "jobs", f"{_count(status.failed, 'job')} failed",
            "'stenosis-node jobs --state failed' says why; then retry or cancel each",
        )  # fmt: skip
    if status.oldest_waiting_s > WAITING_S:
        yield Problem(
            "grading", f"a complete study waits since {status.oldest_waiting_s / 3600:.1f} h",
            "look into the log for what the grading process does",
        )  # fmt: skip
    for peer in status.peers:
        yield from _of_peer(peer, status, config)


def _of_peer(peer: PeerSummary, status: NodeStatus, config: Config) -> Iterator[Problem]:
    about = f"peer {peer.name}"
    last = f": {peer.last_error}" if peer.last_error and _failed_last(peer) else ""
    match peer_state(peer, config):
        case PeerState.UNKNOWN:
            yield Problem(about, f"{UNSERVED}: {_unserved(peer)}", unserved_fix(peer.name))
        case PeerState.DEAD_LETTERS:
            dead = [(peer.failed, "delivery", "deliveries"), (peer.failed_withdrawals, "withdrawal", "withdrawals")]
            words = " and ".join(_count(number, one, many) for number, one, many in dead if number)
            yield Problem(about, f"{words} given up{last}", f"repair it, then 'stenosis-node retry --peer {peer.name}'")
        case PeerState.FAILING if failing_s(peer, status) > FAILING_S:
            yield Problem(
                about, f"failing for {failing_s(peer, status) / 60:.0f} min{last}",
                f"'stenosis-node probe {peer.name}' says whether it answers",
            )  # fmt: skip
        case PeerState.OK if peer.oldest_pending_at is not None and _age_s(peer.oldest_pending_at, status) > WAITING_S:
            yield Problem(
                about, f"a delivery waits since {_age_s(peer.oldest_pending_at, status) / 3600:.1f} h, and none failed",
                "look into the log for what the delivering process does",
            )  # fmt: skip
        case _:
            return


def _age_s(moment: datetime, status: NodeStatus) -> float:
    return (status.at - moment).total_seconds()


def unserved_fix(name: str) -> str:
    """What to do about work for a peer that nobody works for."""
    return f"add [peers.{name}] with results = true, or cancel these jobs: withdrawals are then for a hand"


def _unserved(peer: PeerSummary) -> str:
    counts = (
        (peer.pending + peer.waiting_commitment, "delivery waits", "deliveries wait"),
        (peer.pending_withdrawals, "withdrawal waits", "withdrawals wait"),
        (peer.failed, "delivery was given up", "deliveries were given up"),
        (peer.failed_withdrawals, "withdrawal was given up", "withdrawals were given up"),
    )
    return ", ".join(_count(number, one, many) for number, one, many in counts if number)


def failing_s(peer: PeerSummary, status: NodeStatus) -> float:
    """For how long nothing has gone well with what waits for the peer."""
    since = [moment for moment in (peer.oldest_pending_at, peer.last_success_at) if moment is not None]
    return _age_s(max(since), status) if since else 0.0


def _failed_last(peer: PeerSummary) -> bool:
    if peer.last_error_at is None:
        return False
    return peer.last_success_at is None or peer.last_success_at < peer.last_error_at


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
