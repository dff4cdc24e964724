"""The report of a patient: what it says, that it says it safely, and that it opens alone, in a browser too."""

import base64
import gzip
import io
import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread

from lesiondelta.cohort import Change, LesionChange
from lesiondelta.images import Volume
from lesiondelta.outputs.lesions import LesionRow, StepRow
from lesiondelta.report.content import Report, ReportVisit
from lesiondelta.report.lesion_pictures import StepImages, checkerboard, lesion_picture
from lesiondelta.report.patient_page import write_report
from lesiondelta.report.viewer import NO_DIFFERENCE, SD_STEP
from lesiondelta.settings import PreprocessingSettings, SegmentationSettings, Settings

SHAPE = (48, 56, 40)
AFFINE = np.diag([1.0, 1, 1, 1])
AFFINE[:3, 3] = -24, -28, -20
HOSTILE = '<script>alert("x")</script>&\'<img src=x onerror=alert(1)> </script> ünïcode'


def visit(label, changes, status="ok", reason="", acquired=None):
    """A brain of noise with a bright cube; `changes` are labels of the change map at the cube."""
    rng = np.random.default_rng(len(label))
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    brain = x**2 + y**2 + z**2 < 0.9
    flair = np.where(brain, 100 + rng.normal(0, 5, SHAPE), 0).astype(np.float32)
    instances, codes = np.zeros(SHAPE, np.int32), np.zeros(SHAPE, np.int32)
    for number, (place, code) in enumerate(changes, start=1):
        box = tuple(slice(p, p + 5) for p in place)
        flair[box] = 180
        instances[box], codes[box] = number, code
    figures = {"lesions": float(len(changes)), "lesion_volume_mm3": 125.0 * len(changes), "prior_session_id": "ses-1"}
    return ReportVisit(label, acquired, status, reason, Volume(flair, AFFINE), instances, codes, figures)


@pytest.fixture
def report():
    first, second = (20, 25, 18), (30, 25, 18)
    difference = np.zeros(SHAPE, np.float32)
    difference[31:34, 26:29, 19:22] = 4.8
    visits = [
        visit("1", [(first, 0)], acquired=datetime(2020, 1, 1)),
        replace(visit("2", [(first, 5), (second, 1)], "flagged", HOSTILE, datetime(2021, 1, 1)), difference=difference),
    ]
    centre = {1: (-1.5, -0.5, 0.5), 2: (8.5, -0.5, 0.5)}
    lesions = [LesionRow(v, n, 125.0, "periventricular", centre[n], None) for v, n in (("1", 1), ("2", 1), ("2", 2))]
    new = LesionChange((), (2,), Change.NEW, 0.0, 125.0, 12.0, "no lesion was there", confidence=0.97)
    stable = LesionChange((1,), (1,), Change.STABLE, 125.0, 125.0, 12.0, HOSTILE, confidence=0.1)
    possible = LesionChange((), (), Change.POSSIBLE, 0.0, 30.0, 0.0, "only images", evidence=6.5, confidence=0.4)
    steps = [
        StepRow("1", "2", new, "periventricular", centre[2]),
        StepRow("1", "2", stable, None, centre[1]),
        StepRow("1", "2", possible, None, (3.0, 4.0, 5.0)),
    ]
    models = [{"Name": HOSTILE, "SHA256": "0" * 64}]
    settings = Settings(segmentation=SegmentationSettings(models=(Path(HOSTILE),)))
    contrasts = {"T1w": 2, "FLAIR": 2}
    return Report(
        "01", visits, {"3": HOSTILE}, lesions, steps, settings, HOSTILE, models, [HOSTILE], contrasts, HOSTILE
    )  # fmt: skip


@pytest.fixture
def page(report, tmp_path):
    write_report(tmp_path / "sub-01.html", report)
    return (tmp_path / "sub-01.html").read_text(encoding="utf-8")


