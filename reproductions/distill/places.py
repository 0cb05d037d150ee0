"""Where the models of a config lie, and how they are loaded: folders beside it first, then the hub.

Never the hub for a misspelt folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catalog.reader import Lines, nearest
from reproductions.distill.answers.spec import Answers, read_answers
from reproductions.models.sources import DTYPES, PACKAGED, Loading, model_folder

# Those that transformers has without a package of somebody else's, and those that need one.
ATTENTION = {"eager": None, "sdpa": None, "flex_attention": None, "flash_attention_2": "flash_attn"}
BITS = (4, 8)
KEYS = ("model", "dtype", "attention", "bits", "revision")
OF_A_TEACHER = (*KEYS, "answers")
OF_A_STUDENT = ("model", "attention", "revision", "layers")  # trained in fp32, or under autocast: `precision`


def teachers_in(
    data: Mapping[str, Any], lines: Lines
) -> tuple[tuple[str, ...], tuple[Loading, ...], tuple[Answers | None, ...]]:
    """The teachers of a config, none, one, or a list; how each is loaded, and where its answers are kept, if so."""
    value = data.get("teacher")
    several = isinstance(value, list)
    found = value if isinstance(value, list) else [] if value is None else [value]
    made = []
    for place, one in enumerate(found):
        where: list[str | int] = ["teacher", *([place] if several else [])]
        kept = read_answers(one.get("answers"), lines.below(*where)) if isinstance(one, Mapping) else None
        made.append(
            (*one_model(one, lines, *where, keys=OF_A_TEACHER, served=bool(kept and kept.server)), kept)
        )
    names, loadings, answers = zip(*made, strict=True) if made else ((), (), ())
    return names, loadings, answers


def student_in(data: Mapping[str, Any], lines: Lines) -> tuple[str, Loading]:
    """The student of a config."""
    return one_model(data.get("student"), lines, "student", keys=OF_A_STUDENT)


def one_model(
    value: Any, lines: Lines, *where: str | int, keys: tuple[str, ...], served: bool = False
) -> tuple[str, Loading]:
    """A model by its name, or by a mapping that says how it is loaded; `served`: by a server's name for it.

    Raises CatalogError.
    """
    given = {"model": value} if isinstance(value, str) else value
    what = "a model or a list of models" if where[0] == "teacher" else "a model"
    for key in given if isinstance(given, Mapping) else ():
        if key not in keys:
            raise lines.error(
                f'{where[0]}: unknown "{key}"{nearest(str(key), keys)}; known: {", ".join(keys)}', *where, key
            )
    if (
        not isinstance(given, Mapping)
        or not isinstance(given.get("model"), str)
        or not given["model"].strip()
    ):
        raise lines.error(f'"{where[0]}" must be {what}: a name, or a mapping with "model"', *where)
    own: dict[str, Any] = {name: given[name] for name in (*KEYS[1:], "layers") if given.get(name) is not None}
    if not isinstance(own.get("dtype", "fp32"), str) or own.get("dtype", "fp32") not in DTYPES:
        near = nearest(str(own["dtype"]), DTYPES)
        raise lines.error(f'no dtype "{own["dtype"]}"{near}; known: {", ".join(DTYPES)}', *where, "dtype")
    if "attention" in own:
        _check_attention(own["attention"], lines, *where, "attention")
    if "bits" in own:
        _check_bits(own["bits"], lines, *where, "bits")
    if "revision" in own and not isinstance(own["revision"], str):
        raise lines.error('"revision" must be text: a commit, a tag or a branch', *where, "revision")
    if "layers" in own:
        own["layers"] = _layers(own["layers"], lines, *where, "layers")
    if served and own:
        name = next(iter(own))
        raise lines.error(
            f'"{name}" is about a model that is loaded here, and this one is served', *where, name
        )
    return given["model"] if served else model_in(given["model"], lines, *where), Loading(**own)


def _layers(value: Any, lines: Lines, *where: str | int) -> int | tuple[int, ...]:
    """How many blocks, or which; whether the model has them is known once its config is read."""
    listed = value if isinstance(value, list) else [value]
    if not listed or any(type(n) is not int or n < 0 for n in listed) or value == 0:
        raise lines.error('"layers" must be how many blocks to keep, or a list of which, from 0', *where)
    return value if isinstance(value, int) else tuple(value)


def _check_attention(name: Any, lines: Lines, *where: str | int) -> None:
    from importlib.util import find_spec

    if not isinstance(name, str) or name not in ATTENTION:
        raise lines.error(
            f'no attention "{name}"{nearest(str(name), ATTENTION)}; known: {", ".join(ATTENTION)}', *where
        )
    package = ATTENTION[name]
    if package is not None and find_spec(package) is None:
        raise lines.error(f"attention {name} needs the package {package}, which is not installed", *where)


def _check_bits(bits: Any, lines: Lines, *where: str | int) -> None:
    from importlib.util import find_spec

    if type(bits) is not int or bits not in BITS:
        raise lines.error('"bits" must be 4 or 8', *where)
    import torch

    if find_spec("bitsandbytes") is None or not torch.cuda.is_available():
        missing = "a GPU" if find_spec("bitsandbytes") else "the package bitsandbytes"
        raise lines.error(f"a model in {bits} bits needs {missing}; `dtype: bf16` needs neither", *where)


def model_in(name: str, lines: Lines, *where: str | int) -> str:
    """A folder beside the config file where there is one, else the hub's id.

    What looks like a folder that is not there is not asked of the hub, where somebody else's model may bear that name.
    """
    if name.startswith("hub:"):
        return name.removeprefix("hub:")
    local = lines.beside(name, *where)
    if local.is_dir():
        return str(local.resolve())
    if model_folder(name) is not None or name in PACKAGED:
        return name
    if local.is_file():
        raise lines.error(
            f'"{where[0]}": {local} is a file, not a model\'s folder; for a model of the hub say hub:{name}',
            *where,
        )
    beside = local.parent
    models = (
        [] if not beside.is_dir() else sorted(path.name for path in beside.iterdir() if _holds_a_model(path))
    )
    close = nearest(local.name, models)
    path_like = name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith("/")
    if path_like or close or ("/" in name and beside.is_dir()):
        hint = "" if path_like else f"; for a model of the hub say hub:{name}"
        raise lines.error(f'"{where[0]}": no folder {local}{close}{hint}', *where)
    return name


def _holds_a_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
