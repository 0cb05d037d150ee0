"""From components by name to training rows."""

import json
from dataclasses import replace

import pytest
from datasets import Dataset

from methods.assembly import Asked, rows_of
from methods.data_tree import canonical_data
from methods.elicitation.pipeline import run_steps, yields
from methods.elicitation.records.record import Record
from methods.elicitation.writers.oracle import FunctionWriter, OracleWriter, Skill
from methods.elicitation.writers.session import Session
from methods.errors import MethodError

PROBLEMS = [{"prompt": f"q{n}", "completion": str(n), "place": n} for n in range(40)]


class Around:
    """Surroundings with an oracle for a teacher, right in 60 of 100 draws."""

    def __init__(self, seed=0, skill=0.6):
        self.seed, self.reports, self.kept, self.skill = seed, [], {}, skill

    def rows(self, name):
        return Dataset.from_list(PROBLEMS)

    def teacher(self, name):
        return Asked(name, None, None, 16)

    def writer(self, name):
        return OracleWriter(
            "sums",
            lambda note, draws: f"think {draws.randint(0, 10**9)}\n#### {note['answer']}",
            lambda note, draws: f"think {draws.randint(0, 10**9)}\n#### {int(note['answer']) + 1}",
            Skill(right=self.skill),
        )

    def keep(self, kind, key, make):
        return self.kept.setdefault(json.dumps([kind, key], sort_keys=True), make(self))

    def spent(self, report):
        self.reports.append(report)


class Writes(Around):
    """A teacher that is no oracle: it writes something else each time; `asked` counts how often."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.asked = 0

    def rows(self, name):
        return Dataset.from_list(
            [{"prompt": kind, "completion": kind, "label": kind} for kind in ("sea", "land")]
        )

    def writer(self, name):
        def say(request, sample):
            self.asked += 1
            return f"{request.messages[-1].content} {sample} of {self.seed}"

        return FunctionWriter("writes", say)

    def keep(self, kind, key, make):
        told = json.dumps([kind, key], sort_keys=True)
        if told not in self.kept:
            self.kept[told] = make(self)
        return self.kept[told]


WRITTEN = {"elicit": [{"name": "write", "count": 4, "prompt": "answer"}]}


def test_pipelines_that_begin_alike_share_what_was_written():
    around = Writes()
    some = canonical_data(
        {"elicit": [{"name": "select", "by": "random", "keep": 2, "of": "label"}], "of": WRITTEN}, {}
    )
    first, again = rows_of(some, around), rows_of(canonical_data(WRITTEN, {}), around)
    assert around.asked == 8, "two classes, four texts: asked for once"
    assert len(again) == 8 and len(first) == 4 and {*first["prompt"]} < {*again["prompt"]}
    assert first["completion"] == first["label"] == ["sea", "sea", "land", "land"], (
        "what was written keeps its class"
    )


def test_a_teacher_may_write_a_few_times_only():
    around, made = Writes(), {}
    for seed in (0, 1, 2, 5):
        around.seed = seed
        around.drawn = lambda teacher, seed=seed: seed % 2
        made[seed] = rows_of(canonical_data(WRITTEN, {}), around)["prompt"][:]
    assert made[0] == made[2] and made[1] == made[5] and made[0] != made[1] and around.asked == 16


TREE = canonical_data(
    {"elicit": [{"name": "explain", "chains": 4}, "verify", {"name": "select", "by": "shortest"}]}, {}
)


def test_right_chains_become_training_rows():
    around = Around()
    made = rows_of(TREE, around)
    assert set(made.column_names) == {"prompt", "completion", "label", "answer", "form"}
    assert all(row["label"] == row["answer"] == row["prompt"][1:] for row in made)
    assert 32 <= len(made) == len(set(made["prompt"])) <= 40  # a share of .974 has a right one of four
    assert around.reports[0].completions == 160


def test_another_seed_draws_other_chains_unless_one_draw_serves_all():
    one, same, other = (list(rows_of(TREE, Around(seed))["completion"]) for seed in (0, 0, 1))
    assert one == same != other
    once = [list(rows_of({**TREE, "once": True}, Around(seed))["completion"]) for seed in (0, 1)]
    assert once[0] == once[1]


def test_where_nothing_is_left_the_reasons_are_counted():
    with pytest.raises(MethodError, match=r"no row is left of 40: \{'kept': 0, 'wrong answer': 160\}"):
        rows_of(TREE, Around(skill=0.0))


def test_a_permuted_teacher_is_seen():
    """The right answers of other rows: verification leaves none."""
    around = Around(skill=1.0)
    right = around.writer("main")
    shifted = FunctionWriter("permuted", lambda request, n: f"#### {(int(request.note['answer']) + 7) % 40}")
    assert len(rows_of(TREE, around)) == 40 and right.identity != shifted.identity
    around.writer = lambda name: shifted
    around.kept.clear()
    with pytest.raises(MethodError, match="no row is left"):
        rows_of(TREE, around)


def test_a_teacher_with_prompts_of_its_own_is_refused(monkeypatch):
    around = Around()
    monkeypatch.setattr(
        around, "teacher", lambda name: replace(Asked(name, None, None, 16), prompt_column="other")
    )
    with pytest.raises(MethodError, match="reads the student's prompts"):
        rows_of(TREE, around)


def test_yields_count_every_row():
    rows = [Record("a"), Record("b").drop("copy"), Record("c").drop("copy"), Record("d").drop("leak")]
    assert yields(rows) == {"kept": 1, "copy": 2, "leak": 1}
    assert yields(run_steps(rows, Session(FunctionWriter("x", lambda r, n: "y")), [{"name": "label"}])) == {
        "kept": 1, "copy": 2, "leak": 1,
    }  # fmt: skip


def test_a_models_own_answers_become_training_rows_of_a_method():
    """No oracle: the toy's teacher writes, and a trainer takes what it wrote."""
    from methods.assembly import trainer_for
    from methods.recipe import canonical_method
    from methods.toy import ToySurroundings

    around = ToySurroundings()
    tree = {"elicit": [{"name": "self-generate", "samples": 3, "temperature": 1.0, "max_tokens": 8}]}
    method = canonical_method({"terms": [{"term": "next-token"}], "data": tree})
    made = rows_of(method["data"], around)
    assert 3 <= len(made) <= 30 and set(made["prompt"]) <= {
        f"{row['prompt']}" for row in around.rows("train")
    }
    assert all(made["completion"])
    trainer = trainer_for(method, around)
    trainer.train()
    assert trainer.state.global_step == 4
