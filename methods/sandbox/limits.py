"""What a program may use, and what became of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from methods.errors import MethodError

MIB = 2**20
#: How a program may end: by itself (`done`, `failed`), or at one of its limits.
ENDS = ("done", "failed", "seconds", "cpu", "memory", "output", "disk", "killed")


@dataclass(frozen=True)
class Limits:
    """What one program may use: seconds on the clock and of the processor, bytes of memory, disk and output.

    A program is one process of one thread; `readable` are folders it may read beside Python's own library, put on its
    path for imports. Raises MethodError for a limit that is not above zero.
    """

    seconds: float = 10.0
    cpu_seconds: int = 5
    memory: int = 512 * MIB
    file_size: int = 4 * MIB
    disk: int = 16 * MIB  # of all its files together
    files: int = 256  # that it may leave at any one time
    open_files: int = 64
    output: int = 256 * 1024  # stdout and stderr together
    readable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "readable" and not value > 0:
                raise MethodError(f'sandbox: the limit "{name}" must be above 0, not {value!r}')


@dataclass(frozen=True)
class Outcome:
    """How a program ended (one of ENDS), what it wrote as far as it was read, and what it took in seconds."""

    ended: str
    exit_code: int
    stdout: str
    stderr: str
    seconds: float
    cpu_seconds: float
    backend: str = field(default="", compare=False)

    @property
    def done(self) -> bool:
        """It ended by itself and without an error."""
        return self.ended == "done"
