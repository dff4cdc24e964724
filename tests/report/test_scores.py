import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from lesiondelta.evaluation.tables import MaskFolders, Options, evaluate
from lesiondelta.images import Volume, write_volume
from lesiondelta.report.scores import write_page

PENALISE = Options()


class Cells(HTMLParser):
    """Text of every table cell."""

    def __init__(self):
        super().__init__()
        self.cells, self.inside = [], False

    def handle_starttag(self, tag, attrs):
        self.inside = tag in ("td", "th")
        if self.inside:
            self.cells.append("")

    def handle_data(self, data):
        if self.inside and self.cells:
            self.cells[-1] += data.strip()


@pytest.fixture
def page(tmp_path):
    """Write masks of `lengths` voxels (reference, prediction) per patient, score them, and return the page."""

    def make(lengths, options=PENALISE, folder="masks", missing=()):
        root = tmp_path / folder
        for sub, pair in enumerate(lengths):
            for side, length in zip(("truth", "guess"), pair, strict=True):
                mask = np.zeros((12, 12, 12), bool)
                mask[:length, 0, 0] = True
                name = f"sub-{sub}_space-orig_label-L_mask.nii.gz"
                if (sub, side) not in missing:
                    write_volume(root / side / f"sub-{sub}" / "anat" / name, Volume(mask, np.eye(4)))
        summary, patients = evaluate(MaskFolders(root / "truth", root / "guess"), root / "out", options)
        write_page(root / "out" / "scores.html", summary, patients, root / "truth", root / "guess")
        return (root / "out" / "scores.html").read_text(encoding="utf-8")

    return make


def test_the_numbers_are_the_tables(page):
    """DSC of 4 in 8 voxels is 2/3, of 6 in 6 it is 1: mean 0.833, sd 0.236."""
    text = page([(4, 8), (6, 6)])
    parser = Cells()
    parser.feed(text)
    dsc = parser.cells.index("DSC")
    assert parser.cells[dsc + 1 : dsc + 5] == ["0.833", "", "0.236", "2"]
    first = parser.cells.index("sub-0")
    assert parser.cells[first + 1 : first + 3] == ["1", "0.667"]
    assert "No intervals: they are given from 6 patients on" in " ".join(text.split())


def test_intervals_are_shown_from_six_patients_on(page):
    parser = Cells()
    parser.feed(page([(4 + sub, 6) for sub in range(6)]))
    dsc = parser.cells.index("DSC")
    assert re.fullmatch(r"0\.\d{3} to 0\.\d{3}", parser.cells[dsc + 2])


def test_the_page_needs_no_network_and_its_figure_is_svg(page):
    text = page([(4, 8), (6, 6)])
    svg = text[text.index("<svg") : text.index("</svg>") + len("</svg>")]
    ElementTree.fromstring(svg)
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"|rdf:resource="[^"]*"', "", text)
    assert not re.search(r"(src|href)=\"?https?:|url\(http|@import", without_names)
    assert page([(4, 8), (6, 6)]) == text


def test_names_are_escaped(page):
    text = page([(4, 8)], folder="a<script>alert(1)</script>b".replace("/", "_"))
    assert "<script>" not in text
    assert "a&lt;script&gt;" in text


def test_what_is_left_out_is_said(page):
    text = page([(4, 8), (6, 6)], Options(allow_missing=True), missing=[(1, "guess")])
    assert "Visits without a prediction, which are in no mean: sub-1 n/a." in text


def test_undefined_scores_are_dashes(page):
    text = page([(0, 0), (4, 4)], Options(undefined="nan"))
    parser = Cells()
    parser.feed(text)
    first = parser.cells.index("sub-0")
    assert parser.cells[first + 2] == "-"
    assert "both 1, reference alone 0" in text
    assert "left out" in text


def test_a_page_without_a_single_defined_score(page):
    text = page([(0, 0), (0, 0)], Options(undefined="nan"))
    assert "<svg" not in text
    assert "both 2" in text
