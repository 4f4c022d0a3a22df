"""What can stop training."""

from __future__ import annotations


class TrainingError(Exception):
    """Training cannot go on; the text says why and what to do."""


class Interrupted(Exception):
    """Ended by Ctrl-C or SIGTERM after writing a checkpoint to go on from."""
