"""What Won 2025 printed (Global Spine J 15(4):2309-17): counts of Tables 1, 2, 3, 5 and 6, and Table 4.

Two rows of Table 5 are fused in print; its row of cord is restored from the margins. Table 4 cuts the
last digit off, it does not round; its 90.3 for the analyzers' rootlet and cord is 90.0 by Table 2.
"""

from __future__ import annotations

import math
from typing import Final

Counts = tuple[tuple[int, ...], ...]

TABLE_2: Final[Counts] = ((7693, 694), (399, 2179))
"""Rootlet, cord: rows analyzer 2, columns analyzer 1."""
TABLE_3: Final[Counts] = ((5312, 107, 3, 0), (422, 832, 18, 8), (4, 152, 263, 15), (1, 31, 22, 92))
"""A to D: rows analyzer 2, columns analyzer 1."""
TABLE_5: Final[dict[int, Counts]] = {1: ((7683, 409), (385, 2488)), 2: ((8180, 207), (138, 2440))}
"""Rootlet, cord by analyzer: rows the analyzer, columns the classifier trained on its labels."""
TABLE_6: Final[dict[int, Counts]] = {
    1: ((5512, 226, 1, 0), (205, 859, 48, 10), (2, 71, 218, 15), (0, 21, 20, 74)),
    2: ((5188, 226, 8, 0), (258, 937, 78, 7), (6, 100, 302, 26), (4, 18, 39, 85)),
}
"""A to D by analyzer: rows the analyzer, columns the classifier."""
BOXED: Final[dict[str, tuple[int, int]]] = {"1": (11542, 11551), "2": (12436, 12442), "both": (10965, 10969)}
"""Slices with a box of those with a label, by analyzer and in common."""
TABLE_4: Final[dict[str, dict[str, tuple[str, str, str]]]] = {
    "region": {
        "A1-A2": ("90.3", "86.6", "<0.01"),
        "A1-C1": ("92.7", "90.6", "0.7128"),
        "A2-C2": ("96.8", "95.6", "0.2741"),
    },
    "grade": {
        "A1-A2": ("89.2", "76.5", "<0.01"),
        "A1-C1": ("91.5", "78.4", "0.6739"),
        "A2-C2": ("89.4", "75.7", "0.2329"),
    },
}
"""Accuracy in %, macro-F1 in % and P as printed."""


def cut(value: float, digits: int) -> str:
    """``digits`` decimals as in the paper: rounded to one more, which is cut off (91.4996 gives 91.5)."""
    scale = 10**digits
    return f"{math.floor(round(value, digits + 1) * scale + 1e-6) / scale:.{digits}f}"


def p_as_printed(value: float | None) -> str:
    """Four digits cut off, ``<0.01`` below."""
    if value is None:
        return "-"
    return "<0.01" if value < 0.01 else cut(value, 4)
