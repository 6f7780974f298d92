#!/usr/bin/env python3
"""Runs a command under a seccomp profile, as container runtimes apply it: seccomp.py PROFILE COMMAND ARGUMENT...

Needs libseccomp (package libseccomp2), which container runtimes use too.
"""

import ctypes
import ctypes.util
import json
import os
import sys

ALLOW: int = 0x7FFF0000
ERRNO: int = 0x00050000


def main() -> None:
    profile_path, command = sys.argv[1], sys.argv[2:]
    with open(profile_path, encoding="utf-8") as file:
        profile = json.load(file)
    library = ctypes.CDLL(ctypes.util.find_library("seccomp") or "libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_rule_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint]
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    context = library.seccomp_init(ERRNO | profile["defaultErrnoRet"])
    assert context, "seccomp_init"
    for rule in profile["syscalls"]:
        assert rule["action"] == "SCMP_ACT_ALLOW" and set(rule) == {"action", "names"}, rule
        for name in rule["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())
            # -1: unknown to this library; below: of another architecture.
            assert number != -1, f"there is no system call {name}"
            if number >= 0:
                status = library.seccomp_rule_add(context, ALLOW, number, 0)
                assert status == 0, f"seccomp_rule_add {name}: {status}"
    # This also sets no_new_privs.
    status = library.seccomp_load(context)
    assert status == 0, f"seccomp_load: {status}"
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
