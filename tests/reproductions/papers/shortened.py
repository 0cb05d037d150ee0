"""Every arm of every paper and scale as a short run: what differs once it is shortened is run, everything once."""

from collections import Counter
from dataclasses import dataclass

import torch

from methods.recipe import ITSELF, OF_ANSWERS, OF_CLASSES, OPTIMISES
from methods.registry import load
from methods.slots.term import NOTHING
from methods.slots.terms.divergence import BY_ROWS
from reproductions.engine.plan.experiment import list_papers, load_experiment
from reproductions.engine.plan.spec import key_of, read_testbed_of, spec_of, swept_arms
from reproductions.engine.show.gather import claims_of
from reproductions.engine.work.artifacts import Artifacts
from reproductions.engine.work.execute import execute
from reproductions.engine.work.run import Run
from reproductions.testbeds import load_testbed

ROWS, TEST_ROWS = 256, 24  # of a testbed, as `fewer_rows` leaves them


@dataclass(frozen=True)
class Case:
    """A short run: its spec, the testbed as data, and the (paper, scale, arm) that it stands for."""

    spec: dict
    bed: dict
    arms: tuple
    metrics: frozenset  # that their claims, numbers and tables are about

    @property
    def id(self):
        paper, scale, arm = self.arms[0]
        return f"{self.bed['name']}-{paper}-{arm}" if kind_of(scale) == "tiny" else f"{scale}-{paper}-{arm}"

    def run(self, seed, cache, prepare=lambda testbed: None, wanted=None):
        """The record of the run; teachers and starts are found in `cache` or made. `wanted`: metrics, or all."""
        testbed = load_testbed(self.bed).at(seed)
        prepare(testbed)
        made = Run(
            self.spec,
            seed,
            testbed=testbed,
            device=torch.device("cpu"),
            artifacts=Artifacts(cache),
            arm=self.id,
            wanted=wanted,
        )
        return execute(made)


def cases(scales, shorten_testbed, shorten_spec, papers=None):
    """The distinct short runs of all papers at scales of some kinds, those of one testbed one after the other.

    `papers`: the folder of the experiments, where it is not that of the atlas.
    """
    found = {}
    for paper in list_papers(papers):
        experiment = load_experiment(paper, papers)
        for scale in [name for name in experiment.scales if kind_of(name) in scales]:
            bed = shorten_testbed(read_testbed_of(experiment, experiment.scale(scale)))
            needed = wanted(experiment, scale)
            for arm in experiment.arms_at(scale):
                rate = 1e-3 if arm in swept_arms(experiment, scale) else None  # of whatever sweep there is
                spec = shorten_spec(spec_of(experiment, scale, arm, bed, learning_rate=rate))
                case = found.setdefault((bed["name"], key_of(spec)), Case(spec, bed, (), frozenset()))
                arms, metrics = (*case.arms, (paper, scale, arm)), case.metrics | needed
                found[bed["name"], key_of(spec)] = Case(case.spec, case.bed, arms, metrics)
    beds = Counter(name for name, _ in found)
    return [found[key] for name in sorted(beds) for key in found if key[0] == name]


def kind_of(scale):
    """ "tiny" of `tiny` and of `tiny-navigate`, its second testbed."""
    return scale.partition("-")[0]


def small_teachers(bed, phase, steps, others):
    """The teachers of a testbed, trained for so many steps with so much warm-up: `steps` by name, `others`."""
    trained = {}
    for name, tree in bed.get("teachers", {}).items():
        if "training" in tree:
            most, warmup = steps.get(name, others)
            size = phase["per_device_train_batch_size"]
            given = {"max_steps": most, "per_device_train_batch_size": size, "warmup_steps": warmup}
            trained[name] = {"training": {**tree["training"], **given}}
    return trained


def short_phases(spec, phase, warmup):
    """The spec with few steps wherever it trains, and no learning curve."""
    for part in {"training", "sft_start"} & set(spec):
        warm = {"warmup_steps": warmup} if "warmup_steps" in spec[part] else {}
        spec[part] = {**spec[part], **phase, **warm}
    return {**spec, "curve": {"points": 0}, "test_examples": TEST_ROWS}


def fewer_rows(testbed):
    """The first rows of each kind; a testbed is loaded once for all who ask for it."""
    if getattr(testbed, "shortened", False):
        return
    testbed.shortened = True
    testbed.tokenizer, [testbed.teacher_tokenizer(name) for name in testbed.spec.get("teachers", {})]
    used = {"strangers"} & {tree.get("rows") for tree in testbed.spec.get("teachers", {}).values()}
    for name in {*testbed.task._make} - ({"strangers"} - used):  # they cost seconds
        rows, most = testbed.task.rows(name), TEST_ROWS if name in ("test", "validation") else ROWS
        testbed.task._made[name] = rows.select(range(min(len(rows), most)))


def wanted(experiment, scale):
    """The metrics that claims at a scale, numbers of the paper and the tables of scale tiny are about."""
    if "claims" not in experiment.data:  # the first edition's
        return frozenset(experiment.headline)
    claims = claims_of(experiment)
    found = {claim.metric for claim in claims.at(scale)}
    if scale == "paper":
        found |= {value.metric for value in claims.values}
    return frozenset(found | set(experiment.headline if scale == "tiny" else ()))


def check(case, record):
    """What holds for every run, however short: figures, counts, the start, as the spec has it."""
    spec, method = case.spec, case.spec["method"]
    missing = case.metrics - set(record["metrics"])
    assert not missing, f"{sorted(missing)} are not measured"
    unknown = {name for name in case.metrics if record["metrics"][name] is None}
    assert not unknown, f"{sorted(unknown)} have no value"
    trained = method["trainer"]["name"] != "teacher-alone"
    kinds = {item["kind"] for item in record["shared"].values()}
    assert ("sft-start" in kinds) == ((trained or method["teachers"] == [ITSELF]) and spec["start"] == "sft")
    assert (record["tokens"]["student"] > 0) == trained
    assert (record["tokens"]["teacher"] > 0) == asks_a_teacher(method)
    itself = method["trainer"]["name"] in ("minillm", *OPTIMISES)
    samples = itself or "sampler" in method
    if not samples:
        assert record["rollouts"]["completions"] == 0
    if itself or method.get("sampler", {}).get("name") in ALWAYS_SAMPLE:
        assert record["rollouts"]["completions"] > 0


def asks_a_teacher(method):
    """Whether a teacher reads along in each step."""
    if method["trainer"]["name"] not in (*OF_ANSWERS, OF_CLASSES):
        itself = method["trainer"]["name"] in ("minillm", *OPTIMISES)
        return itself and bool(method["teachers"])
    terms = [load("term", term["term"]).reads for term in method["terms"] if "term" in term]
    divergences = [term["divergence"] for term in method["terms"] if "divergence" in term]
    weighed = method.get("sampler", {}).get("name") == "domains"
    of_labels = {name.replace("_", "-") for name in BY_ROWS}
    return weighed or set(terms) - {NOTHING} != set() or set(divergences) - of_labels != set()


ALWAYS_SAMPLE = ("half-student", "with-student", "paired-student", "teacher-mixed", "corrected")
