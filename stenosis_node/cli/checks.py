"""What ``doctor`` looks at. Each check asks one part of the node and says what to do when it is not content.

Nothing here creates, migrates or locks anything: a check may run beside a node at work.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from importlib.util import find_spec
from pathlib import Path

from stenosis_node.cli.jobs import NoDatabase, open_store
from stenosis_node.config import Config, Peer
from stenosis_node.domain import BundleIdentity, BundleStatus
from stenosis_node.errors import ConfigError, NodeError
from stenosis_node.spool import holder, least_free_bytes, nearest

REINSTALL = "fill the environment again with 'make setup', or install requirements/lock.txt"
CODECS = {
    "openjpeg": "JPEG 2000 (pylibjpeg-openjpeg)",
    "rle": "RLE (pylibjpeg-rle)",
    "jpeg_ls": "JPEG-LS (pyjpegls)",
    "gdcm": "JPEG lossless (python-gdcm)",
}
REMOTE_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "fuse.sshfs", "9p", "lustre"}


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    about: str
    sentence: str
    fix: str | None = None


def check_software() -> Iterator[Finding]:
    """torch and torchvision, and the decoders of compressed pixel data."""
    try:
        sentence = f"torch {package_version('torch')}, torchvision {package_version('torchvision')}"
        yield Finding(Level.OK, "networks", sentence)
    except PackageNotFoundError as error:
        yield Finding(Level.FAIL, "networks", f"{error.name} is not installed", REINSTALL)
    missing = [name for module, name in CODECS.items() if find_spec(module) is None]
    if missing:
        yield Finding(Level.FAIL, "codecs", f"not installed: {', '.join(missing)}", REINSTALL)
    else:
        yield Finding(Level.OK, "codecs", ", ".join(CODECS.values()))


def check_device(config: Config) -> Iterator[Finding]:
    """Where the networks will run. Imports torch."""
    try:
        from stenosis_node.grading.stages import choose_device, use_bf16

        device = choose_device(config.grading.device)
        reduced = use_bf16(device, config.grading.precision)
        native = use_bf16(device, "auto")
    except ConfigError as error:
        yield Finding(Level.FAIL, "device", str(error), "set grading.device to auto")
        return
    except ImportError as error:
        yield Finding(Level.FAIL, "device", f"torch cannot be loaded: {error}", REINSTALL)
        return
    sentence = f"{device}, {'bf16' if reduced else 'fp32'}"
    if reduced and not native:
        fix = "set grading.precision to auto: bf16 is slow where the processor lacks it"
        yield Finding(Level.WARN, "device", f"{sentence}, not native on this processor", fix)
    elif not native:
        yield Finding(Level.OK, "device", f"{sentence} (no native bf16: grading takes longer)")
    else:
        yield Finding(Level.OK, "device", sentence)


def check_weights(config: Config) -> Iterator[Finding]:
    """The bundle, every digest, and whether its results may leave this machine."""
    from stenosis_node.node.checks import check_bundle, check_delivery

    try:
        bundle = check_bundle(config)
    except ConfigError as error:
        changed = "was changed" in str(error)
        fix = "copy the bundle again" if changed else "set grading.bundle to the folder of a complete bundle"
        yield Finding(Level.FAIL, "bundle", str(error), fix)
        return
    yield _weights(bundle)
    try:
        check_delivery(config, bundle)
    except ConfigError as error:
        yield Finding(Level.FAIL, "safety", str(error), "see docs/decisions/0002-demonstration-weights.md")


def _weights(bundle: BundleIdentity) -> Finding:
    sentence = f"{bundle.name} {bundle.version}, {bundle.status}, digest {bundle.digest[:12]}"
    if bundle.status is BundleStatus.VALIDATED:
        return Finding(Level.OK, "bundle", sentence)
    return Finding(Level.WARN, "bundle", sentence, "not for clinical use: its grades are not proven on patients")


def check_spool(config: Config) -> Iterator[Finding]:
    """Writable, on a local disk, with room."""
    spool = config.spool
    place = nearest(spool)
    if not place.is_dir():
        fix = "choose another folder with the key spool"
        yield Finding(Level.FAIL, "spool", f"{spool} cannot be made: {place} is a file, not a folder", fix)
    elif not os.access(place, os.W_OK | os.X_OK):
        fix = f"let this user write to {place}, or choose another folder with the key spool"
        yield Finding(Level.FAIL, "spool", f"{spool} cannot be written: no permission for {place}", fix)
    elif place != spool.absolute():
        yield Finding(Level.OK, "spool", f"{spool} does not exist yet; serve creates it")
    else:
        yield Finding(Level.OK, "spool", f"{spool} is writable")
    kind = _file_system(place)
    if kind in REMOTE_FILE_SYSTEMS:
        fix = "choose a folder on a local disk with the key spool"
        yield Finding(Level.FAIL, "spool disk", f"{place} is on {kind}, where locks and fsync are not reliable", fix)
    try:
        free_mb = least_free_bytes((place, *config.written_folders)) // 1_000_000
    except OSError as error:
        fix = "run the command as the user of the node"
        yield Finding(Level.FAIL, "free space", f"{error.filename} cannot be looked at: {error.strerror}", fix)
        return
    if free_mb < config.receive.min_free_mb:
        fix = f"free space: below receive.min_free_mb = {config.receive.min_free_mb} nothing is received"
        yield Finding(Level.FAIL, "free space", f"{free_mb} MB free", fix)
    elif free_mb < 4 * config.receive.min_free_mb:
        fix = "free space, or lower retention.instances_days"
        yield Finding(Level.WARN, "free space", f"{free_mb} MB free, and reception stops below "
                      f"{config.receive.min_free_mb} MB", fix)  # fmt: skip
    else:
        yield Finding(Level.OK, "free space", f"{free_mb / 1000:.1f} GB free")


def _file_system(path: Path) -> str | None:
    """Kind of the file system that holds a path, as the kernel calls it; None where it cannot be known."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    place = path.resolve()
    holding = [(len(point), kind) for _, point, kind, *_ in mounts if place.is_relative_to(point)]
    return max(holding)[1] if holding else None


