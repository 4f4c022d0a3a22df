"""What happens beside the way of a study from the scanner to the PACS: each scene meets failpoints of its own.

A scene that wants a process to be busy hangs one of its threads at another failpoint. What a command of the
administrator does is asked for again until it is done, as an administrator would.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pynetdicom import AE

from stenosis_node.domain import JobState
from stenosis_node.jobs import EventKind, JobDetail, WithdrawalState
from tests.acceptance.processes import wait_until
from tests.acceptance.studies import Study
from tests.soak.invariant import Bytes, check, settle
from tests.soak.parts import Round, kill_at_points
from tests.soak.servers import Archive, SyslogServer

LIMIT_S: Final = 360
HOURS_AGO: Final = timedelta(hours=2).total_seconds()


def both(*steps: str) -> tuple[str, ...]:
    """The failpoints of transactions."""
    return tuple(f"jobs.{step}.{when}" for step in steps for when in ("written", "committed"))


class Stage:
    """A round with an archive and a syslog server around it."""

    def __init__(self, a_round: Round) -> None:
        self.round = a_round
        self.node = a_round.node
        self.pacs = a_round.pacs
        self.sender = a_round.sender
        self.archive = Archive(a_round.node.folder / "archive", a_round.node.port)
        self.syslog = SyslogServer(a_round.node.folder / "syslog")

    # ----------------------------------------------------------------- failpoints

    def arm(self, *points: str) -> None:
        for point in points:
            self.node.arm(point, "self")

    def until_hit(self, *points: str, act: Callable[[], object] = lambda: None) -> None:
        """Keep serve alive, and do something again and again, until none of these is armed any more."""

        def all_hit() -> bool:
            if self.node.revive():
                return False
            act()
            return not set(points) & set(self.node.armed())

        limit_s = LIMIT_S + 60 * len(points)  # each has its restart, and the machine may be busy
        wait_until(all_hit, limit_s=limit_s, what=f"{', '.join(points)} are reached", log=self.node.log)
        time.sleep(0.2)  # the file goes before the process does
        self.processes()
        self.round.hits += len(points)

    def hang(self, point: str) -> None:
        """A thread goes no further, once."""
        self.node.arm(point, "hang 1")

    def until_hung(self, point: str) -> None:
        wait_until(lambda: point not in self.node.armed(), limit_s=LIMIT_S, what=f"{point} hangs", log=self.node.log)

    def kill(self, role: str) -> None:
        """SIGKILL to a process, which is there."""
        self.processes()[role].kill()

    def processes(self) -> dict[str, Any]:
        """All four, once they run."""

        def are_there() -> bool:
            return not self.node.revive() and len(self.node.processes()) == 4

        wait_until(are_there, limit_s=LIMIT_S, what="every process runs", log=self.node.log)
        return self.node.processes()

    def restart(self, **environment: str) -> None:
        """In order, with other variables."""
        self.node.stop()
        self.node.environment |= environment
        self.node.start()

    # ----------------------------------------------------------------- studies

    def send(self, study: Study | None = None, **options: Any) -> Study:
        """A study, or more of it; also when processes die of it."""
        sent = study or self.sender.new_study()
        for _ in range(60):
            self.node.revive()
            with contextlib.suppress(AssertionError):
                self.sender.send(sent, limit_s=5, **options)
                return sent
        raise AssertionError(f"study {sent.uid} was never taken")

    def wait(self, study: Study, *states: JobState, ready: Callable[[JobDetail], bool] = lambda _: True) -> JobDetail:
        """Until its job is in one of the states; DELIVERED when none is given."""
        found: list[JobDetail] = []

        def there() -> bool:
            self.node.revive()
            detail = self.node.job(study.uid)
            if detail is None or detail.job.state not in (states or (JobState.DELIVERED,)) or not ready(detail):
                return False
            found.append(detail)
            return True

        wait_until(there, limit_s=LIMIT_S, what=f"study {study.uid} {states}", log=self.node.log)
        return found[-1]

    def wait_instances(self, study: Study, number: int) -> None:
        """Until the result of so many instances is DELIVERED."""
        self.wait(study, ready=lambda detail: detail.job.n_instances == number)

    def documents_of(self, study: Study) -> Path:
        """Folder of the latest result."""
        detail = self.node.job(study.uid)
        assert detail is not None
        return self.node.spool / "documents" / detail.results[-1].result_key

    # ----------------------------------------------------------------- the administrator

    def command(self, *arguments: str) -> None:
        """Given again until it is done. AssertionError when it fails by itself."""
        deaths = 0
        for _ in range(20):
            done = self.node.cli(*arguments)
            if done.returncode != -signal.SIGKILL:
                break
            deaths += 1
        # what was killed after its commit has nothing left to do the second time
        assert done.returncode == 0 or deaths, f"{' '.join(arguments)}: {done.stderr}"
        assert done.returncode != -signal.SIGKILL

    def command_hit(self, points: tuple[str, ...], *arguments: str) -> None:
        """A command that dies at each of these."""
        self.arm(*points)
        self.command(*arguments)
        left = set(points) & set(self.node.armed())
        assert not left, f"{' '.join(arguments)} never came to {', '.join(sorted(left))}"
        self.round.hits += len(points)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is sent to the PACS meanwhile."""
        self.command("pause", "pacs")
        yield
        self.command("resume", "pacs")


