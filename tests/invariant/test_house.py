"""The house stands as CONTRIBUTING.md plans it: imports go down, in no circle, by public names, and a wing's face
offers what stands behind it. Each rule is tried on a small house that breaks it."""

import importlib
import re

import house
import nbformat
import pytest


@pytest.fixture(scope="module")
def trees(root):
    return house.read(root / "mpo_nb")


@pytest.fixture(scope="module")
def order(root) -> list[str]:
    return house.plan((root / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def test_the_plan_names_every_room_and_wing(root, trees, order):
    "The order of the wings is written once, in CONTRIBUTING.md."
    assert len(order) == len(set(order)) and set(order) == {name.split(".")[1] for name in trees}
    notebooks = [path for path in (root / "nbs" / "lib").iterdir() if not path.name.startswith(".")]
    assert {path.stem for path in notebooks} == set(order)


def test_what_is_read_is_the_package(trees):
    "A rule that reads nothing would hold."
    taken = house.imports(trees)
    assert len(trees) > 70 and len(taken) > 400
    assert house.Import("mpo_nb.losses", "mpo_nb.actions", "TokenActions", "TokenActions") in taken
    assert sum(house.is_face(name, trees) for name in trees) >= 11


def test_imports_go_down(trees, order):
    assert house.upward(trees, order) == []


def test_imports_go_in_no_circle(trees):
    assert house.circle(trees) == []


def test_private_names_stay_in_their_module(trees):
    assert house.private(trees) == []


def test_the_lists_of_a_face_agree(trees):
    assert house.faces(trees) == []


def test_a_face_keeps_no_copy(trees, monkeypatch):
    "A name is replaced in its module: a face shows that, and forgets it when the module does."
    faces = [importlib.import_module(name) for name in trees if house.is_face(name, trees)]
    for face in faces:
        name = face.__all__[0]
        value = getattr(face, name)
        home = importlib.import_module(value.__module__)
        with monkeypatch.context() as patch:
            patch.setattr(home, name, "replaced")
            assert getattr(face, name) == "replaced", face.__name__
        assert getattr(face, name) is value, face.__name__
    assert len(faces) >= 11


def test_no_module_hides_behind_a_name(trees):
    assert house.hidden(trees) == []


def test_a_wings_page_names_its_modules(root, trees):
    "Each in one row of the table, with a link."
    for wing in [name for name in trees if house.is_face(name, trees)]:
        folder = root / "nbs" / "lib" / wing.partition(".")[2]
        cells = nbformat.read(folder / "index.ipynb", as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        linked = re.findall(r"^\| \[.+?\]\((\w+)\.ipynb\)", text, re.MULTILINE)
        modules = [name.rpartition(".")[2] for name in trees if name.startswith(f"{wing}.")]
        assert sorted(linked) == sorted(modules), f"the table of nbs/lib/{folder.name}/index.ipynb"


def test_the_readme_of_this_room_names_its_tests(root):
    room = root / "tests" / "invariant"
    text = (room / "README.md").read_text(encoding="utf-8")
    missing = [path.name for path in room.glob("test_*.py") if f"| `{path.name}` |" not in text]
    assert not missing, f"tests/invariant/README.md does not say what these pin: {missing}"


# A house with a hall of one room and two wings, in which every rule holds.
SOUND = {
    "__init__": "__version__ = '1'",
    "checks": "def check(x):\n    return x",
    "cellar/__init__": """
from typing import TYPE_CHECKING
from ..offers import offer
if TYPE_CHECKING:
    from toy.cellar.coal import Coal, heap
    from toy.checks import check
__getattr__, __dir__ = offer("toy.cellar", {"coal": "Coal heap", ".checks": "check"})
_all_ = ["Coal", "heap", "check"]
""",
    "cellar/coal": "from ..checks import check\nclass Coal: _dust = 1\nheap: int = check(Coal._dust)",
    "kitchen/__init__": """
from typing import TYPE_CHECKING
from ..offers import offer
if TYPE_CHECKING:
    from toy.kitchen.stove import cook
__getattr__, __dir__ = offer("toy.kitchen", {"stove": "cook"})
_all_ = ["cook"]
""",
    "kitchen/stove": "import math as _math\nfrom ..cellar import Coal\ndef cook():\n    from ..cellar import coal\n"
    "    return Coal, coal.heap, _math._pi, __name__",
    "offers": "def offer(*words): ...",
}
ORDER = ["offers", "checks", "cellar", "kitchen"]


def build(folder, changes: dict):
    "The sources of the sound house with changes, read: lines that a module gets at its end, or (old text, new text)."
    texts = dict(SOUND)
    for name, change in changes.items():
        if isinstance(change, tuple):
            assert change[0] in texts[name]
            texts[name] = texts[name].replace(*change)
        else:
            texts[name] = f"{texts.get(name, '')}\n{change}\n"
    for name, text in texts.items():
        path = folder / "toy" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return house.read(folder / "toy")


def broken(trees) -> dict[str, list[str]]:
    "What each rule says of a house; rules that hold are left out."
    said = dict(
        upward=house.upward(trees, ORDER),
        circle=house.circle(trees),
        private=house.private(trees),
        faces=house.faces(trees),
        hidden=house.hidden(trees),
    )
    return {rule: words for rule, words in said.items() if words}


def test_a_sound_house_breaks_no_rule(tmp_path):
    assert broken(build(tmp_path, {})) == {}


GUARDED = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..kitchen.stove import cook"
STOVE = "kitchen/stove"
BREACHES = {  # changes -> the rules that they break, and what the first of these says
    "up, at the top": (
        {"checks": "from .cellar.coal import heap"},
        ("upward", "circle"),
        "toy.checks imports heap from toy.cellar.coal, which stands higher",
    ),
    "up, in a function": (
        {"cellar/wood": "def burn():\n    from toy.kitchen import stove"},
        ("upward",),
        "toy.cellar.wood imports it from toy.kitchen.stove, which stands higher",
    ),
    "up, for a type checker": (
        {"cellar/wood": GUARDED},
        ("upward",),
        "toy.cellar.wood imports cook from toy.kitchen.stove, which stands higher",
    ),
    "up, as a module": (
        {"cellar/wood": "import toy.kitchen.stove"},
        ("upward",),
        "toy.cellar.wood imports it from toy.kitchen.stove, which stands higher",
    ),
    "up, by a name in a string": (
        {"cellar/wood": "import importlib\nimportlib.import_module('toy.kitchen.stove')"},
        ("upward",),
        "toy.cellar.wood imports it from toy.kitchen.stove, which stands higher",
    ),
    "up, in a face": (
        {"cellar/__init__": "from ..kitchen import cook"},
        ("upward", "circle"),
        "toy.cellar imports cook from toy.kitchen, which stands higher",
    ),
    "a circle": (
        {STOVE: "from .pans import pan", "kitchen/pans": "def pan():\n    from . import stove"},
        ("circle",),
        "toy.kitchen.",
    ),
    "a circle through the face": ({STOVE: "from . import cook"}, ("circle",), "toy.kitchen"),
    "a private name, imported": (
        {STOVE: "from ..cellar.coal import _ash"},
        ("private",),
        "toy.kitchen.stove imports _ash of toy.cellar.coal",
    ),
    "a private name, reached": (
        {STOVE: "def clean():\n    return coal._ash"},
        ("private",),
        "toy.kitchen.stove uses _ash of toy.cellar.coal",
    ),
    "a private name, by its whole path": (
        {"kitchen/pans": "import toy.cellar.coal\ntoy.cellar.coal._ash"},
        ("private",),
        "toy.kitchen.pans uses _ash of toy.cellar.coal",
    ),
    "a name without a type": (
        {"kitchen/__init__": ("import cook", "import bake")},
        ("faces",),
        "stands in one of TYPE_CHECKING and offer",
    ),
    "a type from another module": (
        {"kitchen/__init__": ("toy.kitchen.stove import", "toy.cellar.coal import")},
        ("faces",),
        "stands in one of TYPE_CHECKING and offer",
    ),
    "a name that is not offered": (
        {"kitchen/__init__": ('["cook"]', '["cook", "bake"]')},
        ("faces",),
        "toy.kitchen: bake stands in one of offer and _all_",
    ),
    "a name offered twice": (
        {"kitchen/__init__": ('"stove": "cook"', '"stove": "cook cook"')},
        ("faces",),
        "toy.kitchen: offer has ('toy.kitchen.stove', 'cook') twice",
    ),
    "a name that is only passed on": (
        {"kitchen/__init__": ("cook", "Coal")},
        ("faces",),
        "toy.kitchen: Coal is not defined in toy.kitchen.stove",
    ),
    "a face by another's name": (
        {"kitchen/__init__": ('offer("toy.kitchen"', 'offer("toy.cellar"')},
        ("faces",),
        "toy.kitchen calls itself toy.cellar",
    ),
    "a wing without a face": (
        {
            "attic/__init__": "",
            "attic/trunk": "",
        },
        ("faces",),
        "toy.attic offers nothing",
    ),
    "a module behind a name": (
        {"kitchen/cook": "def fry(): ..."},
        ("hidden",),
        "toy.kitchen offers cook, and toy.kitchen.cook is a module",
    ),
}


@pytest.mark.parametrize("what", BREACHES)
def test_a_breach_is_told(what, tmp_path):
    changes, rules, words = BREACHES[what]
    said = broken(build(tmp_path, changes))
    assert set(said) == set(rules), said
    assert any(words in line for line in said[rules[0]]), said


def test_a_wing_outside_the_plan_is_refused(tmp_path):
    trees = build(tmp_path, {"attic": "from .checks import check"})
    with pytest.raises(ValueError, match="attic"):
        house.upward(trees, ORDER)


def test_the_plan_is_read_from_its_table():
    table = "| a | b |\n|---|---|\n| `offers.py`, `checks.py` | `x` |\n| `cellar/` | |"
    text = f"# A\n| `no.py` |\n## The plan of the house\n{table}\n## B\n| `no/` |"
    assert house.plan(text) == ["offers", "checks", "cellar"]
