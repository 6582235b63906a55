"""What onnxruntime says is kept in one line, without what is its own."""

import pytest

from resq_deploy.deployed.runtime_errors import first_line


@pytest.mark.parametrize(
    ("text", "line"),
    [("", "ValueError"), ("\n one\ntwo", "one"), ("x" * 400, "x" * 297 + "...")],
    ids=["empty", "several-lines", "long"],
)
def test_the_first_line_of_an_error(text, line):
    assert first_line(ValueError(text)) == line


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (
            "[ONNXRuntimeError] : 10 : INVALID_GRAPH : This is an invalid model. Error",
            "This is an invalid model. Error",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Add node. Name:'a' Status "
            "Message: /src/op.h:3 onnxruntime::Add::Add(const T&, bool) a == b was false. Sizes differ",
            "Add node 'a': a == b was false. Sizes differ",
        ),
        ("\n  something else (of /a/file:3 f() here)\nand more", "something else (of /a/file:3 f() here)"),
        ("", "ValueError"),
    ],
)
def test_a_message_is_what_it_says(said, kept):
    assert first_line(ValueError(said)) == kept
