"""What every conversation with a DICOM peer needs, whichever side begins it.

Bounded reading of what the peer sends, the UIDs of a data set, the head of a file, and associations that we ask for.
Of DICOM libraries only ``wire.association`` needs one.
"""

from __future__ import annotations

from stenosis_node.wire.framing import MAX_PDU_BYTES, P_DATA_TF, PeerSocket, SecurePeerSocket

__all__ = ["MAX_PDU_BYTES", "P_DATA_TF", "PeerSocket", "SecurePeerSocket"]
