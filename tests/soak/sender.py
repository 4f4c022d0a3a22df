"""Scanners that send studies until every instance was answered with Success, and remember which were."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE

from stenosis_node.domain import JobState
from tests.acceptance.studies import Study

SLICES = 4


class Sender:
    """Any number of threads may send at once."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port
        self._lock = threading.Lock()
        self.acknowledged: dict[str, str] = {}
        """SOP Instance UID of every instance that was answered with Success, and its study."""
        self.successes = 0
        """Answers with Success, those of repeats included."""
        self.studies: list[Study] = []
        self.ends: dict[str, JobState] = {}
        """How the jobs of studies end that are not to be DELIVERED."""

    def new_study(self, *, is_axial: bool = True) -> Study:
        with self._lock:
            number = len(self.studies)
            study = Study(self._folder / f"{number:06d}")
            self.studies.append(study)
        if is_axial:
            study.axial(SLICES)
        else:
            study.sagittal(SLICES)
        return study

    def send(
        self,
        study: Study,
        *,
        port: int | None = None,
        limit_s: float = 300,
        calling: str = "SCANNER",
        files: Sequence[Path] | None = None,
    ) -> None:
        """As a PACS does: what was not answered with Success is sent again. AssertionError after the limit."""
        deadline = time.monotonic() + limit_s
        left = {dcmread(path, stop_before_pixels=True).SOPInstanceUID: path for path in files or study.files}
        while left:
            assert time.monotonic() < deadline, f"{len(left)} instances of {study.uid} were never taken"
            if not self._try_once(study.uid, left, port or self._port, calling):
                time.sleep(0.2)

    def _try_once(self, study_uid: str, left: dict[str, Path], port: int, calling: str) -> bool:
        ae = AE(calling)
        ae.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
        association = ae.associate("127.0.0.1", port, ae_title="STENOSIS")
        if not association.is_established:
            return False
        try:
            for uid, path in list(left.items()):
                answer = association.send_c_store(dcmread(path))
                if "Status" not in answer or answer.Status != 0x0000:
                    return False
                with self._lock:
                    self.acknowledged[uid] = study_uid
                    self.successes += 1
                del left[uid]
        except RuntimeError:  # the association ended
            return False
        finally:
            if association.is_established:
                association.release()
        return True


class Stream:
    """Sends one study after the other from a few threads until the block ends."""

    def __init__(self, sender: Sender, *, threads: int = 2, pause_s: float = 0.2) -> None:
        self._sender = sender
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._faults: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(self._work,)) for _ in range(threads)]

    def __enter__(self) -> Stream:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._faults:
            raise self._faults[0]

    def _run(self, work: Callable[[], None]) -> None:
        try:
            while not self._stop.wait(self._pause_s):
                work()
        except BaseException as error:
            self._faults.append(error)

    def _work(self) -> None:
        self._sender.send(self._sender.new_study())
