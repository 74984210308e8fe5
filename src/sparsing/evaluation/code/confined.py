"""The script of the process that runs one generated program.

The process reads the program, confines itself with the Linux kernel, runs the program and writes the result to a pipe.
`sandbox.py` starts it in an empty folder without environment. The script imports as little as possible, because the
program can reach everything that is imported here. The numbers of system calls are those of the Linux headers.
"""

import ctypes
import json
import os
import resource
import struct
import sys

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# AUDIT_ARCH_* of linux/audit.h above. Below: system calls that are refused, as (x86_64, aarch64); None if the
# architecture has no such call.
_REFUSED = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "setrlimit": (160, 164),
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "mount": (165, 40),
    "umount2": (166, 39),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "clone3": (435, 435),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "utimensat": (280, 88),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "memfd_create": (319, 279),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
}
_CLONE = (56, 220)
_CLONE_THREAD = 0x00010000
_EPERM, _ENOSYS = 1, 38

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    writer, limits = int(sys.argv[1]), json.loads(sys.argv[2])
    with open(0, "rb") as source:
        token, program = json.loads(source.read())
    try:
        _limit(limits)
        _prctl(38, 1)  # PR_SET_NO_NEW_PRIVS: without it neither Landlock nor seccomp is allowed
        _confine_files()
        _confine_calls()
    except OSError as error:
        os.write(writer, f"unconfined: {error}".encode()[:300])
        os._exit(3)
    os.write(writer, _run(program, token).encode()[:300])
    os._exit(0)  # also ends threads of the program, and skips its exit handlers


def _run(program: str, token: str) -> str:
    """The token if the program reached its last line, else the reason why not."""
    try:
        exec(compile(program, "program.py", "exec"), {"__name__": "__main__"})
    except BaseException as error:  # SystemExit too: a program that exits early fails
        return f"failed: {type(error).__name__}"
    return token


def _limit(limits: dict) -> None:
    """Set soft and hard limits. `_confine_calls` then refuses `setrlimit`, so not even root can lift them."""
    seconds = limits["cpu_sec"]
    # The soft limit sends SIGXCPU, which a program may ignore. The hard limit kills.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    for kind, most in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))


def _confine_files() -> None:
    """Landlock: read and write in the working folder, read the libraries of Python and of the system.

    Bits and calls are those of linux/landlock.h: 444 creates a rule set, 445 adds a rule, 446 enforces the set.
    """
    abi = _syscall(444, 0, 0, 1)  # with flag 1 the call returns the version
    # Versions 1, 2 and 3 know 13, 14 and 15 access rights. The kernel refuses rights that it does not know.
    everything = (1 << (13, 14, 15)[min(abi, 3) - 1]) - 1
    ruleset = _syscall(444, ctypes.byref(ctypes.c_uint64(everything)), 8, 0)
    read = (1 << 2) | (1 << 3)  # read files, list folders
    # In its own folder: everything but execution (bit 0), devices, sockets, pipes and links (among bits 6 to 11).
    own = everything & ~(1 << 0) & ~(0b111111 << 6)
    own |= (1 << 7) | (1 << 8)  # make folders, make files
    for path in _library_folders():
        _allow(ruleset, path, read)
    for path in ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"):
        _allow(ruleset, path, 1 << 2)
    _allow(ruleset, ".", own)
    _syscall(446, ruleset, 0)
    os.close(ruleset)


def _library_folders() -> set[str]:
    import sysconfig

    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return {sysconfig.get_path(name) for name in names} | {
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/usr/share/zoneinfo",
    }


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    rule = ctypes.create_string_buffer(struct.pack("=Qi", access, fd))
    _syscall(445, ruleset, 1, rule, 0)
    os.close(fd)


def _confine_calls() -> None:
    """Seccomp: the refused calls and the start of processes fail with EPERM; threads stay allowed."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        raise OSError(f"no list of system calls for {machine}")
    column = list(_ARCHITECTURES).index(machine)
    refused = sorted({numbers[column] for numbers in _REFUSED.values() if numbers[column] is not None})
    program = _filter(_ARCHITECTURES[machine], refused, _CLONE[column])
    code = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("@HP", len(program), ctypes.addressof(code))
    _prctl(22, 2, ctypes.create_string_buffer(header))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _filter(architecture: int, refused: list[int], clone: int) -> list[bytes]:
    """The seccomp filter as BPF instructions (code, jump if true, jump if false, value).

    Offsets in the data of a call: 0 its number, 4 the architecture, 16 the first argument. A filter cannot read the
    flags of `clone3`, because they are in memory. `clone3` therefore fails as unknown (ENOSYS), which makes
    libraries fall back to `clone`, whose flags are an argument.
    """
    load, equal, at_least, has_bits, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, refuse = 0x7FFF0000, 0x80000000, 0x00050000
    steps = [
        (load, 0, 0, 4),
        (equal, 1, 0, architecture),
        (answer, 0, 0, kill),
        (load, 0, 0, 0),
        (at_least, 0, 1, 0x40000000),  # the x32 calls have other numbers and would pass the list
        (answer, 0, 0, kill),
    ]
    for number in refused:
        error = _ENOSYS if number == _REFUSED["clone3"][0] else _EPERM
        steps += [(equal, 0, 1, number), (answer, 0, 0, refuse | error)]
    steps += [
        (equal, 0, 3, clone),
        (load, 0, 0, 16),
        (has_bits, 1, 0, _CLONE_THREAD),
        (answer, 0, 0, refuse | _EPERM),
        (answer, 0, 0, allow),
    ]
    return [struct.pack("=HBBI", *step) for step in steps]


def _syscall(number: int, *args) -> int:
    result = _libc.syscall(ctypes.c_long(number), *args)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _prctl(option: int, *args) -> None:
    padded = [*args, *[ctypes.c_ulong(0)] * (4 - len(args))]
    if _libc.prctl(option, *padded) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


if __name__ == "__main__":
    main()
