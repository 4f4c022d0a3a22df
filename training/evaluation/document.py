"""What an evaluation writes: sections of tables and figures, as Markdown beside pictures and as one HTML file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as text; the first column names the row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture and what it shows."""

    name: str
    """File name without suffix."""
    caption: str
    png: bytes

    @property
    def base64(self) -> str:
        """For a data URL."""
        return base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True, kw_only=True)
class Section:
    """A chapter of the document."""

    title: str
    text: str = ""
    tables: Sequence[Table] = field(default_factory=tuple)
    figures: Sequence[Figure] = field(default_factory=tuple)


def write_document(folder: Path, title: str, intro: str, sections: Sequence[Section]) -> None:
    """``evaluation.md`` with ``figures/*.png``, and ``evaluation.html`` that needs no other file."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for section in sections:
        for figure in section.figures:
            (folder / "figures" / f"{figure.name}.png").write_bytes(figure.png)
    (folder / "evaluation.md").write_text(markdown(title, intro, sections), encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("training.evaluation", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("evaluation.html").render(title=title, intro=intro, sections=sections)
    (folder / "evaluation.html").write_text(page, encoding="utf-8")


def markdown(title: str, intro: str, sections: Sequence[Section]) -> str:
    """The document with links to ``figures/``."""
    parts = [f"# {title}", intro]
    for section in sections:
        parts.append(f"## {section.title}")
        if section.text:
            parts.append(section.text)
        parts += [_markdown_table(table) for table in section.tables]
        parts += [f"![{figure.caption}](figures/{figure.name}.png)\n\n{figure.caption}" for figure in section.figures]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_table(table: Table) -> str:
    lines = [
        f"### {table.title}",
        "",
        _markdown_row(table.header),
        "|---" + "|---:" * (len(table.header) - 1) + "|",
        *(_markdown_row(row) for row in table.rows),
    ]
    if table.note:
        lines += ["", table.note]
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
