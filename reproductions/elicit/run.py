"""From a config to a data set: seeds through the steps, with a teacher behind a journal."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from methods.elicitation.records.card import card
from methods.elicitation.records.record import Record, seeds
from methods.elicitation.records.table import CARD, ROWS, TRAIN, report, write
from methods.elicitation.writers.budget import Caps, Prices, Stopped
from methods.elicitation.writers.journal import AnswerJournal
from methods.elicitation.writers.pool import Pool, Router, by_note, by_share
from methods.elicitation.writers.protocol import Answer, CapReached, Request, Writer
from methods.elicitation.writers.session import Estimate, Session
from methods.errors import MethodError, NotYet
from methods.registry import build
from reproductions.elicit.config import Config, terms_of, where_is
from reproductions.elicit.rehearsal import rehearsed, stand_ins
from reproductions.engine.errors import KDError
from reproductions.engine.files import content_digest, why_not_writable, write_atomic
from reproductions.models.sources import load_pretrained, model_folder, read_jsonl

# (step's name, its number from 1, of how many steps, answers so far, of how many, the session)
Progress = Callable[[str, int, int, int, int, Session], None]
PARTIAL = "partial.jsonl"
IN_A_FILE = ("failed", "not asked yet")


def elicit(config: Config, progress: Progress | None = None, *, ask_nobody: bool = False) -> dict[str, Any]:
    """Run the steps and write the data set; returns its report. With `ask_nobody` the journal alone answers.

    Whatever ends it early (a cap, Ctrl-C, a server that is gone), the rows of what was answered are written to
    `partial.jsonl`; the same call then goes on. Raises MethodError, KDError and CatalogError.
    """
    reason = None if ask_nobody else why_not_writable(config.output)
    if reason is not None:
        raise config.lines.error(f'"output": {config.output} cannot be written: {reason}', "output")
    writers = {name: writer_of(config, name) for name in config.teachers}
    if not ask_nobody:
        rehearse(config, writers)
    session = session_for(config, writers, ask_nobody=ask_nobody)
    try:
        rows = run_steps(config, session, progress)
    except BaseException:
        session.close()
        if not ask_nobody:
            with suppress(MethodError, KDError):  # what ended the run is what there is to say
                _look(config, writers)
        raise
    session.close()
    told = report(rows)
    if ask_nobody:
        _write_partial(config, rows)
        return _record(config, session, told)
    record = _record(config, session, told)
    write(config.output, rows, _card(config, session, told))
    (config.output / PARTIAL).unlink(missing_ok=True)
    return record


def partial(config: Config) -> dict[str, Any]:
    """The report on what the journal holds by now, whose rows are written to `partial.jsonl`; asks nobody.

    A step that cannot go on without what is missing is the last: the rows are as they were before it.
    """
    return elicit(config, ask_nobody=True)


def estimate(config: Config) -> list[tuple[str, Estimate]]:
    """What each step would cost, as far as it can be told: a step that reads answers that are not there sees none."""
    writers = {name: writer_of(config, name) for name in config.teachers}
    rehearse(config, writers)
    session = _Estimating(session_for(config, writers, ask_nobody=True))
    told = []
    rows = _seeds(config)
    for number, step in enumerate(config.steps):
        session.told_so_far = []
        with suppress(NotYet):
            rows = _step(config, number, rows, session)
        parts = session.told_so_far or [session.estimate([])]
        told.append((step["name"], _sum(parts)))
    session.close()
    return told


def rehearse(config: Config, writers: dict[str, Writer]) -> None:
    """The steps on the first rows with stand-ins for the teachers; raises KDError for what could never work.

    A parser of another name, a column that is not there, a teacher that cannot score: in the last step too.
    """
    session = Session(stand_ins(writers, _router(config), fallback=config.fallback))
    rows = rehearsed(_seeds(config))
    for number in range(len(config.steps)):
        try:
            rows = _step(config, number, rows, session)
        except NotYet:
            return


def run_steps(config: Config, session: Session, progress: Progress | None = None) -> list[Record]:
    """The rows after all steps."""
    rows = _seeds(config)
    for number, step in enumerate(config.steps, 1):
        if progress is not None:
            name = step["name"]

            def told(done: int, of: int, name: str = name, number: int = number) -> None:
                progress(name, number, len(config.steps), done, of, session)

            told(0, 0)
            session.told = told
        try:
            rows = _step(config, number - 1, rows, session)
        except NotYet as error:
            if session.ask_nobody:
                break
            raise KDError(_where(config, number - 1, error)) from error
    return rows


def _step(config: Config, number: int, rows: Sequence[Record], session: Session) -> list[Record]:
    """What a step makes of the rows; what is wrong with it is a KDError with its line."""
    try:
        return list(build("elicitation", config.steps[number])(rows, session))
    except (CapReached, Stopped, NotYet):
        raise
    except MethodError as error:
        raise KDError(_where(config, number, error)) from error


def _where(config: Config, number: int, error: MethodError) -> str:
    line = config.lines.at("steps", number)
    return f"{config.path}:{line}: {config.steps[number]['name']}: {error}"


def _router(config: Config) -> Router | None:
    if config.route is None:
        return None
    shares = config.route.get("shares")
    return by_note(config.route["field"]) if shares is None else by_share(shares)


def session_for(
    config: Config, writers: dict[str, Writer] | None = None, *, ask_nobody: bool = False
) -> Session:
    """The session of a config, with its teachers and its journal."""
    if writers is None:
        writers = {name: writer_of(config, name) for name in config.teachers}
    return Session(
        Pool(writers, _router(config), fallback=config.fallback),
        AnswerJournal(config.journal, read_only=ask_nobody),
        seed=config.seed,
        caps=Caps(**config.caps),
        prices=Prices(**config.prices),
        ask_nobody=ask_nobody,
    )


def writer_of(config: Config, name: str) -> Writer:
    """The writer of one of a config's teachers."""
    teacher, terms = config.teachers[name], terms_of(config.teachers[name])
    try:
        if teacher["kind"] == "server":
            from methods.elicitation.writers.server import Patience, ServerWriter

            patience = Patience(attempts=teacher["attempts"], timeout=float(teacher["timeout"]))
            return ServerWriter(
                teacher["server"],
                teacher["model"],
                terms=terms,
                key_variable=teacher["key"],
                parallel=teacher["parallel"],
                patience=patience,
                extra=teacher["extra"],
                name=teacher["name"],
            )
        if teacher["kind"] == "recorded":
            from methods.elicitation.writers.recorded import RecordedWriter, read_recorded

            files = teacher["recorded"]
            texts = read_recorded(files, question=teacher["question"], answer=teacher["answer"])
            return RecordedWriter(" + ".join(file.name for file in files), texts, terms=terms)
    except MethodError as error:
        raise config.lines.error(str(error), *where_is(config, name)) from None
    from methods.elicitation.writers.local import LocalWriter

    folder = model_folder(teacher["local"])
    of_what = teacher["local"] if folder is None else f"{folder.name} {content_digest(folder)}"
    model, tokenizer = load_pretrained(teacher["local"])
    assert model is not None
    return LocalWriter(model, tokenizer, of_what, terms=terms, batch=teacher["batch"])


