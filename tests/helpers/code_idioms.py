"""What honest tests do with honest programs: each test passes with the right program and fails with the wrong one, in a
plain interpreter and in the sandbox.

IDIOMS: name -> (program, a piece of it, what a wrong program has in its place, test).
"""

IDIOMS = {
    # values
    "datetime": (
        "import datetime\ndef f(y): return datetime.datetime(y, 1, 1)",
        "(y, 1",
        "(y, 2",
        "import datetime\nassert f(2020) == datetime.datetime(2020, 1, 1)",
    ),
    "datetime with a zone": (
        "from datetime import datetime, timezone\ndef f(): return datetime(2020, 1, 1, tzinfo=timezone.utc)",
        "(2020",
        "(2021",
        (
            "from datetime import datetime, timezone\nassert f() == datetime(2020, 1, 1, tzinfo=timezone.utc) and"
            " f().tzinfo is not None"
        ),
    ),
    "datetime as an argument": (
        "def f(d): return d.year",
        "year",
        "month",
        "import datetime\nassert f(datetime.datetime(2020, 1, 1)) == 2020",
    ),
    "date and timedelta": (
        "def f(d, n):\n    import datetime\n    return d + datetime.timedelta(days=n)",
        "days=n",
        "days=1",
        "from datetime import date\nassert f(date(2020, 2, 28), 2) == date(2020, 3, 1)",
    ),
    "time": (
        "import datetime\ndef f(): return datetime.time(1, 2)",
        "1, 2",
        "2, 1",
        "import datetime\nassert f() == datetime.time(1, 2)",
    ),
    "UUID": (
        "import uuid\ndef f(): return uuid.UUID(int=5)",
        "=5",
        "=6",
        "import uuid\nassert f() == uuid.UUID(int=5)",
    ),
    "path": (
        "from pathlib import Path\ndef f(p): return p / 'b'",
        "'b'",
        "'c'",
        "from pathlib import Path\nassert f(Path('a')) == Path('a/b') and f(Path('a')).name == 'b'",
    ),
    "array": (
        "from array import array\ndef f(): return array('i', [1])",
        "[1]",
        "[2]",
        "from array import array\nassert f() == array('i', [1])",
    ),
    "array changed in place": (
        "def f(a): a[0] = 7",
        "7",
        "8",
        "from array import array\na = array('i', [1, 2])\nf(a)\nassert a[0] == 7",
    ),
    "Decimal": (
        "from decimal import Decimal\ndef f(x): return x + Decimal('0.1')",
        "0.1",
        "0.2",
        "from decimal import Decimal\nassert f(Decimal('0.2')) == Decimal('0.3')",
    ),
    "Fraction": (
        "from fractions import Fraction\ndef f(a, b): return Fraction(a, b)",
        "Fraction(a, b)",
        "Fraction(b, a)",
        "from fractions import Fraction\nassert f(2, 4) == Fraction(1, 2)",
    ),
    "complex": ("def f(x): return x * 1j", "1j", "2j", "assert f(2) == 2j and abs(f(3)) == 3"),
    "bytes and bytearray": (
        "def f(b): return b[::-1], bytearray(b)",
        "::-1",
        "::1",
        "assert f(b'ab') == (b'ba', bytearray(b'ab'))",
    ),
    "deque": (
        "from collections import deque\ndef f(xs): return deque(xs, 2)",
        ", 2",
        ", 1",
        "from collections import deque\nassert f([1, 2, 3]) == deque([2, 3]) and f([1]).maxlen == 2",
    ),
    "OrderedDict": (
        "from collections import OrderedDict\ndef f(xs): return OrderedDict(xs)",
        "OrderedDict(xs)",
        "OrderedDict(xs[::-1])",
        (
            "from collections import OrderedDict\nassert f([(1, 2), (3, 4)]) == OrderedDict([(1, 2), (3, 4)]) and"
            " f([(1, 2), (3, 4)]).popitem(last=False) == (1, 2)"
        ),
    ),
    "defaultdict": (
        "from collections import defaultdict\ndef f(): return defaultdict(int)",
        "int",
        "list",
        "assert f()['a'] == 0",
    ),
    "defaultdict with a lambda": (
        "from collections import defaultdict\ndef f(): return defaultdict(lambda: 5)",
        "5",
        "6",
        "assert f()['a'] == 5",
    ),
    "Counter.most_common": (
        "from collections import Counter\ndef f(s): return Counter(s)",
        "Counter(s)",
        "Counter(s[1:])",
        "assert f('aab').most_common(1) == [('a', 2)]",
    ),
    "Counter arithmetic": (
        "from collections import Counter\ndef f(s): return Counter(s)",
        "Counter(s)",
        "Counter(s[1:])",
        "from collections import Counter\nassert f('aab') + Counter('b') == Counter('aabb')",
    ),
    "frozenset and range": (
        "def f(n): return frozenset(range(n)), range(n)",
        "range(n)),",
        "range(n + 1)),",
        "assert f(3) == ({0, 1, 2}, range(3))",
    ),
    "keys of a dict": ("def f(d): return d.keys()", "keys", "values", "assert f({1: 2}) == {1}"),
    "values and items": (
        "def f(d): return d.values(), d.items()",
        "values",
        "keys",
        "v, i = f({1: 2})\nassert list(v) == [2] and (1, 2) in i and len(i) == 1",
    ),
    "nested containers": (
        "def f(x): return {'a': [(x, {x})], (x,): frozenset([x])}",
        "{x})",
        "{1})",
        "assert f(2) == {'a': [(2, {2})], (2,): frozenset([2])}",
    ),
    "type": ("def f(x): return type(x)", "type(x)", "str", "assert f(3) is int and f('a') is str"),
    "type of the result": (
        "def f(x): return [x]",
        "[x]",
        "(x,)",
        "assert type(f(3)) is list and isinstance(f(3), list)",
    ),
    "numbers by kind": (
        "def f(x): return float(x)",
        "float(x)",
        "x",
        "assert isinstance(f(3), float) and f(3).is_integer()",
    ),
    "SimpleNamespace": (
        "from types import SimpleNamespace\ndef f(x): return SimpleNamespace(x=x)",
        "x=x",
        "x=1",
        "assert f(3).x == 3",
    ),
    "IP address": (
        "import ipaddress\ndef f(s): return ipaddress.ip_address(s)",
        "ip_address(s)",
        "ip_address('10.0.0.9')",
        "import ipaddress\nassert f('10.0.0.1') == ipaddress.ip_address('10.0.0.1')",
    ),
    "numpy array": (
        "import numpy as np\ndef f(a): return a * 2",
        "* 2",
        "* 3",
        (
            "import numpy as np\nassert np.array_equal(f(np.array([1, 2])), [2, 4]) and f(np.eye(2)).shape == (2, 2)"
            " and f(np.float32(1)).dtype == np.float32"
        ),
    ),
    # fields
    "fields of a namedtuple": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(a): return P(a, a)",
        "P(a, a)",
        "P(1, a)",
        (
            "p = f(2)\nassert p.x == 2 and p == (2, 2) and p._asdict() == {'x': 2, 'y': 2} and p._replace(x=1) == (1,"
            " 2) and repr(p) == 'P(x=2, y=2)'"
        ),
    ),
    "namedtuple built by the test": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')",
        "'x y'",
        "'y x'",
        "p = P(1, 2)\nx, y = p\nassert p.x == 1 and (x, y) == (1, 2) and isinstance(p, tuple) and isinstance(p, P)",
    ),
    "NamedTuple with a method": (
        "from typing import NamedTuple\nclass P(NamedTuple):\n    x: int\n    def twice(self): return 2 * self.x",
        "2 *",
        "3 *",
        "assert P(3).twice() == 6 and P(x=3) == P(3)",
    ),
    "dataclass": (
        "from dataclasses import dataclass\n@dataclass(order=True)\nclass P:\n    x: int = 1\ndef f(x): return P(x)",
        "return P(x)",
        "return P(0)",
        "assert f(2) == P(2) and f(2).x == 2 and P(1) < P(2) and sorted([P(3), P(2)])[0] == P(2)",
    ),
    "Enum": (
        "from enum import Enum\nclass Color(Enum):\n    RED = 1\n    BLUE = 2\ndef f(n): return Color(n)",
        "return Color(n)",
        "return Color.RED",
        (
            "assert f(2) == Color.BLUE and f(2) is Color.BLUE and f(1).name == 'RED' and Color['RED'].value == 1 and"
            " [c.name for c in Color] == ['RED', 'BLUE']"
        ),
    ),
    "IntEnum": (
        "from enum import IntEnum\nclass E(IntEnum):\n    A = 1\n    B = 2\ndef f(): return E.B",
        "E.B",
        "E.A",
        "assert f() == 2 and f().name == 'B' and E(1) < 2",
    ),
    "property, classmethod, staticmethod": (
        (
            "class C:\n    def __init__(self, x): self._x = x\n    @property\n    def x(self): return self._x\n   "
            " @classmethod\n    def make(cls): return cls(5)\n    @staticmethod\n    def add(a, b): return a + b"
        ),
        "a + b",
        "a - b",
        "assert C(3).x == 3 and C.make().x == 5 and C.add(1, 2) == 3",
    ),
    "hasattr and getattr": (
        "class C:\n    def __init__(self): self.x = 1",
        "self.x",
        "self.y",
        "assert hasattr(C(), 'x') and not hasattr(C(), 'z') and getattr(C(), 'z', 5) == 5",
    ),
    "attributes set and deleted": (
        "class C: pass\ndef f(c): return c.x",
        "c.x",
        "0",
        "c = C()\nc.x = 4\nassert f(c) == 4\ndel c.x\nassert not hasattr(c, 'x')",
    ),
    "__dict__ and __class__": (
        "class C:\n    def __init__(self): self.x = 1",
        "= 1",
        "= 2",
        (
            "assert C().__dict__ == {'x': 1} and vars(C()) == {'x': 1} and C().__class__.__name__ == 'C' and"
            " type(C()).__name__ == 'C' and type(C()) is C"
        ),
    ),
    "names and doc": ("def f():\n    'Says hi.'", "hi", "ho", "assert f.__name__ == 'f' and f.__doc__ == 'Says hi.'"),
    # operators
    "==, against a number": (
        (
            "class V:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return self.x == (o.x if"
            " isinstance(o, V) else o)"
        ),
        "self.x = x",
        "self.x = 0",
        "assert V(1) == 1 and 2 == V(2) and V(1) != 2",
    ),
    "scalar product": (
        "class V:\n    def __init__(self, x): self.x = x\n    def __mul__(self, o): return self.x * o.x",
        "self.x * o",
        "self.x + o",
        "assert V(2) * V(3) == 6 and V(4) * V(3) == 12",
    ),
    "operators both ways": (
        (
            "class V:\n    def __init__(self, x): self.x = x\n    def __add__(self, k): return V(self.x + (k.x if"
            " isinstance(k, V) else k))\n    __radd__ = __add__\n    def __neg__(self): return V(-self.x)\n    def"
            " __truediv__(self, k): return self.x / k\n    def __pow__(self, k): return V(self.x ** k)\n    def"
            " __abs__(self): return abs(self.x)\n    def __eq__(self, o): return self.x == o.x"
        ),
        "-self.x",
        "self.x",
        (
            "assert (V(1) + 2 + V(3)).x == 6 and (1 + V(2)) == V(3) and -V(2) == V(-2) and V(3) / 2 == 1.5 and V(2) **"
            " 3 == V(8) and abs(V(-2)) == 2 and sum([V(1), V(2)]).x == 3"
        ),
    ),
    "+=": (
        "class C:\n    v = 0\n    def __iadd__(self, o): self.v += o; return self",
        "+= o",
        "-= o",
        "c = C()\nd = c\nc += 3\nassert c.v == 3 and d is c and d.v == 3",
    ),
    "in place without __iadd__": (
        "class C:\n    def __init__(self, v): self.v = v\n    def __add__(self, o): return C(self.v + o)",
        "self.v + o",
        "self.v",
        "c = C(1)\nc += 3\nassert c.v == 4",
    ),
    "ordering": (
        (
            "from functools import total_ordering\n@total_ordering\nclass V:\n    def __init__(self, x): self.x = x\n  "
            "  def __eq__(self, o): return self.x == o.x\n    def __lt__(self, o): return self.x < o.x"
        ),
        "self.x < o.x",
        "self.x > o.x",
        (
            "assert V(1) < V(2) and V(2) >= V(2) and max(V(1), V(3)).x == 3 and [v.x for v in sorted([V(2), V(1)])] =="
            " [1, 2]"
        ),
    ),
    "ordering against a number": (
        "class V:\n    def __init__(self, x): self.x = x\n    def __gt__(self, o): return self.x > o",
        "> o",
        "< o",
        "assert V(3) > 2 and not V(1) > 2",
    ),
    "hash": (
        (
            "class V:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return self.x == o.x\n    def"
            " __hash__(self): return hash(self.x)"
        ),
        "== o.x",
        "!= o.x",
        "assert len({V(1), V(1), V(2)}) == 2 and {V(1): 'a'}[V(1)] == 'a'",
    ),
    "in": (
        "class C:\n    def __contains__(self, x): return x == 3",
        "== 3",
        "== 4",
        "assert 3 in C() and 5 not in C()",
    ),
    "in, by iterating": ("def f(n): yield from range(n)", "range(n)", "range(n - 1)", "assert 2 in f(3)"),
    "with": (
        "class C:\n    closed = False\n    def __enter__(self): return 5\n    def __exit__(self, *a): C.closed = True",
        "= True",
        "= 0",
        "with C() as v: assert v == 5\nassert C.closed",
    ),
    "with, a contextmanager": (
        (
            "from contextlib import contextmanager\n@contextmanager\ndef f(log):\n    log.append('in')\n    yield 5\n  "
            "  print('out')"
        ),
        "yield 5",
        "yield 6",
        "with f([]) as v: assert v == 5",
    ),
    "with, errors held back": (
        (
            "class Quiet:\n    def __enter__(self): return self\n    def __exit__(self, kind, error, trace):\n       "
            " self.kind = kind.__name__\n        return kind is ZeroDivisionError"
        ),
        "self.kind = kind.__name__",
        "self.kind = 0",
        "with Quiet() as q:\n    1 / 0\nassert q.kind == 'ZeroDivisionError'",
    ),
    "indexing and slicing": (
        "class C:\n    def __getitem__(self, i): return list(range(10))[i]\n    def __len__(self): return 10",
        "range(10)",
        "range(1, 11)",
        "c = C()\nassert c[3] == 3 and c[1:3] == [1, 2] and c[-1] == 9 and len(c) == 10",
    ),
    "items set and deleted": (
        (
            "class C:\n    def __init__(self): self.d = {}\n    def __setitem__(self, k, v): self.d[k] = v\n    def"
            " __delitem__(self, k): del self.d[k]\n    def __getitem__(self, k): return self.d[k]"
        ),
        "= v",
        "= k",
        (
            "c = C()\nc['a'] = 1\nc['b'] = 2\ndel c['a']\nassert c['b'] == 2\nc['b'] += 1\nassert c['b'] == 3\ntry:"
            " c['a']\nexcept KeyError: pass\nelse: assert False"
        ),
    ),
    "float, int, complex, round": (
        (
            "class C:\n    def __float__(self): return 3.6\n    def __int__(self): return 3\n    def __round__(self,"
            " n=None): return 4\n    def __index__(self): return 2"
        ),
        "return 3\n",
        "return 2\n",
        (
            "import math\nassert float(C()) == 3.6 and int(C()) == 3 and round(C()) == 4 and [5, 6, 7][C()] == 7 and"
            " math.isclose(C(), 3.6)"
        ),
    ),
    "str, repr, format": (
        (
            "class C:\n    def __str__(self): return 's'\n    def __repr__(self): return 'r'\n    def __format__(self,"
            " spec): return 'f' + spec"
        ),
        "'s'",
        "'t'",
        (
            "assert str(C()) == 's' and repr(C()) == 'r' and f'{C():>3}' == 'f>3' and '%s' % C() == 's' and f'{C()!r}'"
            " == 'r'"
        ),
    ),
    "len and bool": (
        "class C:\n    def __init__(self, n): self.n = n\n    def __len__(self): return self.n",
        "self.n = n",
        "self.n = 1",
        "assert len(C(3)) == 3 and not C(0) and bool(C(1))",
    ),
    "iterators": (
        (
            "class Count:\n    def __init__(self, n): self.i, self.n = 0, n\n    def __iter__(self): return self\n   "
            " def __next__(self):\n        self.i += 1\n        if self.i > self.n: raise StopIteration\n        return"
            " self.i"
        ),
        "> self.n",
        ">= self.n",
        (
            "c = Count(2)\nassert next(c) == 1 and next(c) == 2\ntry: next(c)\nexcept StopIteration: pass\nelse: assert"
            " False\nassert list(Count(3)) == [1, 2, 3] and iter(c) is c"
        ),
    ),
    "generators": (
        "def f(n):\n    for i in range(n): yield i",
        "yield i",
        "yield 0",
        (
            "from types import GeneratorType\ng = f(3)\nassert isinstance(g, GeneratorType) and next(g) == 0 and"
            " list(g) == [1, 2] and next(g, 'end') == 'end' and list(zip(f(2), 'ab')) == [(0, 'a'), (1, 'b')]"
        ),
    ),
    "generator with send": (
        "def f():\n    x = yield 1\n    yield x * 2",
        "x * 2",
        "x",
        "g = f()\nassert next(g) == 1 and g.send(5) == 10",
    ),
    "enumerate, map, zip, reversed": (
        "def f(xs): return enumerate(xs), map(str, xs), zip(xs, xs), reversed(xs)",
        "str",
        "repr",
        (
            "e, m, z, r = f(['a', 'b'])\nassert list(e) == [(0, 'a'), (1, 'b')] and list(m) == ['a', 'b'] and list(z)"
            " == [('a', 'a'), ('b', 'b')] and list(r) == ['b', 'a']"
        ),
    ),
    "a list of its own": (
        "class Stack(list):\n    def push(self, x): self.append(x)\n    def total(self): return sum(self)",
        "sum(self)",
        "len(self)",
        (
            "s = Stack([1])\ns.push(4)\ns.append(5)\nassert s == [1, 4, 5] and s.total() == 10 and len(s) == 3 and s[0]"
            " == 1"
        ),
    ),
    "a dict of its own": (
        "class D(dict):\n    def __getattr__(self, k): return self[k]\ndef f(): return D(a=1)",
        "a=1",
        "a=2",
        "assert f() == {'a': 1} and f().a == 1 and D(b=3).b == 3 and D(b=3)['b'] == 3",
    ),
    "an int with operators of its own": (
        "class Mod(int):\n    def __add__(self, o): return Mod((int(self) + int(o)) % 7)",
        "% 7",
        "% 8",
        "assert Mod(5) + Mod(4) == 2",
    ),
    "linked nodes": (
        (
            "class Node:\n    def __init__(self, v, next=None): self.v, self.next = v, next\ndef last(n):\n    while"
            " n.next: n = n.next\n    return n"
        ),
        "return n",
        "return None",
        "end = Node(2)\nassert last(Node(1, end)) is end and last(end).next is None and last(Node(1, end)).v == 2",
    ),
    # calls
    "calling an object": (
        "class Add:\n    def __init__(self, n): self.n = n\n    def __call__(self, m): return self.n + m",
        "self.n + m",
        "m",
        "assert Add(2)(3) == 5 and callable(Add(1)) and list(map(Add(1), [1, 2])) == [2, 3]",
    ),
    "closures": (
        "def f():\n    n = 0\n    def g():\n        nonlocal n\n        n += 1\n        return n\n    return g",
        "n += 1",
        "n += 2",
        "g = f()\nassert g() == 1 and g() == 2 and f()() == 1",
    ),
    "a decorator": (
        (
            "import functools\ndef twice(f):\n    @functools.wraps(f)\n    def g(*a, **k): return 2 * f(*a, **k)\n   "
            " return g"
        ),
        "2 *",
        "3 *",
        "@twice\ndef one(x, y=1): return x + y\nassert one(1) == 4 and one(1, y=2) == 6",
    ),
    "a decorator that counts": (
        "def counted(f):\n    def g(*a):\n        g.calls += 1\n        return f(*a)\n    g.calls = 0\n    return g",
        "+= 1",
        "+= 2",
        "@counted\ndef f(x): return x\nassert f(1) == 1 and f(2) == 2 and f.calls == 2",
    ),
    "functions of the test": (
        "def apply(f, xs): return [f(x) for x in xs]",
        "f(x) for",
        "x for",
        (
            "assert apply(lambda x: x + 1, [1, 2]) == [2, 3] and apply(str.upper, ['a']) == ['A'] and apply(abs, [-1])"
            " == [1]"
        ),
    ),
    "classes of the test": (
        "def area(s): return s.width * s.height\ndef add(a, b): return a + b",
        "s.width *",
        "s.height *",
        (
            "class S:\n    def __init__(self, w, h): self.width, self.height = w, h\n    def __add__(self, o): return"
            " S(self.width + o.width, 1)\nassert area(S(2, 3)) == 6 and add(S(1, 1), S(2, 1)).width == 3"
        ),
    ),
    "key functions": (
        "def key(s): return len(s)",
        "len(s)",
        "-len(s)",
        (
            "from functools import reduce, partial\nassert sorted(['bb', 'a'], key=key) == ['a', 'bb'] and max(['a',"
            " 'bb'], key=key) == 'bb' and partial(key, 'abc')() == 3"
        ),
    ),
    "reduce": (
        "def add(a, b): return a + b",
        "a + b",
        "a - b",
        "from functools import reduce\nassert reduce(add, [1, 2, 3]) == 6",
    ),
    "keyword arguments": (
        "def f(a, *rest, b=2, **more): return a, rest, b, more",
        "b, more",
        "b, {}",
        "assert f(1, 2, b=3, c=4) == (1, (2,), 3, {'c': 4})",
    ),
    "issubclass": (
        "class A: pass\nclass B(A): pass",
        "B(A)",
        "B",
        "assert issubclass(B, A) and not issubclass(A, B) and isinstance(B(), A)",
    ),
    "issubclass of a built-in": (
        "class D(dict): pass\nclass E(ValueError): pass",
        "dict",
        "list",
        "assert issubclass(D, dict) and issubclass(E, ValueError)",
    ),
    # exceptions
    "field of an exception": (
        "class E(Exception):\n    def __init__(self, c): self.code = c\ndef f(): raise E(5)",
        "E(5)",
        "E(6)",
        "try: f()\nexcept E as e: assert e.code == 5\nelse: assert False",
    ),
    "message and method of an exception": (
        (
            "class E(Exception):\n    def __init__(self, c): super().__init__(f'bad {c}'); self.c = c\n    def"
            " hint(self): return 'try ' + str(self.c + 1)\ndef f(): raise E(5)"
        ),
        "'try '",
        "'no '",
        (
            "try: f()\nexcept E as e: assert str(e) == 'bad 5' and e.hint() == 'try 6' and isinstance(e, Exception) and"
            " type(e).__name__ == 'E'\nelse: raise AssertionError"
        ),
    ),
    "str of an exception": (
        "class E(Exception):\n    def __str__(self): return 'custom'\ndef f(): raise E(1)",
        "custom",
        "other",
        "try: f()\nexcept Exception as e: assert str(e) == 'custom'\nelse: assert False",
    ),
    "a tree of exceptions": (
        "class Base(Exception): pass\nclass Sub(Base): pass\ndef f(): raise Sub('x')",
        "raise Sub",
        "raise KeyError",
        (
            "try: f()\nexcept Base as e: assert e.args == ('x',) and isinstance(e, Sub) and issubclass(Sub,"
            " Base)\nelse: assert False"
        ),
    ),
    "raise from": (
        "def f():\n    try: {}['a']\n    except KeyError as e: raise ValueError('no a') from e",
        " from e",
        "",
        (
            "try: f()\nexcept ValueError as e: assert isinstance(e.__cause__, KeyError) and str(e) == 'no a'\nelse:"
            " assert False"
        ),
    ),
    "try around a call": (
        "def f(x): return 1 / x",
        "1 /",
        "2 /",
        "try: f(0)\nexcept ZeroDivisionError: pass\nelse: raise AssertionError('no error')\nassert f(2) == 0.5",
    ),
    "a helper like pytest.raises": (
        "def f(x):\n    if x < 0: raise ValueError('negative')\n    return x",
        "< 0",
        "< -9",
        (
            "from contextlib import contextmanager\n@contextmanager\ndef raises(kind):\n    try: yield\n    except"
            " kind: return\n    raise AssertionError('did not raise')\nwith raises(ValueError): f(-1)"
        ),
    ),
    "errno": (
        "def f(): raise FileNotFoundError(2, 'gone', 'x.txt')",
        "'x.txt'",
        "'y.txt'",
        "try: f()\nexcept OSError as e: assert e.errno == 2 and e.filename == 'x.txt'\nelse: assert False",
    ),
    "assertRaises": (
        "def f(x): return int(x)",
        "int(x)",
        "x",
        "import unittest\nt = unittest.TestCase()\nwith t.assertRaises(ValueError): f('x')\nt.assertEqual(f('3'), 3)",
    ),
    "unittest called by hand": (
        "def f(x): return 2 * x",
        "2 *",
        "3 *",
        (
            "import unittest\nclass T(unittest.TestCase):\n    def test_f(self):\n        self.assertEqual(f(2), 4)\n  "
            "      self.assertIn(f(1), [2])\nT('test_f').test_f()"
        ),
    ),
    "a script that raises": (
        "def f(x): return 2 * x",
        "2 *",
        "3 *",
        "for x in range(1, 4):\n    if f(x) != 2 * x:\n        raise Exception(f'wrong for {x}')",
    ),
    "test functions called": (
        "def f(x): return 2 * x",
        "2 *",
        "3 *",
        "def test_f():\n    assert f(2) == 4\ndef run(tests):\n    for test in tests: test()\nrun([test_f])",
    ),
    "all tests found by name": (
        "def f(x): return 2 * x",
        "2 *",
        "3 *",
        (
            "def test_f():\n    assert f(2) == 4\nfor name, test in list(globals().items()):\n    if"
            " name.startswith('test_'): test()"
        ),
    ),
    # streams
    "what is printed": (
        "def f(): print('hi')",
        "'hi'",
        "'ho'",
        (
            "import contextlib, io\nb = io.StringIO()\nwith contextlib.redirect_stdout(b): f()\nassert b.getvalue() =="
            " 'hi\\n'"
        ),
    ),
    "sys.stdout replaced": (
        "def f(): print('hi', end='')",
        "'hi'",
        "'ho'",
        (
            "import io, sys\nold, sys.stdout = sys.stdout, io.StringIO()\nf()\nout, sys.stdout = sys.stdout.getvalue(),"
            " old\nassert out == 'hi'"
        ),
    ),
    "input replaced": (
        "def f(): return int(input('n? ')) * 2",
        "* 2",
        "* 3",
        "from unittest.mock import patch\nwith patch('builtins.input', return_value='5'):\n    assert f() == 10",
    ),
    "input by hand": (
        "def f(): return input() + input()",
        "+ input()",
        "* 2",
        (
            "import builtins\nanswers = iter(['a', 'b'])\nbuiltins.input = lambda prompt='': next(answers)\nassert f()"
            " == 'ab'"
        ),
    ),
    "sys.stdin replaced": (
        "import sys\ndef f(): return sum(int(line) for line in sys.stdin), 0",
        "sum(",
        "max(",
        "import io, sys\nsys.stdin = io.StringIO('1\\n2\\n')\nassert f() == (3, 0)",
    ),
    "sys.stdin read by input": (
        "def f(): return int(input()) + int(input())",
        "+",
        "-",
        "import io, sys\nsys.stdin = io.StringIO('1\\n2\\n')\nassert f() == 3",
    ),
    # the library
    "math used and not imported by the solution": (
        "def f(x): return x * 0.1",
        "0.1",
        "0.2",
        "import math\nassert math.isclose(f(3), 0.3)",
    ),
    "random inputs": (
        "def f(xs): return sorted(xs)",
        "sorted(xs)",
        "xs",
        (
            "import random\nrandom.seed(1)\nfor _ in range(5):\n    xs = [random.randint(0, 99) for _ in range(9)]\n   "
            " assert f(list(xs)) == sorted(xs)"
        ),
    ),
    "json and re": (
        "import json\ndef f(x): return json.dumps(x)",
        "dumps(x)",
        "dumps([x])",
        "import json, re\nassert json.loads(f({'a': 1})) == {'a': 1} and re.fullmatch(r'\\{.*\\}', f({}))",
    ),
    "copy of an argument": (
        "def f(xs): return xs + [1]",
        "xs + [1]",
        "xs.append(1)",
        "import copy\nxs = [[0]]\nold = copy.deepcopy(xs)\nassert f(xs) == [[0], 1] and xs == old",
    ),
    "a built-in's name": ("def sum(a, b): return a + b", "a + b", "a", "assert sum(1, 2) == 3"),
    "a cache": (
        "from functools import lru_cache\n@lru_cache\ndef fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)",
        "n < 2",
        "n < 3",
        "assert fib(30) == 832040 and fib.cache_info().misses == 31",
    ),
    "matrix product": (
        (
            "class M:\n    def __init__(self, r): self.r = r\n    def __matmul__(self, o): return M([[sum(a * b for a,"
            " b in zip(x, y)) for y in zip(*o.r)] for x in self.r])\n    def __eq__(self, o): return self.r == o.r\n   "
            " @classmethod\n    def unit(cls): return cls([[1, 0], [0, 1]])"
        ),
        "[0, 1]]",
        "[0, 2]]",
        "m = M([[1, 2], [3, 4]])\nassert m @ M.unit() == m and (m @ m).r == [[7, 10], [15, 22]]",
    ),
    # neighbours
    "a class's own error": (
        "class A:\n    class E(ValueError):\n        def __init__(self, c): self.c = c\n    def f(self): raise A.E(3)",
        "A.E(3)",
        "ValueError(3)",
        "try: A().f()\nexcept A.E as e: assert e.c == 3\nelse: assert False",
    ),
    "a tuple of errors": (
        "ERRORS = (ValueError, KeyError)\ndef f(): raise KeyError('a')",
        "raise KeyError('a')",
        "return 1",
        "try: f()\nexcept ERRORS: pass\nelse: assert False",
    ),
    "a list in a field": (
        "class A:\n    def __init__(self): self.xs = []\n    def n(self): return len(self.xs)",
        "len(self.xs)",
        "0",
        "a = A()\na.xs.append(1)\nassert a.n() == 1 and a.xs == [1]",
    ),
    "a dict in a field": (
        "class A:\n    def __init__(self): self.d = {}\n    def n(self): return dict(self.d)",
        "dict(self.d)",
        "{}",
        "a = A()\na.d['x'] = 1\na.d.update(y=2)\nassert a.n() == {'x': 1, 'y': 2}",
    ),
    "copies of objects": (
        "class A:\n    def __init__(self): self.xs = [1]\n    def add(self): self.xs.append(2)",
        "append(2)",
        "append(3)",
        (
            "import copy\na = A()\nb, c = copy.deepcopy(a), copy.copy(a)\nb.add()\nassert a.xs == [1] and b.xs == [1,"
            " 2]\nc.add()\nassert a.xs == [1, 2]"
        ),
    ),
    "wraps": (
        "import functools\ndef f(g):\n    @functools.wraps(g)\n    def w(*a): return g(*a)\n    return w",
        "@functools.wraps(g)",
        "",
        "@f\ndef h(x):\n    'doc'\n    return x\nassert h(3) == 3 and h.__name__ == 'h' and h.__doc__ == 'doc'",
    ),
    "a file that the test hands over": (
        "def f(file): file.write('x' + file.readline())",
        "'x' +",
        "",
        "import io\nb = io.StringIO('a\\nb')\nf(b)\nassert b.getvalue() == 'a\\nxa\\n'",
    ),
    "match": (
        "def f(n): return {'a': [1, n]}",
        "[1, n]",
        "[2, n]",
        "match f(3):\n    case {'a': [1, x]}: assert x == 3\n    case _: assert False",
    ),
    "equal to data of each kind": (
        "class V:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return self.x == o",
        "self.x = x",
        "self.x = 1",
        (
            "assert V(1) == 1 and V('a') == 'a' and V([1, 2]) == [1, 2] and V({'a': 1}) == {'a': 1} and V(1.5) == 1.5"
            " and V(()) == () and V('') == '' and V((1, 'b')) == (1, 'b') and V(None) == None"
        ),
    ),
    "equal in a way of its own": (
        "class Mod:\n    def __init__(self, x): self.x = x % 3\n    def __eq__(self, o): return self.x == o % 3",
        "x % 3\n",
        "x % 2\n",
        "assert Mod(5) == 2 and Mod(5) == 8 and Mod(1) != 3",
    ),
}
