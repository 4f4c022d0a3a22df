"""Which contexts are accepted, and in which transfer syntax."""

from __future__ import annotations

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    MRImageStorage,
)
from pynetdicom.presentation import build_context

from stenosis_node.receive.contexts import supported_contexts, unknown_as_storage

FIND, COMMITMENT, VERIFICATION = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.1.20.1", "1.2.840.10008.1.1"
PRIVATE = "1.3.6.1.4.1.99999.1"


def test_order_of_preference() -> None:
    asked = [
        ExplicitVRBigEndian,
        "1.3.6.1.4.1.99999.7",
        ImplicitVRLittleEndian,
        JPEGLosslessSV1,
        DeflatedExplicitVRLittleEndian,
        ExplicitVRLittleEndian,
    ]
    (context,) = supported_contexts([build_context(MRImageStorage, asked)])
    assert context.transfer_syntax[:3] == [ExplicitVRLittleEndian, JPEGLosslessSV1, ImplicitVRLittleEndian]
    assert set(context.transfer_syntax) == set(asked)


def test_contexts_of_one_class_are_joined() -> None:
    (context,) = supported_contexts(
        [build_context(MRImageStorage, s) for s in (JPEGLosslessSV1, ExplicitVRLittleEndian)]
    )
    assert context.transfer_syntax == [ExplicitVRLittleEndian, JPEGLosslessSV1]


@pytest.mark.parametrize(
    ("sop_class", "accepted"),
    [
        (MRImageStorage, True),
        (PRIVATE, True),
        ("1.2.840.10008.5.1.4.1.1.9999", True),
        ("1.2.840.10008.5.1.4.1.1.5", True),  # retired
        (VERIFICATION, True),
        (FIND, False),
        (COMMITMENT, False),
    ],
)
def test_storage_and_verification_only(sop_class: str, accepted: bool) -> None:
    assert bool(supported_contexts([build_context(sop_class)])) is accepted


def test_only_unknown_classes_are_declared_storage() -> None:
    contexts = [build_context(c) for c in (MRImageStorage, PRIVATE, VERIFICATION, FIND)]
    assert set(unknown_as_storage(contexts)) == {PRIVATE}
