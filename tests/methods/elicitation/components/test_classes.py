"""Labels by likelihood with calibrations by hand, and texts for classes by a scripted teacher."""

import math
from dataclasses import replace

import pytest

from methods.elicitation.components.classes import blend, classify, jumble, paraphrase, query, write
from methods.elicitation.records.record import Record
from methods.elicitation.writers.session import Session
from methods.errors import MethodError
from tests.methods.elicitation.components.scripted import CutWriter, EmptyWriter, Script, reasons, rows

CLASSES = ["sea", "land"]
# What the model says of each class behind a text: it likes "sea" whatever it reads.
LIKES = {"waves": (0.72, 0.08), "hills": (0.45, 0.15), "N/A": (0.6, 0.1), "fields": (0.3, 0.2)}


class Likes(EmptyWriter):
    """Its probabilities are LIKES, a letter at a time: the first letter carries all."""

    def __init__(self):
        self.scored = []

    def score(self, requests, texts):
        self.scored += [
            (request.messages[-1].content, text) for request, text in zip(requests, texts, strict=True)
        ]
        made = []
        for request, text in zip(requests, texts, strict=True):
            about = next(name for name in LIKES if name in request.messages[-1].content)
            made.append([math.log(LIKES[about][CLASSES.index(text)]), *[0.0] * (len(text) - 1)])
        return made


def share(one, other):
    return one / (one + other)


def by_hand(text, calibrate):
    """The class and its probability."""
    sea, land = (one / sum(LIKES[text]) for one in LIKES[text])
    if calibrate == "blank":
        prior = [one / sum(LIKES["N/A"]) for one in LIKES["N/A"]]
    else:
        seen = [[one / sum(LIKES[name]) for one in LIKES[name]] for name in ("waves", "hills", "fields")]
        prior = [sum(column) / 3 for column in zip(*seen, strict=True)]
    if calibrate == "none":
        prior = [1, 1]
    odds = sea / prior[0], land / prior[1]
    return ("sea", share(*odds)) if odds[0] > odds[1] else ("land", share(*odds[::-1]))


def check_calibration(calibrate, classifier=classify):
    seeds = [*rows("waves", "hills"), Record("x").drop("leak"), *rows("fields")]
    made = classifier(seeds, Session(Likes()), classes=CLASSES, calibrate=calibrate)
    assert made[2] is seeds[2]
    for row in (made[0], made[1], made[3]):
        label, score = by_hand(row.prompt, calibrate)
        assert (row.label, row.completion) == (label, label)
        assert row.score == pytest.approx(score) and row.component == "classify"


@pytest.mark.parametrize("calibrate", ["none", "blank", "rows"])
def test_labels_by_hand(calibrate):
    check_calibration(calibrate)


def test_a_model_that_likes_one_name_is_put_right():
    made = {
        how: [
            row.label
            for row in classify(
                rows("waves", "hills", "fields"), Session(Likes()), classes=CLASSES, calibrate=how
            )
        ]
        for how in ("none", "blank")
    }
    assert made == {"none": ["sea", "sea", "sea"], "blank": ["sea", "land", "land"]}


def test_a_calibration_that_is_left_out_is_caught():
    def plain(seeds, session, **settings):
        return classify(seeds, session, **{**settings, "calibrate": "none"})

    with pytest.raises(AssertionError):
        check_calibration("blank", plain)


def test_the_end_behind_a_name_counts_where_it_is_asked_for():
    class Ends(EmptyWriter):
        """It says each name alike, and that nothing follows behind "land"."""

        def score(self, requests, texts):
            return [[math.log(0.5), math.log(0.9 if text == ": land" else 0.1)] for text in texts]

    whole, open_ended = (
        classify(rows("x"), Session(Ends()), classes=CLASSES, calibrate="none", before=": ", ends=ends)[0]
        for ends in (True, False)
    )
    assert (whole.label, whole.score) == ("land", pytest.approx(0.9))
    assert open_ended.score == pytest.approx(0.5)


def test_each_text_is_asked_about_once_for_each_class():
    writer = Likes()
    classify(rows("waves", "hills"), Session(writer), classes=CLASSES)
    assert [text for _, text in writer.scored] == CLASSES * 3
    assert all("sea, land" in asked for asked, _ in writer.scored)


def test_what_cannot_be_classified_is_said():
    for wrong, said in (
        ({"classes": ["sea"]}, "two or more different names"),
        ({"classes": ["sea", "sea"]}, "two or more different names"),
        ({"classes": CLASSES, "calibrate": "blanks"}, 'no calibration "blanks" (did you mean "blank"'),
    ):
        with pytest.raises(MethodError, match="classify") as error:
            classify(rows("waves"), Session(Likes()), **wrong)
        assert said in str(error.value)
    with pytest.raises(MethodError, match="there is none"):
        classify(rows("waves"), None, classes=CLASSES)
    with pytest.raises(MethodError, match="cannot say how probable"):
        classify(rows("waves"), Script(lambda *a: "x").session, classes=CLASSES)


KINDS = [
    Record("a complaint about a late parcel", fields={"label": "delivery"}),
    Record("praise for a product"),
]


def test_texts_are_written_for_each_class_and_classes_are_no_texts():
    script = Script(
        lambda asked, request, sample: f'"text {sample} of {"parcel" if "parcel" in asked else "praise"}"'
    )
    made = write(KINDS, script.session, count=3)
    assert len(script.requests) == 2 and script.requests[0].samples == 3
    assert reasons(made[:2]) == ["a class", "a class"]
    assert [(row.prompt, row.completion, row.label) for row in made[2:]] == [
        *[(f"text {n} of parcel", "delivery", "delivery") for n in range(3)],
        *[(f"text {n} of praise", "praise for a product", "praise for a product") for n in range(3)],
    ]
    assert [row.parents[0] for row in made[2:]] == [KINDS[0].id] * 3 + [KINDS[1].id] * 3


