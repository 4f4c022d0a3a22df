"""An archive of a few data sets that answers C-FIND and C-GET as one should, until a test says otherwise."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from socketserver import BaseServer
from typing import Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer

from tests.unit.query.conftest import FIND, GET


@dataclass
class Archive:
    """What it holds, and what goes wrong."""

    port: int
    holds: list[Dataset] = field(default_factory=list)
    withheld: set[str] = field(default_factory=set)
    """SOP Instance UIDs it knows but cannot give."""
    breaks_after: int | None = None
    """Sub-operations of a C-GET before it hangs up."""
    delay_s: float = 0.0
    """Before each answer to C-FIND."""
    finds: int = 0
    gets: int = 0
    given: list[str] = field(default_factory=list)

    def on_find(self, event: evt.Event) -> Iterator[Any]:
        self.finds += 1
        time.sleep(self.delay_s)
        asked = event.identifier
        if asked.QueryRetrieveLevel == "SERIES":
            series = {ds.SeriesInstanceUID: ds.Modality for ds in self._of(asked)}
            for uid, modality in series.items():
                yield 0xFF00, _match(asked, SeriesInstanceUID=uid, Modality=modality)
        else:
            for ds in self._of(asked):
                yield 0xFF00, _match(asked, SOPInstanceUID=ds.SOPInstanceUID, SOPClassUID=ds.SOPClassUID)
        yield 0x0000, None

    def on_get(self, event: evt.Event) -> Iterator[Any]:
        self.gets += 1
        wanted = event.identifier["SOPInstanceUID"]
        uids = set(wanted.value if wanted.VM > 1 else [wanted.value])
        found = [ds for ds in self._of(event.identifier) if ds.SOPInstanceUID in uids - self.withheld]
        yield len(found)
        for n, ds in enumerate(found):
            if n == self.breaks_after:
                event.assoc.abort()
                return
            self.given.append(ds.SOPInstanceUID)
            yield 0xFF00, ds

    def _of(self, asked: Dataset) -> list[Dataset]:
        series = asked.get("SeriesInstanceUID")
        return [
            ds
            for ds in self.holds
            if ds.StudyInstanceUID == asked.StudyInstanceUID and (not series or ds.SeriesInstanceUID == series)
        ]


@contextmanager
def archive(*classes: str) -> Iterator[Archive]:
    """A running archive ``PACS`` that offers these Query/Retrieve classes; C-FIND and C-GET when none is named."""
    ae = AE("PACS")
    for sop_class in classes or (FIND, GET):
        ae.add_supported_context(sop_class)
    ae.add_supported_context(MRImageStorage, ExplicitVRLittleEndian, scu_role=True, scp_role=True)
    made = Archive(port=0)
    server = ae.make_server(
        ("127.0.0.1", 0),
        evt_handlers=[(evt.EVT_C_FIND, made.on_find), (evt.EVT_C_GET, made.on_get)],
        server_class=ThreadedAssociationServer,
    )
    assert isinstance(server, ThreadedAssociationServer)
    made.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield made
    finally:
        BaseServer.shutdown(server)
        for association in server.active_associations:
            association.abort()
        server.server_close()


def _match(asked: Dataset, **values: str) -> Dataset:
    match = Dataset()
    match.QueryRetrieveLevel = asked.QueryRetrieveLevel
    match.StudyInstanceUID = asked.StudyInstanceUID
    match.SeriesInstanceUID = asked.SeriesInstanceUID
    for key, value in values.items():
        setattr(match, key, value)
    return match
