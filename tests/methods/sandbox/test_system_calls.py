"""The filter, run by an interpreter of its own: what it lets through, call by call."""

import struct

import pytest

from methods.sandbox import system_calls
from methods.sandbox.system_calls import ALLOWED, PARTLY

needs_filter = pytest.mark.skipif(system_calls.program() is None, reason="not x86-64")
#: Numbers of x86-64 from its table: what nobody here may do.
NEVER = {
    "socket": 41, "connect": 42, "sendto": 44, "bind": 49, "socketpair": 53, "clone": 56, "fork": 57, "vfork": 58,
    "execve": 59, "kill": 62, "link": 86, "symlink": 88, "chmod": 90, "fchmod": 91, "chown": 92, "ptrace": 101,
    "setpgid": 109, "setsid": 112, "mknod": 133, "setpriority": 141, "prctl": 157, "setrlimit": 160, "mount": 165,
    "tkill": 200, "tgkill": 234, "utimes": 235, "waitid": 247, "unshare": 272, "process_vm_readv": 310,
    "process_vm_writev": 311, "seccomp": 317, "memfd_create": 319, "bpf": 321, "execveat": 322, "userfaultfd": 323,
    "pidfd_send_signal": 424, "io_uring_setup": 425, "pidfd_open": 434, "clone3": 435, "mount_setattr": 442,
    "truncate": 76, "setuid": 105, "capset": 126, "open_by_handle_at": 304, "kcmp": 312, "perf_event_open": 298,
    "add_key": 248, "shmget": 29, "msgget": 68,
}  # fmt: skip


def verdict(number, arguments=(0, 0, 0), architecture=0xC000003E):
    """What the filter answers to a call: classic BPF over `struct seccomp_data`."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, *arguments, *([0] * (6 - len(arguments))))
    code = list(struct.iter_unpack("<HBBI", system_calls.program() or b""))
    at, held = 0, 0
    for _ in range(len(code)):
        kind, yes, no, value = code[at]
        at += 1
        if kind == 0x20:
            held = struct.unpack_from("=I", data, value)[0]
        elif kind == 0x15:
            at += yes if held == value else no
        elif kind == 0x35:
            at += yes if held >= value else no
        else:
            return {0x7FFF0000: "allowed", 0x00050001: "refused", 0x80000000: "killed"}[value]
    raise AssertionError("it does not end")


@needs_filter
def test_what_is_listed_is_allowed_and_nothing_else():
    partly = {number for number, _, _ in PARTLY.values()}
    for number in range(1024):
        if number not in partly:
            assert verdict(number) == ("allowed" if number in ALLOWED.values() else "refused"), number


@needs_filter
def test_what_could_reach_others_is_not_listed():
    assert not set(NEVER.values()) & {*ALLOWED.values(), *(number for number, _, _ in PARTLY.values())}
    assert not set(NEVER) & {*ALLOWED, *PARTLY}


@needs_filter
def test_some_calls_depend_on_one_argument():
    for number, place, values in PARTLY.values():
        for value in (*values, 0, 1, 8, 15, 1031, 1033, 0x8901, 2**31):
            arguments = [7, 7, 7]
            arguments[place] = value
            assert verdict(number, arguments) == ("allowed" if value in values else "refused"), (
                number,
                value,
            )


@needs_filter
def test_another_way_of_calling_is_no_way_around():
    assert verdict(0, architecture=0x40000003) == "killed"  # the numbers of 32 bits
    assert verdict(0x40000000) == verdict(0x40000000 + 41) == "refused"  # x32


@needs_filter
def test_no_number_stands_twice():
    numbers = [*ALLOWED.values(), *(number for number, _, _ in PARTLY.values())]
    assert len(numbers) == len(set(numbers)) and len(ALLOWED) < 250  # a jump reaches no further


def test_other_machines_have_no_filter(monkeypatch):
    monkeypatch.setattr(system_calls.platform, "machine", lambda: "aarch64")
    assert system_calls.program() is None


@needs_filter
def test_a_jump_that_is_one_off_would_be_seen(monkeypatch):
    right = system_calls.program()
    code = [list(one) for one in struct.iter_unpack("<HBBI", right)]
    wrong = next(one for one in code if one[0] == 0x15 and one[3] == 231)  # exit_group
    wrong[1] -= 1
    monkeypatch.setattr(system_calls, "program", lambda: b"".join(struct.pack("<HBBI", *one) for one in code))
    assert verdict(231) == "refused"
