# SPDX-License-Identifier: Apache-2.0
"""Run a command on a lab host, in the namespaces of its pid 1.

    python3 -IS enter.py PID USER -- CMD...

Also a script of its own, with few imports, so that entering a host takes milliseconds. The command gets a
clean login environment, this process's terminal and files, and dies with it; its exit code (128 + N after
signal N) becomes this process's.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import sys

PATH = "/opt/hpcnet/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT_VARIABLES = ("TERM", "COLORTERM", "LANG", "LC_ALL", "TZ")
_NAMESPACES = ("cgroup", "mnt", "net", "uts", "pid")
_FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG = 1
_SI_KERNEL = 0x80

_libc = ctypes.CDLL(None, use_errno=True)


def enter(pid: int, user: str, command: list[str]) -> int:
    """Run ``command`` as ``user`` in the namespaces of ``pid``; returns the exit code to end with.

    Raises OSError when the namespaces cannot be joined and KeyError when the host knows no such user.
    """
    directory = _working_directory()
    _join(pid)
    account = pwd.getpwnam(user)
    # Blocked before the fork, so that no signal is lost between it and the first sigwaitinfo.
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*_FORWARDED, signal.SIGCHLD})
    child = os.fork()
    if child:
        return _mirror(child)
    try:
        _become(account, directory)
        for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(ignored_by_python, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
        os.execvpe(command[0], command, os.environ)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def _join(pid: int) -> None:
    descriptors = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in _NAMESPACES]
    for descriptor in descriptors:
        if _libc.setns(descriptor, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        os.close(descriptor)


def _become(account: pwd.struct_passwd, directory: str) -> None:
    """Turn this process into a fresh login of the account."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    os.environ.clear()
    os.environ.update(kept, PATH=PATH, HOME=account.pw_dir, SHELL=account.pw_shell)
    os.environ.update(USER=account.pw_name, LOGNAME=account.pw_name)
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    os.umask(0o022)
    # After setuid, which clears it.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for choice in (directory, account.pw_dir, "/"):
        try:
            os.chdir(choice)
        except OSError:
            continue
        if os.access(".", os.X_OK):
            break


def _mirror(child: int) -> int:
    """Hand our signals on to the child until it ends; end as it does."""
    while True:
        info = signal.sigwaitinfo({*_FORWARDED, signal.SIGCHLD})
        if info.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
        elif info.si_code != _SI_KERNEL:
            # The terminal's own (SI_KERNEL) reach the child by itself: it is in the same process group.
            os.kill(child, info.si_signo)
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


if __name__ == "__main__":
    try:
        sys.exit(enter(int(sys.argv[1]), sys.argv[2], sys.argv[4:]))
    except KeyError:
        sys.exit(f"no user {sys.argv[2]} on this host")
    except OSError as error:
        sys.exit(f"cannot enter the host: {error.strerror}")