def check_database(config: Config) -> Iterator[Finding]:
    """Reachable, with the tables of this version, and nothing in it that nobody will send."""
    from stenosis_node.node.health import UNSERVED, unknown_peers, unserved_fix

    try:
        with open_store(config) as store:
            status = store.status()
    except NoDatabase:
        yield Finding(Level.OK, "database", "SQLite in the spool; serve creates it")
    except NodeError as error:
        yield Finding(Level.FAIL, "database", str(error), "check jobs.database_url and that the server runs")
    else:
        held = ", ".join(f"{count} {state}" for state, count in status.jobs.items() if count) or "no jobs"
        yield Finding(Level.OK, "database", f"answers; {held}")
        for name, number in unknown_peers(status, config).items():
            said = f"{number} deliveries and withdrawals wait for it, but {UNSERVED}"
            yield Finding(Level.WARN, f"peer {name}", said, unserved_fix(name))


def check_port(config: Config) -> Iterator[Finding]:
    """Free, or held by a node that answers to our AE title."""
    from stenosis_node.node import checks

    where = f"{config.receive.host} port {config.receive.port}"
    try:
        checks.check_port(config)
    except ConfigError as error:
        if (process := holder(config.spool)) is not None:
            yield Finding(Level.OK, "port", f"{where}: this node runs, process {process}")
        elif _answers(config):
            yield Finding(Level.OK, "port", f"{where}: a node answers as {config.receive.ae_title}")
        else:
            yield Finding(Level.FAIL, "port", str(error), "choose another receive.port, or stop the other program")
    else:
        yield Finding(Level.OK, "port", f"{where} is free")


def _answers(config: Config) -> bool:
    """Whether a DICOM node answers to our AE title, as far as that can be known without a certificate."""
    from stenosis_node import deliver

    if config.receive.tls.is_on:
        return False
    host = "127.0.0.1" if config.receive.host in ("0.0.0.0", "::") else config.receive.host
    us = Peer(ae_title=config.receive.ae_title, host=host, port=config.receive.port, timeout_s=5)
    calling = next(iter(config.receive.calling_ae_titles), config.receive.ae_title)
    return deliver.probe(us, calling_ae_title=calling).echo_ok


