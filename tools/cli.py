"""The `kd` command: finds the verb, runs it, and turns whatever goes wrong into an exit code and one line.

Exit codes: 0 done, every verdict agrees with the recorded one; 1 one differs, or something is missing; 2 bad usage or
input; 130 interrupted. What a verb understands and does stands in its own file, tools/verbs/<verb>.py
(those that make evidence in tools/verbs/evidence, those of a builder in tools/verbs/own).
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence

from catalog.errors import CatalogError, cut
from tools import commands
from tools.commands import UsageError

WALL = re.compile(r"\S{400,}")  # of what somebody typed; no name or path of anybody's is so long


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; never raises for bad input."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # a terminal of another alphabet gets "?", not a traceback
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = _run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `kd browse | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, RuntimeError) as error:
        message = _clean(error)
        if message is None:
            raise
        print(f"error: {_visible(message)}", file=sys.stderr)
        return 2
    return code


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] in ("-V", "--version", "version"):
        print(_version())
        return 0
    verb, *rest = words
    return commands.load(verb).main(commands.parser_of(verb).parse_args(rest))


def _clean(error: ValueError | OSError | RuntimeError) -> str | None:
    """The sentence for the user, or None where the error is a fault of ours and must show its traceback."""
    if isinstance(error, RuntimeError):  # so says pathlib of links that lead to themselves
        return str(error) if str(error).startswith("Symlink loop") else None
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    from methods.errors import MethodError
    from reproductions.engine.errors import KDError

    return str(error) if isinstance(error, CatalogError | KDError | MethodError | UsageError) else None


def _visible(message: str) -> str:
    """What somebody typed, or a file is called, must not steer the terminal when a message repeats it."""
    from tools.terminal import visible

    return visible(" ".join(WALL.sub(lambda run: cut(run[0], 200), message).split("\n")))


def _help() -> str:
    lines = ["usage: kd <verb> [options]    (`kd <verb> --help` for its options; `kd --version`)", ""]
    lines += [f"  {verb:<13}{commands.load(verb).SUMMARY}" for verb in commands.NAMES]
    codes = "exit codes: 0 done; 1 verdicts differ or something is missing; 2 bad input; 130 interrupted"
    return "\n".join([*lines, "", codes])


def _version() -> str:
    """What is installed here, as bug reports need it; nothing heavy is imported for it."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    found = ", ".join(f"{name} {installed(name)}" for name in ("torch", "transformers", "trl"))
    return f"kd-atlas {installed('kd-atlas')} (Python {platform.python_version()}, {found})"


if __name__ == "__main__":
    sys.exit(main())
