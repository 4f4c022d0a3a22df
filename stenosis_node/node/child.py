"""A process of the node: ``python -m stenosis_node.node ROLE WORKER``, started by the supervisor alone.

The configuration arrives as one line of JSON on stdin, so a child runs with exactly what ``serve`` has checked; the end
of stdin means stop. Each role imports only what it needs: nothing but grading ever loads torch.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Final

from stenosis_node.config import Config
from stenosis_node.errors import BundleError, ConfigError
from stenosis_node.jobs import JobStore
from stenosis_node.node.logs import set_up_logging
from stenosis_node.node.signals import stop_on_signals, stop_with_parent
from stenosis_node.spool import Spool

log = logging.getLogger("stenosis_node.node")

EXIT_CONFIGURATION: Final = 2
"""Starting again cannot help."""


def receive(config: Config, worker: str, stop: threading.Event) -> None:
    """Listen for associations."""
    from stenosis_node.receive import Receiver

    Receiver(config, Spool(config.spool), JobStore(config.database_url)).serve_forever(stop)


def grade(config: Config, worker: str, stop: threading.Event) -> None:
    """Grade the studies that fell quiet."""
    from stenosis_node.audit import AuditTrail
    from stenosis_node.node.auditing import report_bundle
    from stenosis_node.work.grade import GradeWorker, load_pipeline

    pipeline = load_pipeline(config.grading)
    report_bundle(config, pipeline.identity, AuditTrail(config))  # it may have been replaced since serve looked
    GradeWorker(config, Spool(config.spool), JobStore(config.database_url), pipeline, worker=worker).run(stop)


def deliver(config: Config, worker: str, stop: threading.Event) -> None:
    """Send what was graded; beside it, find out which studies are complete."""
    from stenosis_node.work.complete import CompletenessChecker
    from stenosis_node.work.deliver import deliver_to_all

    spool, store = Spool(config.spool), JobStore(config.database_url)
    checker = CompletenessChecker(config, spool, store, worker=worker)
    threading.Thread(target=checker.run, args=(stop,), name="complete", daemon=True).start()
    deliver_to_all(config, spool, store, stop, worker=worker)


ROLES: Final[dict[str, Callable[[Config, str, threading.Event], None]]] = {
    "receive": receive,
    "grade": grade,
    "deliver": deliver,
}


def main(role: str, worker: str) -> int:
    """Run a role until asked to stop; the exit code."""
    stop = stop_on_signals()
    config = Config.model_validate_json(sys.stdin.buffer.readline())
    stop_with_parent(stop)
    set_up_logging(role, config.log_level)
    try:
        ROLES[role](config, worker, stop)
    except (ConfigError, BundleError) as error:
        log.error("%s", error, extra={"event": "bad_configuration"})  # noqa: TRY400
        return EXIT_CONFIGURATION
    except Exception:
        log.exception("the process ends after an error", extra={"event": "crashed"})
        return 1
    return 0
