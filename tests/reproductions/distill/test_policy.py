"""Policy gradients of one's own in a `kd distill` config: what runs, and what is told with its line."""

import json

import pytest
import torch

from catalog.errors import CatalogError
from methods.replay import NAME, read_replay
from methods.trainers.optimisation.trainer import PolicyOptimiser
from reproductions.distill.config import load_config
from reproductions.engine.errors import KDError
from tools.cli import main

from .conftest import WORDS, config_of, made

HEAD = """\
student: student
data: data.jsonl
output: run
budget: {steps: 2, batch_size: 4, learning_rate: 0.01, prompt_tokens: 12, completion_tokens: 12}
"""
TRAINER = "trainer: {name: policy-optimisation, num_generations: 2}\n"


def written(folder, text, teacher="teacher"):
    path = folder / "own.yaml"
    path.write_text(HEAD + (f"teacher: {teacher}\n" if teacher else "") + text)
    return path


def test_a_composition_of_one_s_own(folder):
    """A verifier on a column, each domain with a teacher, and an exact term where the advantage is negative."""
    rows = [
        {"prompt": f"{word}|", "completion": word, "solution": word[0], "kind": "ab"[n % 2], "note": "unread"}
        for n, word in enumerate(WORDS)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = """\
trainer: {name: policy-optimisation, num_generations: 2, loss_type: grpo, epsilon_high: 0.28}
rewards:
  - {name: shared-beginning, column: solution}
  - {name: exact-answer}
advantage:
  name: sum
  parts:
    - {name: group-reward, baseline: leave-one-out}
    - name: by-column
      column: kind
      values: [a, b]
      parts: [{name: log-ratio, weight: -0.5}, {name: log-ratio, over: 1}]
terms:
  - divergence: reverse-kl
    weight: 0.1
    token_weights: {name: where, where: {name: sign, sign: negative, advantage: {name: log-ratio}}}
"""
    record = made(written(folder, text, "[teacher, second]"))
    assert record["steps"] == 2 and record["tokens"]["teacher"] > 0
    assert record["rollouts"]["completions"] == 8
    kept = read_replay(folder / "run" / NAME)
    assert {line["step"] for line in kept} == {0, 1} and len(kept) == 8
    assert all(len(line["rewards"]) == 2 and line["prompt"].endswith("|") for line in kept)
    assert any(advantage for line in kept for _, advantage in line["tokens"])


def test_a_replay_says_what_the_data_gave(folder, capsys):
    """LUFFY on a user's rows: one of four completions of each prompt is the row's own, and `kd replay` says so."""
    text = """\
trainer: {name: policy-optimisation, num_generations: 4, given_completions: 1, epsilon: null}
rewards:
  - {name: shared-beginning}
advantage: {name: group-reward, baseline: mean, own: true}
"""
    made(written(folder, text, ""))
    kept = read_replay(folder / "run" / NAME)
    given = [line for line in kept if line["given"]]
    assert len(given) * 4 == len(kept)
    for line in given:
        said = "".join(token for token, _ in line["tokens"]).removesuffix("<eos>")
        assert said == line["prompt"][-2::-1], "the row's completion, which is its prompt reversed"
    assert main(["replay", str(folder / "run"), "--all"]) == 0
    assert capsys.readouterr().out.count("given by the data") == len(given)


NEVER_RIGHT = """\
trainer: {name: policy-optimisation, num_generations: 4}
rewards:
  - {name: exact-answer, column: far}
advantage: {name: group-reward}
"""
NOTHING_LEARNT = r"nothing was learnt: no completion ever had an advantage.*replay.jsonl"


def never_right(folder):
    """A config of four steps with a checkpoint after the second; no answer is ever that of its row."""
    rows = [{"prompt": f"{word}|", "completion": word, "far": "abcdefghij" * 3} for word in WORDS]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = written(folder, NEVER_RIGHT + "save_every: 2\n", "")
    path.write_text(path.read_text().replace("steps: 2", "steps: 4"))
    return path


@pytest.mark.parametrize("method", ["sdpo", "srpo"])
def test_a_student_that_is_never_shown_a_right_answer_learns_nothing_and_that_is_said(folder, method):
    settings = {
        "num_generations": 4,
        "reward": "shared-beginning",
        "right": 1.0,
        "reads": "{sibling}{prompt}",
    }
    path = config_of(folder, method, teacher=None, extra=f"settings: {json.dumps(settings)}\n")
    with pytest.raises(KDError, match=NOTHING_LEARNT):
        made(path)
    assert not (folder / "run" / "model.safetensors").exists()


@pytest.fixture
def rewarding(monkeypatch):
    """`rewarding(True)`: each completion has another reward from now on; `rewarding(False)`: all have the same."""

    def by(differ):
        def rewards(self, rows, written):
            return torch.arange(len(rows)).float()[:, None] if differ else torch.ones(len(rows), 1)

        monkeypatch.setattr(PolicyOptimiser, "_rewards", rewards)

    return by


def test_a_reward_that_is_always_the_same_is_no_success(folder, rewarding):
    """A student that is never right ends in an error, not with a copy of itself; another config may begin at once."""
    path = never_right(folder)
    with pytest.raises(KDError, match=NOTHING_LEARNT):
        made(path)
    assert len(read_replay(folder / "run" / NAME)) == 16, "what it wrote can be looked at"
    path.write_text(path.read_text().replace("steps: 4", "steps: 2"))
    rewarding(True)
    made(path)
    assert {line["step"] for line in read_replay(folder / "run" / NAME)} == {0, 1}, (
        "nothing of the run before"
    )


def test_a_term_that_keeps_to_the_start_alone_is_no_success_either(folder):
    """GRPO, as `method: deepseekmath` has it: where nothing moves the student, nothing draws it back."""
    path = never_right(folder)
    before = path.read_text()
    path.write_text(before + "terms:\n  - {term: sampled-kl, to: start, weight: 0.04}\n")
    with pytest.raises(KDError, match=NOTHING_LEARNT):
        made(path)
    path.write_text(
        before + "terms:\n  - {term: sampled-kl, to: start, weight: 0.04}\n  - {term: next-token}\n"
    )
    assert made(path)["steps"] == 4


@pytest.mark.parametrize("at", [2, 3])
def test_a_resumed_run_knows_that_nothing_was_heard_before(folder, stopped, at):
    path = never_right(folder)
    with pytest.raises(KeyboardInterrupt), stopped(at=at):
        made(path)
    for _ in range(2):  # and the same command says the same again
        with pytest.raises(KDError, match=NOTHING_LEARNT):
            made(path)
    assert not (folder / "run" / "model.safetensors").exists()


def test_an_advantage_before_the_checkpoint_counts(folder, stopped, rewarding):
    path = never_right(folder)
    rewarding(True)
    with pytest.raises(KeyboardInterrupt), stopped(at=3):
        made(path)
    rewarding(False)
    assert made(path)["steps"] == 4


def test_an_advantage_after_the_checkpoint_is_not_in_the_student(folder, stopped, rewarding):
    path = never_right(folder)
    with pytest.raises(KeyboardInterrupt), stopped(at=3):
        made(path)
    rewarding(True)
    with pytest.raises(KeyboardInterrupt), stopped(at=3):
        made(path)
    rewarding(False)
    with pytest.raises(KDError, match=NOTHING_LEARNT):
        made(path)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (TRAINER + "advantage: {name: log-ratoi}\n", 7, 'no advantage "log-ratoi" (did you mean "log-ratio"?)'),
        (
            TRAINER
            + "advantage:\n  name: sum\n  parts:\n    - {name: group-reward}\n    - {name: log-ratio, ovr: 1}\n",
            11,
            'advantage log-ratio has no setting "ovr" (did you mean "over"?)',
        ),
        (TRAINER + "advantage: {name: sum, parts: []}\n", 7, '"parts" is a list of advantages'),
        (
            TRAINER + "advantage: {name: only, advantage: {name: log-ratio}, where: {name: sing}}\n",
            7,
            'no condition "sing" (did you mean "sign"?)',
        ),
        (TRAINER + "advantage: {name: log-ratio, over: 1}\n", 7, "asks teacher number 1, counted from 0, of 1"),
        (TRAINER + "advantage: {name: group-reward}\n", 7, 'the method has no "rewards"'),
        (
            TRAINER + "advantage: {name: group-reward}\nrewards:\n  - {name: task}\n",
            9,
            'the reward "task" needs rows of a task',
        ),
        (TRAINER + "rewards: [exact-anser]\n", 7, 'did you mean "exact-answer"'),
        (TRAINER, None, "nothing to learn from: an advantage, or terms"),
        (TRAINER + "advantage: {name: log-ratio}\nsampler: {name: on-policy}\n", 8, 'takes no "sampler"'),
        ("terms:\n  - {term: next-token}\nadvantage: {name: log-ratio}\n", 8, "goes with the trainer policy"),
        (
            "trainer: {name: policy-optimisation, num_generations: 3}\nadvantage: {name: log-ratio}\n",
            4,
            "4 (batch_size) x 1 sequences a generation are no whole number of groups of 3 (num_generations)",
        ),
        (TRAINER + "advantage: {name: clipped, advantage: {name: log-ratio}}\n", 7, "nothing to clip"),
        (
            TRAINER.replace("2", "2, given_completions: 1") + "advantage: {name: log-ratio}\n",
            6,
            "of 2 completions a group (num_generations) at least two are the student's own",
        ),
    ],
)  # fmt: skip
def test_mistakes_have_their_line(folder, text, line, message):
    with pytest.raises(CatalogError) as error:
        load_config(written(folder, text))
    assert message in str(error.value)
    assert line is None or f"own.yaml:{line}:" in str(error.value), str(error.value)


def test_negative_parts_are_allowed_and_shares_are_shares(folder):
    text = TRAINER + "advantage: {name: log-ratio, weight: -0.5}\n"
    assert load_config(written(folder, text)).tree["advantage"] == {"name": "log-ratio", "weight": -0.5}
    with pytest.raises(CatalogError, match="share must be 0 or more and at most 1, not 2"):
        load_config(
            written(
                folder,
                TRAINER
                + "advantage: {name: only, advantage: {name: log-ratio}, where: {name: highest-entropy, share: 2}}\n",
            )
        )
