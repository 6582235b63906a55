import numpy as np
import pytest

from resq_deploy.campaign.fault_list import read_fault_list
from resq_deploy.deployed.surfaces import Role, Surface
from resq_deploy.errors import InputError
from resq_deploy.faults.fault import Op

SURFACES = (
    Surface(tensor="w", role=Role.WEIGHT, layer="conv", dtype="int8", shape=(2, 3), width=8),
    Surface(tensor="b", role=Role.BIAS, layer="conv", dtype="int32", shape=(2,), width=32),
)


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "faults.csv"
        path.write_text(text)
        return read_fault_list(path, SURFACES)

    return read


def test_every_row_is_a_fault_of_its_own(read):
    labels, faults, _ = read("tensor,index,bit\nw,5,7\nb,1,31\n")
    assert labels == ["0", "1"]
    assert [(f.edits[0].tensor, f.edits[0].index.tolist(), f.edits[0].bit.tolist()) for f in faults] == [
        ("w", [5], [7]),
        ("b", [1], [31]),
    ]
    assert {f.edits[0].op for f in faults} == {Op.FLIP}


def test_rows_that_share_a_fault_are_applied_together_and_other_columns_are_ignored(read):
    labels, faults, _ = read("fault,tensor,index,bit,colour\nx,w,0,1,red\ny,w,2,2,red\nx,w,1,3,blue\nx,b,0,0,\n")
    assert labels == ["x", "y"]
    first = faults[0].edits
    assert [(e.tensor, e.index.tolist(), e.bit.tolist()) for e in first] == [("w", [0, 1], [1, 3]), ("b", [0], [0])]


def test_operations_and_values(read):
    _, faults, _ = read("tensor,index,bit,op,value\nw,0,1,set1,\nw,1,1,set0,\nb,1,0,word,4294967295\n")
    assert [f.edits[0].op for f in faults] == [Op.SET1, Op.SET0, Op.WORD]
    assert faults[2].edits[0].value == np.array([4294967295], dtype=np.uint64)


def test_the_digest_is_that_of_the_file(read):
    assert read("tensor,index,bit\nw,0,0\n")[2] != read("tensor,index,bit\nw,0,1\n")[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("tensor,index,bit\nw,0,0\nv,0,0\n", "row 3: the model stores no tensor 'v'", id="unknown-tensor"),
        pytest.param("tensor,index,bit\nw,6,0\n", "row 2: index 6 of 'w' is out of range", id="index"),
        pytest.param("tensor,index,bit\nw,-1,0\n", "row 2: index -1 of 'w' is out of range", id="negative-index"),
        pytest.param("tensor,index,bit\nw,0,8\n", "row 2: bit 8 of 'w' is out of range", id="bit"),
        pytest.param("tensor,index,bit\nw,0,x\n", "row 2: bit 'x' is not a whole number", id="not-a-number"),
        pytest.param("tensor,index,bit\nw,0\n", "row 2: bit None is not a whole number", id="short-row"),
        pytest.param("tensor,index,bit\nw,0,0\nb,0,0\nw,0,0\n", "row 4 repeats row 2", id="duplicate"),
        pytest.param("fault,tensor,index,bit\n1,w,0,0\n1,w,0,0\n", "row 3 repeats row 2", id="duplicate-in-a-fault"),
        pytest.param(
            "fault,tensor,index,bit,op,value\n1,w,0,3,flip,\n1,w,0,0,word,1\n",
            "row 3 repeats row 2",
            id="word-over-flip",
        ),
        pytest.param("tensor,index,bit,op\nw,0,0,melt\n", "row 2: unknown op 'melt'", id="op"),
        pytest.param("tensor,index,bit,op\nw,0,0,word\n", "row 2: value None is not", id="word-without-value"),
        pytest.param("tensor,index,bit,op,value\nw,0,0,word,256\n", "row 2: value 256", id="word-too-large"),
        pytest.param("tensor,position,bit\nw,0,0\n", "has no column 'index'", id="header"),
        pytest.param("fault,ber,chip,flips,mask\n0,0.1,100,3,ab\n", "has no column 'tensor'", id="table-of-masks"),
        pytest.param("tensor,index,bit\n", "has no rows", id="no-rows"),
        pytest.param("", "has no column 'tensor'", id="empty"),
        pytest.param('tensor,index,bit\n"w,0,0\n', "no CSV file", id="open-quote"),
    ],
)
def test_a_malformed_list_is_one_line_that_names_the_row(read, text, message):
    with pytest.raises(InputError, match="fault list") as raised:
        read(text)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00\x01"], ids=["missing", "not-text"])
def test_an_unreadable_list(tmp_path, content):
    path = tmp_path / "faults.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="cannot read fault list"):
        read_fault_list(path, SURFACES)