def without_viewer(page):
    """The page as it is without the vendored script."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


def test_it_says_what_changed(page):
    text = re.sub(r"\s+", " ", without_viewer(page))
    assert "1 new" in text
    assert "0 resolved" in text
    assert "no lesion was there" in text
    assert 'data-visit="1" data-mm="8.5 -0.5 0.5"' in text
    assert '<td>ses-1 to ses-2<td class="n">1.00 <td class="n">+0.12<td class="n">1.0 <td class="n">0.0' in text
    assert text.count("data:image/") == 3  # the new lesion, the possible one, and the checkerboard
    assert "Possible: only the images show it" in text
    assert text.index("no lesion was there") < text.index("only images")
    assert re.search(r">2<td class=\"n\">97%.*?<td>periventricular", text)
    assert "1 stable lesion<" in text


VOLUMES = {"tissue_mm3": 1.2e6, "ventricles_mm3": 20_000.0, "contrasts": "T1w+FLAIR", "FLAIR_coverage": 1.0}


def rows_of_volumes(report, tmp_path, later):
    first, second = report.visits
    second = replace(second, figures={**second.figures, **VOLUMES, **later})
    visits = [replace(first, figures={**first.figures, **VOLUMES}), second]
    write_report(tmp_path / "page.html", replace(report, visits=visits, own_anatomy=True))
    text = without_viewer((tmp_path / "page.html").read_text(encoding="utf-8"))
    rows = text[text.index("Volumes of the brain") :].partition("</table>")[0].split("<tr>")[2:]
    return [[cell.strip() for cell in re.split(r"<td[^>]*>", row)[1:]] for row in rows]


def test_it_says_by_how_much_the_brain_differs(report, tmp_path):
    rows = rows_of_volumes(report, tmp_path, {"tissue_mm3": 1.188e6, "ventricles_mm3": 21_000.0})
    assert rows == [["ses-1", "1200", "20", "", ""], ["ses-2", "1188", "21", "-1.0 %", "+5.0 %"]]


@pytest.mark.parametrize("other", [{"contrasts": "FLAIR"}, {"FLAIR_coverage": 0.9}])
def test_volumes_that_do_not_compare_are_not_compared(report, tmp_path, other):
    assert rows_of_volumes(report, tmp_path, other)[1] == ["ses-2", "1200", "20", "", ""]


def test_a_report_by_the_atlas_has_no_volumes(page):
    assert "Volumes of the brain" not in page
    assert "from the MNI152 atlas" in page


def test_it_names_the_method_that_was_used(report, tmp_path):
    for method, said in (("difference_weighting", "Rokuss"), ("samseg", "by the method samseg")):
        write_report(tmp_path / "page.html", replace(report, method=method))
        text = without_viewer((tmp_path / "page.html").read_text(encoding="utf-8"))
        assert said in text
        assert ("Rokuss" in text) == (method == "difference_weighting")


MADE = {
    (
        "elastix",
        True,
        "atlas",
    ): "T1w and FLAIR of all visits were registered to one space by elastix, resampled once to "
    "cubic voxels, cut to the brain that atlas found, and corrected for the bias field by N4.",
    ("none", False, "own"): "T1w and FLAIR of all visits were taken as lying in one space, resampled once to cubic "
    "voxels, taken as showing only the brain, and not corrected for the bias field.",
    ("flirt", True, "given"): "by flirt, resampled once to cubic voxels, cut to the brain by the mask that was given,",
    ("flirt", True, ""): "cubic voxels, cut to the brain, and",
}


@pytest.mark.parametrize(("registration", "bias_correction", "brain_from"), MADE)
def test_it_says_what_was_done_to_the_images(report, tmp_path, registration, bias_correction, brain_from):
    chosen = PreprocessingSettings(registration=registration, bias_correction=bias_correction)
    settings = Settings(preprocessing=chosen)
    write_report(tmp_path / "page.html", replace(report, settings=settings, brain_from=brain_from))
    text = re.sub(r"\s+", " ", without_viewer((tmp_path / "page.html").read_text(encoding="utf-8")))
    assert MADE[registration, bias_correction, brain_from] in text


def test_hostile_text_stays_text(page):
    text = without_viewer(page)
    assert "<img src=x" not in text
    assert "alert(" in text
    assert not re.search(r"<script>alert", page)
    assert page.count("</script>") == 3  # data, viewer, and what connects them
    assert "&lt;script&gt;alert" in text


def test_nothing_is_loaded_from_elsewhere(page):
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:|//)""", without_viewer(page))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_images_of_the_viewer_are_those_of_the_visits(page, report):
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    for made, told in zip(data["visits"], report.visits, strict=True):
        image, marks = (
            nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(made[name]))) for name in ("image", "marks")
        )
        np.testing.assert_allclose(image.affine, AFFINE)
        assert image.get_data_dtype() == np.uint8
        inside = told.instances > 0
        assert np.asarray(image.dataobj)[inside].mean() > np.asarray(image.dataobj)[~inside].mean() + 10
        assert ((np.asarray(marks.dataobj) > 0) == inside).all()
    assert set(np.unique(np.asarray(marks.dataobj))) == {0, 1, 5}


