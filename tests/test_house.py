"""Checks that the source keeps to the plan in `docs/design.md`: order of imports, no import circle, one name once.

The plan is read from the fenced lists of that page, so changing the plan means changing the page.
`python tests/test_house.py` prints every offence.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "sparsing"
DESIGN = ROOT / "docs" / "design.md"

COMMAND_FUNCTIONS = {"add_parser", "run", "main", "build_parser"}
"""Every command-line module has these functions."""


@dataclasses.dataclass(frozen=True)
class Import:
    """One import statement of the package, resolved to a module of the package."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer} -> {self.imported} (line {self.line})"


@dataclasses.dataclass(frozen=True)
class Plan:
    """The fenced lists of `docs/design.md`."""

    line: dict[str, int]
    """Package to its line; 0 is the lowest. A module directly in `src/sparsing` counts as a package."""
    only: dict[str, set[str]]
    """Package to the only packages that it may import, where the order restricts it too little."""

    @classmethod
    def read(cls, page: str) -> Plan:
        lines = _fenced(page, "import-order").splitlines()
        only = dict(line.split(":") for line in _fenced(page, "only").splitlines())
        return cls(
            line={package: i for i, line in enumerate(reversed(lines)) for package in line.split()},
            only={package.strip(): set(allowed.split()) for package, allowed in only.items()},
        )

    def violations(self, imports: list[Import]) -> list[Import]:
        """Imports of a package on the same line or on a line above, and imports that `only` leaves out."""
        return [i for i in imports if not self._allows(package_of(i.importer), package_of(i.imported))]

    def _allows(self, importer: str, imported: str) -> bool:
        if importer == imported:
            return True
        return self.line[importer] > self.line[imported] and imported in self.only.get(importer, {imported})


