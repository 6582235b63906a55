import json
import re

import pytest

from resq_deploy.report.build import document, gather
from resq_deploy.report.demo import demo_page, demo_table
from resq_deploy.report.document import Bullets, Document, Dots, HeatMap, Lines, Notice, Section, Series, Table
from resq_deploy.report.figures import PALETTE, as_json, draw
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


def plots(page):
    found = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page)]
    return [figure for figure in found if "data" in figure]


def without_plotly(page):
    return page.split("<script>/**")[0] if "<script>/**" in page else page.split("<script>")[0]


def test_a_page_asks_no_host_for_anything(summary, everything):
    for page in (demo_page(summary), render(document(gather(everything)))):
        own = without_plotly(page)
        assert not re.search(r"src\s*=|@import|url\(|https?://", own)
        assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', own))
        assert "default-src 'none'" in own
        assert len(page) < 8e6


def test_the_demo_page_draws_all_files_with_their_intervals(summary):
    attack, errors, ladder = plots(demo_page(summary))
    for figure, points in ((attack, 3), (errors, 2)):
        drawn = [trace for trace in figure["data"] if trace.get("mode") == "lines+markers"]
        bands = [trace for trace in figure["data"] if trace.get("fill") == "toself"]
        assert [trace["name"] for trace in drawn] == ["baseline", "hardened (RESQ)", "hardened and protected"]
        assert all(len(trace["x"]) == points for trace in drawn)
        assert all(len(trace["x"]) == 2 * points for trace in bands)
        assert drawn[0]["line"]["dash"] != drawn[1]["line"]["dash"]
    assert errors["layout"]["xaxis"]["type"] == "log"
    assert all(len(trace["error_x"]["array"]) == 3 for trace in ladder["data"])


@pytest.mark.parametrize(
    ("rates", "ticks"), [([3e-3, 8.5e-3, 1e-2], ["3e-3", "8.5e-3", "1e-2"]), ([1e-6, 1e-2], None), ([], None)]
)
def test_a_logarithmic_axis_of_few_decades_names_the_positions_drawn(rates, ticks):
    series = [Series(name=NAME, x=rates, estimates=[estimate(0.5) for _ in rates])]
    axis = draw(Lines(series=series, x_title="x", y_title="y", description="", log_x=True)).layout.xaxis
    assert axis.ticktext == (tuple(ticks) if ticks else None)
    assert axis.dtick == (None if ticks else 1)


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
    assert len(page) < 20_000  # nothing to draw: plotly is left out


NAME = "</script><b>"


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
def test_a_figure_cannot_close_its_script_element(plot):
    text = as_json(draw(plot))
    assert "</script>" not in text
    assert "</script><b>" in json.dumps(json.loads(text))


def test_zeros_stand_open_at_the_edge_of_a_logarithmic_axis():
    none = {"value": 0.0, "low": 0.0, "high": 0.02, "n": 50, "confidence": 0.95}
    series = [Series(name="a", estimates=[estimate(0.05, 0.01), none, None])]
    plot = Dots(rows=["x", "y", "z"], series=series, x_title="share", description="", log_x=True)
    (trace,) = draw(plot).to_plotly_json()["data"]
    assert list(trace["marker"]["symbol"]) == ["circle", "circle-open"]
    assert trace["x"][1] == pytest.approx(1.0)  # per cent: the decade below the least figure seen, 4 %
    assert trace["x"][1] + trace["error_x"]["array"][1] == pytest.approx(2.0)
    assert list(trace["error_x"]["arrayminus"]) == pytest.approx([1.0, 0.0])


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
    (trace,) = draw(heat).to_plotly_json()["data"]
    assert [row[0] for row in trace["z"]] == [1.0, None, 1.0]
    assert "10 %, n = 5" in trace["text"][0][0]


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("paper", ["#ffffff", "#14181d"])
@pytest.mark.parametrize("colour", PALETTE)
def test_every_colour_stands_out_on_both_backgrounds(colour, paper):
    high, low = sorted((luminance(colour), luminance(paper)), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 3  # WCAG 2.1, 1.4.11: graphical objects
