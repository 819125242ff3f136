"""The house: a file of analogsim/ imports only from floors below its own (design.md).

Read from the source with ast, so that no import escapes by being lazy:
- an import in a function counts like one at the top, and is followed like one;
- an import under `if TYPE_CHECKING:` counts like one at the top (a type is a dependency too), but
  is not followed from file to file, since it loads nothing at run time;
- `import_module`, `__import__`, `exec` and `eval` would hide one, and are refused;
- a package's `__init__` is exempt from the floors; importing a module also loads the `__init__`
  of every package above it, and that is followed.
"""

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "analogsim"

FLOORS = (
    {"contracts", "streams", "errors", "atomic"},
    {"physics", "config"},
    {"backends", "network"},
    {"chip", "learners"},
    {"training"},
    {"experiment"},
    {"cli", "plots", "progress", "report", "__main__"},
)
# Every import there is that stays on its floor: importer -> imported.
SIBLINGS = {
    "atomic": "errors",
    "streams": "errors",
    "config.findings": "config.schema config.yaml_tree",
    "config.loader": "config.findings config.schema config.yaml_tree",
    "config.schema": "config.loader",  # in ChipDescription.replace, when it is called
    "backends.numba": "backends.torch",
    "chip.chip": "chip.crossbar chip.ledger",
    "chip.crossbar": "chip.ledger",
    "learners.activity_perturbation": "learners.perturbation",
    "learners.backpropagation": "learners.perturbation",
    "learners.iterative_perturbation": "learners.perturbation",
    "learners.node_perturbation": "learners.perturbation",
    "training.build": "training.data training.loop training.losses training.optimizer",
    "training.loop": "training.checkpoint training.data training.optimizer training.oracle",
    "experiment.run": "experiment.results",
    "cli": "plots progress",
    "__main__": "cli",
}
SIBLINGS = {(importer, imported) for importer, names in SIBLINGS.items() for imported in names.split()}
NEVER = {"learners": ("chip", "config", "training"), "chip": ("learners",)}  # whatever the floors say
HIDDEN_FROM_LEARNERS = ("chip", "training.oracle")  # nothing that a learner imports may lead there
LEARNERS_MAY_LOAD = "__future__ abc collections dataclasses functools itertools math typing numpy torch".split()
PICKLES = "pickle _pickle dill cloudpickle joblib shelve marshal torch.load torch.save".split()
HIDING = "importlib.import_module importlib.__import__ __import__ exec eval".split()
DRAWS = set("normal_ uniform_ random_ bernoulli_ exponential_ cauchy_ log_normal_ geometric_ rvs".split())
TORCH = """random default_generator Generator seed manual_seed cuda.manual_seed cuda.manual_seed_all rand randn randint
    randperm rand_like randn_like randint_like normal bernoulli multinomial poisson nn.init distributions"""
GENERATORS = ["numpy.random", "random", "secrets", "os.urandom", *(f"torch.{name}" for name in TORCH.split())]
LONGEST = 400


@dataclass(frozen=True)
class Import:
    module: str  # within analogsim, "" for the package itself; or "yaml", "torch.nn", … outside
    inside: bool
    typing_only: bool


