"""What every conversation with a DICOM peer needs, whichever side begins it: bounded reading, associations we ask for.

This package imports no DICOM library; ``wire.association`` does, for those who associate.
"""

from __future__ import annotations

from stenosis_node.wire.framing import MAX_PDU_BYTES, P_DATA_TF, PeerSocket

__all__ = ["MAX_PDU_BYTES", "P_DATA_TF", "PeerSocket"]
