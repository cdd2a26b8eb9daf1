"""What a process gives up, for good, before it runs code that a model wrote.

File access is restricted by Landlock (https://docs.kernel.org/userspace-api/landlock.html), system calls
by seccomp with a list of those that are allowed, memory and time by resource  None of them needs
privileges, and none can be lifted from within.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import socket
import sys
import sysconfig
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

ISOLATION: Final = ("network", "files", "processes", "memory")
"""What code can be kept from: sockets; files other than Python's own, to read, and all files, to write;
other processes, new or old; more memory than the limit. Time is always limited."""

_CORE: Final = """
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range fstat
newfstatat stat lstat statx access faccessat faccessat2 open openat readlink readlinkat getdents64 getcwd
fcntl dup dup2 dup3 pipe pipe2 poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait
epoll_pwait eventfd2 mmap mprotect munmap mremap madvise mincore brk membarrier futex futex_waitv
set_robust_list get_robust_list rseq set_tid_address arch_prctl sched_yield sched_getaffinity
sched_getparam sched_getscheduler getpriority getcpu rt_sigaction rt_sigprocmask rt_sigreturn
rt_sigpending rt_sigtimedwait sigaltstack pause getpid getppid gettid getpgid getpgrp getsid getuid
geteuid getgid getegid getgroups getresuid getresgid getrlimit getrusage times sysinfo uname umask time
gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep getitimer getrandom restart_syscall
exit exit_group
"""
"""System calls that are always allowed."""
_MORE: Final = {
    "network": """
socket socketpair connect bind listen accept accept4 getsockname getpeername sendto recvfrom sendmsg
recvmsg sendmmsg recvmmsg setsockopt getsockopt shutdown
""",
    "files": """
chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat
ftruncate truncate fallocate fsync fdatasync chmod fchmod fchmodat utimensat flock memfd_create statfs
fstatfs
""",
    "processes": """
clone clone3 fork vfork execve execveat wait4 waitid kill tkill tgkill setpgid setsid prctl pidfd_open
pidfd_send_signal
""",
}
"""System calls that are allowed where a kind of isolation is not asked for."""
_CLONE_THREAD: Final = 0x10000
_FIOCLEX: Final = 0x5451
_FIONBIO: Final = 0x5421
_SOCKET_KIND: Final = 0xF
_PR_SET_PDEATHSIG: Final = 1

_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_SYSTEM: Final = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/localtime",
    "/usr/share/zoneinfo",
)  # fmt: skip


def end_with_parent(parent: int) -> None:
    """Have this process killed when the thread that started it, of process ``parent``, ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent is gone")


def lock_down(
    isolation: Collection[str], cpu_seconds: int, memory_bytes: int, output_bytes: int
) -> None:
    """Restrict this process and all that it may start.

    Args:
        isolation: of :data:`ISOLATION`, what it is kept from.
        cpu_seconds: most processor time.
        memory_bytes: most address space.
        output_bytes: most bytes in any file.

    Raises:
        OSError, ImportError, RuntimeError: if something that is asked for cannot be had here.
    """
    files = _file_rules() if "files" in isolation else None
    calls = _call_filter(isolation) if set(_MORE) & set(isolation) else None
    if "memory" in isolation:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (output_bytes, output_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # All that these need to read is read by now.
    if files is not None:
        files.apply()
    if calls is not None:
        calls.load()


def _file_rules() -> Any:
    from landlock import FSAccess, Ruleset

    rules = Ruleset()
    for path in _readable():
        readable = FSAccess.READ_FILE | (FSAccess.READ_DIR if path.is_dir() else FSAccess(0))
        rules.allow(path, rules=readable)
    for device in filter(os.path.exists, _DEVICES):
        rules.allow(device, rules=FSAccess.READ_FILE | FSAccess.WRITE_FILE)
    return rules


def _readable() -> Sequence[Path]:
    """Return what Python and its packages are made of, and nothing else."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    libraries = {Path(sysconfig.get_path(name)) for name in names}
    libraries |= {Path(sys.base_prefix) / "lib", *map(Path, _SYSTEM)}
    return sorted(path for path in libraries if path.exists())


def _call_filter(isolation: Collection[str]) -> Any:
    import pyseccomp

    calls = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    more = [names for kind, names in _MORE.items() if kind not in isolation]
    for name in " ".join((_CORE, *more)).split():
        _add(calls, pyseccomp.ALLOW, name)
    equal = pyseccomp.EQ
    # A limit may be read, and not be set.
    _add(calls, pyseccomp.ALLOW, "prlimit64", pyseccomp.Arg(2, equal, 0))
    for request in (_FIOCLEX, _FIONBIO):
        _add(calls, pyseccomp.ALLOW, "ioctl", pyseccomp.Arg(1, equal, request))
    if "network" in isolation:
        # An event loop wakes itself by a pair of sockets that are connected to each other alone.
        stream = pyseccomp.Arg(1, pyseccomp.MASKED_EQ, _SOCKET_KIND, socket.SOCK_STREAM)
        _add(calls, pyseccomp.ALLOW, "socketpair", pyseccomp.Arg(0, equal, socket.AF_UNIX), stream)
        for name in ("sendto", "recvfrom"):
            _add(calls, pyseccomp.ALLOW, name)
    if "processes" in isolation:
        thread = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD)
        _add(calls, pyseccomp.ALLOW, "clone", thread)
        # Its flags are in memory, where no filter sees them; the C library falls back to clone.
        _add(calls, pyseccomp.ERRNO(errno.ENOSYS), "clone3")
        # A process may end itself, as abort does.
        _add(calls, pyseccomp.ALLOW, "tgkill", pyseccomp.Arg(0, equal, os.getpid()))
    return calls


def _add(calls: Any, action: int, name: str, *conditions: Any) -> None:
    import pyseccomp

    try:
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    except OSError:
        # Another architecture or an older library does not have the call: so it is not allowed.
        return
    if number >= 0:
        calls.add_rule(action, number, *conditions)
