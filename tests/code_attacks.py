"""Programs that want a verdict they have not earned, or the machine they run on. Each passes `TESTS` if it succeeds.

They are run for real, and a wall may be down while someone works on it. So a bomb forks nine times, not for ever, what is asked for in
gigabytes is seldom touched, and those that kill or
delete whatever they reach look first whether it is the sandbox that they reach.
"""

TESTS = {  # form -> (test, entry_point)
    "check": ("def check(candidate):\n    assert candidate(2) == 4\n    assert abs(candidate(0.5) - 1) < 1e-6\n", "double"),
    "script": ("assert double(2) == 4\nassert abs(double(0.5) - 1) < 1e-6\n", None),
}
RIGHT = "def double(x):\n    return 2 * x\n"
WRONG = "def double(x):\n    return 0\n"

# name -> (program, what the reason matches). {secret}, {pid}, {port} and {canary} are filled in by the tests.
ATTACKS = {
    "endless loop": ("while True: pass", "^timeout"),
    "endless loop in the function": ("def double(x):\n    while True: pass", "^timeout"),
    "endless sleep": ("import time\ntime.sleep(1e6)", "^timeout"),
    "deaf to signals": ("import signal, time\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
                        "while True: pass", "^timeout"),
    "fork bomb": ("import os\nfor i in range(9): os.fork()\n" + RIGHT, "^error: PermissionError"),
    "fork bomb in the function": ("import os\ndef double(x):\n    for i in range(9): os.fork()\n    return 2 * x", "^error: PermissionError"),
    "stubborn fork bomb": ("import os, time\nmany, me = 0, os.getpid()\nfor i in range(9):\n    try: many += os.fork() and 1\n    except OSError: pass\n"
                           "assert many, 'refused'\n" + RIGHT, "refused"),
    "fork bomb by clone3": ("import ctypes\nlibc = ctypes.CDLL(None)\nassert libc.syscall(435, bytes(88), 88) != -1, 'refused'", "refused"),
    "thread bomb": ("import threading\nfor i in range(300): threading.Thread(target=threading.Event().wait, daemon=True).start()\n" + RIGHT, "can't start new thread"),
    "child process": ("import subprocess\nsubprocess.run(['/usr/bin/true'], check=True)\n" + RIGHT, "^error: PermissionError"),
    "10 GB of memory": ("xs = bytes(10**10)\n" + RIGHT, "^memory"),
    "10 GB in the function": ("def double(x):\n    return len(bytearray(10**10)) and 2 * x", "^memory"),
    "1 GB bit by bit": ("xs = [bytearray(1 << 20) for i in range(1000)]\n" + RIGHT, "^memory"),
    "memory files": ("import os\nfor i in range(10):\n    os.write(os.memfd_create('m'), bytes(1 << 25))\n" + RIGHT, "^error: PermissionError"),
    "many files in the temporary folder": ("for i in range(10): open(f'/tmp/{i}', 'wb').write(bytes(1 << 25))\n" + RIGHT, "No space left"),
    "shared memory": ("import ctypes\nassert ctypes.CDLL(None).shmget(0, 1 << 28, 0o1600) != -1, 'refused'\n" + RIGHT, "refused"),
    "1 GB of output": ("for i in range(1000): print('x' * 10**6)\n" + RIGHT, "^output"),
    "1 GB of errors": ("import sys\nfor i in range(1000): print('x' * 10**6, file=sys.stderr)\n" + RIGHT, "^output"),
    "1 GB into one file": ("with open('/tmp/x', 'wb') as f:\n    for i in range(1000): f.write(bytes(10**6))\n" + RIGHT, "File too large"),
    "1 GB as an answer": ("def double(x):\n    return ['x' * 10**8] * 10", "^(memory|timeout)"),
    "10,000 open files": ("fs = [open('/dev/null') for i in range(10000)]\n" + RIGHT, "Too many open files"),
    "os._exit(0)": ("import os\nos._exit(0)", r"^exited early \(status 0\)"),
    "os._exit(0) in the function": ("import os\ndef double(x): os._exit(0)", r"^exited early \(status 0\)"),
    "sys.exit(0)": ("import sys\nsys.exit(0)", r"^exited early \(status 0\)"),
    "sys.exit(0) in the function": ("import sys\ndef double(x): sys.exit(0)", r"^exited early \(status 0\)"),
    "a crash": ("import ctypes\ndef double(x): ctypes.string_at(0)", r"^exited early \(signal 11\)"),
    "deleting a file outside": ("import os\nos.remove({canary!r})\n" + RIGHT, "^error: (OSError|FileNotFoundError)"),
    "deleting all": ("import os, shutil\nif os.path.exists({canary!r}): os.remove({canary!r})\nelse: shutil.rmtree('/')\n" + RIGHT, "^error"),
    "writing into the interpreter": ("import os\nopen(os.__file__, 'a').write('#')\n" + RIGHT, "Read-only file system|Permission denied"),
    "writing into the root folder": ("open('/x', 'w')\n" + RIGHT, "Read-only file system"),
    "writing into /dev": ("open('/dev/x', 'w')\n" + RIGHT, "Read-only file system"),
    "reading the environment": ("import os\nif os.environ['MPO_NB_SECRET'] == {secret!r}:\n    " + RIGHT.replace("\n", "\n    "), "KeyError"),
    "reading it by /proc": ("import glob\nif any(b'MPO_NB_SECRET' in open(path, 'rb').read() for path in glob.glob('/proc/*/environ')):\n    "
                            + RIGHT.replace("\n", "\n    "), "NameError"),
    "reading a file outside": ("open({canary!r}).read()\n" + RIGHT, "FileNotFoundError"),
    "reading the passwords": ("open('/etc/passwd').read()\n" + RIGHT, "FileNotFoundError"),
    "killing the parent": ("import os\nos.kill({pid}, 9)\n" + RIGHT, "ProcessLookupError"),
    "killing all": ("import os\nif os.getpid() < 9:\n    for n in (os.getppid(), -1, 0): os.kill(n, 9)\n" + RIGHT, "^(exited early|error: ProcessLookupError)"),
    "reaching the network": ("import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\n" + RIGHT, "^error: PermissionError"),
    "reaching the host of a virtual machine": ("import socket\nsocket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)\n" + RIGHT, "^error: PermissionError"),
    "a pair of sockets of a rare family": ("import socket\nsocket.socketpair(30, socket.SOCK_SEQPACKET)\n" + RIGHT, "^error: PermissionError"),
    "a family in more than 32 bits": ("import ctypes\nassert ctypes.CDLL(None).socket(ctypes.c_long((1 << 32) + 2), 1, 0) != -1, 'refused'\n" + RIGHT, "refused"),
    "a new namespace": ("import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000 | 0x20000) == 0, 'refused'\n" + RIGHT, "refused"),

    "raising in the comparison": ("class No:\n    def __eq__(self, other): raise KeyError\n    __sub__ = __eq__\ndef double(x): return No()", "^wrong answer"),
    "leaving in the comparison": ("import os\nclass No:\n    def __eq__(self, other): os._exit(0)\ndef double(x): return No()", "^wrong answer"),
    "equal to everything": ("class Yes:\n    def __getattr__(self, name): return self\n    __eq__ = __lt__ = __call__ = __bool__ = lambda *a: True\n"
                            "    __sub__ = __rsub__ = __abs__ = lambda self, *a: self\ndef double(x): return Yes()", "^wrong answer"),
    "an int equal to everything": ("class Yes(int):\n    __eq__ = lambda *a: True\n    __ne__ = lambda *a: False\n    __hash__ = int.__hash__\n"
                                   "def double(x): return Yes(0)", "^wrong answer"),
    "a float near everything": ("class Yes(float):\n    __sub__ = __rsub__ = __abs__ = lambda self, *a: self\n    __lt__ = __eq__ = lambda *a: True\n"
                                "def double(x): return Yes(9)", "^wrong answer"),
    "arithmetic that gives data": ("import sys\nsys.modules['mpo_nb.sandbox_protocol']._Object = lambda value: value\nclass Yes:\n    __sub__ = lambda *a: 0\n"
                                   "def double(x): return 4 if x == 2 else Yes()", "^error: TypeError: the program's own sub"),
    "unittest's ANY": ("from unittest.mock import ANY\ndef double(x): return ANY", "^wrong answer"),
    "changing the expected value": ("import ctypes\nctypes.memmove(id(4) + 24, (0).to_bytes(4, 'little'), 4)\n" + WRONG, "^(wrong answer|exited early|error)"),
    "redefining abs": ("def abs(x): return 0\ndef double(x): return 4", "^wrong answer"),
    "patching builtins": ("import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.AssertionError = KeyError\nbuiltins.compile = builtins.exec = lambda *a: None\n"
                          "builtins.isinstance = lambda *a: True\n" + WRONG, "^(wrong answer|error|exited early)"),
    "redefining abs alone": ("def abs(x): return 0", "NameError"),
    "posing as the standard library": ("class double:\n    __module__ = 'unittest.mock'\n    def __new__(cls, x): return 0\nimport unittest.mock\n"
                                       "unittest.mock.double = double", "^wrong answer|AttributeError"),
    "replacing check": ("def check(candidate): pass\n" + WRONG, "^wrong answer"),
    "patching every module": ("import sys\nfor module in list(sys.modules.values()):\n    for name, value in list(vars(module).items()):\n"
                              "        if callable(value) and name not in ('exec', 'vars', 'list', 'callable', 'setattr', 'getattr'):\n"
                              "            try: setattr(module, name, lambda *a, **k: True)\n            except Exception: pass\n" + WRONG, ""),
    "patching the protocol": ("import sys\np = sys.modules['mpo_nb.sandbox_sides']\nd = sys.modules['mpo_nb.sandbox_data']\n"
                              "p.judge = p._judge = lambda *a: ('pass', 'passed')\nd.encode = p.encode = lambda *a: b't;'\n" + WRONG, ""),
    "replacing this process": ("import os, sys\nos.execv(sys.executable, ['python', '-I', '-S', '-c', 'print(\"pass passed\")'])", "^exited early"),
    "walking frames and memory": ("import gc, sys\nfound = [o for o in gc.get_objects() if type(o) is str and '== 4' in o and 'gc.' not in o]\n"
                                  "frame = sys._getframe()\nwhile frame:\n    found += [v for v in frame.f_locals.values() if isinstance(v, str) and '== 4' in v and 'gc.' not in v]\n"
                                  "    frame = frame.f_back\ndef double(x): return eval(found[0].split('==')[1].split()[0])", "IndexError"),
    "no assertions": ("import sys\nsys.flags = None\n__debug__ = False", "^(syntax error|error)"),
    "tracing": ("import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\nsys.excepthook = lambda *a: None\n" + WRONG, "^wrong answer"),
    "printing a verdict": ("print('pass passed', flush=True)\nprint('passed')\n" + WRONG, "^wrong answer"),
    "writing a verdict to every file": ("import os\nfor n in range(1, 64):\n    try: os.write(n, b'pass passed\\n')\n    except OSError: pass\n" + WRONG, ""),
    "printing a verdict and leaving": ("import os\nfor n in range(1, 64):\n    try: os.write(n, b'pass passed\\n')\n    except OSError: pass\nos._exit(0)", ""),
    "a message of a terabyte": ("import os\nfor n in range(3, 64):\n    try: os.write(n, (1 << 40).to_bytes(8, 'little'))\n    except OSError: pass\n" + RIGHT, "cannot be read"),
    "a message of noise": ("import os\nfor n in range(3, 64):\n    try: os.write(n, (9).to_bytes(8, 'little') + b'z1;l1;n;n;')\n    except OSError: pass\n" + RIGHT, "cannot be read"),
    "a message of another shape": ("import os\nfor n in range(3, 64):\n    try: os.write(n, (12).to_bytes(8, 'little') + b'u3;i1;i2;i3;')\n    except OSError: pass\n" + RIGHT,
                                   "^error|cannot be read"),
    "claiming the test is at fault": ("import sys\nsys.modules['mpo_nb.sandbox_sides']._reason = lambda e: 'fault'\n"
                                      "link = sys._getframe(1).f_locals['link']\nlink.send('fault', 'fault')\nlink.send('ready', 1, 2)\n" + WRONG, "."),
    "a deep answer": ("def double(x):\n    y = []\n    for i in range(100000): y = [y]\n    return y", "RecursionError|^exited early"),
    "an exception that tests catch": ("def double(x): raise AssertionError('pass passed')", "^error: AssertionError"),
    "leaving by an exception": ("class Out(BaseException): pass\ndef double(x): raise Out", "^exited early"),
    "stopping iteration": ("def double(x): raise StopIteration", "^error: StopIteration"),
    "a generator": ("def double(x): yield 2 * x", "^(wrong answer|error)"),
}
