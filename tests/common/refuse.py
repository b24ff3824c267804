"""Starts a program under a seccomp filter: refuse.py socket|send ERRNO PROGRAM [ARGUMENT...]

socket refuses AF_NETLINK, send refuses a send without flags.
"""

import ctypes, os, platform, struct, sys
refused, errno = sys.argv[1], int(sys.argv[2])
numbers = {'x86_64': {'socket': 41, 'send': 44}, 'aarch64': {'socket': 198, 'send': 206}}
call = numbers[platform.machine()][refused]
offset, value = {'socket': (16, 16), 'send': (40, 0)}[refused]
def op(code, jump_true, jump_false, value):
    return struct.pack('HBBI', code, jump_true, jump_false, value)
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
program = b''.join([
    op(LOAD, 0, 0, 0), op(EQUAL, 0, 3, call),
    op(LOAD, 0, 0, offset), op(EQUAL, 0, 1, value),
    op(RETURN, 0, 0, 0x00050000 | errno),
    op(RETURN, 0, 0, 0x7fff0000),
])
instructions = ctypes.create_string_buffer(program)
filter = ctypes.create_string_buffer(struct.pack('HxxxxxxP', 6, ctypes.addressof(instructions)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0, ctypes.get_errno()
assert libc.prctl(22, 2, filter, 0, 0) == 0, ctypes.get_errno()
os.execv(sys.argv[3], sys.argv[3:])
