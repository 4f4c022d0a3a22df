"""What can be imported."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """Forms of labels."""

    CSV = "csv"
    COCO = "coco"
    YOLO = "yolo"
    RSNA_2024 = "rsna2024"
    SUDIRMAN = "sudirman"
    FOLDERS = "folders"
    SR = "sr"
