"""Names of version 0.1 for the programs of `tests/site/test_cases.py`, which were written against it. Python imports
this module when it starts, where this folder is the first on PYTHONPATH; the package itself keeps no old names."""

import importlib
import importlib.util
import sys
from importlib.machinery import PathFinder
from types import ModuleType

MOVED = {  # a module of version 0.1 -> the modules that offer its names now
    "chain_sum": ("models", "tasks"),
    "checkpoint": ("runs",),
    "code_tasks": ("tasks",),
    "completions": ("runs",),
    "data": ("tasks",),
    "evaluate": ("evaluation",),
    "game_tasks": ("tasks",),
    "math_tasks": ("tasks",),
    "memory": ("planning",),
    "prompts": ("tasks",),
    "rollout": ("sampling",),
    "trainer": ("training",),
    "verify": ("tasks", "sandbox"),
}
MORE = {"tasks": ("models",)}  # a module that stands where it stood, with names that left it


def lookup(homes: tuple[str, ...]):
    "A module's `__getattr__` that asks other modules of the package, one after the other."

    def get(name: str):
        for home in homes:
            try:
                return getattr(importlib.import_module(f"mpo_nb.{home}"), name)
            except AttributeError:
                continue
        raise AttributeError(f"{name} stands in none of {', '.join(homes)}")

    return get


class Moved:
    "Finds, and loads, a module that is there no more: empty, with the names of those that took its place."

    def find_spec(self, name: str, path=None, target=None):
        package, _, module = name.partition(".")
        if package != "mpo_nb":
            return None
        if module in MOVED:
            return importlib.util.spec_from_loader(name, self)
        if module in MORE:
            spec = PathFinder.find_spec(name, path)
            spec.loader = More(spec.loader, MORE[module])
            return spec
        return None

    def create_module(self, spec):
        return ModuleType(spec.name)

    def exec_module(self, module):
        module.__getattr__ = lookup(MOVED[module.__name__.partition(".")[2]])


class More:
    "Loads a module as its own loader does, and adds the names that left it."

    def __init__(self, loader, homes: tuple[str, ...]):
        self.loader = loader
        self.homes = homes

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        offered = module.__getattr__
        elsewhere = lookup(self.homes)

        def get(name: str):
            try:
                return offered(name)
            except AttributeError:
                return elsewhere(name)

        module.__getattr__ = get


sys.meta_path.insert(0, Moved())