class Source:
    """One file: its name within the package, imports, and dotted names with aliases resolved."""

    def __init__(self, path, package):
        parts = path.relative_to(package).with_suffix("").parts
        self.is_init = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.is_init else parts)
        self.home = self.name.split(".")[0]
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)
        self.imports, self.aliases = [], {}
        guarded = {
            id(node)
            for test in ast.walk(self.tree)
            if isinstance(test, ast.If) and ast.unparse(test.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
            for branch in test.body
            for node in ast.walk(branch)
        }
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._add(node, package, id(node) in guarded)
        nodes = list(ast.walk(self.tree))
        inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
        self.names = {self._dotted(node) for node in nodes if id(node) not in inner} - {None}
        self.last_names = {node.attr for node in nodes if isinstance(node, ast.Attribute)} | self.names
        keywords = (word for node in nodes if isinstance(node, ast.Call) for word in node.keywords)
        self.unpickles = any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in keywords)

    def _add(self, node, package, typing_only):
        if isinstance(node, ast.Import):
            for alias in node.names:
                self.aliases[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
            targets = [alias.name for alias in node.names]
        else:
            above = ["analogsim", *filter(None, self.name.split("."))]
            above = above[: len(above) - node.level + self.is_init] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            self.aliases |= {alias.asname or alias.name: f"{base}.{alias.name}" for alias in node.names}
            found = [_exists(package, f"{base}.{alias.name}") for alias in node.names]
            targets = [f"{base}.{alias.name}" if is_module else base for alias, is_module in zip(node.names, found)]
        for target in targets:
            inside = target == "analogsim" or target.startswith("analogsim.")
            self.imports.append(Import(target[len("analogsim.") :] if inside else target, inside, typing_only))

    def _dotted(self, node):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        return ".".join([self.aliases.get(node.id, node.id), *reversed(parts)]) if isinstance(node, ast.Name) else None


def _exists(package, dotted):
    if not dotted.startswith("analogsim."):
        return False
    path = package.joinpath(*dotted.split(".")[1:])
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _is_under(name, parents):
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


def _floor(name):
    return next((level for level, homes in enumerate(FLOORS) if name.split(".")[0] in homes), None)


def sources(package):
    return {s.name: s for s in (Source(path, package) for path in sorted(package.rglob("*.py")))}


def siblings(files):
    """(importer, imported) of every import that stays on its floor."""
    inside = [(s, i) for s in files.values() if not s.is_init for i in s.imports if i.inside and i.module]
    return {
        (s.name, i.module) for s, i in inside if _floor(s.name) == _floor(i.module) is not None and i.module != s.home
    }


def faults(package):
    """Everything wrong with a package, one line each."""
    files = sources(package)
    found = [f"{a}: may not import {b}, on its own floor" for a, b in sorted(siblings(files) - SIBLINGS)]
    for source in files.values():
        found += [
            f"{source.name or '__init__'}: {fault}" for fault in (*_floor_faults(source), *_content_faults(source))
        ]
    for source in files.values():
        if source.home == "learners":
            led = _leads_to(source.name, files)
            found += [
                f"{source.name}: leads to {name}" for name in sorted(led) if _is_under(name, HIDDEN_FROM_LEARNERS)
            ]
    return found


def _floor_faults(source):
    here = _floor(source.name)
    if here is None and source.name:
        yield "stands on no floor"
    for item in () if source.is_init else source.imports:
        if item.inside and not item.module:
            yield "imports from analogsim itself, whose names stand for every floor"
        elif item.inside:
            there = _floor(item.module)
            if here is not None and (there is None or there > here):
                yield f"imports {item.module}, from a floor above"
        elif source.home == "learners" and item.module.split(".")[0] not in LEARNERS_MAY_LOAD:
            yield f"imports {item.module}; a learner needs numbers alone"
    for item in source.imports:
        if item.inside and _is_under(item.module, NEVER.get(source.home, ())):
            yield f"never imports {item.module}"


def _content_faults(source):
    loaded = {i.module for i in source.imports if not i.inside} | source.names
    if source.name != "config.yaml_tree" and any(_is_under(name, ("yaml", "ruamel")) for name in loaded):
        yield "imports yaml; config/yaml_tree.py alone does"
    for name in sorted(loaded):
        if _is_under(name, PICKLES):
            yield f"uses {name}"
        if source.name and name in HIDING:
            yield f"uses {name}, which hides an import"
        if _is_under(name, GENERATORS) and name != "numpy.random.Generator":  # one passed in, in a reference
            yield f"uses {name}; numbers come from a stream"
    for name in sorted(source.last_names & DRAWS):
        yield f"uses {name}; numbers come from a stream"
    if source.unpickles:
        yield "allows pickle"
    if source.home == "learners" and source.last_names & {"from_seed", "open"}:
        yield "uses from_seed or open; a learner is given its stream"
    if {"utils", "util", "helpers", "np"} & set(source.name.split(".")):
        yield "has a name that says nothing"
    if len(source.text.splitlines()) > LONGEST:
        yield f"is longer than {LONGEST} lines"


def _leads_to(name, files):
    """Every module that importing this one can load, lazily or not; not for typing alone."""
    reached, todo = set(), [name]
    while todo:
        module = todo.pop()
        if module in reached or module not in files:
            continue
        reached.add(module)
        todo += [i.module for i in files[module].imports if i.inside and not i.typing_only]
        todo += [module.rpartition(".")[0]]
    return reached - {name}


def test_every_file_stands_on_its_floor():
    assert faults(PACKAGE) == []


def test_the_list_of_siblings_names_no_import_that_is_gone():
    assert siblings(sources(PACKAGE)) == SIBLINGS


def test_importing_every_learner_loads_no_chip():
    """The same at run time, in a fresh interpreter."""
    learners = [f"analogsim.{name}" for name in sources(PACKAGE) if name.startswith("learners.")]
    code = f"import {', '.join(learners)}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "analogsim.contracts" in loaded
    assert not [name for name in loaded if _is_under(name, [f"analogsim.{home}" for home in NEVER["learners"]])]


# --- the checker catches what it is there for -----------------------------------------------------

SOUND = {
    "__init__.py": "from importlib import import_module\nfrom typing import TYPE_CHECKING\n"
    "if TYPE_CHECKING:\n    from analogsim.chip.chip import SimulatedChip\n",
    "contracts.py": "",
    "streams.py": "from analogsim.errors import ArgumentError",
    "errors.py": "",
    "config/yaml_tree.py": "import yaml",
    "physics/cells.py": "import numpy as np\ndef draw(rng: np.random.Generator):\n    return rng.standard_normal(3)",
    "backends/__init__.py": "def get():\n    from analogsim.backends.torch import Kernels",
    "backends/torch.py": "import torch\nfrom analogsim import streams",
    "backends/numba.py": "from analogsim.backends.torch import Kernels",
    "chip/__init__.py": "",
    "chip/chip.py": "from analogsim.contracts import Chip\nfrom analogsim.physics.cells import draw",
    "learners/__init__.py": "",
    "learners/perturbation.py": "import math, torch\nfrom analogsim.backends import get",
    "learners/node_perturbation.py": "from .perturbation import gradient",
    "training/oracle.py": "from analogsim.chip.chip import SimulatedChip",
}

PLANTED = {
    "learners/spy.py": r"""
        from analogsim.chip.chip import SimulatedChip    -> learners.spy: never imports chip.chip
        def f(): import analogsim.chip.chip              -> learners.spy: never imports chip.chip
        from ..chip import chip                          -> learners.spy: never imports chip.chip
        from analogsim import chip                       -> learners.spy: never imports chip
        from analogsim import Crossbar                   -> imports from analogsim itself
        import analogsim\nanalogsim.Crossbar             -> imports from analogsim itself
        from analogsim.config import yaml_tree           -> never imports config.yaml_tree
        from analogsim.training import oracle            -> imports training.oracle, from a floor above
        import typing\nif typing.TYPE_CHECKING: from ..chip import chip  -> learners.spy: never imports chip.chip
        x = __import__('analogsim.chip.chip')            -> uses __import__
        from importlib import import_module as load\nload('analogsim.chip') -> uses importlib.import_module
        import gc                                        -> imports gc; a learner needs numbers alone
        from analogsim.streams import Stream\nStream.from_seed(0)  -> uses from_seed or open
        from analogsim.learners.node_perturbation import x  -> may not import learners.node_perturbation""",
    "learners/__init__.py": "import analogsim.chip.chip  -> learners.perturbation: leads to chip.chip",
    "__init__.py": "import analogsim.training.oracle  -> learners.perturbation: leads to training.oracle",
    "backends/torch.py": "import analogsim.chip.chip  -> learners.perturbation: leads to chip.chip",
    "network.py": "def f(): from .chip import chip  -> network: imports chip.chip, from a floor above",
    "chip/chip.py": "from analogsim.learners import perturbation  -> chip.chip: never imports learners.perturbation",
    "chip/tile.py": "from analogsim.chip.chip import x  -> chip.tile: may not import chip.chip",
    "physics/drift.py": "from analogsim.config import yaml_tree  -> may not import config.yaml_tree",
    "contracts.py": "import analogsim.streams  -> contracts: may not import streams",
    "cli.py": "from analogsim.report import write  -> cli: may not import report",
    "extra.py": "pass  -> extra: stands on no floor",
    "config/loader.py": "import yaml  -> imports yaml",
    "training/save.py": r"""
        import pickle                                    -> uses pickle
        import torch as t\nt.load('x')                   -> uses torch.load
        import numpy as np\nnp.load('x', allow_pickle=True)  -> allows pickle""",
    "physics/cells.py": r"""
        import numpy as np\nz = np.random.randn(3)       -> uses numpy.random.randn
        import numpy as np\nr = np.random                -> uses numpy.random
        from numpy import random as r\nr.default_rng(0)  -> uses numpy.random.default_rng
        from torch import randn\nz = randn(3)            -> uses torch.randn
        import torch\nz = torch.empty(3).normal_()       -> uses normal_
        import torch\ntorch.manual_seed(0)               -> uses torch.manual_seed
        import random\nrandom.random()                   -> uses random.random""",
    "physics/utils.py": "pass  -> has a name that says nothing",
    "physics/long.py": r"\n" * LONGEST + "pass  -> is longer than 400 lines",
}
PLANTED = [(path, *line.split("->")) for path, lines in PLANTED.items() for line in lines.strip().split("\n")]


def plant(folder, changed):
    for path, text in (SOUND | changed).items():
        file = folder / "analogsim" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder / "analogsim"


def test_a_sound_house_has_no_faults(tmp_path):
    assert faults(plant(tmp_path, {})) == []


@pytest.mark.parametrize(("path", "text", "fault"), PLANTED)
def test_a_planted_fault_is_found(tmp_path, path, text, fault):
    source = text.strip().replace(r"\n", "\n") + "\n"
    assert [line for line in faults(plant(tmp_path, {path: source})) if fault.strip() in line]
