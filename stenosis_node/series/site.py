"""Rules of the site about series: the first that matches decides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stenosis_node.config import SeriesRule
from stenosis_node.series.headers import SeriesHeaders


@dataclass(frozen=True, slots=True)
class Ruling:
    """A rule that matched a series."""

    number: int
    """1-based, in the order of the configuration."""
    rule: SeriesRule

    @property
    def pins(self) -> bool:
        """Whether the rule wants the series graded."""
        return self.rule.action == "pin"

    @property
    def label(self) -> str:
        """``site rule 2 (series description matches 'fs')``."""
        patterns = {key: pattern for key, pattern in self.rule.matches.items() if pattern is not None}
        said = " and ".join(f"{key.replace('_', ' ')} matches '{pattern}'" for key, pattern in patterns.items())
        return f"site rule {self.number} ({said.replace('ae title', 'AE title')})"

    @property
    def because(self) -> str:
        """What the site says about it, to be put behind a clause; may be empty."""
        return f": {self.rule.why.rstrip('.')}" if self.rule.why else ""


def ruling(series: SeriesHeaders, rules: Sequence[SeriesRule]) -> Ruling | None:
    """The first rule whose patterns all match the series. Texts are searched without regard to case."""
    for number, rule in enumerate(rules, start=1):
        if all(_matches(series, key, pattern) for key, pattern in rule.matches.items() if pattern is not None):
            return Ruling(number, rule)
    return None


def _matches(series: SeriesHeaders, key: str, pattern: str) -> bool:
    """Whether a text of the series holds the pattern. What the headers do not say is the empty text."""
    texts: dict[str, tuple[str, ...]] = {
        "series_description": (series.description,),
        "protocol_name": (series.protocol,),
        "station_name": (series.station,),
        "manufacturer": (series.manufacturer,),
        "calling_ae_title": series.calling_ae_titles or ("",),
    }
    return any(re.search(pattern, text, re.IGNORECASE) for text in texts[key])
