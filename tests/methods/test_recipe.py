"""Recipes: one canonical form, nothing evaluated, every mistake with its place."""

import json
from pathlib import Path

import pytest

from catalog.reader import read_yaml
from methods.errors import MethodError
from methods.recipe import (
    FOLDER,
    canonical_method,
    columns_in,
    columns_of,
    components_of,
    filled,
    line_of,
    read_recipe,
    readings_of,
    recipe_ids,
    substitute,
    teachers_of,
    variables,
)
from methods.registry import RegistryError


@pytest.mark.parametrize("name", recipe_ids())
def test_every_recipe_is_read_and_is_plain_data(name):
    recipe = read_recipe(name)
    method = canonical_method(recipe.method())
    assert json.loads(json.dumps(method)) == method
    assert recipe.about, "the comment on top says which paper it is"
    assert components_of(method)
    assert (
        read_yaml(FOLDER / f"{name}.yaml")["title"] == recipe.title
    )  # strict YAML: no anchors, tags or tabs


def test_a_divergence_within_a_term_has_one_form():
    one, other = (
        canonical_method({"terms": [{"term": "continuation-units", "divergence": name}]})
        for name in ("forward-kl", "forward_kl")
    )
    assert one == other


def test_the_canonical_form_does_not_depend_on_how_it_is_written():
    short = canonical_method({"terms": [{"divergence": "forward-kl"}]})
    long = {
        "trainer": {"name": "distillation"},
        "teacher": ["main"],
        "data": "testbed.train",
        "gradient_balance": False,
        "terms": [
            {
                "divergence": "forward_kl",
                "weight": 1,
                "temperature": 1.0,
                "target": {"name": "teacher"},
                "sources": [],
            },
            {"term": "next-token", "weight": 0.0},  # a term of weight zero is none
        ],
    }
    assert canonical_method(long) == short
    assert short == {
        "trainer": {"name": "distillation"},
        "data": "train",
        "teachers": ["main"],
        "terms": [{"divergence": "forward-kl"}],
    }


def test_another_divergence_setting_target_or_sampler_is_another_method():
    texts = {
        json.dumps(canonical_method(tree), sort_keys=True)
        for tree in (
            {"terms": [{"divergence": "adaptive-kl"}]},
            {"terms": [{"divergence": "adaptive-kl", "head_mass": 0.9}]},
            {"terms": [{"divergence": "total-variation"}]},
            {"terms": [{"divergence": "adaptive-kl", "target": "average-logits"}]},
            {"terms": [{"divergence": "adaptive-kl"}], "sampler": "on-policy"},
            {"terms": [{"divergence": "adaptive-kl"}], "sampler": {"name": "on-policy", "fraction": 0.5}},
            {"terms": [{"divergence": "adaptive-kl"}], "teacher": "large"},
            {"terms": [{"divergence": "adaptive-kl"}], "data": {"use": "label"}},
            {"terms": [{"divergence": "adaptive-kl"}], "data": {"use": "label", "temperature": 0.5}},
        )
    }
    assert len(texts) == 9


def test_settings_are_looked_up_and_a_null_one_says_nothing():
    assert substitute({"a": "$x", "b": ["$y", 1], "c": "$z"}, {"x": 1, "y": [2], "z": None}) == {
        "a": 1,
        "b": [[2], 1],
    }
    assert variables({"a": "$x", "b": ["$y", {"c": "plain"}]}) == ["x", "y"]
    with pytest.raises(
        RegistryError, match=r'nothing is called "\$stat" \(did you mean "start"\?\)'
    ) as error:
        substitute({"terms": [{"weight": "$stat"}]}, {"start": 1})
    assert error.value.path == ("terms", 0, "weight")


def test_a_null_is_said_where_it_means_something_of_its_own():
    """LUFFY's plain ratio was its shaped one: the null was left out, and the component's default held."""
    tree = {
        "trainer": {
            "name": "policy-optimisation",
            "epsilon": "$x",
            "given_shape": "$x",
            "epsilon_high": "$x",
        },
        "advantage": {"name": "group-reward", "baseline": "$x"},
        "rewards": [{"name": "exact-answer", "after": "$x"}],
        "data": {"use": "label", "of": {"from": "train", "share": "$x"}, "temperature": "$x"},
        "teacher": "$x",
    }
    assert substitute(tree, {"x": None}) == {
        "trainer": {"name": "policy-optimisation", "epsilon": None, "given_shape": None},
        "advantage": {"name": "group-reward"},
        "rewards": [{"name": "exact-answer"}],
        "data": {"use": "label", "of": {"from": "train"}},
    }
    luffy = read_recipe("luffy")
    plain, shaped = (
        canonical_method(luffy.method({"given_shape": shape}))["trainer"] for shape in (None, 0.1)
    )
    assert plain == {**shaped, "given_shape": None} and shaped["epsilon"] is None


