"""What must hold before the node starts; each fault is a ConfigError that names its key."""

from __future__ import annotations

import errno
import logging
import socket
import time
from typing import Final

from stenosis_node.config import Config
from stenosis_node.domain import BundleIdentity, BundleStatus
from stenosis_node.errors import BundleError, ConfigError
from stenosis_node.grading.manifest import read_manifest

log = logging.getLogger("stenosis_node.node")

PORT_WAIT_S: Final = 3.0
"""A node that was just killed may hold its port for a moment."""


def check_bundle(config: Config) -> BundleIdentity:
    """Identity of the configured bundle, every digest verified."""
    try:
        return read_manifest(config.grading.bundle, expected_digest=config.grading.bundle_digest).identity()
    except BundleError as error:
        raise ConfigError(f"grading.bundle: {error}") from error


def check_delivery(config: Config, bundle: BundleIdentity) -> None:
    """The safety gate: grades of demonstration weights do not leave this machine by accident."""
    if bundle.status is not BundleStatus.DEMONSTRATION or config.safety.allow_demonstration_delivery:
        return
    remote = [f"peers.{name}" for name, peer in config.peers.items() if not peer.is_loopback]
    if remote:
        raise ConfigError(
            f"{', '.join(remote)}: bundle {bundle.name} is a demonstration: its grades are not valid for patients and "
            "are not sent to another machine; use a peer on this machine, or accept it with "
            "safety.allow_demonstration_delivery = true"
        )


def check_port(config: Config) -> None:
    """The port can be listened on."""
    where = (config.receive.host, config.receive.port)
    deadline = time.monotonic() + PORT_WAIT_S
    while True:
        try:
            family, kind, _, _, address = socket.getaddrinfo(*where, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
                0
            ]
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen(1)
        except socket.gaierror as error:
            raise ConfigError(f"receive.host: {where[0]!r} is no address of this machine ({error.strerror})") from error
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(
                    f"receive.port: cannot listen on {where[0]} port {where[1]}: {error.strerror}"
                ) from error
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"receive.port: {where[0]} port {where[1]} is in use by another program; stop it or choose another"
                ) from error
            time.sleep(0.2)
        else:
            return
