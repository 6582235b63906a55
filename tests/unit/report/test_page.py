import re
import xml.etree.ElementTree as ElementTree

import pytest

from resq_deploy.report import figures
from resq_deploy.report.build import document, gather
from resq_deploy.report.demo import demo_page, demo_table
from resq_deploy.report.document import Bullets, Document, Dots, HeatMap, Lines, Notice, Section, Series, Table
from resq_deploy.report.figures import NARROW, PALETTE, as_svg, draw
from resq_deploy.report.page import render


def estimate(value, spread=0.02, n=100):
    return {"value": value, "low": value - spread, "high": value + spread, "n": n, "confidence": 0.95}


def file_summary(level):
    rates = {name: estimate(level / 2) for name in ("masked", "benign", "sdc1", "sdc10", "sdc20")}
    return {
        "sha256": f"{level:.2f}" * 16,
        "accuracy": {"float": estimate(level), "int8": estimate(level)},
        "pgd": [{"epsilon": e / 255, "float": estimate(level), "int8": estimate(level - 0.05)} for e in (2, 4)],
        "curve": [{"ber": p, "accuracy": estimate(level), "worst": 0.1, "chips": 3} for p in (1e-3, 1e-2)],
        "sdc1": estimate(0.03),
        "single": {"population": {"bits": 1234, "faults": 1234}, "faults": {"evaluated": 7}, "rates": rates},
    }


@pytest.fixture
def summary():
    return {
        "dataset": "digits",
        "network": "resnet8",
        "arithmetic": {"name": "exact", "cpu_saturates": False},
        "test_images": 100,
        "attack_steps": 10,
        "fault_images": 50,
        "files": {"baseline": file_summary(0.61), "resq": file_summary(0.87), "protected": file_summary(0.86)},
    }


def test_a_page_asks_no_host_for_anything_and_can_be_sent_by_mail(summary, everything):
    for page in (demo_page(summary), render(document(gather(everything)))):
        without_namespaces = re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)
        assert not re.search(r"\bsrc\s*=|@import|url\((?!#)|https?://", without_namespaces)
        links = re.findall(r'href="([^"]*)"', page)
        assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
        assert "default-src 'none'" in page
        assert len(page.encode()) < 2e6


def drawn(plot):
    """Return what each mark of a plot says, by the axis it is on."""
    root = ElementTree.fromstring(as_svg(draw(plot)))
    return [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]


def test_every_mark_says_its_figure_and_interval():
    dots = [(1e-3, 0.5), (1e-3, 0.6)]
    series = [Series(name=name, x=[1e-3, 1e-2], estimates=[estimate(0.5), None], dots=dots) for name in ("a", "b")]
    lines = Lines(series=series, x_title="x", y_title="y", description="", log_x=True)
    assert drawn(lines) == ["a, 0.001: 50 % [48, 52], n = 100", "b, 0.001: 50 % [48, 52], n = 100"]
    axes = draw(lines).axes[0]
    styles = {line.get_linestyle() for line in axes.lines if line.get_label() in "ab"}
    assert len(styles) == 2  # told apart without colour
    assert axes.get_xscale() == "log"
    several = Dots(rows=["sdc1"], series=[Series(name="a", estimates=[estimate(0.5)])], x_title="x", description="")
    assert set(drawn(several)) == {"a, sdc1: 50 % [48, 52], n = 100"}


def test_the_same_plot_has_the_same_bytes_and_no_name_twice():
    plot = Dots(rows=["sdc1"], series=[Series(name="a", estimates=[estimate(0.5)])], x_title="x", description="")
    page = as_svg(draw(plot))
    assert page == as_svg(draw(plot))
    names = re.findall(r' id="([^"]*)"', page)
    assert len(names) == len(set(names))
    assert not re.search(r"(figure|axes|patch|line2d|text)_\d", page)  # which every plot of a page would have


@pytest.mark.parametrize(
    ("rates", "ticks"),
    [
        ([3e-3, 8.5e-3, 1e-2], ["3e-3", "8.5e-3", "1e-2"]),
        ([5e-6, 1e-2], ["1e-5", "1e-4", "1e-3", "1e-2"]),
        ([], []),
    ],
)
def test_a_logarithmic_axis_of_few_decades_names_the_positions_drawn(rates, ticks):
    series = [Series(name=NAME, x=rates, estimates=[estimate(0.5) for _ in rates])]
    axis = draw(Lines(series=series, x_title="x", y_title="y", description="", log_x=True)).axes[0].xaxis
    assert [label.get_text() for label in axis.get_ticklabels()] == ticks


