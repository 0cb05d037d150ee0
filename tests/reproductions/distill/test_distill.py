"""`kd distill`: every method on models of a user's own, errors with their line, and going on after an interrupt."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from catalog.errors import CatalogError
from catalog.schema import load_catalog
from methods.elicitation.writers.oracle import FunctionWriter
from methods.elicitation.writers.recorded import RecordedWriter
from methods.recipe import canonical_method, read_recipe, recipe_ids, teachers_of
from reproductions.distill.config import check_teacher_terms, family, load_config
from reproductions.distill.state import STATE
from reproductions.distill.training import RECORD
from reproductions.engine.errors import KDError

from .conftest import CLASSIFIERS_ALONE, WORDS, config_of, made


def asks_for_texts(tree):
    """Whether a data tree elicits something."""
    items = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return (isinstance(tree, dict) and "elicit" in tree) or any(asks_for_texts(item) for item in items)


VERIFIED = (  # by a reward
    *("kdrl", "rlad", "deepseekmath", "constrained-opd", "scope", "luffy", "near-future-po", "uni-opd"),
    *("codistill-grpo", "rlsd", "sdpo", "srpo"),
)
SETTINGS = {
    "seqkd": {"greedy": True},
    "minillm": {"steps_per_generation": 2, "num_iterations": 1},
    "distillm": {"start": 1.0},
    "distillm-2": {"anchor_steps": 1},
    "ddk": {"every": 2},
    "codi": {"thoughts": 2},
    **dict.fromkeys(VERIFIED, {"num_generations": 4, "reward": "shared-beginning"}),
    **dict.fromkeys(("rft", "rest-em"), {"samples": 2, "threshold": 0.0}),
    "star": {"threshold": 0.0},
    "lmsi": {"samples": 1, "after": None},  # one text agrees with itself, whatever it says
    "s1": {"subject": "answer"},
    **dict.fromkeys(("dasd-4b-thinking", "rd-provenance"), {"threshold": 0.0}),
    "near-future-po": {"num_generations": 4, "reward": "shared-beginning", "ahead": 2, "threshold": 0.0},
    "sdpo": {"num_generations": 4, "reward": "shared-beginning", "reads": "{sibling}{prompt}", "right": 0.0},
    "srpo": {"num_generations": 4, "reward": "shared-beginning", "reads": "{sibling}{prompt}", "right": 0.0},
    "rlsd": {"num_generations": 4, "reward": "shared-beginning", "reads": "{completion}{prompt}"},
    **dict.fromkeys(("opsd", "sdft"), {"reads": "{completion}{prompt}"}),
    "dac-kl": {"spans": "ends-in-punctuation"},
    "fine-tune-cot": {"chains": 2},
    **dict.fromkeys(("zerogen", "udg"), {"count": 2, "keep": 1}),
    "sungen": {"count": 2, "keep": 1, "rounds": 2},
    "promptmix": {"count": 2},
    "auggpt": {"samples": 1},
    **dict.fromkeys(("pad", "eotd", "mixed-distillation", "mammoth"), {"run_programs": True}),
}
# Recipes whose teacher writes or labels texts of classes.
TALKS = (
    *("zerogen", "sungen", "udg", "promptmix", "auggpt", "gpt3-data-annotator"),
    "wang-2021-gpt3-labeling",
)
# What a teacher writes for them: a text that is a program, an equation and steps, and right by each.
ASKED = (*(name for name in recipe_ids() if asks_for_texts(read_recipe(name).method().get("data"))),)
SAID = "```python\nprint(3)\n```\nanswer = 3\nAnswer: 3"


class Talks(FunctionWriter):
    """Says something else each time, and finds every text about as likely."""

    def __init__(self):
        super().__init__(
            "talks", lambda request, sample: f"{request.messages[-1].content[:9]}{sample}{request.seed}"
        )

    def score(self, requests, texts):
        return [[-0.1 * (len(request.messages[-1].content) % 7), -1.0] for request in requests]


def _with_numbers(folder):
    """Rows whose right answer is a number."""
    rows = [{"prompt": f"{word}|", "completion": "3"} for word in WORDS]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _with_columns(folder):
    """Rows with domains, pass rates and thoughts, and a student whose tokenizer has the tokens around thoughts."""
    rows = [
        {
            "prompt": f"{letter}{word}|",
            "thoughts": letter,
            "completion": word[::-1],
            "domain": "ab"[number % 2],
            "pass_rate": number / 8,
        }
        for number, letter in enumerate("abcdefgh")
        for word in WORDS
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    for name in ("student", "teacher"):
        model = AutoModelForCausalLM.from_pretrained(folder / name)
        model.resize_token_embeddings(len(tokenizer))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def _with_likely_answers(folder):
    """Rows whose answers an untrained student is likely to begin with, so that some samples earn more than others."""
    student = AutoModelForCausalLM.from_pretrained(folder / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    rows = []
    for word in WORDS:
        ids = tokenizer(f"{word}|", return_tensors="pt")["input_ids"]
        for _ in range(3):
            ids = torch.cat([ids, student(ids).logits[:, -1:, 3:].argmax(-1) + 3], 1)
        rows.append({"prompt": f"{word}|", "completion": tokenizer.decode(ids[0, -3:]).replace(" ", "")})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("method", sorted(CLASSIFIERS_ALONE))
def test_a_method_of_encoders_is_refused_with_its_line(folder, method):
    path = config_of(folder, method)
    with pytest.raises(
        CatalogError, match=rf"{path.name}:\d+: {method} is for classifiers, its .*: `task: classification`"
    ):
        load_config(path)


@pytest.mark.parametrize("method", [name for name in recipe_ids() if name not in CLASSIFIERS_ALONE])
def test_every_method_saves_a_plain_folder(folder, method, monkeypatch):
    """Every recipe runs from a config, on rows that have what it needs; an untrained teacher can explain nothing."""
    if method in ASKED:
        _with_numbers(folder)
        said = RecordedWriter("chains", {f"{word}|": [SAID] * 2 for word in WORDS})
        said = Talks() if method in TALKS else said
        monkeypatch.setattr("methods.elicitation.pipeline._writer", lambda asked, surroundings: said)
    needed = len(teachers_of(canonical_method(read_recipe(method).method())))
    teacher = [None, "teacher", "[teacher, second]"][needed]
    if method == "bert-pkd":  # models of one width
        teacher = "second"
    if method in ("ddk", "codi", "paced"):
        _with_columns(folder)
    if method in VERIFIED:
        _with_likely_answers(folder)
    path = config_of(
        folder, method, teacher=teacher, extra=f"settings: {json.dumps(SETTINGS.get(method, {}))}\n"
    )
    for name in ("teacher", "student"):
        model = AutoModelForCausalLM.from_pretrained(folder / name)
        model.generation_config.eos_token_id = list(range(1, 29, 3))  # an untrained model hardly ever stops
        model.save_pretrained(folder / name)
    record = made(path)
    assert record["steps"] == 4 and record["tokens"]["student"] > 0
    student = AutoModelForCausalLM.from_pretrained(folder / "run")
    before = AutoModelForCausalLM.from_pretrained(folder / "student")
    assert any(not torch.equal(a, b) for a, b in zip(student.parameters(), before.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(folder / "run").eos_token == "<eos>"
    assert not (folder / "run" / STATE).exists()
    assert not list((folder / "run").glob("*.bin")) and (folder / "run" / "model.safetensors").is_file()
    if needed and method not in ASKED:  # what recorded outputs cost is not known
        assert record["tokens"]["teacher"] > 0


def test_two_teachers_and_lora(folder):
    record = made(
        config_of(folder, teacher="[teacher, second]", extra="lora: {rank: 2, targets: [q_proj]}\n")
    )
    assert record["teachers"] == [str(folder / "teacher"), str(folder / "second")]
    names = {name for name, _ in AutoModelForCausalLM.from_pretrained(folder / "run").named_parameters()}
    assert not any("lora" in name for name in names), "adapters are merged in"


@pytest.mark.parametrize("within_an_epoch", [False, True])
@pytest.mark.parametrize(
    ("method", "extra"),
    [
        ("gkd", ""),
        ("distillm", "settings: {start: 0.8, validations: 4}\n"),  # remembers a share, a loss and a buffer
        ("taid", "settings: {step_size: 0.5}\n"),  # remembers the loss and its trend
        ("minillm", "settings: {steps_per_generation: 2, num_iterations: 2}\n"),  # remembers its rollouts
        ("kdrl", "settings: {num_generations: 2, until: 1.0}\n"),  # its weight falls
    ],
)
def test_an_interrupted_run_goes_on_and_ends_the_same(folder, stopped, method, extra, within_an_epoch):
    if within_an_epoch:  # three steps each, and the checkpoint is after two
        rows = [{"prompt": f"{word}{word}|", "completion": word} for word in WORDS[:4]]
        with (folder / "data.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    whole, cut = (config_of(folder, method, name=name, extra=extra) for name in ("whole", "cut"))
    expected = made(whole)
    with pytest.raises(KeyboardInterrupt), stopped(at=3):
        made(cut)
    assert (folder / "cut" / STATE / "checkpoint-2").is_dir()
    clock = folder / "cut" / STATE / "clock.json"
    assert json.loads(clock.read_text())["seconds"] >= 0
    clock.write_text('{"seconds": 1000}')
    got = made(cut)
    for name in ("steps", "tokens", "rollouts", "loss"):
        assert got[name] == expected[name]
    assert got["seconds"] >= 1000, "the clock went on from the checkpoint's; a record rounds to 0.1 s"
    one, other = (
        AutoModelForCausalLM.from_pretrained(folder / name).state_dict() for name in ("whole", "cut")
    )
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=0)
    assert made(cut)["steps"] == 4, "a finished student is not made again"


def test_another_config_s_output_is_left_alone(folder):
    made(config_of(folder))
    with pytest.raises(KDError, match="holds a student of another config"):
        made(config_of(folder, steps=5))
    assert (folder / "run" / RECORD).is_file()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("methd: gkd", 'unknown field "methd" (did you mean "method"?)'),
        ("settings: {skw: 0.1}", 'word-kd has no setting "skw"'),
        ("budget: {step: 5}", 'budget: unknown "step" (did you mean "steps"?)'),
        ("budget: {steps: many}", "budget: steps must be a whole number of 1 or more"),
        ("precision: fp8", 'precision "fp8"; known: fp32, bf16-autocast'),
        ("seed: -1", '"seed" must be a whole number of 0 or more'),
        ("lora: {rnk: 4}", 'lora: unknown "rnk" (did you mean "rank"?)'),
    ],
)
def test_mistakes_have_file_line_and_the_nearest_name(folder, line, message):
    path = folder / "wrong.yaml"
    path.write_text(
        f"method: word-kd\nteacher: teacher\nstudent: student\ndata: data.jsonl\noutput: o\n{line}\n"
    )
    with pytest.raises(CatalogError) as error:
        load_config(path)
    assert message in str(error.value) and "wrong.yaml:6:" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: gkdd\nstudent: s\ndata: data.jsonl\noutput: o\n", 'no method "gkdd" (did you mean "gkd"?)'),
        ("method: gkd\nstudent: s\ndata: data.jsonl\noutput: o\n", 'gkd needs a "teacher"'),
        (
            "method: sft\nteacher: t\nstudent: s\ndata: data.jsonl\noutput: o\n",
            "sft learns from the data alone",
        ),
        ("method: sft\nstudent: s\ndata: nowhere.jsonl\noutput: o\n", "no file"),
        ("method: sft\nstudent: s\ndata: data.jsonl\n", '"output" is missing'),
    ],
)
def test_what_cannot_be_run_is_refused(folder, text, message):
    path = folder / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(
        CatalogError, match=message.replace("(", r"\(").replace("?", r"\?").replace(")", r"\)")
    ):
        load_config(path)


def test_a_bad_row_is_named(folder):
    (folder / "data.jsonl").write_text('{"prompt": "a|", "completion": "b"}\n{"prompt": "a|"}\n')
    with pytest.raises(KDError, match=r"data\.jsonl:2: no field completion"):
        made(config_of(folder))


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("codellama/CodeLlama-7b-Instruct-hf", "llama"),
        ("TheBloke/llama2-7b-chat", "llama"),
        ("/models/llama_2_13b", "llama"),
        ("NousResearch/Nous-Hermes-Llama2-13b", "llama"),
        ("WizardLM/WizardLM-13B-V1.2", "llama"),
        ("microsoft/WizardLM-2-7B", None),
        ("allenai/tulu-2-7b", "llama"),
        ("meta-llama/LlamaGuard-7b", "llama"),
        ("upstage/SOLAR-0-70b", "llama"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3"),
        ("somebody/llama3-8b", "llama-3"),
        ("meta-llama/Llama-3.2-1B", "llama-3-1"),
        ("somebody/llama3.2-1b", "llama-3-1"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "open-weights"),
        ("somebody/my-own", None),
    ],
)
def test_the_names_that_people_give_a_model_tell_its_terms(name, entry):
    assert family(name) == entry


def test_a_teacher_whose_terms_forbid_it_needs_a_word(folder):
    teachers = load_catalog(Path(__file__).resolve().parents[3] / "catalog").teachers
    config = load_config(config_of(folder, teacher="meta-llama/Llama-2-7b-chat-hf"))
    with pytest.raises(CatalogError, match="forbid training"):
        check_teacher_terms(config, teachers)
    knowing = config_of(folder, teacher="meta-llama/Llama-2-7b-chat-hf", extra="accept_teacher_terms: true\n")
    check_teacher_terms(load_config(knowing), teachers)
    named = config_of(folder, extra="teacher_terms: openai\n")
    with pytest.raises(CatalogError, match="forbid training"):
        check_teacher_terms(load_config(named), teachers)
    check_teacher_terms(load_config(config_of(folder)), teachers)
