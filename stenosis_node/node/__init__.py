"""The composition root: builds the parts from the configuration, runs and supervises the processes.

``serve`` is the supervisor; receiving, grading and delivering are processes of their own (:mod:`.child`) that share the
spool and the database and nothing else.
"""

from __future__ import annotations

from stenosis_node.node.serve import serve

__all__ = ["serve"]
