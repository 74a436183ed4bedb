"""The rules of the house, read from a package's sources: what each module imports, and what a wing's face offers. A
rule returns what breaks it, in words; nothing is imported."""

import ast
import re
from collections import Counter
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

BY_NAME = ("import_module", "LazyModule")  # calls whose first argument is a module to import


@dataclass(frozen=True)
class Import:
    "One name that one module takes from another module of the package."

    taker: str  # the module that imports, such as `mpo_nb.training.trainer`; a face goes by the name of its wing
    giver: str  # the module that gives
    name: str  # the name it gives; empty where the module itself is taken
    local: str  # what the taker calls it


def plan(text: str) -> list[str]:
    "The rooms and wings, from the ground up: what stands in backticks in the first column of CONTRIBUTING's plan."
    section = text.partition("## The plan of the house")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [name.removesuffix("/").removesuffix(".py") for cell in cells for name in re.findall("`(.+?)`", cell)]


def read(package: Path) -> dict[str, ast.Module]:
    "Module -> its syntax tree. The package's own `__init__` and nbdev's index of symbols belong to no wing."
    trees = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        if len(parts) == 2 and parts[1] in ("__init__", "_modidx"):
            continue
        trees[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def is_face(module: str, trees: dict[str, ast.Module]) -> bool:
    "Whether a module is a wing's `__init__`."
    return any(other.startswith(f"{module}.") for other in trees)


def origin(node: ast.ImportFrom, taker: str, trees: dict[str, ast.Module]) -> str:
    "The absolute name of the module that a `from ... import` names."
    if not node.level:
        return node.module or ""
    up = node.level - is_face(taker, trees)  # in a face, one dot is the face itself
    return ".".join(filter(None, [*taker.split(".")[: len(taker.split(".")) - up], node.module]))


def imports(trees: dict[str, ast.Module]) -> list[Import]:
    "Every import of the package from itself, in functions, under TYPE_CHECKING, and by a name in a string, too."
    package = next(iter(trees)).partition(".")[0]
    taken = []
    for taker, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                taken += [Import(taker, each.name, "", each.asname or each.name) for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                giver = origin(node, taker, trees)
                for each in node.names:
                    submodule = f"{giver}.{each.name}"
                    one = (submodule, "") if submodule in trees else (giver, each.name)
                    taken.append(Import(taker, *one, each.asname or each.name))
            elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in BY_NAME:
                names = [word.value for word in node.args if isinstance(word, ast.Constant)]
                taken += [Import(taker, str(name), "", "") for name in names[:1]]
    return [one for one in taken if one.giver.startswith(f"{package}.")]


def floor(module: str, order: list[str]) -> int:
    "How high a module stands. Raises ValueError where the plan does not name its wing."
    return order.index(module.split(".")[1])


def upward(trees: dict[str, ast.Module], order: list[str]) -> list[str]:
    "Imports from a wing that stands higher in the plan."
    higher = [one for one in imports(trees) if floor(one.giver, order) > floor(one.taker, order)]
    return [f"{one.taker} imports {one.name or 'it'} from {one.giver}, which stands higher" for one in higher]


def circle(trees: dict[str, ast.Module]) -> list[str]:
    "The modules of one circle of imports, the first one again at the end; empty where there is none."
    graph = {module: set() for module in trees}
    for one in imports(trees):
        if one.giver != one.taker:
            graph[one.taker].add(one.giver)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def is_private(name: str) -> bool:
    "One underscore in front, and not Python's own two."
    return name.startswith("_") and not name.startswith("__")


def private(trees: dict[str, ast.Module]) -> list[str]:
    "Private names that another module takes: imported, or reached through the module that has them."
    taken = imports(trees)
    crossing = [
        f"{one.taker} imports {one.name} of {one.giver}"
        for one in taken
        if is_private(one.name) and one.taker != one.giver
    ]
    modules = {(one.taker, one.local): one.giver for one in taken if not one.name}
    for taker, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                giver = modules.get((taker, ast.unparse(node.value)))
                if giver:
                    crossing.append(f"{taker} uses {node.attr} of {giver}")
    return crossing


@dataclass(frozen=True)
class Face:
    "What a wing offers, in its three lists: (module, name) for a type checker and for Python, names for nbdev."

    wing: str  # the name that the face gives itself
    typed: list[tuple[str, str]]  # imported under TYPE_CHECKING
    offered: list[tuple[str, str]]  # in the argument of `offer`
    listed: list[str]  # in `_all_`


def typed_imports(face: str, trees: dict[str, ast.Module]) -> list[tuple[str, str]]:
    "(module, name) of each import under `if TYPE_CHECKING:`."
    guarded = [node for node in trees[face].body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    nodes = [node for block in guarded for node in block.body if isinstance(node, ast.ImportFrom)]
    return [(origin(node, face, trees), each.name) for node in nodes for each in node.names]


def read_face(face: str, trees: dict[str, ast.Module]) -> Face | None:
    "The lists of a wing's face; None where it offers nothing."
    calls = [node for node in ast.walk(trees[face]) if isinstance(node, ast.Call) and ast.unparse(node.func) == "offer"]
    if not calls:
        return None
    wing, homes = map(ast.literal_eval, calls[0].args)
    offered = [(above(face, module), name) for module, names in homes.items() for name in names.split()]
    assigned = [node for node in trees[face].body if isinstance(node, ast.Assign)]
    listed = [ast.literal_eval(node.value) for node in assigned if ast.unparse(node.targets[0]) == "_all_"]
    return Face(wing, typed_imports(face, trees), offered, *listed)


def above(face: str, module: str) -> str:
    "The absolute name of a module as `offer` writes it: one dot in front leads out of the wing."
    return f"{face.rpartition('.')[0]}{module}" if module.startswith(".") else f"{face}.{module}"


def definitions(tree: ast.Module) -> set[str]:
    "The names that a module's own statements give, at its top level or under a condition there; imports do not count."
    names = set()
    for node in [inner for outer in tree.body for inner in (outer, *getattr(outer, "body", ()))]:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def faces(trees: dict[str, ast.Module]) -> list[str]:
    "Where the lists of a face differ, or a name does not stand where the face says."
    wrong = []
    for wing in trees:
        if not is_face(wing, trees):
            continue
        face = read_face(wing, trees)
        if face is None:
            wrong.append(f"{wing} offers nothing")
            continue
        if face.wing != wing:
            wrong.append(f"{wing} calls itself {face.wing}")
        for what, own in (("TYPE_CHECKING", face.typed), ("offer", face.offered), ("_all_", face.listed)):
            wrong += [f"{wing}: {what} has {name} twice" for name, count in Counter(own).items() if count > 1]
        wrong += [f"{wing}: {one} stands in one of TYPE_CHECKING and offer" for one in {*face.typed} ^ {*face.offered}]
        names = {name for _, name in face.offered}
        wrong += [f"{wing}: {name} stands in one of offer and _all_" for name in sorted(names ^ {*face.listed})]
        for module, name in face.offered:
            if module not in trees or name not in definitions(trees[module]):
                wrong.append(f"{wing}: {name} is not defined in {module}")
    return wrong


def hidden(trees: dict[str, ast.Module]) -> list[str]:
    "Modules with the name of something that their wing offers: which of the two the wing gives would depend on chance."
    wrong = []
    for wing in trees:
        face = read_face(wing, trees) if is_face(wing, trees) else None
        if face:
            wrong += [
                f"{wing} offers {name}, and {wing}.{name} is a module"
                for _, name in face.offered
                if f"{wing}.{name}" in trees
            ]
    return wrong