def test_how_texts_are_sampled_and_end_is_asked_for_and_what_they_were_asked_by_is_kept():
    script = Script(lambda asked, request, sample: "text")
    written = write(KINDS, script.session, count=2, top_p=0.9, stop=['"'])
    blended = blend(KINDS, script.session, count=1, top_p=0.8, stop=["|"])
    paraphrase(rows("x"), script.session, top_p=0.7, stop=["."])
    assert [(one.top_p, one.stop) for one in script.requests] == [
        *[(0.9, ('"',))] * 2,
        *[(0.8, ("|",))] * 2,
        (0.7, (".",)),
    ]
    for row in (*written[2:], *blended[2:]):
        assert row.fields["asked"] in script.asked and KINDS[0].prompt.split()[0] in "".join(script.asked)
    assert written[2].fields["asked"] == script.asked[0]


@pytest.mark.parametrize(("writer", "reason"), [(CutWriter(), "truncated"), (EmptyWriter(), "empty")])
def test_what_is_no_text_is_dropped(writer, reason):
    for component in (write, blend):
        made = component(KINDS, Session(writer), count=1)
        assert reasons(made) == ["a class", "a class", reason, reason]


def test_a_blend_names_both_classes_and_has_the_first():
    script = Script(lambda asked, request, sample: f"of {len(asked)}", seed=3)
    kinds = [*KINDS, Record("a question about a price", fields={"label": "price"})]
    made = blend(kinds, script.session, count=4, share=0.8)[3:]
    assert [row.completion for row in made] == ["delivery", "praise for a product", "price"] * 4
    assert all(row.fields["blended"] != row.completion for row in made)
    assert {row.fields["blended"] for row in made if row.completion == "price"} == {
        "delivery",
        "praise for a product",
    }
    assert all("to 80 % of this kind" in asked and "to 20 % of this kind" in asked for asked in script.asked)
    again = blend(
        kinds, Script(lambda asked, request, sample: f"of {len(asked)}", seed=3).session, count=4, share=0.8
    )
    assert [row.fields["blended"] for row in again[3:]] == [row.fields["blended"] for row in made]


def test_other_words_keep_the_class_and_the_same_words_are_no_others():
    seed = Record("The boat is late.", "delivery", label="delivery")
    script = Script(lambda asked, request, sample: ["the boat is LATE", "Our ship has not come yet."][sample])
    made = paraphrase([seed], script.session, samples=2)
    assert made[0] is seed and reasons(made) == [None, "unchanged", None]
    assert (made[2].prompt, made[2].completion, made[2].label) == (
        "Our ship has not come yet.", "delivery", "delivery",
    )  # fmt: skip


def test_a_document_is_what_its_query_is_to_find():
    script = Script(lambda asked, request, sample: "“late boats”\nThat is what I would type.")
    made = query(rows("Boats are late in winter.", "Ships need coal."), script.session)
    assert [(row.prompt, row.completion) for row in made] == [
        ("late boats", "Boats are late in winter."),
        ("late boats", "Ships need coal."),
    ]


def test_settings_that_make_no_sense_are_refused():
    session = Script(lambda *a: "x").session
    with pytest.raises(MethodError, match="between 0.5 and 1"):
        blend(KINDS, session, share=0.4)
    with pytest.raises(MethodError, match="two classes"):
        blend(KINDS[:1], session)
    for component, name in ((write, "count"), (blend, "count"), (paraphrase, "samples"), (query, "samples")):
        with pytest.raises(MethodError, match=f'"{name}" must be 1 or more'):
            component(KINDS, session, **{name: 0})


WORDS = [f"w{n}" for n in range(20)]


def check_jumbled(component):
    """Of 20 words, a tenth: two swaps in the first and third copy, some left out in the second; the row stays."""
    seed = Record(" ".join(WORDS), "good", label="good")
    session = Script(lambda *a: "", seed=2).session
    made = component([Record("x").drop("leak"), seed], session, samples=3, share=0.1)
    assert made[1] is seed and len(made) == 5
    for place, row in enumerate(made[2:]):
        words = row.prompt.split()
        assert (row.completion, row.label, row.parents) == ("good", "good", (seed.id,))
        if place == 1:
            assert 10 <= len(words) < 20 and words == [word for word in WORDS if word in words]
        else:
            moved = sum(one != other for one, other in zip(words, WORDS, strict=True))
            assert sorted(words) == sorted(WORDS) and 1 < moved <= 4
    return [row.prompt for row in made[2:]]


def test_words_are_swapped_or_left_out_and_each_copy_is_another():
    first, again = check_jumbled(jumble), check_jumbled(jumble)
    assert first == again and len(set(first)) == 3
    one = jumble([Record("word", "good")], Script(lambda *a: "", seed=1).session, samples=2, share=0.9)
    assert reasons(one) == [None, "unchanged", "unchanged"], (
        "of one word nothing is left to swap, and it stays"
    )


def test_words_that_are_shuffled_altogether_are_caught():
    def shuffled(rows, session, *, samples, share):
        made = jumble(rows, session, samples=samples, share=share)
        return [*made[:2], *(replace(row, prompt=" ".join(row.prompt.split()[::-1])) for row in made[2:])]

    with pytest.raises(AssertionError):
        check_jumbled(shuffled)
