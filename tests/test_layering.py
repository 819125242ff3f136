"""The house: a file of analogsim/ imports only from floors below its own (design.md).

Read from the source with ast, so that no import escapes by being lazy. One in a function counts
and is followed like one at the top; one under `if TYPE_CHECKING:` counts too (a type is a
dependency), but is not followed from file to file, since it loads nothing. What would hide an
import (`import_module`, `exec`, …, the lazy names of `analogsim` itself) is refused. A package's
`__init__` is exempt from the floors, but loading a module loads those above it: they are followed.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "analogsim"
LONGEST = 400

FLOORS = (
    ("contracts", "convolution", "streams", "errors", "atomic", "at_hand"),
    ("physics", "config"),
    ("backends", "network"),
    ("chip", "learners"),
    ("training",),
    ("experiment",),
    ("cli", "devices", "doctor_tables", "plots", "pictures", "compare", "estimators", "progress", "report", "__main__"),
)
# Every import there is that stays on its floor: importer -> imported.
SIBLINGS = """atomic: errors
    streams: errors
    config.laws: config.base
    config.writing: config.base
    config.chip: config.base config.laws config.loader config.writing
    config.findings: config.base config.yaml_tree
    config.loader: config.base config.chip config.findings config.schema config.yaml_tree
    config.axes: config.schema config.yaml_tree
    config.schema: config.base config.chip config.loader
    config.slurm: config.base config.findings config.yaml_tree
    config.sweeps: config.axes config.findings config.loader config.schema config.yaml_tree
    physics.flicker: physics.read_noise
    physics.drift: physics.flicker physics.read_noise
    physics.update: physics.pulsed_cells
    backends.numba: backends.kernels backends.torch
    backends.triton: backends.torch
    chip.cells: chip.grid chip.leg
    chip.chip: chip.clock chip.crossbar chip.ledger chip.margins chip.passes
    chip.crossbar: chip.cells chip.clock chip.current chip.drive chip.grid chip.ledger chip.node_source
    chip.crossbar: chip.pulsed_cells chip.tile
    chip.margins: chip.crossbar
    chip.passes: chip.crossbar
    chip.side_by_side: chip.chip
    chip.pulsed_cells: chip.cells chip.grid
    chip.tile: chip.cells chip.current chip.drive chip.leg
    learners.activity_perturbation: learners.perturbation
    learners.backpropagation: learners.perturbation
    learners.iterative_perturbation: learners.perturbation
    learners.node_perturbation: learners.perturbation
    learners.side_by_side: learners.backpropagation learners.decorrelation learners.perturbation
    training.build: training.captured training.data training.distributed training.loop training.losses
    training.build: training.optimizer
    training.captured: training.checkpoint training.loop training.losses
    training.data: training.images
    training.loop: training.checkpoint training.data training.distributed training.optimizer training.oracle
    training.distributed: training.data
    training.seeds: training.loop training.optimizer training.oracle
    training.doctor: training.build training.data training.loop training.oracle
    experiment.evaluate: experiment.results experiment.run
    experiment.run: experiment.results
    devices.commands: devices.fit devices.fit_report devices.measurements devices.plot devices.table
    devices.fit: devices.measurements
    devices.fit_report: devices.fit pictures.style
    devices.plot: pictures.style
    experiment.call: experiment.results experiment.run experiment.tables
    experiment.tables: experiment.results
    experiment.tensorboard: experiment.results experiment.run
    experiment.trials: experiment.results experiment.run experiment.tensorboard experiment.threads
    experiment.together: experiment.results experiment.run experiment.threads experiment.trials
    experiment.state: experiment.results experiment.trials
    experiment.sweep: experiment.cluster experiment.results experiment.run experiment.state experiment.tables
    experiment.sweep: experiment.together experiment.trials
    experiment.cluster: experiment.slurm experiment.sweep experiment.trials
    experiment.estimate: experiment.threads experiment.trials
    experiment.export: experiment.results experiment.tables
    experiment.overview: experiment.estimate experiment.state experiment.sweep experiment.tables experiment.trials
    plots: pictures.against_axis pictures.bands pictures.curves pictures.groups pictures.heatmap pictures.parts
    plots: pictures.style
    compare: pictures.bands pictures.curves pictures.groups pictures.style
    pictures.groups: pictures.style
    pictures.parts: pictures.groups pictures.style
    pictures.bands: pictures.style
    pictures.curves: pictures.bands pictures.style
    pictures.against_axis: pictures.bands pictures.style
    pictures.heatmap: pictures.against_axis pictures.style
    report.drawn: pictures.groups pictures.style
    report.facts: devices.plot pictures.style
    report.page: pictures.bands report.drawn report.facts report.summary report.tables
    report.summary: pictures.bands pictures.groups pictures.style report.drawn report.tables
    report.tables: pictures.bands pictures.groups pictures.style report.drawn
    cli: compare devices.commands doctor_tables pictures.ageing pictures.style plots progress report.page
    pictures.ageing: pictures.style
    __main__: cli"""
SIBLINGS = {(line.split(":")[0].strip(), to) for line in SIBLINGS.split("\n") for to in line.split(":")[1].split()}
NEVER = {"learners": ("chip", "config", "training"), "chip": ("learners",)}  # whatever the floors say
HIDDEN = ("chip", "training.oracle")  # nothing that a learner imports may lead there
FOR_LEARNERS = """__future__ collections dataclasses functools itertools math numpy torch typing"""  # no gc, sys, …
# Names that no file uses, whole or as a beginning; a leading dot stands for any object.
REFUSED = {
    "pickle": "pickle _pickle dill cloudpickle joblib shelve marshal torch.load torch.save",
    "hides an import": "importlib.import_module importlib.__import__ __import__ exec eval",
    "numbers come from a stream": """numpy.random random secrets os.urandom torch.random torch.default_generator
        torch.Generator torch.seed torch.manual_seed torch.cuda.manual_seed torch.cuda.manual_seed_all torch.rand
        torch.randn torch.randint torch.randperm torch.rand_like torch.randn_like torch.randint_like torch.normal
        torch.bernoulli torch.multinomial torch.poisson torch.nn.init torch.distributions .normal_ .uniform_ .random_
        .bernoulli_ .exponential_ .cauchy_ .log_normal_ .geometric_ .rvs""",
}
GUARD = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
ALLOWED = {"numpy.random.Generator"}  # one passed in, in a slow reference


class Source:
    """A file: its name within the package, what it imports, and the dotted names it uses."""

    def __init__(self, path, package):
        parts = path.relative_to(package).with_suffix("").parts
        self.is_init = parts[-1] == "__init__"
        self.parts = parts[:-1] if self.is_init else parts
        self.name, self.home = ".".join(self.parts), (*self.parts, "")[0]
        self.text = path.read_text(encoding="utf-8")
        self.inside, self.outside, self.aliases = [], set(), {}  # inside: (module, for typing only)
        nodes = list(ast.walk(ast.parse(self.text)))
        guards = [n for n in nodes if isinstance(n, ast.If) and ast.unparse(n.test) in GUARD]
        typing_only = {id(node) for guard in guards for branch in guard.body for node in ast.walk(branch)}
        for node in nodes:
            for module in self._imported(node, package):
                if module.split(".")[0] == "analogsim":
                    self.inside.append((module.removeprefix("analogsim").removeprefix("."), id(node) in typing_only))
                else:
                    self.outside.add(module)
        inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
        self.names = {self._dotted(node) for node in nodes if id(node) not in inner} - {None} | self.outside
        self.names |= {f".{node.attr}" for node in nodes if isinstance(node, ast.Attribute)}
        words = [word for node in nodes if isinstance(node, ast.Call) for word in node.keywords]
        self.unpickles = any(w.arg == "allow_pickle" and ast.unparse(w.value) != "False" for w in words)

    def _imported(self, node, package):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.name if alias.asname else alias.name.split(".")[0]
                self.aliases[alias.asname or bound] = bound
                yield from {alias.name, bound}
        elif isinstance(node, ast.ImportFrom):
            above = ("analogsim", *self.parts)[: len(self.parts) + 1 + self.is_init - node.level] if node.level else ()
            base = ".".join((*above, *filter(None, [node.module])))
            for alias in node.names:
                name = f"{base}.{alias.name}"
                self.aliases[alias.asname or alias.name] = name
                path = package.parent.joinpath(*name.split("."))
                yield name if path.with_suffix(".py").is_file() or path.is_dir() else base

    def _dotted(self, node):
        end = ""
        while isinstance(node, ast.Attribute):
            node, end = node.value, f".{node.attr}{end}"
        return self.aliases.get(node.id, node.id) + end if isinstance(node, ast.Name) else None


def sources(package):
    return {(source := Source(path, package)).name: source for path in sorted(package.rglob("*.py"))}


def is_under(name, parents):
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


def floor(name):
    return next((level for level, homes in enumerate(FLOORS) if is_under(name, homes)), None)


def siblings(files):
    """(importer, imported) of every import that stays on its floor, but for a package's own __init__."""
    inside = [(source, module) for source in files.values() if not source.is_init for module, _ in source.inside]
    return {(s.name, m) for s, m in inside if m and m != s.home and floor(s.name) == floor(m)}


