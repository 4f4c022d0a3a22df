"""An old study on demand: its MR instances are fetched from a peer and go the way of every received study."""

from __future__ import annotations

from dataclasses import dataclass

from stenosis_node.config import Config, Peer
from stenosis_node.errors import ConfigError, PermanentError
from stenosis_node.jobs import JobStore
from stenosis_node.query import Progress
from stenosis_node.spool import Spool, holder
from stenosis_node.work.source import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What the peer has of a study, and what became of it. All numbers are of MR instances."""

    known: int
    """That the peer has; 0: it does not know the study, or no MR of it."""
    wanted: int
    """That were asked for; 0: all had been received before, so nothing changes."""
    came: int


def check_pull(name: str, config: Config) -> None:
    """Whether a study can be pulled from the peer at all.

    raises  ConfigError (the peer is not one that studies are fetched from), PermanentError (nobody would receive)
    """
    peer: Peer = config.peers[name]
    if peer.protocol != "dimse":
        raise ConfigError(
            f"peers.{name}: studies are pulled by C-GET or C-MOVE: give the archive a table with a DIMSE AE"
        )
    if peer.query not in ("get", "move"):
        raise ConfigError(
            f'peers.{name}.query is "{peer.query}": set it to "get", or to "move" when the peer does not offer C-GET'
        )
    if peer.query == "move" and holder(config.spool) is None:
        raise PermanentError("C-MOVE sends to the receiving process of the node: start 'stenosis-node serve' first")


def pull_study(
    config: Config, spool: Spool, store: JobStore, name: str, study_uid: str, *, progress: Progress | None = None
) -> Pulled:
    """Fetch what the peer has and the node has not; a study that is new, or has new images, is graded then.

    By C-GET the study appears as a whole and is quiet at once. Interrupted, it has what came and its check for
    completeness fetches the rest.

    raises  PeerAway, TransientError, PermanentError
    """
    source = Source(name, config, spool, store)
    known = source.known(study_uid)
    job = store.job(study_uid)
    received = store.received_uids(job.job.id) if job is not None else frozenset()
    if all(one.sop_instance_uid in received for one in known):
        return Pulled(known=len(known), wanted=0, came=0)
    kept = {i.sop_instance_uid for i in store.instances(job.job.id)} if job is not None else set()
    wanted = tuple(one for one in known if one.sop_instance_uid not in kept)
    source.fetch(study_uid, wanted, quiet_period_s=0, known=received - kept, progress=progress)
    job = store.job(study_uid)
    kept = {i.sop_instance_uid for i in store.instances(job.job.id)} if job is not None else set()
    came = sum(one.sop_instance_uid in kept for one in wanted)
    if came == 0:
        how = f"does it know {config.receive.ae_title} at port {config.receive.port} of this machine?"
        raise PermanentError(
            f"{name} was asked for {len(wanted)} instances and none arrived"
            + (f": {how}" if source.peer.query == "move" else "; its log says why")
        )
    return Pulled(known=len(known), wanted=len(wanted), came=came)
