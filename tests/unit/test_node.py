"""The composition root without its processes: logging, checks, supervision of stand-in children."""

from __future__ import annotations

import errno
import io
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stenosis_node.audit import AuditTrail
from stenosis_node.config import Config, Peer, load
from stenosis_node.domain import BundleIdentity, BundleStatus
from stenosis_node.errors import ConfigError, PermanentError
from stenosis_node.node.checks import check_delivery, check_port
from stenosis_node.node.chores import purge
from stenosis_node.node.health import unknown_peers
from stenosis_node.node.logs import set_up_logging
from stenosis_node.node.supervisor import FIRST_DELAY_S, Supervisor
from stenosis_node.work.grade import GradeWorker
from tests.acceptance.studies import Study
from tests.unit.work.conftest import Bench


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """What a process would write to stderr."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hook = threading.excepthook
    stream = io.StringIO()
    set_up_logging("grade", "INFO", stream)
    yield stream
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)
    threading.excepthook = hook


def test_an_event_is_one_line_with_its_fields(output: io.StringIO) -> None:
    logging.getLogger("stenosis_node.x").info("job %d\nends", 7, extra={"event": "graded", "revision": 2})

    (line,) = output.getvalue().splitlines()
    assert line.split(" ", 1)[1] == "INFO    grade: job 7\\nends event=graded revision=2"


def test_the_traceback_of_a_foreign_exception_does_not_quote_it(output: io.StringIO) -> None:
    try:
        try:
            int("Hong^Gildong")
        except ValueError as error:
            raise PermanentError("slice 3 has no number") from error
    except PermanentError:
        logging.getLogger("stenosis_node.x").exception("it failed")

    text = output.getvalue()
    assert "slice 3 has no number" in text
    assert "builtins.ValueError" in text
    assert "test_node.py" in text
    assert "Gildong'" not in text.replace('int("Hong^Gildong")', "")


def test_dicom_libraries_and_warnings_stay_silent(output: io.StringIO) -> None:
    logging.getLogger("pydicom").error("Hong^Gildong")
    logging.getLogger("pynetdicom.acse").error("Hong^Gildong")
    warnings.warn("invalid value: Hong^Gildong", stacklevel=1)
    logging.getLogger("sqlalchemy").warning("the database is slow")

    assert "Hong" not in output.getvalue()
    assert "the database is slow" in output.getvalue()


def test_the_error_of_a_thread_is_logged_without_its_text(output: io.StringIO) -> None:
    def fail() -> None:
        raise ValueError("Hong" + "^Gildong")

    thread = threading.Thread(target=fail, name="pacs")
    thread.start()
    thread.join()

    assert "thread pacs ended after an error" in output.getvalue()
    assert "builtins.ValueError" in output.getvalue()
    assert "Hong^Gildong" not in output.getvalue()


def test_a_peer_that_was_taken_out_of_the_configuration_is_named(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    study = Study(tmp_path / "study")
    study.axial(4)
    bench.receive(*study.files)
    gone, known = (Peer(ae_title="P", host="127.0.0.1", port=1) for _ in range(2))
    bench.config = bench.config.model_copy(update={"peers": {"gone": gone, "known": known}})
    GradeWorker(bench.config, bench.spool, bench.store, bench.pipeline, worker="w").step(threading.Event())

    status = bench.store.status()
    assert unknown_peers(status, bench.config) == {}
    assert unknown_peers(status, bench.config.model_copy(update={"peers": {"known": known}})) == {"gone": 1}
    asked_only = {"known": known, "gone": gone.model_copy(update={"results": False})}
    assert unknown_peers(status, bench.config.model_copy(update={"peers": asked_only})) == {"gone": 1}
    bench.store.close()


def test_a_child_that_cannot_be_started_is_tried_again(
    tmp_path: Path, output: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    stop = threading.Event()
    tried: list[float] = []

    def refuse(*_: object, **__: object) -> None:
        tried.append(time.monotonic())
        if len(tried) == 2:
            stop.set()
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("stenosis_node.node.supervisor.subprocess.Popen", refuse)
    assert Supervisor(bench.config, bench.store, ["grade"], name="n").run(stop) == 0

    assert tried[1] - tried[0] >= FIRST_DELAY_S
    assert "cannot be started (Resource temporarily unavailable)" in output.getvalue()
    bench.store.close()


def test_a_demonstration_is_not_sent_to_another_machine_unless_the_site_says_so(tmp_path: Path) -> None:
    bundle = BundleIdentity("phantom", "1", BundleStatus.DEMONSTRATION, "ab" * 32, "x")
    here = {"ae_title": "A", "host": "127.0.0.1", "port": 104}
    elsewhere = {"ae_title": "B", "host": "pacs.example", "port": 104}

    check_delivery(config(tmp_path, peers={"here": here}), bundle)
    check_delivery(config(tmp_path, peers={"there": elsewhere}), replace(bundle, status=BundleStatus.VALIDATED))
    check_delivery(config(tmp_path, peers={"there": elsewhere}, safety={"allow_demonstration_delivery": True}), bundle)
    with pytest.raises(ConfigError, match=r"peers\.there.*safety\.allow_demonstration_delivery"):
        check_delivery(config(tmp_path, peers={"here": here, "there": elsewhere}), bundle)


def test_a_port_that_others_use_is_named_by_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stenosis_node.node.checks.PORT_WAIT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=r"receive\.port"):
            check_port(config(tmp_path, receive={"port": port}))
    check_port(config(tmp_path, receive={"port": port}))
    with pytest.raises(ConfigError, match=r"receive\.host"):
        check_port(config(tmp_path, receive={"host": "no.such.host.invalid", "port": port}))


def test_a_child_gets_exactly_the_configuration_of_serve(tmp_path: Path) -> None:
    peer = {"ae_title": "A", "host": "127.0.0.1", "port": 104, "captures": "all"}
    ours = config(tmp_path, peers={"here": peer}, jobs={"quiet_period_s": 0})

    assert Config.model_validate_json(ours.model_dump_json()) == ours


def test_what_is_over_is_deleted_and_what_was_graded_stays(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    study = Study(tmp_path / "study")
    axial, sagittal = study.axial(4), study.sagittal(3)
    t1 = study.series(4, "t1_tse_tra", 3, orientation=[1, 0, 0, 0, 1, 0], te=10, tr=500)
    bench.receive(*study.files)
    purge(bench.config, bench.spool, bench.store, AuditTrail(bench.config))
    assert len(list(bench.spool.iter_instances())) == 10

    GradeWorker(bench.config, bench.spool, bench.store, bench.pipeline, worker="w").step(threading.Event())
    purge(bench.config, bench.spool, bench.store, AuditTrail(bench.config))

    kept = {path.parts[2] for path in bench.spool.iter_instances()}
    assert kept == {axial.uid, sagittal.uid}  # the sagittal series orients the reader
    assert bench.job(study.uid).job.n_instances == sum(len(one.paths) for one in (axial, sagittal, t1))

    none_kept = bench.config.retention.model_copy(update={"instances_days": 0, "documents_days": 0})
    purge(bench.config.model_copy(update={"retention": none_kept}), bench.spool, bench.store, AuditTrail(bench.config))
    assert list(bench.spool.iter_instances()) == []
    assert bench.spool.documents(bench.job(study.uid).results[0].result_key) is None
    bench.store.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_event_also_in_a_process_with_threads_of_libraries(number: signal.Signals) -> None:
    code = """
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()  # as numpy's: it was there before
from stenosis_node.node.signals import stop_on_signals
stop = stop_on_signals()
print("ready", flush=True)
print("stopped" if stop.wait(20) else "never", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "stopped\n"
    assert process.returncode == 0


def config(folder: Path, **sections: Any) -> Config:
    return load(None, overrides={"spool": str(folder), "grading": {"bundle": str(folder)}, **sections})