@dataclass(frozen=True)
class Scene:
    """One course of events, and the failpoints that it meets."""

    points: tuple[str, ...]
    play: Callable[[Stage, tuple[str, ...]], None]
    only: Callable[[Round], bool] = lambda _: True
    """The rounds in which these can be met."""


# --------------------------------------------------------------------------- serve


def first_start(stage: Stage, points: tuple[str, ...]) -> None:
    """Serve dies while it makes what it needs, again and again."""
    stage.node.stop()
    shutil.rmtree(stage.node.spool, ignore_errors=True)  # what an earlier scene has made
    stage.arm(*points)
    stage.node.start(wait=False)
    stage.until_hit(*points)


def messages_to_syslog(stage: Stage, points: tuple[str, ...]) -> None:
    stage.arm(*points)
    stage.send()
    stage.until_hit(*points)


def sweeping(stage: Stage, points: tuple[str, ...]) -> None:
    """A process that died while it wrote leaves a folder, and serve dies when it has deleted that."""
    stage.arm("spool.documents.flushed")
    stage.send()
    stage.until_hung("spool.documents.flushed")
    stage.arm(*points)
    stage.node.stop()
    stage.until_hit(*points)


# --------------------------------------------------------------------------- reception


def _send_one(stage: Stage, dataset: Any) -> int | None:
    """Status of one C-STORE; None without an answer."""
    ae = AE("SCANNER")
    ae.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
    association = ae.associate("127.0.0.1", stage.node.port, ae_title="STENOSIS")
    if not association.is_established:
        return None
    answer = association.send_c_store(dataset)
    if association.is_established:
        association.release()
    status: int | None = answer.get("Status")
    return status


def broken_instance(stage: Stage, points: tuple[str, ...]) -> None:
    """What lacks the UID of its study goes to the quarantine and is refused; other bytes under a known UID too, and
    those are answered with Success, for the first are kept."""
    study = stage.send()
    broken = dcmread(study.files[0])
    del broken.StudyInstanceUID

    def again() -> None:
        broken.SOPInstanceUID = broken.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        assert _send_one(stage, broken) in (0xA900, None)

    stage.arm(*points)
    stage.until_hit(*points, act=again)
    other = dcmread(study.files[0])
    other.PatientComments = "other bytes"
    wait_until(lambda: _send_one(stage, other) == 0, limit_s=60, what="the conflict is taken")
    stage.wait(study)


