"""A small archive: a storage SCP that keeps every instance it receives as a file. For the demo, not for patients."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import cast

from pydicom.uid import UID
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

SUCCESS = 0x0000
CANNOT_UNDERSTAND = 0xC000


def keep(event: evt.Event, folder: Path) -> int:
    """Write one received instance as ``<SOP Instance UID>.dcm``; the status of the C-STORE."""
    request = cast(C_STORE, event.request)
    uid = UID(request.AffectedSOPInstanceUID or "")
    if not uid.is_valid:
        return CANNOT_UNDERSTAND
    part = folder / f"{uid}.part"
    part.write_bytes(event.encoded_dataset())
    part.replace(folder / f"{uid}.dcm")
    return SUCCESS


def main(ae_title: str, port: int, folder: Path) -> None:
    """Serve on loopback until SIGTERM."""
    ae = AE(ae_title=ae_title)
    ae.require_called_aet = True
    ae.supported_contexts = AllStoragePresentationContexts
    ae.add_supported_context(Verification)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep, [folder])])
    stop.wait()
    ae.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
