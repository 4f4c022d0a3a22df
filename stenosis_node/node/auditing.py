"""What ``serve`` itself tells the audit stream: that it runs, and which weights and settings are new."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from stenosis_node.audit import AuditTrail, CannotAudit, Forwarder, Message, codes
from stenosis_node.config import Config
from stenosis_node.domain import BundleIdentity
from stenosis_node.errors import ConfigError
from stenosis_node.failpoint import failpoint
from stenosis_node.node.checks import check_bundle

log = logging.getLogger("stenosis_node.node")

STATE: Final = "audit-state.json"
"""In the spool: what was reported last. Written after the message, so that a crash repeats it and never loses it."""
KINDS: Final = {
    "receive": codes.NETWORK_CONFIGURATION,
    "peers": codes.NETWORK_CONFIGURATION,
    "audit": codes.SECURITY_CONFIGURATION,
    "safety": codes.SECURITY_CONFIGURATION,
}
"""Kind of change by section; all others are of the software."""


@contextmanager
def audited_run(config: Config, bundle: BundleIdentity) -> Iterator[AuditTrail]:
    """Report the start, what has changed since the last one, and the end; send messages to the syslog server meanwhile.

    raises  ConfigError when the audit file cannot be written, or the files for syslog not be used
    """
    trail = AuditTrail(config)
    try:
        trail.check()
    except CannotAudit as error:
        raise ConfigError(str(error)) from error
    _sweep(config)
    stop = threading.Event()
    sending = None
    if config.audit.syslog_host is not None:
        sending = threading.Thread(target=Forwarder(config).run, args=(stop,), name="syslog", daemon=True)
        sending.start()
    trail.record(trail.events.started())
    report_bundle(config, bundle, trail)
    report_settings(config, trail)
    try:
        yield trail
    finally:
        trail.record(trail.events.stopped())
        stop.set()
        if sending is not None:
            sending.join()


def report_bundle(config: Config, bundle: BundleIdentity, trail: AuditTrail) -> None:
    """Report that these weights grade, if others did before, or none."""
    before = str(_state(config).get("bundle", ""))
    if before != bundle.digest:
        log.warning(
            "bundle %s %s is in use %s", bundle.name, bundle.version,
            f"in place of the one with digest {before[:12]}" if before else "for the first time",
            extra={"event": "bundle_switched"},
        )  # fmt: skip
        _report(config, trail, [trail.events.bundle_switched(before, bundle.digest)], bundle=bundle.digest)


def audited_bundle(config: Config) -> BundleIdentity:
    """Check the configured bundle; one that is not the pinned one, was changed, or is not there, is reported.

    raises  ConfigError
    """
    try:
        return check_bundle(config)
    except ConfigError as error:
        trail = AuditTrail(config)
        name = config.grading.bundle_digest or str(config.grading.bundle)
        trail.record(trail.events.bundle_refused(name, str(error)))
        raise


def report_settings(config: Config, trail: AuditTrail) -> None:
    """Report which sections of the configuration are others than at the last start. Values are not written."""
    now = {name: _digest(value) for name, value in config.model_dump(mode="json").items()}
    state = _state(config)
    before = state.get("settings")
    changed = defaultdict(list)
    if isinstance(before, dict):
        for name, digest in now.items():
            if before.get(name) != digest:
                changed[KINDS.get(name, codes.SOFTWARE_CONFIGURATION)].append(name)
    if changed or before is None:
        messages = [trail.events.configuration_changed(kind, names) for kind, names in changed.items()]
        _report(config, trail, messages, settings=now)


def _report(config: Config, trail: AuditTrail, messages: list[Message], **state: Any) -> None:
    """Messages first, then what they said."""
    trail.record(*messages)
    path = config.spool / STATE
    part = path.with_name(f".{STATE}.{os.getpid()}")
    try:
        part.write_text(json.dumps(_state(config) | state), encoding="utf-8")
        failpoint("audit.state.written")
        part.replace(path)
        failpoint("audit.state.renamed")
    except OSError as error:  # it is reported again at the next start
        log.warning("%s cannot be written: %s", path, error.strerror, extra={"event": "audit_state"})
        part.unlink(missing_ok=True)


def _sweep(config: Config) -> None:
    """Delete what a crash left of states that were being written. Only at start: no child writes one yet."""
    for part in config.spool.glob(f".{STATE}.*"):
        part.unlink(missing_ok=True)


def _state(config: Config) -> dict[str, Any]:
    try:
        state = json.loads(Path(config.spool / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