def answered(stage: Stage, points: tuple[str, ...]) -> None:
    stage.arm(*points)
    stage.send()
    stage.until_hit(*points)


def large_instance(stage: Stage, points: tuple[str, ...]) -> None:
    """Goes to the disk while it arrives."""
    study = stage.sender.new_study()
    large = dcmread(study.files[0])
    large.private_block(0x7FE1, "SOAK", create=True).add_new(0x10, "OB", b"\1" * 9_000_000)
    large.save_as(study.files[0])
    stage.arm(*points)
    stage.send(study)
    stage.until_hit(*points)


def open_association(stage: Stage, points: tuple[str, ...]) -> None:
    """A study stays open while its association does."""

    def hold_on() -> None:
        study = stage.sender.new_study()
        ae = AE("SCANNER")
        ae.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
        association = ae.associate("127.0.0.1", stage.node.port, ae_title="STENOSIS")
        if association.is_established:
            association.send_c_store(dcmread(study.files[0]))
            time.sleep(2.5)
            association.abort()
        stage.send(study)

    stage.arm(*points)
    stage.until_hit(*points, act=hold_on)


def _one_more(study: Study) -> Path:
    """Another slice, below the last."""
    dataset = dcmread(study.files[-1])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.InstanceNumber += 1
    dataset.ImagePositionPatient[2] -= 4.4
    path = study.folder / f"03-{len(study.files):03d}.dcm"
    dataset.save_as(path)
    return path


def never_sent_again(stage: Stage, points: tuple[str, ...]) -> None:
    """A file without a row that its sender forgets: serve takes it in when it is old, fsck at once."""
    for by_serve in (True, False):
        study = stage.send()
        late = dcmread(_one_more(study))
        stage.arm("receive.put")
        assert _send_one(stage, late) is None
        (path,) = stage.node.spool.rglob(f"{late.SOPInstanceUID}.dcm")
        stage.processes()
        stage.node.stop()
        if by_serve:
            old = time.time() - HOURS_AGO
            os.utime(path, (old, old))
            stage.arm(*points)
            stage.node.start(wait=False)
            stage.until_hit(*points)
        else:
            stage.command_hit(points, "fsck", "--repair")
            stage.node.start()
        stage.wait_instances(study, len(study.files))


# --------------------------------------------------------------------------- completeness


def _incomplete(stage: Stage, title: str) -> Study:
    """A study of an archive that sends all but one instance of it."""
    study = stage.sender.new_study()
    stage.archive.keep(study.files)
    stage.send(study, calling=title, files=study.files[1:])
    return study


def fetching(stage: Stage, points: tuple[str, ...]) -> None:
    stage.arm(*points)
    study = _incomplete(stage, "GETTER")
    stage.until_hit(*points)
    stage.wait_instances(study, len(study.files))


def moving(stage: Stage, points: tuple[str, ...]) -> None:
    stage.arm(*points)
    study = _incomplete(stage, "MOVER")
    stage.until_hit(*points)
    stage.wait_instances(study, len(study.files))


def waiting_for_more(stage: Stage, points: tuple[str, ...]) -> None:
    """A source that cannot be asked to send: the study waits a while for what is missing."""
    stage.arm(*points)
    _incomplete(stage, "SEER")
    stage.until_hit(*points)


def slow_check(stage: Stage, points: tuple[str, ...]) -> None:
    for point in points:
        stage.hang("check.asked")
        stage.arm(point)
        _incomplete(stage, "GETTER")
        stage.until_hit(point)


