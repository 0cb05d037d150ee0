"""Sequence-level KD (Kim and Rush, arXiv 1606.07947): fine-tune on the teacher's most probable answers.

Word-KD matches the teacher's distributions on the given answers. SeqKD takes the teacher's beam-searched answer as the
label; sequence interpolation takes, of the beam, the one most like the given answer. Both can carry word-level KD too.
The paper says, for greedy decoding: SeqKD beats word-KD by far and even the baseline with beam search, because the
student's distribution becomes peaked around its mode; the levels add up.
"""

from functools import partial

from reproductions.arms import distil, divergence, sft
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.settings import tiny

BEAMS = {"beams": 5, "batch_size": 512}  # section 4.1: K = 5 for SeqKD; 35 for interpolation, here 5 for both


def seqkd(run):
    """Fine-tune on the best answer of the teacher's beam."""
    return sft(run, labels(run, "mode"))


def interpolated(run):
    """Fine-tune on the answer of the beam that is most like the given one."""
    return sft(run, labels(run, "closest"))


def seqkd_and_word_kd(run):
    """Word-level KD on the teacher's answers, half and half with their likelihood."""
    from methods.slots.terms import Divergence

    terms = [Divergence("forward_kl", weight=0.5), Divergence("cross_entropy", weight=0.5)]
    return distil(run, terms=terms, dataset=labels(run, "mode"))


def labels(run, which):
    """The teacher's answers to the training prompts: the "mode" of its beam, or the "closest" to the given answer."""
    from datasets import Dataset

    from methods.elicitation.labelling import closest

    beams = run.cached_json("beams", run.settings["beams"], partial(search, run))
    rows = []
    for row, found in zip(run.testbed.train, beams, strict=True):
        if found:
            answer = found[0] if which == "mode" else closest(found, row["completion"])
            rows.append({"prompt": row["prompt"], "completion": answer})
    return Dataset.from_list(rows)


def search(run):
    """The teacher's beams for all training prompts; made once for all seeds."""
    from methods.elicitation.labelling import beam_search

    found, report = beam_search(
        run.testbed.teacher(run), run.testbed.tokenizer, list(run.testbed.train["prompt"]),
        max_new_tokens=run.testbed.max_completion_tokens, **run.settings["beams"],
    )  # fmt: skip
    run.ledger.add_tokens({"teacher": report.teacher_tokens, "generated": report.generated_tokens})
    run.ledger.add_rollouts({name: getattr(report, name) for name in ("completions", "truncated", "empty")})
    return found


def testbed():
    """Pronunciation with the student's probability of its own greedy answer."""
    from reproductions.testbeds.pronunciation import PronunciationBeams, load

    return load(PronunciationBeams)


EXPERIMENT = Experiment(
    paper="seqkd",
    title="Sequence-Level Knowledge Distillation",
    arms={
        "sft": Arm("no distillation", sft, "baseline"),
        "word-kd": Arm("Word-KD", partial(divergence, name="forward_kl"), "baseline"),
        "seqkd": Arm("SeqKD", seqkd, "method"),
        "seq-inter": Arm("Seq-Inter", interpolated, "method"),
        "seqkd-word-kd": Arm("SeqKD + Word-KD", seqkd_and_word_kd, "method"),
    },
    scales={
        "tiny": Scale(
            "pronunciation-beams",
            seeds=(0, 1, 2, 3, 4),
            settings=tiny(
                {"sft": 0.004, "word-kd": 0.004, "seqkd": 0.004, "seq-inter": 0.004, "seqkd-word-kd": 0.002},
                beams=BEAMS,
            ),
            minutes=5,
        )
    },
    testbeds={"pronunciation-beams": testbed},
    headline=("greedy_exact_match", "beam_exact_match", "beam_gain", "rouge_l", "mode_probability"),
)
