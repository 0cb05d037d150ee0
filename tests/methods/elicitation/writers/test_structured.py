import pytest

from methods.elicitation.writers.structured import check_schema, parse
from methods.errors import MethodError

SCHEMA = {
    "type": "object",
    "properties": {
        "answer": {"type": "integer", "minimum": 0, "maximum": 9},
        "steps": {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": 2},
        "sure": {"type": ["boolean", "null"]},
        "kind": {"enum": ["sum", 1]},
        "either": {"anyOf": [{"type": "string"}, {"type": "number", "minimum": 5}]},
    },
    "required": ["answer"],
    "additionalProperties": False,
}
RIGHT = [
    '{"answer": 4}', ' {"answer": 4.0, "sure": null}\n', '```json\n{"answer": 0}\n```', '```\n{"answer": 9}\n```',
    '{"answer": 1, "steps": ["a", "b"], "kind": 1, "either": 5}',
]  # fmt: skip
WRONG = {
    '{"answer": 4': "not JSON", "": "not JSON", '{"answer": NaN}': "NaN is no JSON", "[" * 5000: "not JSON",
    "[]": "is not of type object", "{}": '"answer" is missing', '{"answer": "4"}': "answer.answer: ",
    '{"answer": true}': "not of type integer", '{"answer": 4.5}': "not of type integer",
    '{"answer": -1}': "less than 0", '{"answer": 10}': "more than 9", '{"answer": 1, "more": 1}': "does not belong",
    '{"answer": 1, "steps": []}': "fewer than 1", '{"answer": 1, "steps": ["a", "b", "c"]}': "more than 2",
    '{"answer": 1, "steps": ["a", ""]}': r"answer.steps\[1\]: 0 characters", '{"answer": 1, "sure": 0}': "boolean or",
    '{"answer": 1, "kind": true}': "none of", '{"answer": 1, "either": 4}': "none of what is allowed",
    'Sure! {"answer": 4}': "not JSON", '```json\n{"answer": 1}\n``` ok': "not JSON",
}  # fmt: skip


@pytest.mark.parametrize("text", RIGHT)
def test_what_a_schema_allows(text):
    check_schema(SCHEMA)
    assert isinstance(parse(text, SCHEMA)["answer"], int | float)


@pytest.mark.parametrize("text", WRONG)
def test_what_it_does_not(text):
    with pytest.raises(MethodError, match=WRONG[text]):
        parse(text, SCHEMA)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "strin"}, 'no type "strin" .did you mean "string"'),
        ({"type": "string", "pattern": "a"}, '"pattern" is not checked here'),
        (
            {"properties": {"a": {"typ": "string"}}},
            'schema.a: "typ" is not checked here .did you mean "type"',
        ),
        ({"required": ["a"]}, '"a" is required and not among'),
        ({"items": {"format": "date"}}, "schema.items"),
        ("string", "a mapping such as"),
    ],
)
def test_a_rule_that_would_not_be_checked_is_refused(schema, why):
    with pytest.raises(MethodError, match=why):
        check_schema(schema)