def stop_in_check(stage: Stage, points: tuple[str, ...]) -> None:
    """The node is stopped while it waits for the answer of an archive. The delivering process ends only when its
    threads have, and one of them hangs."""
    for point in points:
        stage.processes()
        stage.hang("deliver.claimed")
        stage.send()
        stage.until_hung("deliver.claimed")
        with stage.archive.asleep():
            study = stage.sender.new_study()
            stage.send(study, calling="GETTER")
            stage.wait(study, JobState.RECEIVED, ready=lambda detail: detail.job.lease_until is not None)
            stage.arm(point)
            time.sleep(1)
            os.kill(stage.node.pid, signal.SIGTERM)
            time.sleep(1)
        stage.node.wait_dead()
        stage.until_hit(point)


# --------------------------------------------------------------------------- grading


def slow_grading(stage: Stage, points: tuple[str, ...]) -> None:
    for point in points:
        stage.hang("grade.read")
        stage.arm(point)
        stage.send()
        stage.until_hit(point)


def stop_in_grading(stage: Stage, points: tuple[str, ...]) -> None:
    stage.restart(STENOSIS_SOAK_SLICE_S="1")
    for point in points:
        study = stage.send()
        stage.wait(study, JobState.RECEIVED, ready=lambda detail: detail.events[-1].kind is EventKind.CLAIMED)
        time.sleep(0.5)
        stage.arm(point)
        stage.node.stop()
        stage.until_hit(point)
    stage.restart(STENOSIS_SOAK_SLICE_S="0")


def nothing_to_grade(stage: Stage, points: tuple[str, ...]) -> None:
    study = stage.sender.new_study(is_axial=False)
    stage.sender.ends[study.uid] = JobState.REJECTED
    stage.arm(*points)
    stage.send(study)
    stage.until_hit(*points)
    stage.wait(study, JobState.REJECTED)


def damaged_documents(stage: Stage, points: tuple[str, ...]) -> None:
    """What was written before the row cannot be read: FAILED until an administrator has looked and says retry."""
    before = set((stage.node.spool / "documents").iterdir())
    stage.hang("grade.composed")
    study = stage.send()
    stage.until_hung("grade.composed")
    (made,) = set((stage.node.spool / "documents").iterdir()) - before
    whole = (made / "000.dcm").read_bytes()
    (made / "000.dcm").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    failing, retrying = points[:2], points[2:]
    stage.arm(*failing)
    stage.kill("grade")
    stage.until_hit(*failing)
    stage.wait(study, JobState.FAILED)
    (made / "000.dcm").write_bytes(whole)
    stage.command_hit(retrying, "retry", study.uid)
    stage.wait(study)


def no_findings_kept(stage: Stage, points: tuple[str, ...]) -> None:
    """The folder of the findings is gone for a while: tried again later."""
    folder = stage.node.spool / "findings"
    away = folder.with_name("findings-away")
    stage.processes()
    folder.rename(away)
    stage.arm(*points)
    study = stage.send()
    try:
        stage.until_hit(*points, act=lambda: _keep_away(folder))
    finally:
        _bring_back(folder, away)
    stage.wait(study)


