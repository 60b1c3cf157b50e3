"""Launcher of a sandboxed decoder, a script: limits itself by rlimits, Landlock and seccomp, then becomes the decoder.

`launcher.py CPU_S MEMORY_BYTES OPEN_FILES PROGRAM ARGUMENT...`; `launcher.py --report` prints what this kernel enforces."""

# Little of the standard library and no pathlib, since it runs before every decode. Numbers and structures are those of
# linux/landlock.h, linux/seccomp.h, linux/filter.h and of the kernel's tables of syscalls.

import ctypes
import os
import resource
import struct
import sys
from collections.abc import Iterable, Sequence

SET_NO_NEW_PRIVS, SET_SECCOMP, FILTER_MODE = 38, 22, 2  # prctl
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # syscalls of Landlock, alike on all processors
GET_VERSION, PATH_BENEATH = 1, 1
EXECUTE, READ_FILE, READ_DIR = 1 << 0, 1 << 2, 1 << 3
# What each version of Landlock can deny: rights on files (13, then also refer, truncate, ioctl), TCP (bind and connect)
# since version 4, abstract sockets and signals to other processes since version 6.
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
ALL_FILE_RIGHTS, TCP, SCOPES = 16, 0b11, 0b11
# What a decoder with shared libraries loads, beside the `lib` next to its own folder.
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/nix/store", "/gnu/store")

PERMITTED, REFUSED, MISSING = 0x7FFF0000, 0x00050001, 0x00050026  # returns of a filter: allow, EPERM, ENOSYS
LOAD, EQUALS, AT_LEAST, HAS_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data, whose arguments have 8 bytes each
MACHINES = ("x86_64", "aarch64")
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_CALLS = 0x40000000
# Syscalls of a decoder by name, with their numbers on x86_64 and aarch64: memory, threads, clocks, reading. Which files are
# read is up to Landlock. No socket, no new process, no other process, and nothing that changes a file by its name.
CALLS = """
    read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, lseek 8 62, close 3 57, fstat 5 80, stat 4 -,
    lstat 6 -, newfstatat 262 79, statx 332 291, access 21 -, faccessat 269 48, faccessat2 439 439, readlink 89 -,
    readlinkat 267 78, getdents64 217 61, getcwd 79 17, fadvise64 221 223, dup 32 23, dup2 33 -, dup3 292 24,
    fcntl 72 25, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, mmap 9 222, munmap 11 215, mremap 25 216,
    mprotect 10 226, madvise 28 233, brk 12 214, futex 202 98, sched_yield 24 124, sched_getaffinity 204 123,
    set_tid_address 218 96, set_robust_list 273 99, rseq 334 293, membarrier 324 283, arch_prctl 158 -, gettid 186 178,
    getpid 39 172, getppid 110 173, getpgrp 111 -, getpgid 121 155, getuid 102 174, geteuid 107 175, getgid 104 176,
    getegid 108 177, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, sigaltstack 131 132,
    restart_syscall 219 128, nanosleep 35 101, clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114,
    gettimeofday 96 169, times 100 153, getrusage 98 165, sysinfo 99 179, uname 63 160, getrandom 318 278,
    execve 59 221, exit 60 93, exit_group 231 94
"""
# Syscalls that are permitted by an argument.
OPEN, OPENAT, IOCTL, PRLIMIT = "open 2 -", "openat 257 56", "ioctl 16 29", "prlimit64 302 261"
CLONE, CLONE3, KILL, TGKILL = "clone 56 220", "clone3 435 435", "kill 62 129", "tgkill 234 131"
CLONE_THREAD = 0x00010000
WRITING = 0o3 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
HARMLESS_IOCTLS = (
    0x5401,
    0x5413,
    0x541B,
    0x5421,
    0x5450,
    0x5451,
)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def main(arguments: Sequence[str]) -> None:
    """Apply the limits to this process, and execute the program in its place."""
    if list(arguments) == ["--report"]:
        version, filtered = sandbox(sys.executable)
        sys.stdout.write(f"{version} {int(filtered)}\n")
        return
    cpu_s, memory, files, program, *rest = arguments
    os.setpgid(0, 0)  # a group to kill as a whole
    limit_resources(int(cpu_s), int(memory), int(files))
    if sys.platform == "linux":
        sandbox(program)
    os.execve(program, [program, *rest], {})  # noqa: S606


