"""`kd teach`: each teacher of a config that keeps its answers is asked about the rows, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from methods.assembly import rows_of
from methods.errors import MethodError
from methods.modeling.core import shared_vocabulary
from methods.tokenizers.encoding import encode
from reproductions.distill.answers.kept import Encoded, name_of
from reproductions.distill.answers.spec import DRAWN, HIDDEN, Answers, temperatures
from reproductions.distill.models import load_numbers, training_device, with_template
from reproductions.distill.preflight import rows_for, student_tokenizer
from reproductions.engine.files import why_not_writable
from reproductions.models.sources import load_outline, load_pretrained

if TYPE_CHECKING:
    from reproductions.distill.config import Config

Report = Callable[[str, int, int], None]
PRECISIONS = {"bf16": "bfloat16", "fp32": "float32"}


class _Given:
    """Surroundings of rows alone."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def rows(self, name: str) -> Any:
        return self._rows


def teach(config: Config, report: Report, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Fills what each teacher keeps with its answers to the rows; what they hold then, teacher by teacher.

    What is there already is not asked again; a call that was interrupted goes on where it was. Raises CatalogError for
    a config without `answers`, MethodError for a teacher of other tokens than the student's or a folder that keeps
    another teacher's answers.
    """
    if not any(config.answers):
        raise config.lines.error(
            "no teacher of this config keeps its answers: give one `answers: {in: FOLDER}`", "teacher"
        )
    for place, kept in enumerate(config.answers):
        if kept is not None and (reason := why_not_writable(kept.folder)) is not None:
            where = ("teacher", place) if len(config.teachers) > 1 else ("teacher",)
            raise config.lines.error(
                f'"in": {kept.folder} cannot be written: {reason}', *where, "answers", "in"
            )
    tokenizer = student_tokenizer(config)
    read = rows_for(config, tokenizer)
    for sentence in read.warnings:
        say(sentence)
    given: Any = _Given(read.train)
    limit = config.budget["prompt_tokens"] + config.budget["completion_tokens"]
    rows = encode(rows_of(config.tree["data"], given), tokenizer, limit)
    say(f"{len(rows):,} rows to ask about")
    batches, made = Encoded(rows), []
    for place, kept in enumerate(config.answers):
        if kept is None:
            continue
        name = config.teachers[place]

        def progress(done: int, name: str = name) -> None:
            report(f"asking {name}", done, len(rows))

        ask = _ask_server if kept.server else _ask_model
        totals = ask(config, place, kept, batches, tokenizer, progress)
        size = sum(path.stat().st_size for path in kept.folder.iterdir() if path.is_file())
        made.append({"teacher": name, "answers": str(kept.folder), "bytes": size, **totals})
    return made


def _ask_model(
    config: Config, place: int, kept: Answers, batches: Encoded, tokenizer: Any, progress: Any
) -> dict[str, Any]:
    from methods.teachers.fill import fill, fill_hidden

    name = config.teachers[place]
    loaded, its = load_numbers(name, config.teachers_loaded[place])
    model: Any = loaded
    shared_vocabulary(load_outline(config.student, config.student_loaded), model, tokenizer, its)
    held = getattr(model, "is_quantized", False)
    model = (model if held else model.to(training_device())).eval()
    about: dict[str, Any] = {
        "tokenizer": tokenizer,
        "teacher_id": name_of(config, place),
        "progress": progress,
    }
    if kept.keep == HIDDEN:
        return fill_hidden(kept.folder, model, batches, dtype=PRECISIONS[kept.precision], **about)
    temperature = next(iter(temperatures(config.tree)), 1.0)
    if kept.keep == DRAWN:
        from methods.teachers.drawn import fill_drawn

        drawn: dict[str, Any] = {"rounds": kept.rounds, "temperature": temperature, "seed": config.seed}
        return fill_drawn(kept.folder, model, batches, **drawn, **about)
    return fill(kept.folder, model, batches, max_k=kept.top_k, temperature=temperature, **about)


def _ask_server(
    config: Config, place: int, kept: Answers, batches: Encoded, tokenizer: Any, progress: Any
) -> dict[str, Any]:
    from methods.teachers.client import Client, Limits
    from methods.teachers.server import ServerTeacher, fill_from_server

    temperature = next(iter(temperatures(config.tree)), 1.0)
    if temperature != 1:
        raise MethodError(
            f"a server gives its probabilities at temperature 1, and {config.method} asks at {temperature:g}"
        )
    its = tokenizer
    if kept.tokenizer:
        its = with_template(load_pretrained(kept.tokenizer, weights=False)[1], config)
        if its.get_vocab() != tokenizer.get_vocab():
            raise MethodError(
                f"{kept.tokenizer} has other tokens than {config.student}: it cannot say what follows them"
            )
    limits = Limits(tokens=kept.tokens or None, attempts=kept.attempts, timeout=kept.timeout)
    journal = kept.folder.with_name(kept.folder.name + ".journal")
    client = Client(kept.server, journal, limits, key_variable=kept.key)
    teacher = ServerTeacher(client, config.teachers[place], its, top_k=kept.top_k, protocol=kept.protocol)
    return fill_from_server(
        kept.folder, teacher, batches, max_k=kept.top_k, parallel=kept.parallel, progress=progress
    )