def push(config: Config, repository: str) -> str:
    """Put the data set on the hub, privately if it is new; returns its address. Raises KDError."""
    from huggingface_hub import HfApi

    missing = [name for name in (TRAIN, ROWS, CARD) if not (config.output / name).is_file()]
    if missing:
        raise KDError(f"{config.output}: no {missing[0]}; run `kd elicit {config.path}` to its end first")
    try:
        api = HfApi()
        api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(
            folder_path=str(config.output),
            repo_id=repository,
            repo_type="dataset",
            allow_patterns=[TRAIN, ROWS, CARD],
        )
    except Exception as error:  # the hub's client raises a dozen unrelated types
        raise KDError(f"{repository}: not pushed: {' '.join(str(error).split())[:300]}") from error
    return f"https://huggingface.co/datasets/{repository}"


class _Estimating(Session):
    """Answers from the journal alone, and adds up what the rest would cost."""

    def __init__(self, around: Session) -> None:
        self.__dict__.update(around.__dict__)
        self.told_so_far: list[Estimate] = []

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        self.told_so_far.append(self.estimate(requests))
        return super().ask(requests)

    def score(self, requests: Sequence[Request], texts: Sequence[str]) -> list[list[float]]:
        """Costs nothing; what is not known yet is 0, so that the next step can be estimated."""
        return [[0.0] for _ in texts]


def _sum(parts: Sequence[Estimate]) -> Estimate:
    first, *rest = parts
    for part in rest:
        first = Estimate(
            first.requests + part.requests,
            first.known + part.known,
            first.most + part.most,
            first.most_money + part.most_money,
            first.likely + part.likely,
            first.likely_money + part.likely_money,
        )
    return first


def _seeds(config: Config) -> list[Record]:
    rows = read_jsonl(config.seeds, [config.prompt])
    try:
        return seeds(rows[: config.first], config.prompt)
    except MethodError as error:
        raise KDError(f"{config.seeds}: {error}") from None


def _look(config: Config, writers: dict[str, Writer]) -> None:
    """Write the rows of what the journal holds by now."""
    session = session_for(config, writers, ask_nobody=True)
    try:
        _write_partial(config, run_steps(config, session))
    finally:
        session.close()


def _write_partial(config: Config, rows: Sequence[Record]) -> None:
    from methods.elicitation.records.table import training_lines

    write_atomic(config.output / PARTIAL, training_lines(rows))


def _record(config: Config, session: Session, told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **told,
        "session": session.report(),
        "output": str(config.output),
        "unanswered": sum(told["dropped"].get(reason, 0) for reason in IN_A_FILE),
    }


def _card(config: Config, session: Session, told: Mapping[str, Any]) -> str:
    from catalog.schema import load_catalog

    known = load_catalog().teachers
    teachers = []
    for name, writer in session.pool.writers.items():
        entry = terms_of(config.teachers[name])
        note = known[entry].note if entry in known else ""
        teachers.append({"identity": writer.identity, "terms": entry, "note": note})
    packages = ("kd-atlas", "transformers", "datasets")
    return card(
        title=config.title,
        seeds=Path(config.seeds).name,
        teachers=teachers,
        steps=config.steps,
        report=told,
        spent=session.report()["spent"],
        priced=any(config.prices.values()),
        versions={name: _version(name) for name in packages} | {"Python": platform.python_version()},
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
