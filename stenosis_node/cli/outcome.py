"""How a verb ends: the exit codes, and which error gives which."""

from __future__ import annotations

from enum import IntEnum

from stenosis_node.errors import BundleError, ConfigError, NodeError


class ExitCode(IntEnum):
    """Promised to scripts; documented in docs/cli.md."""

    OK = 0
    FAILED = 1
    CONFIGURATION = 2
    NOT_FOUND = 3
    PEER_UNREACHABLE = 4
    INTERRUPTED = 130


class NotFound(NodeError):
    """The job, peer or file that was named does not exist."""


class PeerUnreachable(NodeError):
    """The peer did not answer."""


def exit_code(error: NodeError) -> ExitCode:
    """Exit code of a verb that ended with this error."""
    match error:
        case ConfigError() | BundleError():
            return ExitCode.CONFIGURATION
        case NotFound():
            return ExitCode.NOT_FOUND
        case PeerUnreachable():
            return ExitCode.PEER_UNREACHABLE
        case _:
            return ExitCode.FAILED
