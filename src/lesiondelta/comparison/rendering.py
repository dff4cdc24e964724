"""Tables as text: Markdown, LaTeX (booktabs) and TSV."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np

Form = Literal["md", "tex", "tsv"]

BOLD = {"md": "**{}**", "tex": r"\textbf{{{}}}"}
UNDERLINED = {"md": "<u>{}</u>", "tex": r"\underline{{{}}}"}
LATEX = str.maketrans(
    {sign: rf"\{sign}" for sign in "%_&$#{}"}
    | {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "<": r"\textless{}", ">": r"\textgreater{}",
    }
)  # fmt: skip
"""Signs that mean something to LaTeX, or are other signs in its older fonts, as text."""


@dataclass(frozen=True)
class Cell:
    """A mean over patients, bold if the best and underlined if the best prior work; NaN: too few for an interval."""

    mean: float
    low: float = np.nan
    high: float = np.nan
    digits: int = 3
    best: bool = False
    best_prior_work: bool = False

    def text(self, form: Literal["md", "tex"]) -> str:
        """Mean and interval as they stand in a table."""
        marked = f"{self.mean:.{self.digits}f}"
        if self.best_prior_work:
            marked = UNDERLINED[form].format(marked)
        if self.best:
            marked = BOLD[form].format(marked)
        if np.isnan(self.low):
            return marked
        to = "--" if form == "tex" else "-"
        return f"{marked} ({self.low:.{self.digits}f}{to}{self.high:.{self.digits}f})"


@dataclass(frozen=True)
class Table:
    """Rows under a heading ("group: column" or "column"); a row with one cell is the title of those below it."""

    title: str
    heading: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    notes: tuple[str, ...] = ()


def rendered(table: Table, form: Form) -> str:
    """The table as text that ends with a line break."""
    return {"md": _markdown, "tex": _latex, "tsv": _tsv}[form](table)


def _markdown(table: Table) -> str:
    width = len(table.heading)

    def line(cells: Sequence[str | Cell]) -> str:
        return "| " + " | ".join(c.text("md") if isinstance(c, Cell) else c for c in cells) + " |"

    lines = [f"**{table.title}**", "", line(table.heading), line(("---",) * width)]
    lines += [line((f"*{row[0]}*",) + ("",) * (width - 1) if len(row) == 1 else row) for row in table.rows]
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)]) + "\n"


def _latex(table: Table) -> str:
    width = len(table.heading)

    def line(cells: Sequence[str | Cell]) -> str:
        return " & ".join(c.text("tex") if isinstance(c, Cell) else _escaped(c) for c in cells) + r" \\"

    body = [
        rf"\multicolumn{{{width}}}{{l}}{{\textit{{{_escaped(str(row[0]))}}}}} \\" if len(row) == 1 else line(row)
        for row in table.rows
    ]
    caption = table.title.partition(". ")[2] or table.title  # LaTeX counts by itself
    begin = [
        "% needs booktabs", r"\begin{table*}", r"\centering", rf"\caption{{{_escaped(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}", r"\toprule",
    ]  # fmt: skip
    end = [r"\bottomrule", r"\end{tabular}", *(rf"\par\footnotesize {_escaped(note)}" for note in table.notes)]
    return "\n".join([*begin, *_heading(table.heading), r"\midrule", *body, *end, r"\end{table*}"]) + "\n"


def _heading(heading: Sequence[str]) -> list[str]:
    """Columns, and above them their groups where they have some."""
    names = [_escaped(name.rpartition(": ")[2]) for name in heading]
    spans, rules, at = [], [], 1
    for group, members in groupby(heading, key=lambda name: name.rpartition(": ")[0]):
        width = len(list(members))
        spans.append(rf"\multicolumn{{{width}}}{{c}}{{{_escaped(group)}}}" if group else " & " * (width - 1))
        rules += [rf"\cmidrule(lr){{{at}-{at + width - 1}}}"] if group else []
        at += width
    above = [" & ".join(spans) + r" \\", "".join(rules)] if rules else []
    return [*above, " & ".join(names) + r" \\"]


def _escaped(text: str) -> str:
    return text.translate(LATEX)


def _tsv(table: Table) -> str:
    """Numbers and their intervals in columns of their own, the group in front of its rows, notes left out."""
    grouped = any(len(row) == 1 for row in table.rows)
    scores = [any(len(row) > 1 and isinstance(row[at], Cell) for row in table.rows) for at in range(len(table.heading))]
    heading = ["group"] * grouped
    for name, is_score in zip(table.heading, scores, strict=True):
        heading += [name, f"{name}, low", f"{name}, high"] if is_score else [name]
    lines, group = [heading], ""
    for row in table.rows:
        if len(row) == 1:
            group = str(row[0])
            continue
        cells = [group] * grouped
        for cell, is_score in zip(row, scores, strict=True):
            cells += _numbers(cell) if is_score else [str(cell)]
        lines.append(cells)
    return "".join("\t".join(cells) + "\n" for cells in lines)


def _numbers(cell: str | Cell) -> list[str]:
    values = (cell.mean, cell.low, cell.high) if isinstance(cell, Cell) else (np.nan,) * 3
    return ["n/a" if np.isnan(value) else f"{value:.6g}" for value in values]
