"""Hostile programs: each tries its worst, and the machine outside sees nothing of it."""

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from methods.errors import MethodError
from methods.sandbox import Limits, Sandbox, backends, run
from methods.sandbox.limits import ENDS, MIB

QUICK = Limits(seconds=1.0, cpu_seconds=1, memory=128 * MIB)
GUARDED = [name for name in backends.available() if name != "limits"]


@pytest.fixture(params=GUARDED)
def sandbox(request):
    return Sandbox(QUICK, allowed=True, backend=request.param)


def test_nothing_runs_without_a_flag():
    for given in ({}, {"allowed": False}, {"allowed": "yes"}):
        with pytest.raises(MethodError, match="run_programs: true"):
            Sandbox(QUICK, **given)


def test_an_unknown_backend_or_limit_is_refused():
    with pytest.raises(MethodError, match='no backend "docker"'):
        Sandbox(allowed=True, backend="docker")
    with pytest.raises(MethodError, match='"memory" must be above 0'):
        Limits(memory=0)


def test_the_weak_backend_is_never_chosen_unasked(monkeypatch):
    monkeypatch.setattr(backends, "available", lambda: ["limits"])
    with pytest.raises(MethodError, match="install bubblewrap"):
        Sandbox(allowed=True)
    with pytest.raises(MethodError, match='"kernel" does not work here'):
        Sandbox(allowed=True, backend="kernel")
    assert Sandbox(allowed=True, backend="limits").run("print(1)").stdout == "1\n"


def test_a_program_reads_writes_and_ends_as_anywhere(sandbox):
    ended = sandbox.run(
        "name = input()\nopen('a.txt', 'w').write(name)\nprint(open('a.txt').read()[::-1])", "abc\n"
    )
    assert (ended.ended, ended.done, ended.stdout, ended.stderr) == ("done", True, "cba\n", "")
    assert 0 < ended.seconds < 2 and 0 < ended.cpu_seconds < 1 and ended.ended in ENDS
    ended = sandbox.run("import math, sys\nprint(math.gcd(12, 18))\nsys.exit(3)")
    assert (ended.ended, ended.exit_code, ended.stdout) == ("failed", 3, "6\n")


def test_an_error_shows_the_programs_own_lines_alone(sandbox):
    said = sandbox.run("def f():\n    return 1 / 0\nf()").stderr
    assert said.startswith("Traceback") and said.rstrip().endswith("ZeroDivisionError: division by zero")
    assert "inside.py" not in said and "runpy" not in said
    assert "SyntaxError" in sandbox.run("def").stderr


def test_a_program_ends_the_same_way_every_time(sandbox):
    text = "print(sorted({'b', 'a'}), list({'one', 'two', 'three'}), hash('x'))"
    assert len({sandbox.run(text).stdout for _ in range(3)}) == 1


def test_many_programs_keep_their_order(sandbox):
    ended = sandbox.run_all(
        [f"print({n} + int(input()))" for n in range(4)], ["10", "20", "30", "40"], workers=2
    )
    assert [one.stdout for one in ended] == ["10\n", "21\n", "32\n", "43\n"]


LIMITED = {
    "endless loop": ("while True: pass", {"cpu", "seconds"}),
    "sleep": ("import time\ntime.sleep(60)", {"seconds"}),
    "memory hog": ("kept = []\nwhile True: kept.append(bytearray(2**24))", {"memory", "seconds"}),
    "one large allocation": ("x = bytearray(2**30)", {"memory"}),
    "huge output": ("while True: print('x' * 10000)", {"output"}),
    "huge output on stderr": ("import sys\nwhile True: sys.stderr.write('x' * 10000)", {"output"}),
    "huge file": ("f = open('a', 'wb')\nwhile True: f.write(bytes(2**20)); f.flush()", {"failed", "disk"}),
    "many files": ("n = 0\nwhile True:\n    open(str(n), 'w').write('x')\n    n += 1", {"disk", "seconds"}),
    "much in many files": (
        "n = 0\nwhile True:\n    open(str(n), 'wb').write(bytes(2**21))\n    n += 1",
        {"disk"},
    ),
    "deep folders": ("import os\nwhile True: os.mkdir('d'); os.chdir('d')", {"disk", "failed"}),
    "many open files": ("kept = [open('a', 'w') for _ in range(10**4)]", {"failed"}),
    "ignores every signal": (
        "import signal\nfor n in {*range(1, 65)} - {9, 19, 32, 33}: signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
        {"cpu", "seconds"},
    ),
    "closes its streams": ("import os, time\nos.close(1); os.close(2)\ntime.sleep(60)", {"seconds"}),
    "endless recursion": ("def f(): return f()\nf()", {"failed"}),
    "crash": ("import ctypes\nctypes.string_at(0)", {"killed"}),
}