@pytest.mark.parametrize(
    ("tree", "message", "path"),
    [
        ({"terms": [{"divergence": "forwrd-kl"}]}, 'did you mean "forward-kl"?', ("terms", 0, "divergence")),
        ({"terms": [{"divergence": "forward-kl", "skw": 1}]}, 'no setting "skw"', ("terms", 0, "skw")),
        (
            {"terms": [{"divergence": "forward-kl", "weight": "x"}]},
            '"weight" must be a number',
            ("terms", 0, "weight"),
        ),
        (
            {"terms": [{"divergence": "forward-kl", "target": "techer"}]},
            'did you mean "teacher"?',
            ("terms", 0, "target"),
        ),
        (
            {"terms": [{"divergence": "forward-kl", "sources": ["tacher"]}]},
            'no source "tacher" (did you mean "teacher"?)',
            ("terms", 0, "sources"),
        ),
        ({"terms": [{"term": "nxt-token"}]}, 'did you mean "next-token"?', ("terms", 0, "term")),
        ({"terms": [{"term": "next-token", "wieght": 2}]}, 'did you mean "weight"?', ("terms", 0, "wieght")),
        ({"terms": []}, "a method needs terms", ("terms",)),
        ({"terms": [{"divergence": "forward-kl"}], "samler": "x"}, 'did you mean "sampler"?', ("samler",)),
        (
            {"terms": [{"divergence": "forward-kl"}], "sampler": {"name": "on-policy", "fractin": 1}},
            'did you mean "fraction"?',
            ("sampler", "fractin"),
        ),
        (
            {"terms": [{"divergence": "forward-kl"}], "data": {"use": "label", "temprature": 1}},
            'did you mean "temperature"?',
            ("data", "temprature"),
        ),
        (
            {"terms": [{"divergence": "forward-kl"}], "data": {"use": "lable"}},
            'did you mean "label"?',
            ("data", "use"),
        ),
        ({"terms": [{"divergence": "forward-kl"}], "data": "trian"}, 'did you mean "train"?', ("data",)),
        (
            {"trainer": "minillm", "terms": [{"divergence": "forward-kl"}]},
            "has a loss of its own",
            ("terms",),
        ),
        ({"trainer": "minilm"}, 'did you mean "minillm"?', ("trainer",)),
    ],
)
def test_a_mistake_is_told_with_its_place_and_the_nearest_name(tree, message, path):
    with pytest.raises(RegistryError) as error:
        canonical_method(tree)
    assert message in str(error.value) and error.value.path == path


