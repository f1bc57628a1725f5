"""The house: each module imports only what stands above it, each library has its place, names mean something.

Everything is read from the source (``ast``), so that an import inside a function counts as much as one at the top.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "graft"
ORDER = (
    *(
        "errors",
        "config",
        "workspace",
        "markdown",
        "orphans",
        "identity",
        "privacy",
        "reading",
        "part_results",
        "cleaning",
        "damage",
        "filler",
        "languages",
        "pictures",
        "data",
        "part_pictures",
        "quarantine",
        "splitting",
        "conversations",
        "layouts",
        "importing",
        "padding",
        "encoding",
        "likelihood",
        "generation",
        "language_modeling",
        "prompting",
        "pooling",
        "text_inputs",
        "tfidf",
        "duplicates",
        "classification",
        "text_metrics",
        "text_to_text",
        "squad",
        "squad",
        "classification",
        "text_metrics",
        "tasks",
        "validation",
    ),
    *(
        "base",
        "hardware",
        "token_checks",
        "tokenization",
        "adapters",
        "artifact",
        "training",
        "evaluation",
        "promotion",
        "provenance",
        "tracking",
    ),
    *(
        "registration",
        "merging",
        "publication",
        "params",
        "stages",
        "repository",
        "deciding",
        "reproduction",
        "revisions",
        "data_diff",
        "version_diff",
        "runs",
        "contracts",
        "checks",
        "projects",
        "groups",
    ),
    *("services", "housekeeping", "cli"),
)
"""The floors of the house, top first."""
HEAVY = (
    *("torch", "transformers", "peft", "accelerate", "datasets", "mlflow", "great_expectations", "prefect", "dvc"),
    *("pandas", "sklearn", "scipy", "matplotlib", "pyarrow", "numpy", "rensa", "cleanlab", "captum"),
)
MODEL_FILE = "src/graft/tracking/pyfunc_model.py"
"""MLflow runs this file as the model; nothing of graft imports it."""
METHODS = re.compile(r"^METHODS\b", re.M)
"""What a file with adapter methods has: its classes derive from PEFT's, so it imports PEFT at its top. Only
``adapters.register`` imports such files, inside a function."""
QUARANTINE = {
    "great_expectations": ("src/graft/validation",),
    "mlflow": ("src/graft/tracking/",),
    "prefect": ("pipelines/",),
    "dvc": ("src/graft/repository/",),
    "phonenumbers": ("src/graft/privacy/",),
    "idnumbers": ("src/graft/privacy/",),
    "rensa": ("src/graft/duplicates/",),
    "cleanlab": ("src/graft/validation/",),
    "captum": ("src/graft/evaluation/probes/",),
}
CATCH_ALL = {"util", "utils", "common", "helper", "helpers", "misc", "tools", "shared", "lib", "core", "base_utils"}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b|pragma: no cover")

MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [*MODULES, *sorted((ROOT / "pipelines").rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


each_module = pytest.mark.parametrize("path", MODULES, ids=name_of)
each_source = pytest.mark.parametrize("path", SOURCES, ids=name_of)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def for_types_only(tree: ast.AST) -> set[ast.AST]:
    """Return the nodes under ``if TYPE_CHECKING``: they name types and run nothing."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }


def imports(nodes: Iterator[ast.AST]) -> Iterator[tuple[str, int]]:
    """Yield the dotted name and line of each import; ``from a import b`` gives ``a.b``."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; name the module in full"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def running_imports(path: Path) -> list[tuple[str, int]]:
    tree = tree_of(path)
    skipped = for_types_only(tree)
    return list(imports(node for node in ast.walk(tree) if node not in skipped))


def at_module_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes that run when the module is imported."""
    skipped = for_types_only(tree)
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or node in skipped:
            continue
        yield node
        todo.extend(ast.iter_child_nodes(node))


def floor_of(name: str) -> str:
    """Return the top-level module of a dotted name below graft: ``graft.tracking.runs`` -> ``tracking``."""
    return ([*name.split("."), ""])[1]


def test_every_module_has_its_floor() -> None:
    floors = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert floors - {"__init__", "__main__"} <= set(ORDER)
    assert not floors & CATCH_ALL


