"""The system calls that a sandboxed program may make, as a filter for the kernel (seccomp, classic BPF).

What is not listed fails with EPERM: no sockets, no other process or thread, no program but this one, no signal to
anybody, no mount, no change of owners, modes or times. Numbers are those of x86-64; other machines have no filter here.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Mapping, Sequence

ALLOWED: Mapping[str, int] = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8,
    "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14,
    "rt_sigreturn": 15, "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "access": 21, "pipe": 22,
    "select": 23, "sched_yield": 24, "mremap": 25, "msync": 26, "mincore": 27, "madvise": 28, "dup": 32, "dup2": 33,
    "pause": 34, "nanosleep": 35, "getitimer": 36, "alarm": 37, "setitimer": 38, "getpid": 39, "sendfile": 40,
    "exit": 60, "uname": 63, "flock": 73, "fsync": 74, "fdatasync": 75, "ftruncate": 77, "getdents": 78,
    "getcwd": 79, "chdir": 80, "fchdir": 81, "rename": 82, "mkdir": 83, "rmdir": 84, "unlink": 87, "readlink": 89,
    "umask": 95, "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102,
    "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110, "getpgrp": 111, "getgroups": 115,
    "getresuid": 118, "getresgid": 120, "getpgid": 121, "getsid": 124, "rt_sigpending": 127, "rt_sigtimedwait": 128,
    "rt_sigsuspend": 130, "sigaltstack": 131, "statfs": 137, "fstatfs": 138, "arch_prctl": 158, "gettid": 186,
    "time": 201, "futex": 202, "sched_getaffinity": 204, "epoll_create": 213, "getdents64": 217,
    "set_tid_address": 218, "restart_syscall": 219, "fadvise64": 221, "clock_gettime": 228, "clock_getres": 229,
    "clock_nanosleep": 230, "exit_group": 231, "epoll_wait": 232, "epoll_ctl": 233, "openat": 257, "mkdirat": 258,
    "newfstatat": 262, "unlinkat": 263, "renameat": 264, "readlinkat": 267, "faccessat": 269, "pselect6": 270,
    "ppoll": 271, "set_robust_list": 273, "get_robust_list": 274, "epoll_pwait": 281, "eventfd2": 290,
    "epoll_create1": 291, "dup3": 292, "pipe2": 293, "preadv": 295, "pwritev": 296, "renameat2": 316,
    "getrandom": 318, "membarrier": 324, "statx": 332, "rseq": 334, "faccessat2": 439,
}  # fmt: skip
#: Allowed with some values of one argument alone: (number, which argument, the values).
#: Limits only of the program itself; of files no owner, to whom a signal would go; of a terminal only questions.
PARTLY: Mapping[str, tuple[int, int, tuple[int, ...]]] = {
    "prlimit64": (302, 0, (0,)),
    "fcntl": (72, 1, (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032)),
    "ioctl": (16, 1, (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)),
}
MACHINE, ARCHITECTURE, X32 = "x86_64", 0xC000003E, 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # 1 is EPERM


def program() -> bytes | None:
    """The filter as the kernel takes it, 8 bytes an instruction; None for a machine whose numbers are not known."""
    if platform.system() != "Linux" or platform.machine() != MACHINE:
        return None
    made: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, 4),  # the architecture: another one has other numbers
        (_EQUAL, 1, 0, ARCHITECTURE),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the number
        (_AT_LEAST, 0, 1, X32),
        (_RETURN, 0, 0, _REFUSE),
    ]
    for number, argument, values in PARTLY.values():
        made += _partly(number, argument, values)
    for place, number in enumerate(sorted(ALLOWED.values())):
        made.append((_EQUAL, len(ALLOWED) - place, 0, number))
    made += [(_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("<HBBI", *one) for one in made)


def _partly(number: int, argument: int, values: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Instructions that decide one call by one argument, and leave the number loaded for any other."""
    decide: list[tuple[int, int, int, int]] = [(_LOAD, 0, 0, 16 + 8 * argument)]  # its lower half: all it has
    for place, value in enumerate(values):
        decide.append((_EQUAL, len(values) - place, 0, value))
    decide += [(_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(decide), number), *decide]
