"""The data of `kd distill`: every kind of file, what is wrong with rows, and where the config or the row stands."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from datasets import Dataset, DatasetDict

from catalog.errors import CatalogError
from catalog.reader import read_yaml_with_lines
from reproductions.distill.config import load_config
from reproductions.distill.data.files import read_table
from reproductions.distill.data.lengths import lengths_of, lines_of
from reproductions.distill.data.rows import Held, Limits, read_rows
from reproductions.distill.data.shapes import texts_of
from reproductions.distill.data.spec import DataSpec, read_spec
from reproductions.distill.record import summary
from reproductions.engine.errors import KDError
from tests.methods.conftest import letter_tokenizer

from .conftest import WORDS, config_of, made

ROWS = [{"prompt": f"{word}|", "completion": word[::-1]} for word in WORDS]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
LIMITS = Limits(12, 12)


def rows_of(path, **parts):
    return read_rows(DataSpec(path, **parts), letter_tokenizer(), LIMITS)


def write_csv(path, head="prompt,completion"):
    path.write_text(head + "\n" + "".join(f"{row['prompt']},{row['completion']}\n" for row in ROWS))


def written(folder, kind):
    """The eight rows in one kind of file or folder."""
    path = folder / f"rows.{kind}"
    match kind:
        case "jsonl" | "ndjson":
            path.write_text(LINES)
        case "bom.jsonl":
            path.write_bytes(b"\xef\xbb\xbf" + LINES.encode())
        case "crlf.jsonl":
            path.write_bytes(LINES.replace("\n", "\r\n").encode())
        case "utf16.jsonl":
            path.write_bytes(LINES.encode("utf-16"))
        case "jsonl.gz":
            path.write_bytes(gzip.compress(LINES.encode()))
        case "json":
            path.write_text(json.dumps(ROWS, indent=2))
        case "csv":
            write_csv(path)
        case "tsv":
            path.write_text(
                "prompt\tcompletion\n" + "".join(f"{r['prompt']}\t{r['completion']}\n" for r in ROWS)
            )
        case "parquet":
            parquet.write_table(pa.Table.from_pylist(ROWS), path)
        case "saved":
            Dataset.from_list(ROWS).save_to_disk(path)
        case "splits":
            DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:1])}).save_to_disk(
                path
            )
        case "folder":
            path.mkdir()
            for number in range(2):
                (path / f"train-{number}-of-2.jsonl").write_text("".join(LINES.splitlines(True)[number::2]))
            (path / "test.jsonl").write_text(LINES)
            (path / "README.md").write_text("not data")
    return path


@pytest.mark.parametrize(
    "kind",
    ["jsonl", "ndjson", "bom.jsonl", "crlf.jsonl", "utf16.jsonl", "jsonl.gz", "json", "csv", "tsv", "parquet"]
    + ["saved", "splits", "folder"],
)
def test_one_set_of_rows_in_every_kind_of_file(tmp_path, kind):
    path = written(tmp_path, kind)
    found = rows_of(path)
    assert sorted(map(tuple, (row.values() for row in found.train))) == sorted(
        map(tuple, (r.values() for r in ROWS))
    )
    assert found.counts == {"read": 8, "too_long": 0, "held_out": 0}
    told = {"bom.jsonl": {"byte-order marks": 1}, "utf16.jsonl": {"byte-order marks": 1}}
    told["crlf.jsonl"] = {"lines that end with CR LF": 8}
    assert found.told == told.get(kind, {})


def test_a_data_set_of_the_hub_from_its_mirror(tmp_path, monkeypatch):
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "org" / "name" / "train.jsonl").write_text(LINES)
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path))
    found = read_rows(DataSpec(None, hub="org/name", rows=5), letter_tokenizer(), LIMITS)
    assert found.counts["read"] == 5


def test_a_split_that_is_not_there(tmp_path):
    with pytest.raises(KDError, match=r'no split "tests" \(did you mean "test"\?\); it has train, test'):
        rows_of(written(tmp_path, "splits"), split="tests")
    with pytest.raises(KDError, match='no files of the split "dev": it has test.jsonl, train-0-of-2.jsonl'):
        rows_of(written(tmp_path, "folder"), split="dev")


def test_columns_by_other_names(tmp_path):
    path = tmp_path / "qa.csv"
    write_csv(path, "question,answer")
    assert rows_of(path, columns={"prompt": "question", "completion": "answer"}).train[0] == ROWS[0]
    with pytest.raises(
        KDError, match=r"qa.csv:2: no field prompt, completion.*it has question, answer. `columns:"
    ):
        rows_of(path)
    with pytest.raises(
        KDError, match=r'has no column "answr" \(did you mean "answer"\?\); it has question, answer'
    ):
        rows_of(path, columns={"prompt": "question", "completion": "answr"})
    with pytest.raises(KDError, match=r'nothing reads "promt" \(did you mean "prompt"\?\)'):
        rows_of(path, columns={"promt": "question"})


BAD = {
    '{"prompt": "a|"}': "missing fields",
    '{"prompt": "a|", "completion": null}': "null",
    '{"prompt": "a|", "completion": ""}': "empty answer",
    '{"prompt": "a|", "completion": "  "}': "empty answer",
    '{"prompt": "", "completion": "b"}': "empty prompt",
    '{"prompt": "a|", "completion": 3}': "not text",
    '{"prompt": "a|", "prompt": "b|", "completion": "c"}': "keys given twice",
    '{"prompt": "a|", "completion": "\\ud800"}': "half of a surrogate pair",
    '{"prompt": "a|", "completion"': "not JSON",
    '["a|", "b"]': "no object",
    f'{{"prompt": "a|", "completion": "b", "n": {"9" * 5000}}}': "not JSON",
    f'{{"prompt": "a|", "completion": "b", "n": {"[" * 100_000}': "not JSON",
}


@pytest.mark.parametrize("line", BAD)
def test_a_row_that_cannot_be_read_is_an_error_with_its_line_or_counted(tmp_path, line):
    """Byte-order mark, CR LF and a blank line before it: the line is the file's own."""
    path = tmp_path / "rows.jsonl"
    text = LINES.replace("\n", "\r\n") + "\r\n" + line + "\r\n" + line + "\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode("utf-8", "surrogatepass"))
    with pytest.raises(KDError) as error:
        rows_of(path)
    assert "rows.jsonl:10: " in str(error.value)
    assert f"2 rows cannot be read (2 {BAD[line]}); `bad_rows: skip`" in str(error.value)
    found = rows_of(path, bad_rows="skip")
    assert found.bad == {BAD[line]: 2} and found.counts == {
        "read": 10,
        "too_long": 0,
        "held_out": 0,
        "unreadable": 2,
    }
    assert found.told == {"byte-order marks": 1, "lines that end with CR LF": 11, "blank lines": 1}
    assert len(found.train) == 8


