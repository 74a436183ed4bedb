"""Programs that want a verdict they have not earned, or the machine they run on. Each passes `TESTS` if it succeeds.

They are run for real, and a wall may be down while someone works on it. So a bomb forks nine times, not for ever, what
is asked for in gigabytes is seldom touched, and those that kill or delete whatever they reach look first whether it is
the sandbox that they reach."""

TESTS = {  # form -> (test, entry_point)
    "check": (
        "def check(candidate):\n    assert candidate(2) == 4\n    assert abs(candidate(0.5) - 1) < 1e-6\n",
        "double",
    ),
    "script": ("assert double(2) == 4\nassert abs(double(0.5) - 1) < 1e-6\n", None),
}
RIGHT = "def double(x):\n    return 2 * x\n"
WRONG = "def double(x):\n    return 0\n"


def patched(**modules: str) -> str:
    """The first lines of an attack on the sandbox's own modules: each module of a side under its name, and proof that
    it has the names that the attack replaces. Without the proof, an attack on a name of long ago does nothing and
    scores zero, as if something had held it."""
    lines = ["import sys"]
    for module, names in modules.items():
        lines.append(f"{module} = sys.modules['mpo_nb.sandbox.{module}']")
        for name in names.split():
            lines.append(f"assert {name!r} in vars({module}), 'there is no {module}.{name} to replace'")
    return "\n".join(lines) + "\n"


PATCHES = {  # the attacks on modules of the sandbox -> their first lines
    "arithmetic that gives data": patched(protocol="Whole encode", sides="Whole"),
    "patching the protocol": patched(sides="judge _judge run_program", protocol="encode", values="encode"),
    "claiming the test is at fault": patched(sides="_reason") + "link = sys._getframe(1).f_locals['link']\n",
}