def _keep_away(folder: Path) -> None:
    """A process that starts makes the folder; it is taken away again."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def _bring_back(folder: Path, away: Path) -> None:
    for kept in folder.iterdir() if folder.exists() else ():
        kept.rename(away / kept.name)
    _keep_away(folder)
    away.rename(folder)


# --------------------------------------------------------------------------- delivery


def slow_delivery(stage: Stage, points: tuple[str, ...]) -> None:
    for point in points:
        stage.hang("deliver.connected")
        stage.arm(point)
        stage.send()
        stage.until_hit(point)


def pausing(stage: Stage, points: tuple[str, ...]) -> None:
    """A peer is paused between two documents: the delivery is given back."""
    releasing, pause, resume = points[:2], points[2:4], points[4:]
    stage.command_hit(pause, "pause", "pacs")
    stage.command_hit(resume, "resume", "pacs")
    stage.pacs.mode("slower")
    for point in releasing:
        stage.processes()
        stage.arm(point)
        study = stage.send()
        stage.wait(study, JobState.GRADED, ready=lambda detail: detail.deliveries[-1].worker is not None)
        with stage.node.store() as store:  # a command would come too late on a machine that is busy
            store.pause_peer("pacs", why="")
        stage.until_hit(point)
        stage.command("resume", "pacs")
    stage.pacs.mode("ok")


def lost_documents(stage: Stage, points: tuple[str, ...]) -> None:
    """They are gone from the spool before they were sent: made again, byte for byte."""
    with stage.paused():
        study = stage.send()
        stage.wait(study, JobState.GRADED)
        shutil.rmtree(stage.documents_of(study))
        stage.arm(*points)
    stage.until_hit(*points)
    stage.wait(study)


def refusing(stage: Stage, points: tuple[str, ...]) -> None:
    stage.pacs.mode("refuse")
    stage.arm(*points)
    study = stage.send()
    stage.until_hit(*points)
    stage.pacs.mode("ok")
    stage.wait(study)


def not_understood(stage: Stage, points: tuple[str, ...]) -> None:
    """The PACS refuses for good: FAILED until an administrator tries everything for it again."""
    failing, retrying = points[:2], points[2:]
    stage.pacs.mode("cannot")
    stage.arm(*failing)
    study = stage.send()
    stage.until_hit(*failing)
    stage.wait(study, JobState.FAILED)
    stage.pacs.mode("ok")
    stage.command_hit(retrying, "retry", "--peer", "pacs")
    stage.wait(study)


def cancelling(stage: Stage, points: tuple[str, ...]) -> None:
    with stage.paused():
        study = stage.send()
        stage.wait(study, JobState.GRADED)
        stage.command_hit(points, "cancel", study.uid)
        stage.wait(study, JobState.CANCELLED)
        stage.command("retry", study.uid)
    stage.wait(study)


def holding(stage: Stage, points: tuple[str, ...]) -> None:
    """Nothing of a held job is sent, whatever dies."""
    with stage.paused():
        study = stage.send()
        stage.wait(study, JobState.GRADED)
        stage.command_hit(points, "hold", study.uid)
    time.sleep(2)
    stage.wait(study, JobState.GRADED)
    stage.command("unhold", study.uid)
    stage.wait(study)


# --------------------------------------------------------------------------- storage commitment


def asking(stage: Stage, points: tuple[str, ...]) -> None:
    """The PACS promises nothing for a while."""
    stage.pacs.say("commitment", "never")
    stage.arm(*points)
    study = stage.send()
    stage.until_hit(*points)
    stage.pacs.say("commitment", "new")
    stage.wait(study, JobState.GRADED, JobState.DELIVERED, ready=lambda detail: bool(detail.deliveries))
    _ask_now(stage, study)
    stage.wait(study)


def _ask_now(stage: Stage, study: Study) -> None:
    """Each attempt waits twice as long as the one before: an administrator does not."""
    detail = stage.wait(study, JobState.GRADED, JobState.DELIVERED)
    if detail.job.state is not JobState.DELIVERED:
        stage.node.cli("retry", study.uid)


def promised(how: str) -> Callable[[Stage, tuple[str, ...]], None]:
    """The PACS promises over the same association, or a new one."""

    def commitment_promised(stage: Stage, points: tuple[str, ...]) -> None:
        stage.pacs.say("commitment", how)
        stage.arm(*points)
        study = stage.send()
        stage.until_hit(*points)
        stage.wait(study)
        stage.pacs.say("commitment", "new")

    return commitment_promised


def busy(stage: Stage, points: tuple[str, ...]) -> None:
    stage.pacs.say("commitment", "busy")
    stage.arm(*points)
    study = stage.send()
    stage.until_hit(*points)
    stage.pacs.say("commitment", "new")
    _ask_now(stage, study)
    stage.wait(study)


def slow_commitment(stage: Stage, points: tuple[str, ...]) -> None:
    for point in points:
        stage.hang("commitment.written")
        stage.arm(point)
        study = stage.send()
        stage.until_hit(point)
        stage.wait(study)


# --------------------------------------------------------------------------- withdrawals


def _recall(stage: Stage, study: Study, points: tuple[str, ...] = ()) -> None:
    stage.wait(study)
    stage.sender.ends[study.uid] = JobState.CANCELLED
    stage.command_hit(points, "recall", "--job", study.uid, "--why", "for the test", "--yes")


def _noted(stage: Stage, study: Study, state: WithdrawalState = WithdrawalState.DELIVERED) -> None:
    stage.wait(
        study,
        JobState.CANCELLED,
        ready=lambda detail: [one.state for one in detail.withdrawals] == [state],
    )


def recalling(stage: Stage, points: tuple[str, ...]) -> None:
    by_command, by_peer = points[:2], points[2:]
    study = stage.send()
    stage.wait(study)
    stage.arm(*by_peer)
    _recall(stage, study, by_command)
    stage.until_hit(*by_peer)
    _noted(stage, study)


def slow_note(stage: Stage, points: tuple[str, ...]) -> None:
    for point in points:
        study = stage.send()
        stage.wait(study)
        stage.hang("withdrawal.sent")
        stage.arm(point)
        _recall(stage, study)
        stage.until_hit(point)
        _noted(stage, study)


def note_refused(stage: Stage, points: tuple[str, ...]) -> None:
    study = stage.send()
    stage.wait(study)
    stage.pacs.mode("refuse")
    stage.arm(*points)
    _recall(stage, study)
    stage.until_hit(*points)
    stage.pacs.mode("ok")
    _noted(stage, study)


def note_not_understood(stage: Stage, points: tuple[str, ...]) -> None:
    study = stage.send()
    stage.wait(study)
    stage.pacs.mode("cannot")
    stage.arm(*points)
    _recall(stage, study)
    stage.until_hit(*points)
    _noted(stage, study, WithdrawalState.FAILED)
    stage.pacs.mode("ok")
    stage.command("retry", study.uid)
    _noted(stage, study)


def superseding(stage: Stage, points: tuple[str, ...]) -> None:
    """More of a study comes: its second revision withdraws the first."""
    study = stage.send()
    stage.wait(study)
    stage.arm(*points)
    _one_more(study)
    stage.send(study)
    stage.until_hit(*points)
    stage.wait(study, ready=lambda detail: detail.job.revision == 2)


# --------------------------------------------------------------------------- repairs


def made_again_by_fsck(stage: Stage, points: tuple[str, ...]) -> None:
    with stage.paused():
        study = stage.send()
        stage.wait(study, JobState.GRADED)
        shutil.rmtree(stage.documents_of(study))
        stage.command_hit(points, "fsck", "--repair")
    stage.wait(study)


def forgotten_by_fsck(stage: Stage, points: tuple[str, ...]) -> None:
    study = stage.send()
    stage.wait(study)
    shutil.rmtree(stage.documents_of(study))
    stage.command_hit(points, "fsck", "--repair")


def put_aside_by_fsck(stage: Stage, points: tuple[str, ...]) -> None:
    """A file that is no instance, and a result that nobody refers to: fsck dies of each, and goes on the next time."""
    stage.node.stop()
    folder = stage.node.spool / "instances" / "1.2" / "1.2.3"
    stray = stage.node.spool / "documents" / ("0" * 64)
    for point in points:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "1.2.3.4.dcm").write_bytes(b"no instance")
        stray.mkdir(exist_ok=True)
        (stray / "documents.json").write_bytes(b"[]")
        stage.command_hit((point,), "fsck", "--repair")
    assert not list(folder.parent.rglob("*.dcm"))
    assert not stray.exists()
    stage.node.start()


# --------------------------------------------------------------------------- retention


def retention(stage: Stage, points: tuple[str, ...]) -> None:
    """Everything goes at once that is finished."""
    stage.node.stop()
    for_ever = dict(stage.node.settings["retention"])
    stage.node.settings["retention"] |= {"instances_days": 0, "documents_days": 0, "quarantine_days": 0}
    stage.arm(*points)
    stage.node.start(wait=False)
    stage.until_hit(*points)
    spool = stage.node.spool

    def all_gone() -> bool:
        stage.node.revive()
        left = [*spool.glob("instances/**/*.dcm"), *spool.glob("quarantine/*"), *spool.glob("documents/*")]
        with stage.node.store() as store:
            known = store.known_keys([path.stem for path in spool.glob("findings/*.json")])
        return not left and not known  # what no result refers to is for fsck

    wait_until(all_gone, limit_s=LIMIT_S, what="everything is deleted", log=stage.node.log)
    stage.node.stop()
    stage.node.settings["retention"] = for_ever
    stage.node.start()


QUARANTINE: Final = tuple(
    f"spool.{kind}.{when}" for kind in ("reason", "quarantined") for when in ("written", "flushed", "named", "durable")
)
DELETING: Final = (
    *("spool.instance.deleted", "spool.folder.removed", "spool.deletion.durable"),
    *("spool.findings.deleted", "spool.documents.doomed", "spool.documents.removed", "spool.findings.gone"),
    "spool.documents.deleted",
)


def _is_sqlite(a_round: Round) -> bool:
    return a_round.server is None


def _is_fast(a_round: Round) -> bool:
    return bool(a_round.node.settings["receive"]["fast_path"])


FIRST: Final = (
    Scene(("jobs.file.made", "jobs.file.set_up"), first_start, only=_is_sqlite),
    Scene(
        (
            *("spool.held", "jobs.migrate.written", "jobs.migrate.committed", "audit.file.made"),
            *("audit.written", "audit.flushed", "audit.state.written", "audit.state.renamed"),
        ),
        first_start,
    ),
)
"""Before anything else: serve makes what it needs."""

SCENES: Final = (
    Scene(("audit.sent", "audit.cursor.written", "audit.cursor.renamed"), messages_to_syslog),
    Scene(("spool.swept",), sweeping),
    Scene(QUARANTINE, broken_instance),
    Scene(("receive.answered",), answered),
    Scene(("spool.arriving.written",), large_instance, only=_is_fast),
    Scene(both("postpone_open"), open_association),
    Scene(both("touch_many"), never_sent_again),
    Scene(("check.asked", "check.kept", "check.fetched"), fetching),
    Scene(("check.moved",), moving),
    Scene(both("postpone_check"), waiting_for_more),
    Scene(both("renew_check"), slow_check),
    Scene(both("release_check"), stop_in_check),
    Scene(both("renew"), slow_grading),
    Scene(both("release"), stop_in_grading),
    Scene(both("reject"), nothing_to_grade),
    Scene(both("fail", "retry"), damaged_documents),
    Scene(both("retry_later"), no_findings_kept),
    Scene(both("renew_delivery"), slow_delivery),
    Scene(both("release_delivery", "pause_peer", "resume_peer"), pausing),
    Scene(both("make_again"), lost_documents),
    Scene(both("retry_delivery_later"), refusing),
    Scene(both("fail_delivery", "retry_peer"), not_understood),
    Scene(both("cancel"), cancelling),
    Scene(both("set_held"), holding),
    Scene(both("claim_commitment", "request_commitment"), asking),
    Scene(("commitment.written", "commitment.asked", "commitment.requested"), asking),
    Scene(both("release_commitment"), asking),
    Scene(both("record_commitment"), promised("new")),
    Scene(both("record_commitment"), promised("same")),
    Scene(("commitment.answered",), promised("same")),
    Scene(both("commitment_refused"), busy),
    Scene(both("renew_commitment"), slow_commitment),
    Scene((*both("recall", "claim_withdrawal"), "withdrawal.sent", *both("advance_withdrawal")), recalling),
    Scene(both("renew_withdrawal"), slow_note),
    Scene(both("retry_withdrawal_later"), note_refused),
    Scene(both("fail_withdrawal"), note_not_understood),
    Scene(both("recall"), superseding),
    Scene(both("grade_again"), made_again_by_fsck),
    Scene(both("forget_documents"), forgotten_by_fsck),
    Scene(DELETING, put_aside_by_fsck),
)
LAST: Final = (
    Scene((*DELETING, *both("mark_purged"), "spool.quarantine.deleted", "spool.quarantine.durable"), retention),
)
"""When all results have been looked at: they are deleted."""

NOT_HIT: Final = {
    "jobs.release_withdrawal.written": "a rejection note is one document: nothing asks in between whether to stop",
    "jobs.release_withdrawal.committed": "a rejection note is one document: nothing asks in between whether to stop",
    "spool.temporary.copied": "needs a file system that has files without a name and cannot name them",
}
"""Failpoints that no process comes to on the way, and why."""


def of_everything(a_round: Round) -> None:
    """A process dies at each failpoint that can be met."""
    node = a_round.node
    node.restart_soon()
    stage = Stage(a_round)
    stage.archive.start()
    stage.syslog.start()
    try:
        _play(stage, FIRST)
        wait_until(node.listening, limit_s=LIMIT_S, what="the node listens", log=node.log)
        kill_at_points(a_round)
        node.stop()
        _full_settings(stage)
        node.start()
        _play(stage, SCENES)
        settle(node, a_round.sender)
        a_round.violations += check(node, a_round.sender, a_round.pacs, Bytes()).violations
        _play(stage, LAST)
        a_round.violations += _lost_messages(stage)
    finally:
        stage.archive.stop()
        stage.syslog.stop()


def _play(stage: Stage, scenes: tuple[Scene, ...]) -> None:
    for scene in scenes:
        if scene.only(stage.round):
            begun = time.monotonic()
            scene.play(stage, scene.points)
            stage.round.say(
                f"  {scene.play.__name__.replace('_', ' ')}: {len(scene.points)} failpoints hit, "
                f"{time.monotonic() - begun:.0f} s"
            )


def _full_settings(stage: Stage) -> None:
    """A PACS that promises and takes rejection notes, an archive that is asked, and a syslog server."""
    settings = stage.node.settings
    settings["peers.pacs"] |= {"commitment": True, "commitment_wait_s": 0.5, "rejection_notes": True}
    for title, query in zip(Archive.TITLES, ("get", "move", "find"), strict=True):
        settings[f"peers.{title.lower()}"] = {
            "ae_title": title, "host": "127.0.0.1", "port": stage.archive.port, "results": False, "query": query,
            "timeout_s": 5.0, "retry_base_s": 0.3, "retry_cap_s": 1.0,
        }  # fmt: skip
    settings["audit"] = {
        "syslog_host": "127.0.0.1", "syslog_port": stage.syslog.port, "syslog_ca_file": str(stage.syslog.ca)
    }  # fmt: skip
    settings["retention"] = {}
    stage.pacs.say("commitment", "new")
    stage.pacs.say("node", str(stage.node.port))


def _lost_messages(stage: Stage) -> list[str]:
    """Every message in the audit file is whole, and the syslog server has it."""
    lines = (stage.node.spool / "audit.log").read_bytes().splitlines()
    broken = []
    for line in filter(None, lines):
        try:
            ElementTree.fromstring(line)
        except ElementTree.ParseError:
            broken.append(f"the audit file holds a line that is no message: {line[:80]!r}")
    with contextlib.suppress(AssertionError):
        wait_until(lambda: set(lines) <= stage.syslog.messages | {b""}, limit_s=60)
    missing = set(lines) - stage.syslog.messages - {b""}
    if missing:
        broken.append(f"{len(missing)} audit messages never came to the syslog server")
    return broken