@each_module
def test_module_imports_only_what_stands_above_it(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own in ("__init__", "__main__"):
        return
    wrong = [
        f"{name_of(path)}:{line}: {name}"
        for name, line in running_imports(path)
        if name.split(".")[0] == "graft" and floor_of(name) in ORDER and ORDER.index(floor_of(name)) > ORDER.index(own)
    ]
    assert wrong == []


def test_model_file_is_imported_by_nobody() -> None:
    module = MODEL_FILE.removeprefix("src/").removesuffix(".py").replace("/", ".")
    assert [name_of(path) for path in MODULES if module in {name for name, _ in running_imports(path)}] == []


@each_module
def test_library_never_imports_the_pipelines(path: Path) -> None:
    assert [name for name, _ in running_imports(path) if name.split(".")[0] == "pipelines"] == []


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").rglob("*.py")), ids=name_of)
def test_pipelines_do_not_import_the_cli(path: Path) -> None:
    assert [name for name, _ in running_imports(path) if name.startswith("graft.cli")] == []


@each_source
def test_library_stays_in_its_place(path: Path) -> None:
    wrong = [
        f"{name_of(path)}:{line}: {name}"
        for name, line in imports(ast.walk(tree_of(path)))
        for library, places in QUARANTINE.items()
        if name.split(".")[0].partition("_")[0] == library or name.split(".")[0] == library
        if not name_of(path).startswith(places)
    ]
    assert wrong == []


@each_source
def test_git_and_dvc_are_called_by_the_repository_alone(path: Path) -> None:
    if name_of(path).startswith("src/graft/repository"):
        return
    wrong = [
        f"{name_of(path)}:{node.lineno}"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.List | ast.Tuple) and node.elts
        for first in node.elts[:1]
        if isinstance(first, ast.Constant) and first.value in ("git", "dvc")
        if any(isinstance(one, ast.Starred | ast.Name) or _is_command(one) for one in node.elts[1:])
    ]
    assert wrong == []


def _is_command(node: ast.expr) -> bool:
    known = "add commit push pull fetch clone status repro rev-parse worktree diff -C checkout remote gc config log"
    return isinstance(node, ast.Constant) and node.value in known.split()


def tuner_files() -> set[Path]:
    """Return the files with adapter methods; where a package has them, all files of the package."""
    found = {path for path in (PACKAGE / "adapters").rglob("*.py") if METHODS.search(path.read_text(encoding="utf-8"))}
    packages = [path.parent for path in found if path.name == "__init__.py"]
    return found | {path for package in packages for path in package.rglob("*.py")}


def test_files_with_adapter_methods_are_imported_by_their_own_package_alone() -> None:
    tuners = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in tuner_files()}
    tuners |= {name.removesuffix(".__init__") for name in tuners}
    wrong = [
        f"{name_of(path)}:{line}: {name}"
        for path in set(MODULES) - tuner_files()
        for name, line in running_imports(path)
        if name in tuners or name.rpartition(".")[0] in tuners
    ]
    assert tuners
    assert wrong == []


@each_module
def test_nothing_heavy_is_imported_with_the_module(path: Path) -> None:
    if name_of(path) == MODEL_FILE or path in tuner_files():
        return
    wrong = [
        f"{name_of(path)}:{line}: {name}"
        for name, line in imports(at_module_level(tree_of(path)))
        if name.split(".")[0] in HEAVY
    ]
    assert wrong == []


@each_source
def test_names_say_what_they_hold(path: Path) -> None:
    assert not {part.removesuffix(".py") for part in path.relative_to(ROOT).parts} & CATCH_ALL


@each_source
def test_module_says_why_it_exists(path: Path) -> None:
    assert ast.get_docstring(tree_of(path))


@each_source
def test_nothing_is_left_unfinished(path: Path) -> None:
    assert UNFINISHED.findall(path.read_text(encoding="utf-8")) == []


def test_root_mlflow_folder_is_no_package() -> None:
    own = [path for path in (ROOT / "mlflow").iterdir() if path.name != "store"]  # models there hold code
    assert not [one for path in own for one in (path, *path.rglob("*.py")) if one.suffix == ".py"]


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_every_raises_says_what_it_expects(path: Path) -> None:
    wrong = [
        node.lineno
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "raises"
        and "match" not in {keyword.arg for keyword in node.keywords}
    ]
    assert wrong == []


def test_test_files_have_unique_names() -> None:
    names = [path.name for path in TESTS if path.name != "conftest.py"]
    assert len(names) == len(set(names))