def leads_to(name, files):
    """Every module that importing this one can load, at once or in a function called later."""
    reached, todo = set(), [name]
    while todo:
        module = todo.pop()
        if module not in reached and module in files:
            reached.add(module)
            todo += [imported for imported, typing_only in files[module].inside if not typing_only]
            todo.append(module.rpartition(".")[0])
    return reached


def faults(package):
    """Everything wrong with a package, one line each."""
    files = sources(package)
    found = [f"{importer}: may not import {imported}" for importer, imported in siblings(files) - SIBLINGS]
    for name, source in files.items():
        found += [f"{name or '__init__'}: {fault}" for fault in (*floor_faults(source, files), *content_faults(source))]
    return found


def floor_faults(source, files):
    here = floor(source.name)
    if here is None and source.name:
        yield "stands on no floor"
    for module, _ in source.inside:
        if not source.is_init and not module:
            yield "imports from analogsim itself"
        elif not source.is_init and here is not None and (floor(module) is None or floor(module) > here):
            yield f"imports {module}, from a floor above"
        if is_under(module, NEVER.get(source.home, ())):
            yield f"never imports {module}"
    if source.home == "learners":
        yield from (f"leads to {name}" for name in leads_to(source.name, files) if is_under(name, HIDDEN))
        yield from (f"imports {name}" for name in source.outside if not is_under(name, FOR_LEARNERS.split()))
        yield from (f"uses {name}" for name in source.names & {".from_seed", "open"})