def test_a_mistake_in_a_file_has_its_line(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(
        "# Mine.\ntitle: Mine\nsettings: {mass: 0.5}\nterms:\n  - {divergence: adaptive-kl,\n     head_mas: $mass}\n"
    )
    with pytest.raises(
        RegistryError, match=r'mine\.yaml:6: .*no setting "head_mas" \(did you mean "head_mass"\?\)'
    ):
        read_recipe("mine", tmp_path)
    (tmp_path / "other.yaml").write_text(
        "# Other.\ntitle: Other\nsettings: {mass: 0.5}\nterms: [{divergence: forward-kl}]\n"
    )
    with pytest.raises(RegistryError, match=r'other\.yaml:3: the setting "mass" stands nowhere as \$mass'):
        read_recipe("other", tmp_path)
    with pytest.raises(RegistryError, match=r'no method "oter" \(did you mean "other"\?\)'):
        read_recipe("oter", tmp_path)


def test_a_setting_that_a_recipe_does_not_have_is_refused():
    with pytest.raises(
        RegistryError, match=r'gkd has no setting "on_policy_fracton" \(did you mean "on_policy_fraction"\?\)'
    ):
        read_recipe("gkd").method({"on_policy_fracton": 1.0})


def test_lines_are_found_inside_lists_and_mappings():
    text = "a: 1\nb:\n  - c: 2\n    d:\n      e: 3\n"
    assert [
        line_of(text, path) for path in (("a",), ("b", 0, "c"), ("b", 0, "d", "e"), ("b", 0, "x"), ())
    ] == [1, 3, 5, 3, 1]


def test_teachers_and_components_are_found_wherever_they_stand():
    method = canonical_method(
        {
            "teacher": "large",
            "data": {"mix": [{"data": {"use": "label", "teacher": "small"}}, {"data": {"use": "label"}}]},
            "sampler": {"name": "corrected", "sampler": {"name": "half-student", "source": "data"}},
            "terms": [
                {
                    "divergence": "skew-forward-kl",
                    "weight": {"schedule": "teacher-share"},
                    "target": {"name": "noisy-teacher", "deviation": 1.0},
                    "row_settings": {"name": "adaptive-skew", "side": "teacher"},
                }
            ],
        }
    )
    assert teachers_of(method) == ["large", "small", "main"]
    assert components_of(method) == [
        ("data", "label"),
        ("divergence", "skew-forward-kl"),
        ("row-settings", "adaptive-skew"),
        ("sampler", "corrected"),
        ("sampler", "half-student"),
        ("schedule", "teacher-share"),
        ("target", "noisy-teacher"),
        ("trainer", "distillation"),
    ]


def test_elicited_rows_are_a_list_of_components_in_one_form():
    tree = {"elicit": ["explain", {"name": "verify", "check": "number"}], "of": {"from": "train", "first": 9}}
    method = canonical_method({"terms": [{"term": "next-token"}], "data": tree})
    wanted = {"elicit": [{"name": "explain"}, {"name": "verify"}], "of": {"from": "train", "first": 9}}
    assert method["data"] == wanted
    assert canonical_method({"terms": [{"term": "next-token"}], "data": wanted}) == method
    assert ("elicitation", "verify") in components_of(method) and teachers_of(method) == ["main"]
    other = {**tree, "teacher": "small", "once": True}
    small = canonical_method({"terms": [{"term": "next-token"}], "data": other})
    assert teachers_of(small) == ["main", "small"] and small["data"]["once"] is True


@pytest.mark.parametrize(
    ("tree", "message", "path"),
    [
        (
            {"elicit": ["explian"]},
            'no elicitation "explian" (did you mean "explain"?)',
            ("data", "elicit", 0, "name"),
        ),
        (
            {"elicit": ["explain", {"name": "verify", "chek": "number"}]},
            'no setting "chek" (did you mean "check"?)',
            ("data", "elicit", 1, "chek"),
        ),
        ({"elicit": "explain"}, '"elicit" must be a list of components', ("data", "elicit")),
        ({"elicit": ["label"], "ones": True}, 'elicited data has no "ones"', ("data", "ones")),
        ({"elicit": ["label"], "once": 1}, '"once" must be true or false', ("data", "once")),
    ],
)
def test_what_is_wrong_in_elicited_rows_says_where(tree, message, path):
    with pytest.raises(RegistryError) as error:
        canonical_method({"terms": [{"term": "next-token"}], "data": tree})
    assert message in str(error.value) and error.value.path == path


def test_named_steps_are_written_out_and_may_not_be_made_of_themselves():
    steps = {"gold": {"from": "testbed.train", "share": 0.5}, "said": {"use": "label", "of": "gold"}}
    tree = {"terms": [{"term": "next-token"}], "data": "said"}
    assert canonical_method(tree, steps)["data"] == {"use": "label", "of": {"from": "train", "share": 0.5}}
    with pytest.raises(RegistryError, match="made of itself"):
        canonical_method({**tree, "data": "a"}, {"a": {"from": "b"}, "b": {"from": "a"}})


def test_what_a_teacher_reads_in_the_place_of_the_prompt():
    tree = {"teacher": "student", "terms": [{"divergence": "forward-kl"}]}
    assert readings_of(canonical_method(tree)) is None
    reads = "{prompt} {hint} {completion} {hint}"
    method = canonical_method({**tree, "trainer": {"name": "privileged-distillation", "reads": reads}})
    assert readings_of(method) == reads and columns_of(method) == ["hint"]
    assert (
        readings_of(canonical_method({**tree, "trainer": "privileged-distillation"}))
        == "{prompt}{completion}"
    )
    assert filled(reads, {"prompt": "{hint}", "hint": "7 {", "completion": "c"}) == "{hint} 7 { c 7 {"
    for wrong in ("{}", "{a b}", "{prompt", "}"):
        with pytest.raises(MethodError, match="braces hold the name of a column"):
            columns_in(wrong)
