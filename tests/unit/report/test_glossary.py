"""Terms: spelt out once, where they are used, and nowhere else."""

from resq_deploy.report.document import Document, Section, Statement, Table, Tone, Verdict
from resq_deploy.report.glossary import TERMS, mark, terms_in, with_glossary
from resq_deploy.report.page import render


def test_terms_are_found_as_words():
    assert set(terms_in(["SDC-1 of 3 faults at 4/255 Linf"])) == {"SDC-1", "fault", "Linf"}
    assert terms_in(["a default, roleplay, APGDs"]) == {"APGD": TERMS["APGD"]}
    assert "SDC-1" not in terms_in(["SDC-10"])


def test_a_term_is_marked_where_it_comes_first():
    seen = set()
    marked = [mark(text, seen, lambda term, _: f"<{term}>") for text in ("two chips", "a chip, a fault", "faults")]
    assert marked == ["two <chips>", "a chip, a <fault>", "faults"]


def test_a_page_spells_out_what_it_uses_and_no_more():
    statement = Statement(about="net.onnx", tone=Tone.SHOWN, label="Shown", text="FIT of 3 [1, 5] & <b>.")
    table = Table(headers=["outcome"], rows=[["masked"]])
    sections = [Section(title="A", blocks=["one FIT", table])]
    plain = Document(title="t", lead="l", sections=sections, verdict=Verdict(statements=[statement]))
    found = with_glossary(plain)
    assert [row[0] for row in found.sections[-1].blocks[0].rows] == ["masked", "FIT"]
    page = render(found)
    assert page.count(f'<abbr title="{TERMS["FIT"]}">') == 1
    assert '<span class="together">[1, 5]</span> &amp; &lt;b&gt;' in page
    alone = Document(title="t", lead="l", sections=[])
    assert with_glossary(alone) is alone
