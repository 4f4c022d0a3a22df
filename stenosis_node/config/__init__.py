"""One settings tree from one TOML file, overridden by the environment. An unknown key is an error that names it.

Environment variables are ``STENOSIS_NODE__SECTION__KEY`` (two underscores between levels), for example
``STENOSIS_NODE__RECEIVE__PORT=11113``. They win over the file. Paths in the file are relative to the file.
"""

from __future__ import annotations

from stenosis_node.config.loading import ENV_PREFIX, Config, load
from stenosis_node.config.peer import Peer
from stenosis_node.config.sections import (
    Audit,
    Grading,
    Jobs,
    Metrics,
    Receive,
    Report,
    Retention,
    Safety,
    Series,
    SeriesRule,
    Tls,
)

__all__ = [
    "ENV_PREFIX",
    "Audit",
    "Config",
    "Grading",
    "Jobs",
    "Metrics",
    "Peer",
    "Receive",
    "Report",
    "Retention",
    "Safety",
    "Series",
    "SeriesRule",
    "Tls",
    "load",
]