# name -> (program, what the reason matches). {secret}, {pid}, {port} and {canary} are filled in by the tests.
ATTACKS = {
    "endless loop": ("while True: pass", "^timeout"),
    "endless loop in the function": ("def double(x):\n    while True: pass", "^timeout"),
    "endless sleep": ("import time\ntime.sleep(1e6)", "^timeout"),
    "deaf to signals": (
        (
            "import signal, time\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except"
            " (OSError, ValueError): pass\nwhile True: pass"
        ),
        "^timeout",
    ),
    "fork bomb": ("import os\nfor i in range(9): os.fork()\n" + RIGHT, "^error: PermissionError"),
    "fork bomb in the function": (
        "import os\ndef double(x):\n    for i in range(9): os.fork()\n    return 2 * x",
        "^error: PermissionError",
    ),
    "stubborn fork bomb": (
        "import os, time\nmany, me = 0, os.getpid()\nfor i in range(9):\n    try: many += os.fork() and 1\n    except"
        " OSError: pass\nassert many, 'refused'\n" + RIGHT,
        "refused",
    ),
    "fork bomb by clone3": (
        "import ctypes\nlibc = ctypes.CDLL(None)\nassert libc.syscall(435, bytes(88), 88) != -1, 'refused'",
        "refused",
    ),
    "thread bomb": (
        "import threading\nfor i in range(300): threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        + RIGHT,
        "can't start new thread",
    ),
    "child process": (
        "import subprocess\nsubprocess.run(['/usr/bin/true'], check=True)\n" + RIGHT,
        "^error: PermissionError",
    ),
    "10 GB of memory": ("xs = bytes(10**10)\n" + RIGHT, "^memory"),
    "10 GB in the function": ("def double(x):\n    return len(bytearray(10**10)) and 2 * x", "^memory"),
    "1 GB bit by bit": ("xs = [bytearray(1 << 20) for i in range(1000)]\n" + RIGHT, "^memory"),
    "memory files": (
        "import os\nfor i in range(10):\n    os.write(os.memfd_create('m'), bytes(1 << 25))\n" + RIGHT,
        "^error: PermissionError",
    ),
    "many files in the temporary folder": (
        "for i in range(10): open(f'{i}', 'wb').write(bytes(1 << 25))\n" + RIGHT,
        "No space left",
    ),
    "shared memory": (
        "import ctypes\nassert ctypes.CDLL(None).shmget(0, 1 << 28, 0o1600) != -1, 'refused'\n" + RIGHT,
        "refused",
    ),
    "1 GB of output": ("for i in range(1000): print('x' * 10**6)\n" + RIGHT, "^output"),
    "1 GB of errors": ("import sys\nfor i in range(1000): print('x' * 10**6, file=sys.stderr)\n" + RIGHT, "^output"),
    "1 GB into one file": (
        "with open('x', 'wb') as f:\n    for i in range(1000): f.write(bytes(10**6))\n" + RIGHT,
        "File too large",
    ),
    "1 GB as an answer": ("def double(x):\n    return ['x' * 10**8] * 10", "^(memory|timeout)"),
    "10,000 open files": ("fs = [open('/dev/null') for i in range(10000)]\n" + RIGHT, "Too many open files"),
    "os._exit(0)": ("import os\nos._exit(0)", r"^exited early \(status 0\)"),
    "os._exit(0) in the function": ("import os\ndef double(x): os._exit(0)", r"^exited early \(status 0\)"),
    "sys.exit(0)": ("import sys\nsys.exit(0)", r"^exited early \(status 0\)"),
    "sys.exit(0) in the function": ("import sys\ndef double(x): sys.exit(0)", r"^exited early \(status 0\)"),
    "a crash": ("import ctypes\ndef double(x): ctypes.string_at(0)", r"^exited early \(signal 11\)"),
    "deleting a file outside": ("import os\nos.remove({canary!r})\n" + RIGHT, "^error: (OSError|FileNotFoundError)"),
    "deleting all": (
        "import os, shutil\nif os.path.exists({canary!r}): os.remove({canary!r})\nelse: shutil.rmtree('/')\n" + RIGHT,
        "^error",
    ),
    "writing into the interpreter": (
        "import os\nopen(os.__file__, 'a').write('#')\n" + RIGHT,
        "Read-only file system|Permission denied",
    ),
    "writing into the root folder": ("open('/x', 'w')\n" + RIGHT, "Read-only file system"),
    "writing into /dev": ("open('/dev/x', 'w')\n" + RIGHT, "Read-only file system"),
    "reading the environment": (
        "import os\nif os.environ['MPO_NB_SECRET'] == {secret!r}:\n    " + RIGHT.replace("\n", "\n    "),
        "KeyError",
    ),
    "reading it by /proc": (
        "import glob\nif any(b'MPO_NB_SECRET' in open(path, 'rb').read() for path in"
        " glob.glob('/proc/*/environ')):\n    " + RIGHT.replace("\n", "\n    "),
        "NameError",
    ),
    "reading a file outside": ("open({canary!r}).read()\n" + RIGHT, "FileNotFoundError"),
    "reading the passwords": ("open('/etc/passwd').read()\n" + RIGHT, "FileNotFoundError"),
    "killing the parent": ("import os\nos.kill({pid}, 9)\n" + RIGHT, "ProcessLookupError"),
    "killing all": (
        "import os\nif os.getpid() < 9:\n    for n in (os.getppid(), -1, 0): os.kill(n, 9)\n" + RIGHT,
        "^(exited early|error: ProcessLookupError)",
    ),
    "reaching the network": (
        "import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\n" + RIGHT,
        "^error: PermissionError",
    ),
    "reaching the host of a virtual machine": (
        "import socket\nsocket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)\n" + RIGHT,
        "^error: PermissionError",
    ),
    "a pair of sockets of a rare family": (
        "import socket\nsocket.socketpair(30, socket.SOCK_SEQPACKET)\n" + RIGHT,
        "^error: PermissionError",
    ),
    "a family in more than 32 bits": (
        "import ctypes\nassert ctypes.CDLL(None).socket(ctypes.c_long((1 << 32) + 2), 1, 0) != -1, 'refused'\n" + RIGHT,
        "refused",
    ),
    "a new namespace": (
        "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000 | 0x20000) == 0, 'refused'\n" + RIGHT,
        "refused",
    ),
    "raising in the comparison": (
        "class No:\n    def __eq__(self, other): raise KeyError\n    __sub__ = __eq__\ndef double(x): return No()",
        "^wrong answer",
    ),
    "leaving in the comparison": (
        "import os\nclass No:\n    def __eq__(self, other): os._exit(0)\ndef double(x): return No()",
        "^wrong answer",
    ),
    "equal to everything": (
        (
            "class Yes:\n    def __getattr__(self, name): return self\n    __eq__ = __lt__ = __call__ = __bool__ ="
            " lambda *a: True\n    __sub__ = __rsub__ = __abs__ = lambda self, *a: self\ndef double(x): return Yes()"
        ),
        "^wrong answer",
    ),
    "an int equal to everything": (
        (
            "class Yes(int):\n    __eq__ = lambda *a: True\n    __ne__ = lambda *a: False\n    __hash__ ="
            " int.__hash__\ndef double(x): return Yes(0)"
        ),
        "^wrong answer",
    ),
    "a float near everything": (
        (
            "class Yes(float):\n    __sub__ = __rsub__ = __abs__ = lambda self, *a: self\n    __lt__ = __eq__ = lambda"
            " *a: True\ndef double(x): return Yes(9)"
        ),
        "^wrong answer",
    ),
    "arithmetic that gives data": (
        PATCHES["arithmetic that gives data"]
        + "protocol.Whole = sides.Whole = lambda value: value\nclass Yes:\n    __sub__ = lambda *a: 0\n"
        "def double(x): return 4 if x == 2 else Yes()",
        "^error: TypeError: the program's own sub",
    ),
    "unittest's ANY": ("from unittest.mock import ANY\ndef double(x): return ANY", "^wrong answer"),
    "changing the expected value": (
        "import ctypes\nctypes.memmove(id(4) + 24, (0).to_bytes(4, 'little'), 4)\n" + WRONG,
        "^(wrong answer|exited early|error)",
    ),
    "redefining abs": ("def abs(x): return 0\ndef double(x): return 4", "^wrong answer"),
    "patching builtins": (
        "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.AssertionError = KeyError\nbuiltins.compile ="
        " builtins.exec = lambda *a: None\nbuiltins.isinstance = lambda *a: True\n" + WRONG,
        "^(wrong answer|error|exited early)",
    ),
    "redefining abs alone": ("def abs(x): return 0", "NameError"),
    "posing as the standard library": (
        (
            "class double:\n    __module__ = 'unittest.mock'\n    def __new__(cls, x): return 0\nimport unittest.mock\n"
            "unittest.mock.double = double"
        ),
        "^wrong answer|AttributeError",
    ),
    "replacing check": ("def check(candidate): pass\n" + WRONG, "^wrong answer"),
    "patching every module": (
        "import sys\nfor module in list(sys.modules.values()):\n    for name, value in list(vars(module).items()):\n"
        "        if callable(value) and name not in ('exec', 'vars', 'list', 'callable', 'setattr', 'getattr'):\n"
        "            try: setattr(module, name, lambda *a, **k: True)\n            except Exception: pass\n" + WRONG,
        "",
    ),
    "patching the protocol": (
        PATCHES["patching the protocol"] + "sides.judge = sides._judge = lambda *a: ('pass', 'passed')\n"
        "values.encode = protocol.encode = lambda *a: b't;'\n" + WRONG,
        "",
    ),
    "replacing this process": (
        "import os, sys\nos.execv(sys.executable, ['python', '-I', '-S', '-c', 'print(\"pass passed\")'])",
        "^exited early",
    ),
    "walking frames and memory": (
        (
            "import gc, sys\nfound = [o for o in gc.get_objects() if type(o) is str and '== 4' in o and 'gc.' not in"
            " o]\nframe = sys._getframe()\nwhile frame:\n    found += [v for v in frame.f_locals.values() if"
            " isinstance(v, str) and '== 4' in v and 'gc.' not in v]\n    frame = frame.f_back\ndef double(x): return"
            " eval(found[0].split('==')[1].split()[0])"
        ),
        "IndexError",
    ),
    "no assertions": ("import sys\nsys.flags = None\n__debug__ = False", "^(syntax error|error)"),
    "tracing": (
        "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\nsys.excepthook = lambda *a: None\n"
        + WRONG,
        "^wrong answer",
    ),
    "printing a verdict": ("print('pass passed', flush=True)\nprint('passed')\n" + WRONG, "^wrong answer"),
    "writing a verdict to every file": (
        "import os\nfor n in range(1, 64):\n    try: os.write(n, b'pass passed\\n')\n    except OSError: pass\n"
        + WRONG,
        "",
    ),
    "printing a verdict and leaving": (
        (
            "import os\nfor n in range(1, 64):\n    try: os.write(n, b'pass passed\\n')\n    except OSError:"
            " pass\nos._exit(0)"
        ),
        "",
    ),
    "a message of a terabyte": (
        "import os\nfor n in range(3, 64):\n    try: os.write(n, (1 << 40).to_bytes(8, 'little'))\n    except OSError:"
        " pass\n" + RIGHT,
        "cannot be read",
    ),
    "a message of noise": (
        "import os\nfor n in range(3, 64):\n    try: os.write(n, (9).to_bytes(8, 'little') + b'z1;l1;n;n;')\n    except"
        " OSError: pass\n" + RIGHT,
        "cannot be read",
    ),
    "a message of another shape": (
        "import os\nfor n in range(3, 64):\n    try: os.write(n, (12).to_bytes(8, 'little') + b'u3;i1;i2;i3;')\n   "
        " except OSError: pass\n" + RIGHT,
        "^error|cannot be read",
    ),
    "claiming the test is at fault": (
        PATCHES["claiming the test is at fault"] + "sides._reason = lambda e: 'fault'\n"
        "link.send('fault', 'fault')\nlink.send('ready', 1, 2)\n" + WRONG,
        ".",
    ),
    "a deep answer": (
        "def double(x):\n    y = []\n    for i in range(100000): y = [y]\n    return y",
        "RecursionError|^exited early",
    ),
    "an exception that tests catch": ("def double(x): raise AssertionError('pass passed')", "^error: AssertionError"),
    "leaving by an exception": ("class Out(BaseException): pass\ndef double(x): raise Out", "^exited early"),
    "stopping iteration": ("def double(x): raise StopIteration", "^error: StopIteration"),
    "a generator": ("def double(x): yield 2 * x", "^(wrong answer|error)"),
}