def test_a_single_visit_and_no_lesion_have_a_report_too(report, tmp_path):
    alone = visit("", [])
    write_report(tmp_path / "one.html", replace(report, visits=[alone], failed={}, lesions=[], steps=[]))
    text = re.sub(r"\s+", " ", without_viewer((tmp_path / "one.html").read_text(encoding="utf-8")))
    assert "over 1 visit<" in text
    assert "<td>the only visit <td>" in text
    assert "There is no other visit: nothing to compare with." in text
    assert not [said for said in ("a year", "last visit", "all visits", "visit before", "consecutive") if said in text]
    assert text.count("<canvas") == 1


def test_the_models_caution_stands_on_top_once(report, tmp_path):
    write_report(tmp_path / "page.html", replace(report, cautions=["the model knows two patients"], failed={}))
    text = without_viewer((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert text.count("the model knows two patients") == 1


def test_a_failed_visit_without_a_session_has_a_name(report, tmp_path):
    write_report(tmp_path / "page.html", replace(report, failed={"": "its FLAIR is damaged"}))
    text = without_viewer((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "<td>the only visit<td>" in text
    assert "ses-<" not in text


def test_rates_need_dates_that_are_apart(report, tmp_path):
    for acquired in (None, datetime(2020, 1, 9)):
        visits = [report.visits[0], replace(report.visits[1], acquired=acquired)]
        write_report(tmp_path / "page.html", replace(report, visits=visits))
        text = re.sub(r"\s+", " ", without_viewer((tmp_path / "page.html").read_text(encoding="utf-8")))
        assert "ml a year" not in text
        assert ("are not known." if acquired is None else "are too near.") in text


def test_a_correction_by_hand_is_said_on_top(report, tmp_path):
    said = "3 lesions removed, 1 added, -0.40 ml"
    corrected = replace(report, visits=[report.visits[0], replace(report.visits[1], correction=said)])
    write_report(tmp_path / "page.html", corrected)
    text = re.sub(r"\s+", " ", without_viewer((tmp_path / "page.html").read_text(encoding="utf-8")))
    assert f"Mask of ses-2 corrected by hand: {said}" in text
    assert text.index(said) < text.index("<h2>Visits")


def images(before, after):
    return StepImages(
        tuple(one.flair.data / 200 for one in (before, after)), (before.instances, after.instances), None, AFFINE
    )


def test_a_lesions_picture_shows_it_in_three_planes_and_outlines_it(report):
    """Rows are axial, coronal and sagittal, columns prior and current."""
    picture = lesion_picture(images(*report.visits), report.steps[0])
    height, width = picture.shape[0] // 3, picture.shape[1] // 2
    coloured = (picture.max(axis=2).astype(int) - picture.min(axis=2)) > 60
    for plane in range(3):
        row = coloured[plane * height : (plane + 1) * height]
        middle = slice(height // 2 - 30, height // 2 + 30)
        assert not row[middle, width // 2 - 20 : width // 2 + 20].any()  # not there before
        assert row[:, width + width // 2 - 60 : width + width // 2 + 60].any()


def test_right_is_on_the_left_in_pictures(report):
    flair = np.where(report.visits[0].flair.data > 0, 50, 0).astype(np.float32)
    flair[30:40, 25:30, 15:25] = 200  # at positive x, which is the patient's right
    one = replace(report.visits[0], flair=Volume(flair, AFFINE), instances=np.zeros(SHAPE, np.int32))
    row = replace(report.steps[0], centre_mm=(-0.5, -0.5, -0.5))
    picture = lesion_picture(images(one, one), row).astype(int).sum(axis=2)
    height, width = picture.shape[0] // 3, picture.shape[1] // 2
    for plane in (0, 1):  # axial, coronal
        shown = picture[plane * height : (plane + 1) * height, :width]
        assert shown[:, : width // 2].sum() > shown[:, width // 2 :].sum()


def test_the_third_panel_holds_the_difference(page, report):
    """In levels of 0.6 sd about that of none; the first visit has nothing to be compared with."""
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["visits"][0]["difference"] is None
    packed = base64.b64decode(data["visits"][1]["difference"])
    levels = np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(packed)).dataobj).astype(float)
    np.testing.assert_allclose((levels - NO_DIFFERENCE) * SD_STEP, report.visits[1].difference, atol=1e-6)
    assert without_viewer(page).count("<canvas") == 3


def test_a_checkerboard_shows_both_visits():
    board = checkerboard(np.full((48, 48, 48), 0.5), np.full((48, 48, 48), 0.5))
    assert board.ndim == 3
    one, other = np.full((48, 48, 48), 1.0), np.tile(np.linspace(0.01, 1, 48), (48, 48, 1))
    assert len(np.unique(checkerboard(one, other))) > 5


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]


@dataclass(frozen=True)
class Opened:
    """A page in a browser, what its console and its errors said, and what it asked for."""

    browser: Any
    tab: Any
    said: list[str]
    asked: list[str]


@contextmanager
def opened(path):
    """Open a page in headless Chromium; needs playwright, and a chromium on the PATH."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = Opened(browser, browser.new_page(), [], [])
        page.tab.on("console", lambda line: page.said.append(line.text) if line.type in ("error", "warning") else None)
        page.tab.on("pageerror", lambda error: page.said.append(str(error)))
        page.tab.on("request", lambda request: page.asked.append(request.url))
        page.tab.goto(path.as_uri())
        yield page
        browser.close()


def check_in_a_browser(path, panes=3, jumps=True):
    """It draws, jumps to the first lesion listed, asks for nothing, complains of nothing, and needs no JavaScript."""
    with opened(path) as page:
        wait_for(page.tab, "!!(window.report && window.report.ready)", 120)
        page.tab.wait_for_timeout(500)
        drawn = page.tab.locator(".panes").screenshot()
        assert page.tab.locator(".pane").count() == panes
        if jumps:
            button = page.tab.locator("button.jump").first
            centre = [float(mm) for mm in button.get_attribute("data-mm").split()]
            button.click()
            where = "window.report.panes.map((pane) => [...pane.frac2mm(pane.scene.crosshairPos)].slice(0, 3))"
            near = f"{where}.every((mm) => mm.every((value, axis) => Math.abs(value - {centre}[axis]) < 0.6))"
            wait_for(page.tab, near, 60)
        assert [url for url in page.asked if not url.startswith(("data:", "blob:"))] == [path.as_uri()]
        pictures = page.tab.locator("img").count()
        plain = page.browser.new_context(java_script_enabled=False).new_page()
        plain.goto(path.as_uri())
        assert plain.locator("img").count() == pictures
        assert not plain.locator("#viewer").is_visible()
        assert plain.locator("h2").first.is_visible()
    assert not page.said
    assert imread(io.BytesIO(drawn), format="png")[..., :3].std() > 0.05


def wait_for(tab, condition, seconds):
    for _ in range(4 * seconds):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(250)
    raise AssertionError(f"after {seconds} s it is not so: {condition}")


@pytest.mark.slow
def test_in_a_browser_it_draws_jumps_and_asks_for_nothing(report, tmp_path):
    write_report(tmp_path / "sub-01.html", report)
    check_in_a_browser(tmp_path / "sub-01.html")


@pytest.mark.slow
def test_in_a_browser_a_single_visit_has_one_pane(report, tmp_path):
    alone = replace(report, visits=report.visits[:1], failed={}, lesions=report.lesions[:1], steps=[])
    write_report(tmp_path / "sub-01.html", alone)
    check_in_a_browser(tmp_path / "sub-01.html", panes=1, jumps=False)
