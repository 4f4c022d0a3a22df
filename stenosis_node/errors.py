"""The errors of the node. A class is a policy: what happens to the job follows from the class alone.

    NodeError
    ├── ConfigError      at start only: the message names the key; exit code 2
    ├── StudyRejected    can never be graded: the job ends REJECTED with a coded reason
    ├── TransientError   may work later: back-off and another attempt; attempts used up: FAILED
    ├── PermanentError   needs a human: FAILED at once
    │   └── BundleError  the weights bundle is missing, changed or does not fit
    └── LeaseLost        another worker has the job now: drop the work, touch nothing

Anything else that is raised is a bug: logged with its traceback, then treated like TransientError.
The module that owns a library translates that library's exceptions (``raise ... from``).
"""

from __future__ import annotations


class NodeError(Exception):
    """Root of every error the node raises on purpose. The text is a sentence an administrator can act on."""


class ConfigError(NodeError):
    """The configuration or the environment is wrong; found at start. The message names the key."""


class StudyRejected(NodeError):
    """The study can never be graded. ``reason`` is a stable code (:class:`domain.RejectionReason` value)."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence


class TransientError(NodeError):
    """May work later. The worker backs off and tries again until the attempts are used up."""


class PermanentError(NodeError):
    """Will not work without a human. The job becomes FAILED and says why."""


class BundleError(PermanentError):
    """The weights bundle is missing, was changed (digest), or does not fit the networks."""


class LeaseLost(NodeError):
    """The lease expired or was revoked (a late instance, a cancel). Whoever holds it now owns the job."""
