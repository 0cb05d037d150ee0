"""Policy gradients of one's own in a `kd distill` config: what runs, and what is told with its line."""

import json

import pytest

from catalog.errors import CatalogError
from methods.replay import NAME, read_replay
from reproductions.distill.config import load_config
from reproductions.engine.errors import KDError
from tools.cli import main

from .conftest import WORDS, made

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


def test_a_reward_that_is_always_the_same_is_no_success(folder):
    """A student that is never right ends in an error, not with a copy of itself."""
    text = """\
trainer: {name: policy-optimisation, num_generations: 4}
rewards:
  - {name: exact-answer, column: far}
advantage: {name: group-reward}
"""
    rows = [{"prompt": f"{word}|", "completion": word, "far": "abcdefghij" * 3} for word in WORDS]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        KDError, match=r"nothing was learnt: no completion ever had an advantage.*replay.jsonl"
    ):
        made(written(folder, text, ""))
    assert read_replay(folder / "run" / NAME), "what it wrote can be looked at"


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
