"""A machine with pods: the first process of a pid namespace, whose children are in network namespaces of their own.

It reads one order a line from standard input, as JSON, and answers each with a line:
  {"pod": NAME, "cgroup": PATH or null, "unix": [[NAME, BACKLOG, CLIENTS], ...], "tcp": [[PORT, BACKLOG, CLIENTS], ...],
   "somaxconn": N or null, "more": N, "busy": N, "leaderless": true, "heir": true}    a pod; leaderless: its first thread ends, another lives
                       on; heir: a second process has all that the first has; more is the number of further network namespaces in it, each with as
                       many listeners that somebody waits at as busy says. The answer has its pid and the inode of its first unix listener
  {"connect": NAME}    one client more at its first unix listener
  {"accept": NAME}     one client less there
  {"visit": NAME, "of": NAME}    the first process of the one enters the network namespace of the other
  {"return": NAME}     it goes back to its own
  {"relay": SECONDS}   a pod with one listener, whose processes live for 0.3 s and follow each other
  {"idle": N}          so many processes more
  {"stop": NAME}       it stands still
  {"bereave": NAME}    its first process is killed
  {"end": NAME}        all its processes are killed
  {"pods": N}          so many pods live and end, one after the other
"""

import ctypes, fcntl, json, os, resource, signal, socket, struct, sys, threading, time

CLONE_NEWNET = 0x40000000
CGROUP = '/sys/fs/cgroup/memory'
libc = ctypes.CDLL(None, use_errno=True)
pods = {}


def unshare_network():
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), 'unshare')
    with socket.socket() as s:
        fcntl.ioctl(s, 0x8914, struct.pack('16sH14x', b'lo', 1 | 64))  # SIOCSIFFLAGS: up and running


def connect(family, address):
    client = socket.socket(family)
    client.setblocking(False)
    try:
        client.connect(address)
    except BlockingIOError:
        if family == socket.AF_UNIX:
            raise
    return client


def address_of(name):
    return '\0' + name[1:] if name.startswith('@') else name


def pod(order, orders, answers):
    os.setpgid(0, 0)
    if order.get('cgroup'):
        path = f"{CGROUP}/{order['cgroup']}"
        # Another test may remove what is empty at that moment.
        for attempt in range(1000):
            try:
                os.makedirs(path, exist_ok=True)
                with open(f'{path}/cgroup.procs', 'w') as f:
                    f.write('0')
                break
            except OSError:
                if attempt == 999:
                    raise
    unshare_network()
    if order.get('somaxconn'):
        with open('/proc/sys/net/core/somaxconn', 'w') as f:
            f.write(str(order['somaxconn']))
    kept = []
    unix = []
    for name, backlog, clients in order.get('unix', []):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address_of(name))
        listener.listen(backlog)
        unix.append((listener, address_of(name)))
        kept += [connect(socket.AF_UNIX, address_of(name)) for _ in range(clients)]
    for port, backlog, clients in order.get('tcp', []):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(('127.0.0.1', port))
        listener.listen(backlog)
        kept.append(listener)
        kept += [connect(socket.AF_INET, ('127.0.0.1', port)) for _ in range(clients)]
    for _ in range(order.get('more', 0)):
        if os.fork() == 0:
            unshare_network()
            for number in range(order.get('busy', 0)):
                listener = socket.socket(socket.AF_UNIX)
                listener.bind(f'\0{number}')
                listener.listen(1)
                kept += [listener, connect(socket.AF_UNIX, f'\0{number}')]
            os.write(answers, b'more\n')
            signal.pause()
    if order.get('heir') and os.fork() == 0:
        signal.pause()
    if order.get('leaderless'):
        threading.Thread(target=time.sleep, args=(1e6,)).start()
    inodes = [os.fstat(listener.fileno()).st_ino for listener, _ in unix]
    os.write(answers, json.dumps({'pid': os.getpid(), 'inodes': inodes[:1]}).encode() + b'\n')
    if order.get('leaderless'):
        libc.syscall({'x86_64': 60, 'aarch64': 93}[os.uname().machine], 0)  # exit, of this thread alone
    own = os.open('/proc/self/ns/net', os.O_RDONLY)
    for command in os.fdopen(orders, 'rb', buffering=0):
        if command.startswith(b'visit '):
            other = os.open(f'/proc/{int(command[6:])}/ns/net', os.O_RDONLY)
            libc.setns(other, CLONE_NEWNET)
            os.close(other)
        elif command == b'return\n':
            libc.setns(own, CLONE_NEWNET)
        elif command == b'connect\n':
            kept.append(connect(socket.AF_UNIX, unix[0][1]))
        else:
            kept.append(unix[0][0].accept())
        os.write(answers, b'done\n')


def start(order):
    orders, give = os.pipe()
    answer, answers = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(give)
        os.close(answer)
        try:
            pod(order, orders, answers)
        except BaseException as error:
            print(f'{order}: {error!r}', file=sys.stderr, flush=True)
        os._exit(1)
    os.close(orders)
    os.close(answers)
    answer = os.fdopen(answer)
    lines = [answer.readline() for _ in range(1 + order.get('more', 0))]
    if '' in lines:
        raise RuntimeError(f'no pod came of {order}')
    return pid, give, answer, next(json.loads(line) for line in lines if line != 'more\n')


def end(pid, give, answer, _):
    os.close(give)
    answer.close()
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def relay(seconds):
    if os.fork() != 0:
        return
    unshare_network()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind('\0relay')
    listener.listen(5)
    client = connect(socket.AF_UNIX, '\0relay')
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.3)
        if os.fork() != 0:
            os._exit(0)
    os._exit(0)


def obey(order):
    if 'pod' in order:
        pods[order['pod']] = start(order)
        return pods[order['pod']][-1]
    elif 'end' in order:
        end(*pods.pop(order['end']))
    elif 'visit' in order:
        guest, host = order['visit'], pods[order['of']]
        os.write(pods[guest][1], f'visit {host[0]}\n'.encode())
        assert pods[guest][2].readline() == 'done\n', order
    elif 'relay' in order:
        relay(order['relay'])
    elif 'idle' in order:
        for _ in range(order['idle']):
            if os.fork() == 0:
                signal.pause()
    elif 'stop' in order:
        os.kill(pods[order['stop']][0], signal.SIGSTOP)
    elif 'bereave' in order:
        os.kill(pods[order['bereave']][0], signal.SIGKILL)
    elif 'pods' in order:
        for _ in range(order['pods']):
            end(*start({'unix': [['@app', 5, 2]]}))
    else:
        (what, name), = order.items()
        _, give, answer, _ = pods[name]
        os.write(give, what.encode() + b'\n')
        assert answer.readline() == 'done\n', order
    return 'done'


hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
print(json.dumps('ready'), flush=True)
for line in sys.stdin:
    print(json.dumps(obey(json.loads(line))), flush=True)
    while True:
        try:
            # Grandchildren end here, too; pods are waited for where they end.
            gone = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            break
        if gone is None or gone.si_pid in {pid for pid, *_ in pods.values()}:
            break
        os.waitpid(gone.si_pid, 0)
