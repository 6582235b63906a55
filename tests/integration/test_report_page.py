"""The report in a real browser: no request, no error, plots drawn, legible in both schemes, fit for phone and paper."""

import contextlib
import importlib.util
import pathlib
import re
import shutil

import pytest

from resq_deploy.report.build import document, gather
from resq_deploy.report.page import render

PATIENCE = 180_000  # milliseconds; a machine under load takes its time
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CONFTEST = pathlib.Path(__file__).parents[1] / "unit" / "report" / "conftest.py"


def _folders():
    """The builders of the report's unit tests, loaded by path since tests are no package."""
    spec = importlib.util.spec_from_file_location("report_folders", CONFTEST)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FOLDERS = _folders()
digits, coarse_int8, faultcamp = FOLDERS.digits, FOLDERS.coarse_int8, FOLDERS.faultcamp
single, coarse_single = FOLDERS.single, FOLDERS.coarse_single
curve, coarse_curve = FOLDERS.curve, FOLDERS.coarse_curve
sha256, everything = FOLDERS.sha256, FOLDERS.everything


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: install one of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def file(everything, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(document(gather(everything))), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser, file):
    """Open the report; what the page complains of, or asks for, must stay empty."""

    @contextlib.contextmanager
    def opening(width=1100, **settings):
        context = browser.new_context(viewport={"width": width, "height": 800}, **settings)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        troubles = []
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("requestfailed", lambda request: troubles.append(request.url))
        page.on("request", lambda request: troubles.append(request.url) if _outside(request.url, file) else None)
        page.goto(file.as_uri())
        yield page
        assert troubles == []
        context.close()

    return opening


def _outside(url, file):
    return url != file.as_uri() and not url.startswith(("data:", "blob:"))


def test_every_plot_has_marks_and_a_name(opened):
    with opened() as page:
        plots = page.locator(".plot")
        assert plots.count() >= 8
        for number in range(plots.count()):
            plot = plots.nth(number)
            assert plot.get_attribute("role") == "img"
            assert len(plot.get_attribute("aria-label")) > 20
            assert plot.locator("svg").count() == 2  # of which one is shown
            assert plot.locator(".wide svg title").count() > 0  # marks that say what they stand for
            box = plot.locator("svg:visible").bounding_box()
            assert box["width"] > 500
            assert box["height"] > 120


def test_tables_sort_by_mouse_and_by_keyboard(opened):
    with opened() as page:
        table = page.locator("table", has=page.locator("th", has_text="of the risk")).first
        button = table.locator("th button", has_text="wrong answers of one fault")

        def column():
            cells = table.locator("tbody tr td:nth-child(4)").all_inner_texts()
            return [float(cell.split()[0]) for cell in cells if cell != "-"], cells

        button.click()
        descending, cells = column()
        assert descending == sorted(descending, reverse=True)
        assert cells == sorted(cells, key=lambda cell: cell == "-")  # unknown figures stay at the end
        assert table.locator("th[aria-sort=descending]").count() == 1
        button.focus()
        page.keyboard.press("Enter")
        assert column()[0] == sorted(descending)
        assert table.locator("th[aria-sort=ascending]").inner_text().startswith("wrong answers of one fault")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.tagName") == "BUTTON"


def test_rates_sort_as_numbers(opened):
    with opened() as page:
        table = page.locator("table", has=page.locator("th", has_text="expected, at a bit error rate of")).first
        table.locator("th button", has_text="expected, at a bit error rate of").click()
        rates = [float(text) for text in table.locator("tbody th").all_inner_texts()]
        assert rates == sorted(rates, reverse=True)


def test_a_phone_needs_no_scrolling_sideways(opened):
    with opened(width=360) as page:
        wide, shown = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= shown == 360
        inner = page.eval_on_selector_all(".scroll", "parts => parts.map(p => p.scrollWidth - p.clientWidth)")
        assert max(inner) <= 0
        for plot in page.locator(".plot").all():
            lines = [line.bounding_box() for line in plot.locator(".narrow .grid").all()]
            across = [line["width"] for line in lines] or [plot.locator("svg:visible").bounding_box()["width"]]
            assert max(across) > 120  # labels leave room for the data
            sizes = plot.locator(".narrow text").evaluate_all("all => all.map(t => t.getBoundingClientRect().height)")
            assert min(sizes) > 7


CONTRAST = """
() => {
  const parse = text => {
    const n = text.match(/[\\d.]+/g).map(Number);
    return n.length > 3 && n[3] === 0 ? null : n.slice(0, 3);
  };
  const light = c => c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => { for (let n = node; n; n = n.parentElement) {
    const found = parse(getComputedStyle(n).backgroundColor); if (found) return found; } return [255, 255, 255]; };
  const ratio = (a, b) => {
    const [h, l] = [light(a), light(b)].sort((x, y) => y - x);
    return (h + 0.05) / (l + 0.05);
  };
  const found = [];
  for (const node of document.querySelectorAll('h1, h2, p, li, a, th, td, button, summary')) {
    const words = node.textContent.trim();
    if (words) found.push([ratio(parse(getComputedStyle(node).color), behind(node)), words]);
  }
  for (const node of document.querySelectorAll('.plot svg text')) {
    const words = node.textContent.trim();
    if (!words) continue;
    found.push([ratio(parse(getComputedStyle(node).fill), behind(node.closest('.plot'))), words]);
  }
  return found;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_words_are_legible(opened, scheme):
    with opened(color_scheme=scheme) as page:
        found = page.evaluate(CONTRAST)
        assert len(found) > 200
        assert [words for ratio, words in found if ratio < 4.5] == []  # WCAG 2.1, 1.4.3
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", background))) < 60) == (scheme == "dark")


def test_a_change_of_scheme_recolours_the_plots(opened):
    with opened(color_scheme="light") as page:
        read = "getComputedStyle(document.querySelector('.plot svg text')).fill"
        light = page.evaluate(read)
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(read) != light


def test_paper_is_light_and_shows_what_is_folded(opened):
    with opened(color_scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("document.querySelectorAll('details[open]').length") == 0
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
        page.evaluate("window.dispatchEvent(new Event('afterprint'))")
        assert page.evaluate("document.querySelectorAll('details[open]').length") == 0
        assert page.pdf(format="A4").startswith(b"%PDF")


def test_every_section_has_a_heading_and_every_entry_of_the_contents_a_section(opened):
    with opened() as page:
        links = page.eval_on_selector_all("nav a", "links => links.map(a => a.getAttribute('href'))")
        assert len(links) == page.locator("section h2").count() > 8
        assert all(page.locator(link).count() == 1 for link in links)
        assert page.locator("table:not([aria-labelledby])").count() == 0