def test_the_demo_table_names_every_figure(summary):
    table = demo_table(summary)
    assert table.headers == ("figure", "baseline", "hardened (RESQ)", "hardened and protected")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["clean accuracy, int8 file"] == ["61.0 % [59.0, 63.0]", "87.0 % [85.0, 89.0]", "86.0 % [84.0, 88.0]"]
    assert rows["PGD 4/255, on the int8 file"][1] == "82.0 % [80.0, 84.0]"
    assert "bit error rate 0.01, weights" in rows


def test_text_is_escaped():
    evil = "<script>alert(1)</script>"
    blocks = [
        evil,
        Notice(text=evil),
        Bullets(items=[evil]),
        Table(headers=(evil, "n"), rows=[[evil, evil]], folded=evil),
    ]
    page = render(Document(title=evil, lead=evil, sections=[Section(title=evil, topic=evil, blocks=blocks)]))
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)") >= 11
    assert len(page) < 20_000


NAME = "</svg><b>$x$"


@pytest.mark.parametrize(
    "plot",
    [
        Lines(series=[Series(name=NAME, x=[1.0], estimates=[estimate(0.5)])], x_title="x", y_title="y", description=""),
        Dots(rows=["a"], series=[Series(name=NAME, estimates=[estimate(0.5)])], x_title="x", description=""),
        HeatMap(
            rows=[NAME],
            columns=["0"],
            shares=[[0.1]],
            counts=[[3]],
            x_title="bit",
            scale_title="SDC-1",
            description="",
        ),
    ],
    ids=lambda plot: type(plot).__name__,
)
def test_a_name_is_no_markup_and_no_formula(plot):
    text = as_svg(draw(plot))
    assert text.count("</svg>") == 1
    assert "<b>" not in text
    assert drawn(plot)[0].startswith(NAME)


def test_a_name_that_the_fonts_here_lack_is_no_trouble():
    plot = Dots(rows=["故障"], series=[Series(name="a", estimates=[estimate(0.5)])], x_title="x", description="")
    assert "故障" in as_svg(draw(plot))


def test_zeros_stand_open_at_the_edge_of_a_logarithmic_axis():
    none = {"value": 0.0, "low": 0.0, "high": 0.02, "n": 50, "confidence": 0.95}
    series = [Series(name="a", estimates=[estimate(0.05, 0.01), none, None])]
    plot = Dots(rows=["x", "y", "z"], series=series, x_title="share", description="", log_x=True)
    bars = [line for line in draw(plot).axes[0].lines if len(line.get_xdata()) == 2]
    marks = [line for line in draw(plot).axes[0].lines if len(line.get_xdata()) == 1]
    assert [mark.get_markerfacecolor() == "none" for mark in marks] == [False, True]
    assert marks[1].get_xdata()[0] == pytest.approx(1.0)  # per cent: the decade below the least figure seen, 4 %
    assert list(bars[1].get_xdata()) == pytest.approx([1.0, 2.0])


def test_a_large_heat_map_is_a_picture_and_small(monkeypatch):
    rows = [f"layer {number}" for number in range(10)]
    heat = HeatMap(
        rows=rows,
        columns=[str(bit) for bit in range(32)],
        shares=[[0.1, None] * 16 for _ in rows],
        counts=[[9, 0] * 16 for _ in rows],
        x_title="bit",
        scale_title="SDC-1",
        description="",
    )
    cells = 10 * 16
    assert len(drawn(heat)) == cells
    assert len(as_svg(draw(heat))) < 10_000 + 180 * cells  # of the most cells there may be, a third of the page's 2 MB
    assert len(as_svg(draw(heat, NARROW))) < 10_000
    monkeypatch.setattr(figures, "_MOST_CELLS", cells)
    assert len(as_svg(draw(heat))) < 15_000


def test_a_heat_map_of_one_colour_is_drawn():
    heat = HeatMap(
        rows=["a"], columns=["7"], shares=[[1.0]], counts=[[5]], x_title="bit", scale_title="SDC-1", description=""
    )
    assert drawn(heat) == ["a, bit 7: 100 %, n = 5"]


def test_layers_whose_shortened_names_agree_keep_their_rows():
    names = [f"features.3.0.block.{n}.0.projection.weight" for n in range(3)]
    heat = HeatMap(
        rows=names,
        columns=["7"],
        shares=[[0.1], [None], [0.0]],
        counts=[[5], [0], [9]],
        x_title="bit",
        scale_title="SDC-1",
        description="",
    )
    assert drawn(heat) == [f"{names[0]}, bit 7: 10 %, n = 5", f"{names[2]}, bit 7: 0 %, n = 9"]
    assert len(draw(heat).axes[0].get_yticks()) == 3


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("paper", ["#ffffff", "#14181d"])
@pytest.mark.parametrize("colour", PALETTE)
def test_every_colour_stands_out_on_both_backgrounds(colour, paper):
    high, low = sorted((luminance(colour), luminance(paper)), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 3  # WCAG 2.1, 1.4.11: graphical objects
