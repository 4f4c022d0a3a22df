"""Files that a crash left between their name and their row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from stenosis_node.config import Config
from stenosis_node.domain import ReceivedInstance
from stenosis_node.errors import PermanentError
from stenosis_node.jobs import JobStore
from stenosis_node.spool import Spool
from stenosis_node.work.adopt import RECOVERED, adopt
from tests.unit.work.conftest import MR, put

SOON = timedelta(minutes=1)


def test_a_file_without_a_row_opens_the_job_of_its_study(config: Config, spool: Spool, store: JobStore) -> None:
    lost = put(spool, "1.2.3.4.5")

    assert adopt(config, spool, store, before=datetime.now(UTC) + SOON) == 1

    job = store.job("1.2.3")
    assert job is not None
    (instance,) = store.instances(job.job.id)
    assert (instance.sop_instance_uid, instance.sop_class_uid, instance.path) == ("1.2.3.4.5", MR, lost.path)
    assert (instance.size_bytes, instance.calling_ae_title) == (lost.size_bytes, RECOVERED)
    touched = store.touch(lost, quiet_period_s=1, ceiling_s=10)  # the sender sends it again after all
    assert not touched.new_instance
    assert adopt(config, spool, store, before=datetime.now(UTC) + SOON) == 0


def test_a_file_with_a_row_is_left_alone(config: Config, spool: Spool, store: JobStore) -> None:
    store.touch(put(spool, "1.2.3.4.5"), quiet_period_s=1, ceiling_s=10)

    assert adopt(config, spool, store, before=datetime.now(UTC) + SOON) == 0


def test_a_reception_under_way_is_left_alone(config: Config, spool: Spool, store: JobStore) -> None:
    put(spool, "1.2.3.4.5")

    assert adopt(config, spool, store, before=datetime.now(UTC) - SOON) == 0
    assert store.job("1.2.3") is None


def test_a_damaged_file_is_named_and_keeps_no_other_from_being_adopted(
    config: Config, spool: Spool, store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = put(spool, "1.2.3.4.5")
    put(spool, "1.2.3.4.6")
    spool.instance_path(damaged.path).write_bytes(b"\0" * 200)

    assert adopt(config, spool, store, before=datetime.now(UTC) + SOON) == 1
    assert "1.2.3.4.5.dcm has no row and cannot be read" in caplog.text


def test_what_lies_elsewhere_is_named_and_keeps_no_other_from_being_adopted(
    config: Config, spool: Spool, store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    lost = spool.instance_path(put(spool, "1.2.3.4.5").path)
    for stray in ("stray.dcm", "1.2.3/stray.dcm", "1.2.3/1.2.3.4/x.dcm", "1.2.3/1.2.3.4/5/6.dcm"):
        path = spool.root / "instances" / stray
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(lost.read_bytes())

    assert adopt(config, spool, store, before=datetime.now(UTC) + SOON) == 1
    assert caplog.text.count("is not where an instance is kept") == 4


def test_a_row_that_cannot_be_written_keeps_no_other_from_being_adopted(
    config: Config, spool: Spool, store: JobStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (5, 6, 7):
        put(spool, f"1.2.3.4.{number}")
    write = store.touch_many

    def touch_many(arrivals: list[tuple[ReceivedInstance, bool]], **times: float) -> object:
        if any(received.sop_instance_uid == "1.2.3.4.6" for received, _ in arrivals):
            raise PermanentError("the database does not take a value")
        return write(arrivals, **times)

    monkeypatch.setattr(store, "touch_many", touch_many)
    assert adopt(config, spool, store, before=datetime.now(UTC) + SOON) == 2
    assert "1.2.3.4.6.dcm has no row and cannot get one" in caplog.text


def test_a_ct_image_without_a_row_is_counted_as_any_other_and_deleted_in_time(
    config: Config, spool: Spool, store: JobStore
) -> None:
    put(spool, "1.2.3.4.5", "1.2.840.10008.5.1.4.1.1.2")

    assert adopt(config, spool, store, before=datetime.now(UTC) + SOON) == 1
    due = store.purgeable(
        instances_days=7, documents_days=90, keep_ungradable=False, now=datetime.now(UTC) + timedelta(hours=2)
    )
    assert [path.name for path in due.instances] == ["1.2.3.4.5.dcm"]
