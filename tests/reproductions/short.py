"""Testbeds with two-step teachers and few rows: what a test changes in a testbed's file."""

from reproductions.testbeds import changed, load_testbed, read_testbed

SHORT = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3}
FEW = {
    "pronunciation": {"train_words": 64, "validation_words": 8, "test_words": 8},
    "word-problems": {"validation_problems": 8, "test_problems": 8},
    "extraction": {"validation_sentences": 4, "test_sentences": 6},
    "instructions": {"validation_rows": 5},
    "conversations": {"validation_rows": 2},
    "maths": {"validation_rows": 4},
    "reading": {"validation_rows": 4},
    "navigate": {
        **{"size": 5, "loops": 3, "shortest": 3, "demonstrations": 20, "tokens": 24, "walks": 60},
        **{"longest_walk": 12, "corrections": 60, "validation_pairs": 20, "test_pairs": 40},
    },
    "scratchpad": {
        **{"fewest": 2, "most": 3, "demonstrations": 20, "tokens": 32, "drafts": 60, "corrections": 60},
        **{"validation_problems": 20, "test_problems": 40},
    },
    "countdown": {
        **{"numbers": 3, "most": 8, "demonstrations": 20, "tokens": 12, "scribbles": 60, "corrections": 60},
        **{"validation_problems": 20, "test_problems": 40},
    },
    "trace": {
        **{"modulus": 5, "instructions": 4, "demonstrations": 20, "tokens": 14, "drafts": 60},
        **{"validation_problems": 20, "test_problems": 40},
    },
    "classification": {"train_texts": 64, "validation_texts": 20, "test_texts": 24},
    "reviews": {"train_texts": 64, "pool_texts": 24, "validation_texts": 20, "test_texts": 24},
    "reasoning": {
        **{"train": 40, "solutions": 40, "base": 80, "validation_problems": 8, "test_problems": 8},
        **{"unseen_problems": 8},
    },
}
TOKENS = {  # of answers
    "word-problems": {"limits": {"completion": 24}},
    "instructions": {"limits": {"completion": 14}},
    "conversations": {"limits": {"completion": 12}},
    "maths": {"decoding": {"completion": 8}},
    "reading": {"decoding": {"completion": 8}, "limits": {"completion": 8}},
}


def short(name, changes=None, training=SHORT, **task):
    """What `read_testbed` says, shortened."""
    return shortened(read_testbed(name), changes, training, **task)


def shortened(spec, changes=None, training=SHORT, **task):
    """A testbed with every teacher trained by `training`, on the training rows where it may be.

    `task` are settings of the task in place of those of FEW, `changes` of anything else.
    """
    name, kind = spec["name"], spec["task"]["name"]
    spec = changed(spec, {"revision": None, "task": {**FEW.get(kind, {}), **task}})
    spec = changed(spec, TOKENS.get(kind, {}))
    if name == "ultrachat":
        spec["task"].setdefault("test_rows", 5)
    for tree in spec["teachers"].values():
        if "training" in tree:
            tree["training"] = dict(training)
        if "shape" in tree:
            tree.setdefault("rows", "train")
        if "answers" in tree:
            tree["answers"] = {"of": tree["answers"]["of"], "last": 20, "seed": 1}
        if "first" in tree:
            tree["first"] = 30
    for tree in spec["students"].values():
        if "base" in tree:
            tree["base"]["training"] = dict(training)
    return changed(spec, changes or {})


def load_short(name, changes=None, training=SHORT, **task):
    """The testbed of `short`."""
    return load_testbed(short(name, changes, training, **task))