def content_faults(source):
    if source.name != "config.yaml_tree" and any(is_under(name, ("yaml", "ruamel")) for name in source.names):
        yield "imports yaml; config/yaml_tree.py alone does"
    for reason, refused in REFUSED.items():
        used = [name for name in source.names - ALLOWED if is_under(name, refused.split())]
        yield from (f"uses {name}: {reason}" for name in used if source.name)
    if source.unpickles:
        yield "allows pickle"
    if {"utils", "util", "helpers", "np"} & set(source.parts):
        yield "has a name that says nothing"
    if len(source.text.splitlines()) > LONGEST:
        yield f"is longer than {LONGEST} lines"


def test_every_file_stands_on_its_floor():
    assert faults(PACKAGE) == []
    assert siblings(sources(PACKAGE)) == SIBLINGS  # and the list names no import that is gone


# --- the checker catches what it is there for -----------------------------------------------------

SOUND = {
    "__init__.py": "import typing\nif typing.TYPE_CHECKING:\n    from analogsim.chip.chip import SimulatedChip",
    "streams.py": "from analogsim.errors import ArgumentError",
    "config/yaml_tree.py": "import yaml",
    "physics/cells.py": "import numpy as np\ndef draw(rng: np.random.Generator): return rng.standard_normal(3)",
    "backends/__init__.py": "def get(): from analogsim.backends.torch import Kernels",
    "backends/torch.py": "import torch\nfrom analogsim import streams",
    "backends/numba.py": "from analogsim.backends.torch import Kernels",
    "chip/chip.py": "from analogsim.contracts import Chip\nfrom analogsim.physics.cells import draw",
    "learners/perturbation.py": "import math, torch\nfrom analogsim.backends import get",
    "learners/node_perturbation.py": "from .perturbation import gradient",
    "training/oracle.py": "from analogsim.chip.chip import SimulatedChip",
}

PLANTED = {
    "learners/spy.py": r"""from analogsim.chip.chip import SimulatedChip    -> learners.spy: never imports chip.chip
        def f(): import analogsim.chip.chip              -> learners.spy: never imports chip.chip
        from ..chip import chip                          -> learners.spy: never imports chip.chip
        from analogsim import Crossbar                   -> imports from analogsim itself
        from analogsim.config import yaml_tree           -> never imports config.yaml_tree
        from analogsim.training import oracle            -> imports training.oracle, from a floor above
        import typing\nif typing.TYPE_CHECKING: from ..chip import chip  -> learners.spy: never imports chip.chip
        from importlib import import_module as load\nload('analogsim.chip') -> uses importlib.import_module
        import analogsim.streams\nanalogsim.Crossbar     -> imports from analogsim itself
        import gc                                        -> learners.spy: imports gc
        from analogsim.streams import Stream\nStream.from_seed(0)  -> learners.spy: uses .from_seed
        from analogsim.learners.node_perturbation import x  -> may not import learners.node_perturbation""",
    "learners/__init__.py": "import analogsim.chip.chip  -> learners.perturbation: leads to chip.chip",
    "__init__.py": "import analogsim.training.oracle  -> learners.perturbation: leads to training.oracle",
    "backends/torch.py": "def f(): import analogsim.chip.chip  -> learners.perturbation: leads to chip.chip",
    "network.py": "def f(): from .chip import chip  -> network: imports chip.chip, from a floor above",
    "chip/chip.py": "from analogsim.learners import perturbation  -> chip.chip: never imports learners.perturbation",
    "contracts.py": "import analogsim.streams  -> contracts: may not import streams",
    "extra.py": "pass  -> extra: stands on no floor",
    "config/loader.py": "import yaml  -> imports yaml",
    "training/save.py": r"""import pickle                                    -> uses pickle
        import torch as t\nt.load('x')                   -> uses torch.load
        import numpy as np\nnp.load('x', allow_pickle=True)  -> allows pickle""",
    "physics/cells.py": r"""import numpy as np\nr = np.random                -> uses numpy.random
        from numpy import random as r\nr.default_rng(0)  -> uses numpy.random.default_rng
        import torch\nz = torch.empty(3).normal_()       -> uses .normal_
        from torch import randn\nz = randn(3)            -> uses torch.randn""",
    "physics/utils.py": "pass  -> has a name that says nothing",
    "physics/long.py": r"\n" * LONGEST + "pass  -> is longer than 400 lines",
}
PLANTED = [(path, *map(str.strip, row.split("->"))) for path, rows in PLANTED.items() for row in rows.split("\n")]


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
    assert [line for line in faults(plant(tmp_path, {path: text.replace(r"\n", "\n")})) if fault in line]
