"""How three vendors name and describe the series of a lumbar study: public tags only.

Series numbers are the same at all sites: 1 localizer, 2 sagittal T2, 3 axial T2, 4 axial T1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from training.phantom.look import Vendor

LOCALIZER, SAGITTAL_T2, AXIAL_T2, AXIAL_T1 = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Protocol:
    """One series as the operator named it and the sequence that was run."""

    number: int
    description: str
    image_type: tuple[str, ...]
    scanning_sequence: str
    sequence_variant: tuple[str, ...]
    scan_options: tuple[str, ...]
    sequence_name: str
    """Empty where the vendor writes none."""
    tr_ms: float
    te_ms: float
    echo_train: int
    averages: int
    flip_degrees: float
    bandwidth: float
    gap_mm: float

    @property
    def folder(self) -> str:
        """Name of the series' folder: the description without what file systems dislike."""
        return f"{self.number:02d}-" + "".join(c if c.isalnum() or c in "_-" else "_" for c in self.description)


@dataclass(frozen=True, slots=True)
class Site:
    """A scanner and its four protocols."""

    manufacturer: str
    model: str
    frequency_mhz: str
    protocols: tuple[Protocol, Protocol, Protocol, Protocol]

    def protocol(self, number: int) -> Protocol:
        return self.protocols[number - 1]


_S: Final = ("ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D")
_G: Final = ("ORIGINAL", "PRIMARY", "OTHER")
_P: Final = ("ORIGINAL", "PRIMARY", "M_SE", "M", "SE")
_SKSP: Final = ("SK", "SP", "OSP")

_SITES: Final = {
    Vendor.SIEMENS: Site(
        "SIEMENS", "Aera", "63.677",
        (
            Protocol(LOCALIZER, "localizer", _S, "GR", ("SP", "OSP"), (), "*fl2d1", 8.6, 4.0, 1, 2, 20, 320, 2.0),
            Protocol(SAGITTAL_T2, "t2_tse_sag", _S, "SE", _SKSP, ("SAT1", "PFP"), "*tse2d1_17", 3500, 102, 17, 2,
                     150, 190, 0.4),
            Protocol(AXIAL_T2, "t2_tse_tra", _S, "SE", _SKSP, ("SAT1", "PFP"), "*tse2d1_15", 4200, 99, 15, 2,
                     150, 190, 0.4),
            Protocol(AXIAL_T1, "t1_tse_tra", _S, "SE", _SKSP, ("SAT1", "PFP"), "*tse2d1_3", 590, 9.8, 3, 2,
                     150, 220, 0.4),
        ),
    ),
    Vendor.GE: Site(
        "GE MEDICAL SYSTEMS", "Optima MR450w", "63.861",
        (
            Protocol(LOCALIZER, "3-Plane Loc", _G, "GR", ("SP",), ("FAST_GEMS",), "", 5.5, 1.6, 1, 1, 30, 244, 2.0),
            Protocol(SAGITTAL_T2, "Sag T2 FSE", _G, "SE", ("SK",), ("FC_FREQ_AX_GEMS", "NPW"), "", 3100, 104, 21, 2,
                     160, 163, 0.4),
            Protocol(AXIAL_T2, "Ax T2 FSE", _G, "SE", ("SK",), ("FC_SLICE_AX_GEMS", "NPW", "SP"), "", 3213, 100, 18, 3,
                     160, 195, 0.4),
            Protocol(AXIAL_T1, "Ax T1 FSE", _G, "SE", ("SK",), ("NPW", "SP"), "", 620, 11, 3, 2, 160, 195, 0.4),
        ),
    ),
    Vendor.PHILIPS: Site(
        "Philips Medical Systems", "Ingenia", "63.887",
        (
            Protocol(LOCALIZER, "SURVEY", ("ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"), "GR", ("SS",), ("OTHER",), "",
                     11, 4.6, 1, 1, 20, 434, 2.0),
            Protocol(SAGITTAL_T2, "T2W_TSE_sag", _P, "SE", ("SK",), ("OTHER",), "", 2900, 110, 23, 2, 90, 189, 0.4),
            Protocol(AXIAL_T2, "T2W_TSE_ax", _P, "SE", ("SK",), ("OTHER",), "", 3600, 110, 19, 2, 90, 151, 0.4),
            Protocol(AXIAL_T1, "T1W_TSE_ax", _P, "SE", ("SK",), ("OTHER",), "", 560, 8, 4, 2, 90, 170, 0.4),
        ),
    ),
}  # fmt: skip
_OTHER_NAMES: Final = {
    Vendor.SIEMENS: ("t2_tse_tra", "t2_tse_tra_msma", "t2_tse_tra_disc", "T2_TSE_TRA_384", "T2 AXIAL"),
    Vendor.GE: ("Ax T2 FSE", "AX T2", "Ax T2 frFSE", "O-Ax T2", "AX T2 L1-S1"),
    Vendor.PHILIPS: ("T2W_TSE_ax", "T2W_TSE_TRA", "T2 AX", "L-SPINE T2 AXIAL"),
}


def site_of(vendor: Vendor, variant: int = 0) -> Site:
    """A site of a vendor; sites differ in what they call the axial T2 series."""
    site, names = _SITES[vendor], _OTHER_NAMES[vendor]
    localizer, sagittal, axial, t1 = site.protocols
    return replace(site, protocols=(localizer, sagittal, replace(axial, description=names[variant % len(names)]), t1))