def _fenced(page: str, name: str) -> str:
    block = re.search(rf"^```{name}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert block, f"docs/design.md has no fenced list ```{name}"
    return block[1]


def package_of(module: str) -> str:
    """`sparsing.rules.named.cett` is in the package `rules`; the module `sparsing` itself is `__init__`."""
    return [*module.split("."), "__init__"][1]


def read_sources(package: Path) -> dict[str, str]:
    """Module name to source text, of every module below `package`."""
    sources = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return sources


def find_imports(sources: Mapping[str, str]) -> list[Import]:
    """All imports between the modules of `sources`.

    Imports inside functions and under `TYPE_CHECKING` count. So does a string that is exactly the name of a
    module, since only `importlib.import_module` has a use for it, and so do the modules that a package imports
    by a computed name. `from package import name` counts as an import of the module that the package's table
    of lazily loaded names (`_HOME`) gives for `name`.
    """
    trees = {module: ast.parse(source) for module, source in sources.items()}
    homes = {module: _lazy_names(module, tree) for module, tree in trees.items()}
    imports = set()
    for importer, tree in trees.items():
        for node in ast.walk(tree):
            for name in _imported_names(node):
                package, _, attribute = name.rpartition(".")
                imported = name if name in sources else homes.get(package, {}).get(attribute, package)
                if imported in sources:
                    imports.add(Import(importer, imported, node.lineno))
        if 'import_module(f"{__name__}.' in sources[importer]:
            imports |= {Import(importer, module, 1) for module in _discovered(importer, sources)}
    return sorted(imports, key=str)


def _imported_names(node: ast.AST) -> Iterator[str]:
    """Dotted names: modules, and for `from a import b` the name `a.b`, which may be a module or not."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Constant) and re.fullmatch(r"sparsing(\.\w+)+", str(node.value)):
        yield node.value


def _discovered(package: str, sources: Mapping[str, str]) -> Iterator[str]:
    """Modules that a package imports by a computed name: all of its own with `iter_modules`, else those it names."""
    everything = "iter_modules" in sources[package]
    for module in sources:
        parent, _, name = module.rpartition(".")
        if parent == package and (everything or f'"{name}"' in sources[package]):
            yield module


def _lazy_names(module: str, tree: ast.Module) -> dict[str, str]:
    """Public name to the module that defines it, from the table `_HOME` of a package."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOME":
            return {name: f"{module}.{home}" for name, home in ast.literal_eval(node.value).items()}
    return {}


def find_circles(imports: list[Import]) -> list[list[Import]]:
    """The imports inside each strongly connected component of the graph of modules, component by component."""
    graph = nx.DiGraph((i.importer, i.imported) for i in imports)
    components = [c for c in nx.strongly_connected_components(graph) if len(c) > 1]
    return [[i for i in imports if i.importer in c and i.imported in c] for c in sorted(components, key=min)]


def find_repeated_names(sources: Mapping[str, str]) -> list[str]:
    """Public classes and functions that more than one package defines, as `name: module, module, ...`."""
    modules: dict[str, list[str]] = {}
    for module, source in sources.items():
        for node in ast.parse(source).body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                continue
            if node.name in COMMAND_FUNCTIONS or (node.name == "sites" and ".families." in module):
                continue
            modules.setdefault(node.name, []).append(module)
    return [
        f"{name}: {', '.join(where)}"
        for name, where in sorted(modules.items())
        if len({module.rpartition(".")[0] for module in where}) > 1
    ]


def find_offences() -> dict[str, list[str]]:
    """Title to offences, for every check that reads the source."""
    sources = read_sources(PACKAGE)
    plan, imports = Plan.read(DESIGN.read_text(encoding="utf-8")), find_imports(sources)
    return {
        "packages that the list in docs/design.md lacks": sorted(
            {package_of(module) for module in sources} - set(plan.line)
        ),
        "imports that the order forbids": [str(i) for i in plan.violations(imports)],
        "imports that form a circle": [str(i) for circle in find_circles(imports) for i in circle],
        "public names that several packages define": find_repeated_names(sources),
    }


def _assert_none(title: str) -> None:
    offences = find_offences()[title]
    assert not offences, "\n  ".join([f"{title}:", *offences])


def run_python(code: str) -> str:
    """What `code` prints in a fresh interpreter."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_list_has_every_package():
    _assert_none("packages that the list in docs/design.md lacks")


def test_no_module_imports_from_a_line_above():
    _assert_none("imports that the order forbids")


def test_no_modules_import_each_other_in_a_circle():
    _assert_none("imports that form a circle")


def test_no_public_name_is_defined_by_two_packages():
    _assert_none("public names that several packages define")


def test_a_planted_import_of_a_line_above_is_reported():
    sources = read_sources(PACKAGE)
    plan = Plan.read(DESIGN.read_text(encoding="utf-8"))
    before = set(plan.violations(find_imports(sources)))
    for planted in (
        "from sparsing.cli import build_parser",
        "def late():\n    from sparsing.cli import build_parser",
        "if TYPE_CHECKING:\n    import sparsing.cli",
        "import importlib; importlib.import_module('sparsing.cli')",
    ):
        changed = sources | {"sparsing.base.registry": sources["sparsing.base.registry"] + f"\n{planted}\n"}
        found = set(plan.violations(find_imports(changed))) - before
        assert [(i.importer, i.imported) for i in found] == [("sparsing.base.registry", "sparsing.cli")]


def test_a_lazily_loaded_name_counts_as_an_import_of_its_module():
    sources = {
        "sparsing": "_HOME = {'measure': 'measuring.subject'}",
        "sparsing.measuring.subject": "",
        "sparsing.base.registry": "from sparsing import measure",
    }
    assert [str(i) for i in find_imports(sources)] == [
        "sparsing.base.registry -> sparsing.measuring.subject (line 1)"
    ]


def test_a_planted_circle_inside_a_package_is_reported():
    sources = {
        "sparsing.rules.a": "from sparsing.rules.b import x",
        "sparsing.rules.b": "def f():\n    from sparsing.rules import c",
        "sparsing.rules.c": "from sparsing.rules.a import y",
        "sparsing.rules.d": "from sparsing.rules.a import y",
    }
    (circle,) = find_circles(find_imports(sources))
    assert [str(i) for i in circle] == [
        "sparsing.rules.a -> sparsing.rules.b (line 1)",
        "sparsing.rules.b -> sparsing.rules.c (line 2)",
        "sparsing.rules.c -> sparsing.rules.a (line 1)",
    ]


def test_a_name_that_two_packages_define_is_reported():
    sources = {"sparsing.laws.a": "class Score: ...", "sparsing.rules.b": "class Score: ...\ndef _f(): ..."}
    assert find_repeated_names(sources) == ["Score: sparsing.laws.a, sparsing.rules.b"]


def test_results_of_benchmarks_name_no_folder_of_a_machine():
    machine = re.compile(r'(?<![\w./])/(tmp|home|root|work|mnt|opt|usr|var)/[^\s"]*')
    found = {
        path.name: hit[0]
        for path in (ROOT / "benchmarks" / "results").glob("*.json")
        if (hit := machine.search(path.read_text()))
    }
    assert not found


def test_the_report_loads_no_torch():
    modules = [module for module in read_sources(PACKAGE) if package_of(module) == "report"]
    code = f"import sys, {', '.join(modules)}; print('torch' in sys.modules)"
    assert run_python(code) == "False"


def test_importing_torch_does_not_load_this_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "entry-points" not in project, "an entry point of another library makes that library load sparsing"
    assert run_python("import sys, torch; print('sparsing' in sys.modules)") == "False"


if __name__ == "__main__":
    for heading, lines in find_offences().items():
        print(f"{heading}: {len(lines)}", *lines, sep="\n  ")  # noqa: T201  (this module is a script too)
