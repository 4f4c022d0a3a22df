"""Files that a crash left without a row: complete, since they are flushed before they get their name, but unknown.

Their sender got no Success and normally sends them again. When it does not, they would stay for ever, and a study would
lack a slice that lies on our disk. So the node looks for them now and then and takes them in as received.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from stenosis_node.config import Config
from stenosis_node.domain import ReceivedInstance
from stenosis_node.jobs import JobStore
from stenosis_node.spool import Spool
from stenosis_node.wire.part10 import UnreadableFile, read_file_meta

log = logging.getLogger("stenosis_node.work.adopt")

RECOVERED: Final = "(RECOVERED)"
"""Stands for the calling AE title, which only the lost row would have held."""
BATCH: Final = 500


def adopt(config: Config, spool: Spool, store: JobStore, *, before: datetime) -> int:
    """Give every instance in the spool that has no row its row; returns how many there were.

    before  files written later belong to receptions under way
    raises  TransientError when disk or database fail; what was adopted until then stays
    """
    adopted = 0
    for batch in batches(spool.iter_instances()):
        known = store.known_paths(batch)
        lost = [_received(spool, path, before) for path in batch if path.as_posix() not in known]
        found = [(received, False) for received in lost if received is not None]
        if found:
            store.touch_many(found, quiet_period_s=config.jobs.quiet_period_s, ceiling_s=config.jobs.ceiling_s)
            adopted += len(found)
    if adopted:
        log.warning(
            "%d instances that a crash had left without a row are taken in as received", adopted,
            extra={"event": "adopted"},
        )  # fmt: skip
    return adopted


def batches(paths: Iterator[Path]) -> Iterator[list[Path]]:
    while batch := list(islice(paths, BATCH)):
        yield batch


def _received(spool: Spool, relative: Path, before: datetime) -> ReceivedInstance | None:
    """None for a file that is gone, too young or damaged."""
    path = spool.instance_path(relative)
    try:
        if datetime.fromtimestamp(path.stat().st_mtime, UTC) >= before:
            return None
        meta = read_file_meta(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size_bytes = path.stat().st_size
    except FileNotFoundError:
        return None
    except (OSError, UnreadableFile) as error:
        log.warning(
            "%s has no row and cannot be read (%s): send the study again", relative.name, type(error).__name__,
            extra={"event": "not_adopted"},
        )  # fmt: skip
        return None
    return ReceivedInstance(
        study_instance_uid=relative.parts[-3],
        series_instance_uid=relative.parts[-2],
        sop_instance_uid=relative.stem,
        sop_class_uid=meta.sop_class_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        path=relative,
        size_bytes=size_bytes,
        sha256=digest,
        calling_ae_title=RECOVERED,
        received_at=datetime.now(UTC),
    )
