import json
import re

import pytest

from resq_deploy.report.demo import demo_page, demo_table
from resq_deploy.report.figures import Series, as_json, bars, lines
from resq_deploy.report.page import Section, Table, render


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
        "test_images": 100,
        "attack_steps": 10,
        "fault_images": 50,
        "files": {"baseline": file_summary(0.61), "resq": file_summary(0.87)},
    }


def plots(page):
    return [json.loads(text) for text in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page)]


def test_the_demo_page_asks_no_host_for_anything(summary):
    page = demo_page(summary)
    own = page.split("<script>")[0]  # what follows is plotly itself
    assert not re.search(r"(src|href)\s*=|@import|url\(|https?://", own)
    assert "default-src 'none'" in own
    assert len(page) < 8e6


def test_the_demo_page_draws_both_files_with_their_intervals(summary):
    attack, errors, ladder = plots(demo_page(summary))
    for figure, points in ((attack, 3), (errors, 2)):
        drawn = [trace for trace in figure["data"] if trace.get("mode") == "lines+markers"]
        bands = [trace for trace in figure["data"] if trace.get("fill") == "toself"]
        assert [trace["name"] for trace in drawn] == ["baseline", "hardened (RESQ)"]
        assert all(len(trace["x"]) == points for trace in drawn)
        assert all(len(trace["x"]) == 2 * points for trace in bands)
        assert drawn[0]["line"]["dash"] != drawn[1]["line"]["dash"]
    assert errors["layout"]["xaxis"]["type"] == "log"
    assert all(len(trace["error_y"]["array"]) == 3 for trace in ladder["data"])


def test_the_demo_table_names_every_figure(summary):
    table = demo_table(summary)
    assert table.headers == ("figure", "baseline", "hardened (RESQ)")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["clean accuracy, int8 file"] == ["61.0 % [59.0, 63.0]", "87.0 % [85.0, 89.0]"]
    assert rows["PGD 4/255, on the int8 file"][1] == "82.0 % [80.0, 84.0]"
    assert "bit error rate 0.01, weights" in rows


def test_text_is_escaped():
    table = Table(headers=("<b>",), rows=[["<script>alert(1)</script>"]])
    page = render("a < b", "<lead>", [Section(title="<t>", text=("<p>",), table=table)])
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "plotly" not in page.lower()  # nothing to draw, nothing to carry


def test_a_figure_cannot_close_its_script_element():
    series = Series(name="</script><b>", x=[1.0], estimates=[estimate(0.5)])
    for figure in (lines([series], x_title="x", y_title="y"), bars(["a"], [series], y_title="y")):
        assert "</script>" not in as_json(figure)
        assert json.loads(as_json(figure))["data"][-1]["name"] == "</script><b>"
