"""Housekeeping that runs beside the children: what retention says must go, goes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

from apscheduler.schedulers.background import BackgroundScheduler

from stenosis_node.audit import AuditTrail
from stenosis_node.config import Config
from stenosis_node.errors import NodeError
from stenosis_node.jobs import JobStore
from stenosis_node.spool import Spool, clear_quarantine
from stenosis_node.work.adopt import adopt
from stenosis_node.work.auditing import deleted_parts

log = logging.getLogger("stenosis_node.node")


PURGE_EVERY_S: Final = 15.0
"""Also the longest time that bytes which can never be graded stay after their study was closed."""


CLEAR_EVERY_S: Final = 60.0
"""How long a broken sender may fill the quarantine before it is brought back to its limit."""


RESENT_WITHIN: Final = timedelta(hours=1)
"""A sender that got no Success has sent again by then; a file that still has no row is taken in without it."""


def purge(config: Config, spool: Spool, store: JobStore, trail: AuditTrail) -> None:
    """Delete the bytes whose time is over. The rows stay, so that ``jobs`` still tells what happened."""
    keep = config.retention
    while due := store.purgeable(
        instances_days=keep.instances_days, documents_days=keep.documents_days, keep_ungradable=keep.keep_ungradable
    ):
        doomed = deleted_parts(spool.root, due.instances, due.result_keys)
        trail.record(*(trail.events.deleted(part) for part in doomed))
        deleted = spool.delete_instances(due.instances)
        for key in (*due.result_keys, *due.chosen_keys):
            spool.delete_result(key)
        store.mark_purged(due)
        log.info("%d instances and %d results deleted", deleted, len(due.result_keys), extra={"event": "purged"})


def clear(config: Config, spool: Spool) -> None:
    """Delete what lay in the quarantine for its time, and the oldest when it takes too much of the disk."""
    days = config.retention.quarantine_days
    cleared = clear_quarantine(spool.root, before=datetime.now(UTC) - timedelta(days=days))
    if cleared.expired:
        log.info(
            "%d files deleted that were in the quarantine for %g days", cleared.expired, days,
            extra={"event": "quarantine_expired"},
        )  # fmt: skip
    if cleared.crowded_out:
        log.warning(
            "the quarantine took more than %d MB of the disk: the oldest %d files are deleted before their time; "
            "'stenosis-node fsck' says why those that are left could not be kept",
            cleared.limit_bytes >> 20, cleared.crowded_out, extra={"event": "quarantine_full"},
        )  # fmt: skip


@contextmanager
def chores(config: Config, spool: Spool, store: JobStore, trail: AuditTrail) -> Iterator[None]:
    """Run the chores on a schedule until the block ends; the first time at once."""

    def adopt_safely() -> None:
        try:
            adopt(config, spool, store, before=datetime.now(UTC) - RESENT_WITHIN)
        except NodeError as error:
            log.warning("files without a row not looked for: %s", error, extra={"event": "adopt_failed"})

    def purge_safely() -> None:
        try:
            purge(config, spool, store, trail)
        except NodeError as error:
            log.warning("deletion put off: %s", error, extra={"event": "purge_failed"})

    def clear_safely() -> None:
        try:
            clear(config, spool)
        except NodeError as error:
            log.warning("quarantine not cleared: %s", error, extra={"event": "clear_failed"})

    scheduler = BackgroundScheduler(timezone=UTC)
    scheduler.add_job(purge_safely, "interval", seconds=PURGE_EVERY_S, next_run_time=datetime.now(UTC), coalesce=True)
    scheduler.add_job(adopt_safely, "interval", minutes=15, next_run_time=datetime.now(UTC), coalesce=True)
    scheduler.add_job(clear_safely, "interval", seconds=CLEAR_EVERY_S, next_run_time=datetime.now(UTC), coalesce=True)
    scheduler.start()
    try:
        yield
    finally:
        scheduler.shutdown(wait=True)