def limit_resources(cpu_s: int, memory: int, files: int) -> None:
    """Set rlimits: CPU time, memory, no file written, few opened."""
    for limit, soft, hard in (
        # At the soft limit of CPU time the signal (SIGXCPU) names the reason, at the hard one (SIGKILL) it does not.
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 5),
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, files, files),
    ):
        try:
            resource.setrlimit(limit, (soft, hard))
        except (ValueError, OSError):  # stricter already, or unknown to this system
            continue


def sandbox(program: str) -> tuple[int, bool]:
    """Deny files, network and processes as far as the kernel can. Returns Landlock's version (0: none), and whether
    syscalls are filtered."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return 0, False
    return restrict_files(libc, program), filter_calls(libc, os.uname().machine, os.getpid())


def restrict_files(libc: ctypes.CDLL, program: str) -> int:
    """Leave only the program and its libraries readable. Returns Landlock's version, 0 where there is none."""
    version: int = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), GET_VERSION)
    if version < 1:
        return 0
    rights = (1 << FILE_RIGHTS.get(version, ALL_FILE_RIGHTS)) - 1
    fields = [rights, *([TCP] if version >= 4 else []), *([SCOPES] if version >= 6 else [])]
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return 0
    real = os.path.realpath(program)
    for path in (real, *libraries(real)):
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        readable = EXECUTE | READ_FILE | (READ_DIR if os.path.isdir(path) else 0)  # noqa: PTH112
        libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", readable, descriptor), 0)
        os.close(descriptor)
    restricted = libc.syscall(RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return version if restricted else 0


def libraries(program: str) -> Iterable[str]:
    """Paths that a program may load shared libraries from."""
    return (*LIBRARIES, program.rpartition("/")[0].rpartition("/")[0] + "/lib")


def filter_calls(libc: ctypes.CDLL, machine: str, process: int) -> bool:
    """Refuse all syscalls but those of a decoder. Returns False where the kernel or the processor has no filter."""
    if machine not in MACHINES:
        return False
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions(machine, process))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    return bool(libc.prctl(SET_SECCOMP, FILTER_MODE, program, 0, 0) == 0)


def instructions(machine: str, process: int) -> list[Instruction]:
    """BPF program that permits the syscalls of a decoder whose process id is `process`."""
    code: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUALS, 1, 0, AUDIT[machine]),
        (RETURN, 0, 0, REFUSED),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, X32_CALLS),
        (RETURN, 0, 0, REFUSED),
    ]
    for call, argument, test, operands, matches, otherwise in (
        (OPENAT, 2, HAS_BITS, [WRITING], REFUSED, PERMITTED),
        (OPEN, 1, HAS_BITS, [WRITING], REFUSED, PERMITTED),
        (CLONE, 0, HAS_BITS, [CLONE_THREAD], PERMITTED, REFUSED),
        # Its flags are in memory, where they cannot be checked: the C library then uses clone.
        (CLONE3, 0, HAS_BITS, [], REFUSED, MISSING),
        (PRLIMIT, 0, EQUALS, [0, process], PERMITTED, REFUSED),
        (IOCTL, 1, EQUALS, HARMLESS_IOCTLS, PERMITTED, REFUSED),
        (KILL, 0, EQUALS, [process], PERMITTED, REFUSED),
        (TGKILL, 0, EQUALS, [process], PERMITTED, REFUSED),
    ):
        for number in _numbers(call, machine):
            then = [(LOAD, 0, 0, ARGUMENTS + 8 * argument), *_match(test, operands, matches, otherwise)]
            code += [(EQUALS, 0, len(then), number), *then]
    return code + _match(EQUALS, _numbers(CALLS, machine), PERMITTED, REFUSED)


def _numbers(calls: str, machine: str) -> list[int]:
    """Numbers of syscalls on a processor, without those that it does not have."""
    column = 1 + MACHINES.index(machine)
    return [int(words[column]) for words in map(str.split, calls.split(",")) if words[column] != "-"]


def _match(test: int, operands: Sequence[int], matches: int, otherwise: int) -> list[Instruction]:
    """Return `matches` if the loaded word passes the test with one of the operands."""
    tests = [(test, len(operands) - index, 0, operand) for index, operand in enumerate(operands)]
    return [*tests, (RETURN, 0, 0, otherwise), (RETURN, 0, 0, matches)]


if __name__ == "__main__":
    main(sys.argv[1:])