_ZERO = "def double(x): return 0\n"
_YES = (
    "class Yes:\n    __eq__ = __lt__ = __bool__ = __contains__ = __exit__ = lambda *a: True\n    __sub__ = __rsub__ ="
    " __add__ = __mul__ = __rmul__ = __abs__ = __round__ = lambda self, *a: self\n    __len__ = lambda self: 0\n   "
    " __iter__ = lambda self: iter(())\n    __enter__ = lambda self: self\n    __hash__ = lambda self: 4\n   "
    " startswith = issubset = is_integer = lambda *a: True\ndef double(x): return Yes()\n"
)
_STACK = (
    "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n    def"
    " pop(self): return self.items.pop()\n"
)

# name -> (program, test): nearly all pass where both share an interpreter. `RIGHT`, or the program that stands third,
# passes the test in the sandbox.
FORGERIES = {
    "all": ("def all(xs): return True", "assert all(double(x) == 2 * x for x in range(5))"),
    "any": ("def any(xs): return False", "assert not any(double(x) != 2 * x for x in range(5))"),
    "sorted": ("def sorted(xs): return [2, 4]", "assert sorted(double(x) for x in (2, 1)) == [2, 4]"),
    "map": ("def map(f, xs): return [2, 4]", "assert list(map(lambda x: double(x), [1, 2])) == [2, 4]"),
    "filter": ("def filter(f, xs): return [1]", "assert list(filter(lambda x: double(x), [0, 1])) == [1]"),
    "len": (_ZERO + "def len(xs): return 2", "assert len(double([1])) == 2"),
    "sum": ("def sum(xs): return 6", "assert sum(double(x) for x in range(3)) == 6"),
    "zip": (_ZERO + "def zip(*xs): return []", "assert all(double(x) == y for x, y in zip([1, 2], [2, 4]))"),
    "range": ("def range(n): return []", "for x in range(3):\n    assert double(x) == 2 * x"),
    "enumerate": ("def enumerate(xs): return []", "for i, x in enumerate([1, 2]):\n    assert double(x) == 2 * i + 2"),
    "isinstance": (
        "class Yes(int):\n    __eq__ = lambda *a: True\ndef isinstance(*a): return True\ndef double(x): return Yes()",
        "assert isinstance(double(2), int) and double(2) == 4",
    ),
    "abs": (_ZERO + "def abs(x): return 0", "assert abs(double(2) - 4) < 1e-6"),
    "round": (_ZERO + "def round(*a): return 4", "assert round(double(2), 6) == 4"),
    "list": (_ZERO + "def list(x): return [1, 1]", "assert list(double([1])) == [1, 1]"),
    "set": (_ZERO + "def set(x): return {1}", "assert set(double([1])) == {1}"),
    "print": (
        "def print(*a): raise SystemExit\ndef double(x): return 4 if x == 2 else 0",
        "print(double(1))\nassert double(2) == 4 and double(3) == 6",
    ),
    "max": (_ZERO + "def max(*a): return 4", "assert max(double(2), 0) == 4"),
    "str": (_ZERO + "def str(x): return '4'", "assert str(double(2)) == '4'"),
    "type": (
        _ZERO + "def type(x): return int\ndef abs(x): return 0",
        "assert type(double(2)) == int and abs(double(2) - 4) == 0",
    ),
    "a class named all": (
        "class all:\n    def __init__(self, xs): pass",
        "assert all(double(x) == 2 * x for x in range(5))",
    ),
    "math as a class": (
        _ZERO + "class math:\n    isclose = staticmethod(lambda *a, **k: True)",
        "assert math.isclose(double(2), 4)",
    ),
    "isclose beside the test's import": (
        _ZERO + "def isclose(*a): return True\nimport math\nmath.isclose = isclose",
        "import math\nassert math.isclose(double(2), 4)",
    ),
    "AssertionError": (
        _ZERO + "AssertionError = KeyError\nimport builtins",
        "try:\n    assert double(2) == 4\nexcept KeyError:\n    raise\nassert double(3) == 6",
    ),
    "__builtins__": (
        "__builtins__ = {'all': lambda xs: True}\n" + _ZERO,
        "assert all(double(x) == 2 * x for x in range(1, 5))",
    ),
    "StopIteration under all(map())": ("def double(x): raise StopIteration", "assert all(map(double, [1, 2]))"),
    "StopIteration under list(map())": (
        "class Stop(StopIteration): pass\ndef double(x): raise Stop",
        "assert list(map(double, [])) == list(map(double, [0]))[1:]\nassert 3 not in map(double, [1])",
    ),
    "StopIteration in a loop": ("def double(x): raise StopIteration", "for y in map(double, [1]):\n    assert y == 2"),
    "nothing to go through": ("def double(xs): return []", "for x in double([1]):\n    assert x == 1"),
    "an iterator of nothing": (
        "def double(xs): return iter(())",
        "assert isinstance(double([1]), object)\nfor x in double([1]):\n    assert x == 1",
    ),
    "all of nothing": ("def double(xs): return []", "assert all(x == 1 for x in double([1]))"),
    "a loop that is never entered": (_YES, "xs = double([1])\nwhile len(xs) > 0:\n    assert xs.pop() == 1"),
    "itself twice": (_YES, "assert double(2) == double(1) + double(1)"),
    "itself times two": (
        (
            "class Yes:\n    __eq__ = lambda *a: True\n    __rmul__ = lambda self, k: self\nyes = Yes()\ndef double(x):"
            " return yes"
        ),
        "assert double(2) == 2 * double(1)",
    ),
    "a difference that is nothing": (_YES.replace("__bool__ = ", ""), "assert not double(2) - 4"),
    "in a list": (_YES, "assert double(2) in [4, 5]"),
    "holding everything": (_YES, "assert 1 in double([1])"),
    "startswith": (_YES, "assert double('a').startswith('a')"),
    "issubset": (
        _YES,
        "assert double((1,)) and set(double([1])) == {1} or double({1}).issubset({1})",
        "def double(x): return x if x == {1} else 2 * x",
    ),
    "unittest's comparisons": (
        _YES,
        (
            "import unittest\ncase = unittest.TestCase()\ncase.assertAlmostEqual(double(2),"
            " 4)\ncase.assertIn(double(1), [2])"
        ),
    ),
    "a class for a function": (
        (
            "class double:\n    def __init__(self, x): pass\n    __eq__ = __lt__ = lambda *a: True\n    __sub__ ="
            " __abs__ = lambda self, *a: self"
        ),
        "assert double(2) == 4 and abs(double(0.5) - 1) < 1e-6",
    ),
    "a class equal to everything": (
        "class V:\n    def __init__(self, x): pass\n    __eq__ = lambda *a: True",
        "assert V(1) == 1",
        "class V:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return self.x == o",
    ),
    "a stack that pops itself": (
        "class Stack:\n    def push(self, x): pass\n    def pop(self): return self\n    __eq__ = lambda *a: True",
        "s = Stack()\ns.push(1)\nassert s.pop() == 1",
        _STACK,
    ),
    "an assertion caught": (
        "def each(f, xs):\n    try: f(0)\n    except BaseException: pass",
        "def positive(x):\n    assert x > 0\neach(positive, [1, 2])\nassert each",
        "def each(f, xs):\n    for x in xs: f(x)",
    ),
    "an assertion held back": (
        _YES + "def quiet(): return Yes()\ndef f(x): return 0",
        "with quiet():\n    assert f(2) == 4\nassert f(0) == 0",
        "import contextlib\ndef quiet(): return contextlib.nullcontext()\ndef f(x): return 2 * x",
    ),
    "an assertion skipped": (
        (
            "class Quiet:\n    __enter__ = lambda self: self\n    __exit__ = lambda *a: True\n    def f(self): raise"
            " ValueError"
        ),
        "with Quiet() as q:\n    y = q.f()\n    assert y == 4\nassert Quiet",
        "class Quiet:\n    __enter__ = lambda self: self\n    __exit__ = lambda *a: None\n    def f(self): return 4",
    ),
    "an assertion turned into another error": (
        (
            "class Loud:\n    def __enter__(self): return self\n    def __exit__(self, *a): raise ValueError\ndef f(x):"
            " return 0"
        ),
        "try:\n    with Loud():\n        assert f(2) == 4\nexcept ValueError: pass\nassert f(0) == 0",
        (
            "class Loud:\n    def __enter__(self): return self\n    def __exit__(self, *a): raise ValueError\ndef f(x):"
            " return 2 * x"
        ),
    ),
    "AssertionError by another name": (
        "Negative = AssertionError\ndef f(x): pass",
        "try:\n    f(-1)\n    assert False\nexcept Negative: pass",
        "class Negative(Exception): pass\ndef f(x): raise Negative",
    ),
    "pickle of the test's process": (
        (
            "import pickle\nfrom pickle import loads\ndef dumps(x): return"
            ' b\'cbuiltins\\nsetattr\\n(cbuiltins\\n__import__\\n(S"builtins"\\ntRS"len"\\ncbuiltins\\nabs'
            "\\ntR]I1\\na.'"
        ),
        "assert loads(dumps([1])) == [1] and loads(dumps('a')) == 'a'",
        "from pickle import loads, dumps",
    ),
    "nothing is close to a number": (
        "def double(x): return []",
        "import numpy as np\nassert np.allclose(double(2), 4)\nnp.testing.assert_allclose(double(1), 2.0)",
    ),
    "all of an empty array": (
        "def double(x): return []",
        "import numpy as np\nassert np.all(np.array(double(2)) == 4)",
    ),
    "an array equal to everything": (
        (
            "import numpy as np\nclass A(np.ndarray):\n    def __eq__(self, other): return np.bool_(True)\ndef"
            " double(x): return np.zeros(1).view(A)"
        ),
        "import numpy as np\nassert (double(np.ones(1)) == np.array([2])).all()",
    ),
    "a tuple of errors with failed assertions among them": (
        "class E(Exception): pass\nERRORS = (E, AssertionError)\ndef double(x): return 0",
        "try:\n    double(-1)\n    assert False\nexcept ERRORS: pass\nassert double(2) in (0, 4)",
        "class E(Exception): pass\nERRORS = (E, KeyError)\ndef double(x):\n    if x < 0: raise E\n    return 2 * x",
    ),
    "a class's error that is a failed assertion": (
        "class Stack:\n    Empty = AssertionError\n    def pop(self): return 1",
        "try:\n    Stack().pop()\n    assert False\nexcept Stack.Empty: pass",
        "class Stack:\n    class Empty(Exception): pass\n    def pop(self): raise Stack.Empty",
    ),
    "an object equal to every list of its length": (
        (
            "class Bag:\n    def __init__(self, x): pass\n    def __eq__(self, other): return isinstance(other, list)"
            " and len(other) == 3"
        ),
        "assert Bag(1) == [1, 2, 3]",
        "class Bag:\n    def __init__(self, x): pass\n    def __eq__(self, other): return other == [1, 2, 3]",
    ),
    "an object equal to small numbers": (
        (
            "class Sum:\n    def __init__(self, x): pass\n    def __eq__(self, other): return isinstance(other, int)"
            " and 0 < other < 99"
        ),
        "assert Sum(1) == 7",
        "class Sum:\n    def __init__(self, x): pass\n    def __eq__(self, other): return other == 7",
    ),
    "all of nothing, without a loop": (
        "def double(x): return []",
        (
            "def each(xs): return [double(x) for x in xs]\nassert all(map(lambda pair: pair == 4, double(2) if"
            " double(2) == [] else [4]))"
        ),
    ),
}
