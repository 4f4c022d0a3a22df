"""Named places where a test may end or hang a process. Inert unless ``STENOSIS_NODE_FAILPOINT`` names a folder.

There is one after every write, fsync, rename, deletion, commit and send of the spool, the job database, reception, the
workers and the audit stream: POINTS. A test looks for calls without one.

A test arms a place by writing a file of its name into that folder; the file says what happens, and how often:

    self [times]    this process gets SIGKILL
    serve [times]   the process that started it gets SIGKILL
    hang [times]    the calling thread never goes on

Each hit takes one off the count, durably and before it takes effect; the last one removes the file.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Final

VARIABLE: Final = "STENOSIS_NODE_FAILPOINT"

log = logging.getLogger("stenosis_node.failpoint")

_FOLDER: Final = os.environ.get(VARIABLE)

_FILES: Final = ("instance", "quarantined", "reason", "findings")
_TRANSACTIONS: Final = (
    *("touch_many", "postpone_open"),
    *("claim_check", "renew_check", "release_check", "conclude_check", "postpone_check"),
    *("claim", "renew", "release", "record_decisions", "advance_graded", "reject", "fail", "retry_later"),
    *("claim_delivery", "renew_delivery", "release_delivery", "make_again", "record_document", "advance_delivery"),
    *("retry_delivery_later", "fail_delivery"),
    *("claim_commitment", "renew_commitment", "request_commitment", "release_commitment"),
    *("commitment_refused", "record_commitment"),
    *("claim_withdrawal", "renew_withdrawal", "release_withdrawal", "advance_withdrawal"),
    *("retry_withdrawal_later", "fail_withdrawal"),
    *("pause_peer", "resume_peer", "remember_capability", "retry_peer", "recall"),
    *("retry", "cancel", "set_held", "free_leases_of", "purgeable", "mark_purged"),
    *("grade_again", "forget_documents"),
)

POINTS: Final = frozenset(
    (
        *("spool.held", "spool.swept", "spool.folder.made", "spool.folder.durable", "spool.folder.removed"),
        *("spool.arriving.written", "spool.temporary.copied"),
        *(f"spool.{file}.{step}" for file in _FILES for step in ("written", "flushed", "named", "durable")),
        *("spool.document.written", "spool.document.flushed"),
        *(f"spool.documents.{step}" for step in ("made", "flushed", "renamed", "durable", "doomed", "deleted")),
        *("spool.documents.removed", "spool.findings.deleted", "spool.findings.gone"),
        *("spool.instance.deleted", "spool.deletion.durable", "spool.quarantine.deleted", "spool.quarantine.durable"),
        *("jobs.file.made", "jobs.file.set_up", "jobs.migrate.written", "jobs.migrate.committed"),
        *(f"jobs.{step}.{when}" for step in _TRANSACTIONS for when in ("written", "committed")),
        *("receive.put", "receive.committed", "receive.answered"),
        *("check.claimed", "check.asked", "check.moved", "check.fetched", "check.kept", "check.concluded"),
        *("grade.claimed", "grade.read", "grade.found", "grade.composed", "grade.advanced"),
        *("deliver.claimed", "deliver.connected", "deliver.stored", "deliver.answered", "deliver.recorded"),
        *("deliver.sent", "deliver.advanced", "withdrawal.sent"),
        *("commitment.written", "commitment.asked", "commitment.answered", "commitment.requested"),
        *("audit.file.made", "audit.written", "audit.flushed", "audit.state.written", "audit.state.renamed"),
        *("audit.sent", "audit.cursor.written", "audit.cursor.renamed"),
    )
)
"""Every place there is. A test compares them with the calls."""


def failpoint(name: str) -> None:
    """Do what a test armed here; nothing in a node that is not under test."""
    if _FOLDER is not None:
        _hit(Path(_FOLDER) / name)


def _hit(armed: Path) -> None:
    try:
        action, *times = armed.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return
    left = int(times[0]) - 1 if times else 0
    if left:
        part = armed.with_suffix(".part")
        part.write_text(f"{action} {left}", encoding="ascii")
        part.replace(armed)
    else:
        armed.unlink()
    log.warning("failpoint %s: %s", armed.name, action, extra={"event": "failpoint"})
    match action:
        case "self":
            os.kill(os.getpid(), signal.SIGKILL)
        case "serve":
            os.kill(os.getppid(), signal.SIGKILL)
        case "hang":
            threading.Event().wait()
        case _:
            raise ValueError(f"failpoint {armed.name}: no action {action!r}")