def check_access(config: Config) -> Iterator[Finding]:
    """Somebody may send, not everybody by accident, and not in clear where others could listen."""
    from stenosis_node.node import access

    receive = config.receive
    try:
        access.check_access(config)
    except ConfigError as error:
        sentence, _, fix = str(error).partition("; ")
        yield Finding(Level.FAIL, "access", sentence, fix)
        return
    sentence = f"may send: {access.describe_access(config)}"
    named = receive.tls.is_on and receive.tls.require_client_certificate
    if receive.is_loopback or named:
        yield Finding(Level.OK, "access", sentence)
    elif receive.allow_any:
        fix = "list senders in receive.allowed_addresses, and remove receive.allow_any"
        yield Finding(Level.WARN, "access", sentence, fix)
    elif receive.calling_ae_titles and not receive.allowed_addresses:
        fix = "an AE title is no proof: list networks in receive.allowed_addresses, or ask for certificates"
        yield Finding(Level.WARN, "access", sentence, fix)
    else:
        yield Finding(Level.OK, "access", sentence)


def check_tls(config: Config) -> Iterator[Finding]:
    """Certificates can be used and last, and keys are nobody else's to read."""
    from stenosis_node.node import access

    try:
        access.check_tls(config)
    except ConfigError as error:
        yield Finding(Level.FAIL, "TLS", str(error), "correct the file, or the key that names it")
        return
    if config.receive.tls.is_on:
        yield Finding(Level.OK, "TLS", f"for callers: {access.describe_tls(config)}")
    elif not config.receive.is_loopback:
        fix = "set [receive.tls], or keep the node on a network segment that you trust"
        yield Finding(Level.WARN, "TLS", "images come over the network without encryption", fix)
    for one in access.own_certificates(config):
        until = f"{one.key}: {one.path.name} ends on {one.end:%Y-%m-%d}" if one.end else f"{one.key} cannot be read"
        renew = "have a new one made, and put it in place: that needs no restart"
        if one.end is None or one.is_over():
            yield Finding(Level.FAIL, "certificate", until, renew)
        else:
            soon = one.is_over_soon()
            yield Finding(Level.WARN if soon else Level.OK, "certificate", until, renew if soon else None)
    for key, path, readers in access.exposed_keys(config):
        level = Level.FAIL if readers == "everybody" else Level.WARN
        yield Finding(level, "private key", f"{key}: {readers} can read {path}", f"chmod 600 {path}")


def check_audit(config: Config) -> Iterator[Finding]:
    """The audit stream can be written, and reaches the syslog server."""
    from stenosis_node.node.health import audit_file_problem, syslog_problem

    if (problem := audit_file_problem(config)) is not None:
        yield Finding(Level.FAIL, "audit", problem.sentence, problem.fix)
    elif (problem := syslog_problem(config)) is not None:  # no reason not to start
        yield Finding(Level.WARN, "audit", problem.sentence, problem.fix)
    else:
        audit = config.audit
        server = f", and go to {audit.syslog_host} port {audit.syslog_port}" if audit.syslog_host else ""
        yield Finding(Level.OK, "audit", f"messages are written to {config.audit_file}{server}")


def check_peers(config: Config) -> Iterator[Finding]:
    """Each one echoes and takes what we make."""
    from stenosis_node import deliver

    if not config.peers:
        yield Finding(Level.WARN, "peers", "none: results stay in the spool", "add a table [peers.NAME]")
    for name, peer in config.peers.items():
        report = deliver.probe(peer, calling_ae_title=peer.calling_ae_title or config.receive.ae_title)
        if report.echo_ok:
            milliseconds = report.seconds * 1000
            yield Finding(Level.OK, f"peer {name}", f"{report.address} answers in {milliseconds:.0f} ms")
        else:
            fix = f"check peers.{name}, and that the peer knows our AE title {config.receive.ae_title}"
            yield Finding(Level.FAIL, f"peer {name}", report.error or "no answer", fix)