def test_a_table_s_cells(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion\n"a\nb|",c\nd|,e,f\n\n"g""|",h\n')
    with pytest.raises(KDError, match="rows.csv:4: 3 cells under 2 columns"):
        rows_of(path)
    table = read_table(DataSpec(path))
    assert table.places == [f"{path}:{line}" for line in (2, 4, 6)]
    assert table.rows[0] == {"prompt": "a\nb|", "completion": "c"} and table.rows[2]["prompt"] == 'g"|'
    path.write_text("prompt,prompt\na,b\n")
    with pytest.raises(KDError, match=r'rows.csv:1: two columns are called "prompt"'):
        rows_of(path)


def test_what_is_no_data_at_all(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(LINES.encode() + '{"prompt": "\xe9"}'.encode("latin-1"))
    with pytest.raises(KDError, match=r"rows.jsonl:9: not UTF-8 \(byte 0xe9\); save the file as UTF-8"):
        rows_of(path)
    path.write_text("\n")
    with pytest.raises(KDError, match="rows.jsonl: no rows"):
        rows_of(path)
    other = tmp_path / "rows.jsonll"
    other.write_text(LINES)
    with pytest.raises(KDError, match=r'ends with ".jsonll" \(did you mean ".jsonl"\?\)'):
        rows_of(other)
    broken = tmp_path / "rows.parquet"
    broken.write_bytes(b"nonsense")
    with pytest.raises(KDError, match="cannot be read as parquet"):
        rows_of(broken)


def test_numbers_of_a_table_are_numbers_where_a_method_reads_them(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion,pass_rate\na|,b,0.25\nc|,d,often\n")
    spec, parts = DataSpec(path, bad_rows="skip"), {"columns": ["pass_rate"], "values": ["pass_rate"]}
    found = read_rows(spec, letter_tokenizer(), LIMITS, **parts)
    assert found.train["pass_rate"][:] == [0.25] and found.bad == {'"pass_rate" no number': 1}


def test_rows_of_an_array_with_a_key_twice_are_counted_too(tmp_path):
    """Python takes the last one without a word."""
    path = tmp_path / "rows.json"
    twice = '{"messages": [{"role": "user", "role": "system"}], "prompt": "a|", "completion": "b"}'
    path.write_text(f"[{json.dumps(ROWS[0])},\n{twice}]")
    with pytest.raises(KDError, match=r'rows.json: row 2: the key "role" is given twice'):
        rows_of(path)
    assert rows_of(path, bad_rows="skip").bad == {"keys given twice": 1}
    for wrong, why in (
        (f"[{'9' * 5000}]", "not JSON that can be read"),
        ('[{"a": 1}\n, {]', "rows.json:2: not JSON"),
    ):
        path.write_text(wrong)
        with pytest.raises(KDError, match=why):
            rows_of(path)


def test_a_compressed_file_that_is_spoiled_is_a_sentence(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    whole = gzip.compress(LINES.encode())
    for spoiled in (whole[:-9], whole[:12] + b"\xff" * 20 + whole[32:], b"plain"):
        path.write_bytes(spoiled)
        with pytest.raises(KDError, match=r"rows.jsonl.gz: cannot be read: "):
            rows_of(path)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("pipe.jsonl", "is neither a file nor a folder"),
        ("~nobody-of-that-name/rows.jsonl", "is no place: "),
        ("loop.jsonl", "is no place: Symlink loop"),
        ("n" * 300, "is no place: File name too long"),
    ],
)
def test_a_place_that_cannot_be_read_is_told_with_its_line(tmp_path, place, message):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    config = tmp_path / "run.yaml"
    config.write_text(f"rows: 3\ndata:\n  from: {place}\n")
    with pytest.raises(CatalogError, match=r"run.yaml:3: ") as error:
        read_spec(*read_yaml_with_lines(config), "data")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_lengths_are_told_with_what_a_limit_leaves_out():
    found = lengths_of([(2, 3), (4, 13), (20, 2), (3, 3)], 12, 12)
    assert found["prompt"]["quantiles"] == {"50%": 3, "90%": 20, "99%": 20, "100%": 20}
    assert found["completion"] == {
        "quantiles": {"50%": 3, "90%": 13, "99%": 13, "100%": 13},
        "limit": 12,
        "rows_over": 1,
        "most_over": 1,
    }
    assert found["tokens"] == 50 and found["tokens_left_out"] == 39
    assert "limit 12: 1 are longer, by up to 8" in lines_of(found)[0]
    assert lines_of(found)[-1] == "left out as too long: 39 tokens, 78.0% of all"


def test_rows_of_an_evaluation_are_drawn_before_all_others_and_never_trained_on(tmp_path):
    path = written(tmp_path, "jsonl")
    path.write_text(LINES * 2)  # each row twice
    parts = {"held": Held(3), "validate": True}
    found = read_rows(DataSpec(path), letter_tokenizer(), LIMITS, **parts)
    other = read_rows(DataSpec(path), letter_tokenizer(), LIMITS, held=Held(3))
    sides = [{row["prompt"] for row in part} for part in (found.train, found.validation, found.evaluation)]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert found.evaluation["prompt"][:] == other.evaluation["prompt"][:], "whatever else is held out"
    assert found.counts == {"read": 16, "too_long": 0, "held_out": 2, "evaluated": 4}
    assert sorted(found.clusters) == [0, 0, 1, 1], "equal rows are one draw"
    assert found.told == {"rows that are equal to one before": 8}


def test_rows_of_an_evaluation_from_a_file_of_its_own(tmp_path):
    path, own = written(tmp_path, "jsonl"), tmp_path / "own.csv"
    own.write_text(
        "prompt,completion\nq|,r\n" + f"{ROWS[0]['prompt']},{ROWS[0]['completion']}\n{'a' * 13}|,b\nab|,c\n"
    )
    found = read_rows(DataSpec(path), letter_tokenizer(), LIMITS, held=Held(64, DataSpec(own)))
    assert len(found.evaluation) == 3 and len(found.train) == 7
    assert found.counts["equal_to_evaluated"] == 1 and found.counts["evaluation_left_out"] == 1


def test_a_prompt_that_is_trained_on_and_evaluated_is_told(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": "a|", "completion": letter}) + "\n" for letter in "abcd"))
    found = read_rows(DataSpec(path), letter_tokenizer(), LIMITS, held=Held(2))
    assert found.told == {"rows to train on that ask what a row of the evaluation asks": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {from: data.jsonl, colums: {}}", ':1: data: unknown "colums" (did you mean "columns"?)'),
        ("data: dta.jsonl", 'dta.jsonl (did you mean "data.jsonl"?)'),
        ("data: org/name", "for a data set of the hub say hub:org/name"),
        ("data:\n  from: data.jsonl\n  turns: lst", ':3: data: turns "lst" (did you mean "last"?)'),
        ("data: {split: train}", '"from" is a file, a folder or hub:ORG/NAME'),
        ("data: {from: data.jsonl, rows: 0}", '"rows" must be a whole number of 1 or more'),
        ("data: {from: data.jsonl, columns: [a]}", '"columns" is a mapping'),
        ("data: {from: data.jsonl, chat_template: no.jinja}", 'chat_template": no file'),
    ],
)
def test_mistakes_in_the_config_s_data_have_their_line(tmp_path, text, message):
    (tmp_path / "data.jsonl").write_text(LINES)
    path = tmp_path / "run.yaml"
    path.write_text(text + "\n")
    with pytest.raises(CatalogError) as error:
        read_spec(*read_yaml_with_lines(path), "data")
    assert message in str(error.value) and "run.yaml:" in str(error.value)


def test_data_by_a_mapping_are_distilled_and_told(folder):
    text = "".join(f"{row['prompt']},{row['completion']},{n}\n" for n, row in enumerate(ROWS))
    (folder / "qa.csv").write_bytes(b"\xef\xbb\xbf" + f"question,answer,number\n{text},,9\n".encode())
    path = config_of(folder, "sft", teacher=None)
    mapping = "{from: qa.csv, columns: {prompt: question, completion: answer}, bad_rows: skip}"
    path.write_text(path.read_text().replace("data: data.jsonl", f"data: {mapping}"))
    record = made(path)
    assert record["rows"] == {"read": 9, "too_long": 0, "held_out": 0, "unreadable": 1, "trained_on": 8}
    assert record["bad_rows"] == {"empty prompt": 1} and record["told"] == {"byte-order marks": 1}
    told = summary(record)
    assert "unreadable: 1 empty prompt" in told and "in the data: 1 byte-order marks" in told
    assert "fields of the data that nothing reads: number" in told
    path.write_text(path.read_text().replace("columns: {", "turns: last, columns: {"))
    with pytest.raises(KDError, match=r"what has changed since: data\)"):
        made(path)


def test_a_wrong_column_of_a_config_has_the_config_s_line(folder):
    path = config_of(folder, "sft", teacher=None)
    mapping = "{from: data.jsonl, columns: {prompt: prompts}}"
    path.write_text(path.read_text().replace("data: data.jsonl", f"data: {mapping}"))
    with pytest.raises(CatalogError, match=r'run.yaml:3: columns: .*has no column "prompts" .*"prompt"'):
        made(path)


def test_the_old_hash_holds_where_nothing_new_is_said(folder):
    """A file by its name alone is the same data as ever, so that unfinished work goes on."""
    config = load_config(config_of(folder))
    assert isinstance(config.inputs["data"], str) and len(config.inputs["data"]) == 16
    assert not any("loading" in name or "evaluation" in name for name in config.inputs)


def test_reasons_are_counted_apart(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(LINES + "".join(f"{line}\n" for line in BAD))
    found = texts_of(read_table(DataSpec(path)), DataSpec(path, bad_rows="skip"), letter_tokenizer())
    assert sum(found.bad.values()) == len(BAD) and len(found.rows) == len(ROWS)
