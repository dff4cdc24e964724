"""The report of a patient: what it says, that it says it safely, and that it opens alone, in a browser too."""

import base64
import gzip
import io
import json
import re
import shutil
from dataclasses import replace
from datetime import datetime

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread

from lesiondelta.cohort import Change, LesionChange
from lesiondelta.formats.lesions import LesionRow, StepRow
from lesiondelta.images import Volume
from lesiondelta.report.patient import Report, ReportVisit, checkerboard, lesion_picture, write_report

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
    visits = [
        visit("1", [(first, 0)], acquired=datetime(2020, 1, 1)),
        visit("2", [(first, 5), (second, 1)], "flagged", HOSTILE, datetime(2021, 1, 1)),
    ]
    centre = {1: (-1.5, -0.5, 0.5), 2: (8.5, -0.5, 0.5)}
    lesions = [LesionRow(v, n, 125.0, "periventricular", centre[n], None) for v, n in (("1", 1), ("2", 1), ("2", 2))]
    new = LesionChange((), (2,), Change.NEW, 0.0, 125.0, 12.0, "no lesion was there")
    stable = LesionChange((1,), (1,), Change.STABLE, 125.0, 125.0, 12.0, HOSTILE)
    steps = [StepRow("1", "2", new, "periventricular"), StepRow("1", "2", stable, None)]
    models = [{"Name": HOSTILE, "SHA256": "0" * 64}]
    return Report("01", visits, {"3": HOSTILE}, lesions, steps, {"note": HOSTILE}, HOSTILE, models, [HOSTILE])


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
    assert "+0.12 ml a year" in text
    assert text.count("data:image/png;base64,") == 2  # the new lesion, and the checkerboard
    assert "<td>2<td>periventricular" in text
    assert "1 stable lesions" in text


def test_it_names_the_method_that_was_used(report, tmp_path):
    for method, said in (("difference_weighting", "Rokuss"), ("samseg", "by the method samseg")):
        write_report(tmp_path / "page.html", replace(report, method=method))
        text = without_viewer((tmp_path / "page.html").read_text(encoding="utf-8"))
        assert said in text
        assert ("Rokuss" in text) == (method == "difference_weighting")


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
    text = without_viewer((tmp_path / "one.html").read_text(encoding="utf-8"))
    assert "over 1 visit<" in re.sub(r"\s+", " ", text)
    assert "the only one" in text
    assert "a year" not in text


def test_a_lesions_picture_shows_it_in_three_planes_and_outlines_it(report):
    before, after = report.visits
    picture = lesion_picture(before, after, (8.5, -0.5, 0.5))
    tile = picture.shape[0] // 2
    assert picture.shape == (2 * tile, 3 * tile, 3)
    red = (picture[..., 0] == 255) & (picture[..., 1] == 90)
    assert not red[:tile, tile // 2 - 4 : tile // 2 + 4].any()  # not there before
    for plane in range(3):
        assert red[tile:, plane * tile : (plane + 1) * tile].any()


def test_right_is_on_the_left_in_pictures(report):
    flair = np.where(report.visits[0].flair.data > 0, 50, 0).astype(np.float32)
    flair[30:40, 25:30, 15:25] = 200  # at positive x, which is the patient's right
    one = replace(report.visits[0], flair=Volume(flair, AFFINE), instances=np.zeros(SHAPE, np.int32))
    picture = lesion_picture(one, one, (-0.5, -0.5, -0.5)).astype(int).sum(axis=2)
    tile = picture.shape[0] // 2
    for plane in (0, 1):  # axial, coronal
        shown = picture[:tile, plane * tile : (plane + 1) * tile]
        assert shown[:, : tile // 2].sum() > shown[:, tile // 2 :].sum()


def test_a_checkerboard_shows_both_visits():
    board = checkerboard(np.full((48, 48, 48), 10.0), np.full((48, 48, 48), 10.0))
    assert board.ndim == 3
    one, other = np.full((48, 48, 48), 100.0), np.tile(np.linspace(1, 100, 48), (48, 48, 1))
    assert len(np.unique(checkerboard(one, other))) > 5


@pytest.mark.slow
def test_in_a_browser_it_draws_jumps_and_asks_for_nothing(report, tmp_path):
    """Needs playwright, and a chromium on the PATH."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on the PATH")
    write_report(tmp_path / "sub-01.html", report)
    flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=flags)
        tab, said, asked = browser.new_page(), [], []
        tab.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto((tmp_path / "sub-01.html").as_uri())
        for _ in range(120):
            if tab.evaluate("!!(window.report && window.report.ready)"):
                break
            tab.wait_for_timeout(500)
        assert tab.evaluate("!!(window.report && window.report.ready)")
        tab.wait_for_timeout(500)
        drawn = tab.locator(".panes").screenshot()
        tab.locator("button.jump").first.click()
        for _ in range(40):
            tab.wait_for_timeout(250)
            places = tab.evaluate("window.report.panes.map((pane) => [...pane.frac2mm(pane.scene.crosshairPos)])")
            if abs(places[0][0]) > 1:
                break
        for place in places:
            assert place[:3] == pytest.approx([8.5, -0.5, 0.5], abs=0.6)
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [(tmp_path / "sub-01.html").as_uri()]
        plain = browser.new_context(java_script_enabled=False).new_page()
        plain.goto((tmp_path / "sub-01.html").as_uri())
        assert plain.locator("img").count() == 2
        assert not plain.locator("#viewer").is_visible()
        assert plain.locator("h2").first.is_visible()
        browser.close()
    assert not said

    assert imread(io.BytesIO(drawn), format="png")[..., :3].std() > 0.05