@pytest.mark.parametrize("name", LIMITED)
def test_a_program_ends_at_its_limits(sandbox, name):
    program, ends = LIMITED[name]
    began = time.monotonic()
    ended = sandbox.run(program)
    assert ended.ended in ends, ended
    assert time.monotonic() - began < 8
    assert len(ended.stdout) + len(ended.stderr) <= QUICK.output


#: What it tries; {out} is a folder outside of its own, {port} somebody who listens, {pid} this process.
FORBIDDEN = {
    "fork": "import os\nif os.fork() == 0: open('{out}/mark', 'w').write('x')\nelse: os.wait()",
    "fork bomb": "import os\nwhile True: os.fork()",
    "double fork": (  # a grandchild in a session of its own would outlive the group
        "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: open('{out}/mark', 'w').write('x')\n"
        "    os._exit(0)\nos.wait()"
    ),
    "thread": "import threading\nt = threading.Thread(target=lambda: open('{out}/mark', 'w'))\nt.start(); t.join()",
    "shell": "import os\nos.system('echo x > {out}/mark')\nassert not os.path.exists('{out}')",
    "subprocess": "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'echo x > {out}/mark'], check=True)",
    "other program": "import os\nos.execv('/bin/sh', ['sh', '-c', 'echo x > {out}/mark'])",
    "write outside": "open('{out}/mark', 'w').write('x')",
    "append outside": "open('{out}/there', 'a').write('x')",
    "cut short": "import os\nos.close(os.open('{out}/there', os.O_RDONLY | os.O_TRUNC))",
    "truncate": "import os\nos.truncate('{out}/there', 0)",
    "remove": "import os\nos.remove('{out}/there')",
    "rename": "import os\nos.rename('{out}/there', 'mine')",
    "link": "import os\nos.link('{out}/there', 'mine')\nopen('mine', 'w').write('x')",
    "symbolic link": "import os\nos.symlink('{out}', 'way')\nopen('way/mark', 'w').write('x')",
    "mode": "import os\nos.chmod('{out}/there', 0o777)",
    "read a secret": "import sys\nsys.stdout.write(open('{out}/there').read())",
    "read the environment of its parent": "print(open('/proc/{pid}/environ').read())",
    "read the memory of its parent": "print(open('/proc/{pid}/mem', 'rb').read(1))",
    "read who is here": "print(open('/etc/passwd').read())",
    "list": "import os\nprint(os.listdir('{out}'))",
    "device": "import os\nos.mknod('disk', 0o60600, os.makedev(8, 0))\nopen('disk', 'wb')",
    "connect": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 2).send(b'x')",
    "datagram": "import socket as s\ns.socket(type=s.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "listen": "import socket\ns = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()",
    "look up a name": "import socket\nsocket.getaddrinfo('localhost.localdomain', 80)",
    "signal its parent": "import os, signal\nos.kill(os.getppid() if os.getppid() > 1 else {pid}, signal.SIGUSR1)",
    "signal everybody": "import os, signal\nos.kill(-1, signal.SIGUSR1)",
    "signal by a file": "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, {pid})",
    "limits of its parent": "import resource\nresource.prlimit({pid}, resource.RLIMIT_NOFILE, (9, 9))",
    "limits of its own": "import resource as r\nr.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY, r.RLIM_INFINITY))",
    "session": "import os\nos.setsid()",
    "owner": "import os\nos.setuid(12345)",
    "trace its parent": (
        "import ctypes\nlibc = ctypes.CDLL(None)\nassert libc.ptrace(16, {pid}, 0, 0) == 0, 'refused'"
    ),
    "rings": (  # io_uring opens files and sockets without a system call of their name
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "assert libc.syscall(425, 8, ctypes.create_string_buffer(120)) >= 0, 'refused'"
    ),
    "namespaces": "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0, 'refused'",
    "memory files": "import os\nos.memfd_create('x')",
}


