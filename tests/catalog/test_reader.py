"""The strict YAML reader: plain data with lines, and one message for everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.errors import CatalogError
from catalog.reader import MAX_BYTES, nearest, read_yaml, read_yaml_with_lines


@pytest.fixture
def write(tmp_path: Path):
    def write(content: str | bytes) -> Path:
        path = tmp_path / "file.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_plain_data_follows_yaml_1_2(write):
    path = write(
        "text: yes\nday: 2023-06-14\ncode: 010\ntime: 12:30\nflag: true\nnone: ~\nempty:\n"
        "int: -7\nfloat: 1e3\nquoted: '5'\nlist: [a, {b: 0.5}]\nblock: |\n  one\n  two\n"
    )
    assert read_yaml(path) == {
        "text": "yes",
        "day": "2023-06-14",
        "code": "010",
        "time": "12:30",
        "flag": True,
        "none": None,
        "empty": None,
        "int": -7,
        "float": 1000.0,
        "quoted": "5",
        "list": ["a", {"b": 0.5}],
        "block": "one\ntwo\n",
    }


def test_lines_of_values_and_of_what_is_missing(write):
    _, lines = read_yaml_with_lines(write("# a comment\nclaims:\n  - id: one\n    metric: x\n  - id: two\n"))
    assert lines.at("claims") == 2
    assert lines.at("claims", 0, "metric") == 4
    assert lines.at("claims", 1) == 5
    assert lines.at("claims", 1, "metric") == 5  # missing: the item that lacks it
    assert lines.at("nothing") == 2  # missing at the top: where the mapping starts


def test_windows_line_ends_are_read(write):
    assert read_yaml(write("a: 1\r\nb: 2\r\n")) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, '"a" stands twice, first on line 1'),
        ("a:\n  b: 1\n  b: 2\n", 3, '"b" stands twice'),
        ("a: &anchor 1\n", 1, "anchor"),
        ("a: 1\nb: *anchor\n", 2, "alias"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "tag"),
        ("a: !custom 1\n", 1, "tag"),
        ("a: !!str 1\n", 1, "tag"),
        ("<<: {a: 1}\n", 1, "merge"),
        ("a: 1\nb:\t2\n", 2, "tab"),
        ('a: "x\\ty"\n', 1, "U+0009"),
        (b"a: 1\nb: \xff\n", 2, "not UTF-8"),
        ("\ufeffa: 1\n", 1, "U+FEFF"),
        ("a: 1\nb: x\u202ey\n", 2, "U+202E"),
        ("a: x\u200by\n", 1, "U+200B"),
        ('a: "x\\u202ey"\n', 1, "U+202E"),
        ('a: "\\x07"\n', 1, "U+0007"),
        ("a: \x07\n", 1, "U+0007"),
        ("a: 1\n2: b\n", 2, 'the name "2" is not text'),
        ("? [a, b]\n: c\n", 1, "not plain text"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("- a\n- b\n", 1, "must be a mapping"),
        ("just text\n", 1, "must be a mapping"),
        ("a: [1, 2\n", 2, "not YAML"),
        ("a: 'open\n", 1, "not YAML"),
        ("a: 1e999\n", 1, "too large"),
        ("a: " + "[" * 5000 + "]" * 5000 + "\n", 1, "nested deeper"),
    ],
)
def test_what_is_not_plain_data_is_refused_with_its_line(write, content, line, what):
    path = write(content)
    with pytest.raises(CatalogError) as raised:
        read_yaml(path)
    assert what in str(raised.value)
    assert str(raised.value).startswith(f"{path}:")
    assert abs(raised.value.line - line) <= (1 if "not YAML" in what else 0)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["", "# only a comment\n", "\n\n"])
def test_an_empty_file_is_said_to_be_empty(write, content):
    with pytest.raises(CatalogError, match="nothing in the file"):
        read_yaml(write(content))


def test_files_that_are_no_files_or_too_large(tmp_path, write):
    with pytest.raises(CatalogError, match="no such file"):
        read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(CatalogError, match="not a file"):
        read_yaml(tmp_path)
    with pytest.raises(CatalogError, match="not a file"):
        read_yaml("/dev/zero")
    with pytest.raises(CatalogError, match="at most"):
        read_yaml(write("a: " + "x" * MAX_BYTES))


def test_nearest_forgives_case_and_typos_and_stays_silent_otherwise():
    assert nearest("MinLLM", ["minillm", "gkd"]) == ' (did you mean "minillm"?)'
    assert nearest("minilm", ["miniplm", "minillm"]) == nearest("minilm", ["minillm", "miniplm"])
    assert nearest("minilm", ["miniplm", "minillm"]) == ' (did you mean "minillm"?)'
    assert nearest("zzz", ["minillm", "gkd"]) == ""
    assert nearest("x" * 100_000, ["minillm"]) == ""


def test_the_python_parser_reads_the_same(write, monkeypatch):
    import yaml

    path = write("a: [1, {b: 'c'}]\nd: |\n  text\n")
    fast = read_yaml(path)
    monkeypatch.setattr("catalog.reader._Loader", yaml.SafeLoader)
    assert read_yaml(path) == fast
    with pytest.raises(CatalogError, match="anchor"):
        read_yaml(write("a: &x 1\n"))


@pytest.mark.parametrize("content", ["&x a: 1\n", "!!str a: 1\n", "*x : 1\n", '"a\\u200bb": 1\n'])
def test_names_are_as_plain_as_values(write, content):
    with pytest.raises(CatalogError):
        read_yaml(write(content))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=80),
        st.text(st.characters(codec="utf-8"), max_size=80).map(str.encode),
        st.text("ab:-[]{},&*!|>'\"%@`#?~<.1e \n", max_size=60).map(str.encode),
    )
)
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_line(tmp_path, content):
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    try:
        assert isinstance(read_yaml(path), dict)
    except CatalogError as error:
        assert "\n" not in str(error)
