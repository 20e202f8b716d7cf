import pytest

from wasi.report.wrapping import pieces, wrapped


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("wasi 0.8", ["wasi 0.8"]),
        ("wasi 0.8, lr=0.05", ["wasi 0.8, lr=0.05"]),
        ("vanilla, lr=0.05, momentum=0", ["vanilla, lr=0.05,", "momentum=0"]),
        ("momentum=0, gradient_checkpointing=false", ["momentum=0,", "gradient_", "checkpointing=", "false"]),
        ("a_word_of_many_parts_and_no_space", ["a_word_of_many_", "parts_and_no_space"]),
        ("x" * 20, ["x" * 18, "xx"]),
    ],
)
def test_lines_break_between_words_then_behind_separators_and_last_anywhere(name, lines):
    assert wrapped(name, 18).split("\n") == lines


@pytest.mark.parametrize("name", ["a_b, c=d/e", "__a", "a  b", ""])
def test_pieces_are_the_whole_name(name):
    assert "".join(pieces(name)) == name