class Outside:
    """What a program could reach: a folder, a port, this process; `touched` tells whether it did."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.secret = folder, "s3cret-of-the-user"
        (folder / "there").write_text(self.secret)
        self.signals: list[int] = []
        self.before = signal.signal(signal.SIGUSR1, lambda number, frame: self.signals.append(number))
        self.server, self.packets = (
            socket.create_server(("127.0.0.1", 0)),
            socket.socket(type=socket.SOCK_DGRAM),
        )
        self.port = self.server.getsockname()[1]
        self.packets.bind(("127.0.0.1", self.port))
        self.server.setblocking(False), self.packets.setblocking(False)

    def touched(self) -> list[str]:
        found = []
        names = {path.name for path in self.folder.iterdir()}
        if names != {"there"} or (self.folder / "there").read_text() != self.secret:
            found.append("files")
        if (self.folder / "there").is_file() and (self.folder / "there").stat().st_mode & 0o777 == 0o777:
            found.append("mode")
        for listening, take in ((self.server, lambda s: s.accept()), (self.packets, lambda s: s.recv(9))):
            try:
                take(listening)
                found.append("network")
            except BlockingIOError:
                pass
        return found + (["signals"] if self.signals else [])

    def close(self) -> None:
        signal.signal(signal.SIGUSR1, self.before)
        self.server.close(), self.packets.close()


@pytest.fixture
def outside(tmp_path):
    made = Outside(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_program_cannot_reach_outside(sandbox, outside, monkeypatch, name):
    monkeypatch.setenv("API_KEY", outside.secret)
    program = FORBIDDEN[name].format(out=outside.folder, port=outside.port, pid=os.getpid())
    ended = sandbox.run(program)
    assert not ended.done or name in ("shell", "signal everybody"), ended  # which fail without a word
    assert outside.touched() == []
    assert outside.secret not in ended.stdout + ended.stderr
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("write outside", "files"),
        ("remove", "files"),
        ("mode", "mode"),
        ("connect", "network"),
        ("datagram", "network"),
        ("signal its parent", "signals"),
    ],
)
def test_without_the_guards_the_same_program_would_do_harm(outside, name, what):
    """So the test above can fail."""
    program = FORBIDDEN[name].format(out=outside.folder, port=outside.port, pid=os.getpid())
    Sandbox(QUICK, allowed=True, backend="limits").run(program)
    assert what in outside.touched()


def test_a_guard_that_is_missing_is_seen(outside, monkeypatch):
    """Landlock off: the filter of system calls alone does not keep files."""
    monkeypatch.setattr(backends, "landlock", lambda: 0)
    box = Sandbox(QUICK, allowed=True, backend="limits")
    box.backend = "kernel"
    box.run(FORBIDDEN["write outside"].format(out=outside.folder))
    assert outside.touched() == ["files"]


def test_nothing_of_ours_is_in_its_environment(sandbox, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    said = sandbox.run("import os, sys\nprint(dict(os.environ), sys.argv, sys.path, os.listdir('.'))").stdout
    assert "sk-planted" not in said and "site-packages" not in said and "program.py" in said


def test_guards_that_cannot_stand_run_nothing(monkeypatch, outside):
    monkeypatch.setattr(run.system_calls, "program", lambda: b"\xff" * 8)
    box = Sandbox(QUICK, allowed=True, backend="limits")
    box.backend = "kernel"
    with pytest.raises(MethodError, match="guards do not stand"):
        box.run("print(1)")


def test_a_folder_named_readable_is_read_and_imported_from_and_no_more(sandbox, outside):
    (outside.folder / "there").unlink()
    package = outside.folder / "lib"
    package.mkdir()
    (package / "helper.py").write_text("def twice(n): return 2 * n\n")
    limits = Limits(seconds=2, readable=(str(package),))
    box = Sandbox(limits, allowed=True, backend=sandbox.backend)
    assert box.run("from helper import twice\nprint(twice(4))").stdout == "8\n"
    assert not box.run(f"open('{package}/helper.py', 'w')").done
    assert not sandbox.run("import helper").done


def test_nothing_is_left_behind(sandbox, monkeypatch, tmp_path):
    monkeypatch.setattr(run.tempfile, "tempdir", str(tmp_path))
    for program in (
        LIMITED["deep folders"][0],
        LIMITED["many files"][0],
        "print(1)",
        "open('x', 'w'); 1 / 0",
    ):
        sandbox.run(program)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_ends_the_program_too(sandbox, monkeypatch):
    begun = []

    def interrupt(folder, limits):
        begun.append(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_too_much", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sandbox.run("import time\ntime.sleep(60)")
    assert begun and not begun[0].exists()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # no child is left, not even a dead one
