"""Who may associate: one function, asked by every path that can open an association."""

from __future__ import annotations

from dataclasses import dataclass

from stenosis_node import config


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationRequest:
    """What an A-ASSOCIATE-RQ and its connection say about the caller."""

    called_ae_title: str
    calling_ae_title: str
    address: str
    """IP address of the caller."""
    open_associations: int
    """Associations we hold already, this one not counted."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Accepted, or result, source and diagnostic of the A-ASSOCIATE-RJ (PS3.8 table 9-21) with a sentence."""

    accepted: bool
    result: int = 0
    source: int = 0
    diagnostic: int = 0
    sentence: str = ""


ADMITTED = Admission(accepted=True)


def admit(request: AssociationRequest, rules: config.Receive) -> Admission:
    """Apply the access rules of the configuration. Pure: the same request and rules give the same answer."""
    called, calling = request.called_ae_title.strip(), request.calling_ae_title.strip()
    if rules.check_called_ae_title and called != rules.ae_title:
        return Admission(
            accepted=False,
            result=1,
            source=1,
            diagnostic=7,
            sentence=f"{calling!r} called {called!r}, but this node is {rules.ae_title!r}: correct the called AE title "
            "at the sender, or set receive.ae_title",
        )
    if rules.calling_ae_titles and calling not in rules.calling_ae_titles:
        return Admission(
            accepted=False,
            result=1,
            source=1,
            diagnostic=3,
            sentence=f"calling AE title {calling!r} is not in receive.calling_ae_titles: add it there if this sender "
            "may route studies to the node",
        )
    if request.open_associations >= rules.max_associations:
        return Admission(
            accepted=False,
            result=2,
            source=3,
            diagnostic=2,
            sentence=f"{request.open_associations} associations are open already (receive.max_associations); "
            f"{calling!r} may try again later",
        )
    return ADMITTED
