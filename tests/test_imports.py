"""What imports what, in fresh processes: wrong configs are refused without waiting for JAX, and imports go down only."""

import ast
import graphlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

import qresnet_jax

REPO = pathlib.Path(__file__).parents[1]


def modules_after(statement):
    """Names of all modules that a fresh process has loaded after `statement`."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    kept = {k: os.environ[k] for k in ("PATH", "HOME", "PYTHONPATH", "TMPDIR") if k in os.environ}
    environment = {**kept, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stderr.splitlines()[-1]))


def tops(modules):
    return {name.split(".")[0] for name in modules}


def ours(modules):
    return {name for name in modules if name.startswith("qresnet_jax.")}


def test_the_check_sees_an_import():
    assert "qresnet_jax.errors" in modules_after("import qresnet_jax.config")


def test_importing_the_package_loads_neither_jax_nor_anything_of_it():
    modules = modules_after("import qresnet_jax")
    assert not tops(modules) & {"jax", "flax", "optax", "numpy", "tensorflow_datasets", "ml_collections"}
    assert ours(modules) == set()


def test_configs_are_checked_without_jax():
    modules = modules_after("from qresnet_jax import config; config.validate(config.default_config())")
    assert not tops(modules) & {"jax", "flax", "optax", "orbax", "tensorflow_datasets"}


def test_main_helps_and_refuses_without_jax():
    for argument in ("--help", "--config.model.depth=21"):
        modules = modules_after(
            f"""
import contextlib, os, runpy
sys.argv = ["main.py", "--config=configs/digits.py", {argument!r}]
null = open(os.devnull, "w")
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
    runpy.run_path("main.py", run_name="__main__")"""
        )
        assert "absl.flags" in modules
        assert not tops(modules) & {"jax", "flax", "optax", "orbax", "tensorflow_datasets"}


@pytest.fixture(scope="module")
def everything():
    names = []
    for path in sorted((REPO / "qresnet_jax").rglob("*.py")):
        parts = path.relative_to(REPO).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    # None in sys.modules makes an import fail as if the package were not installed.
    absent = "import sys; sys.modules.update(tensorflow=None, torch=None, keras=None, clu=None)"
    return names, modules_after(f"{absent}\nimport {', '.join(names)}, tensorflow_datasets")


def test_everything_loads_without_tensorflow_and_torch(everything):
    names, modules = everything
    assert set(names) <= modules
    assert not [name for name in modules if name.startswith(("tensorflow.", "torch."))]


def test_public_names_resolve():
    modules_after(
        "from qresnet_jax import *; import qresnet_jax; [globals()[n] for n in qresnet_jax.__all__]"
    )
    import qresnet_jax

    assert {"binarize", "pact", "hysteresis_binarize", "BinaryConv", "PACT", "BinaryKernel"} <= set(
        qresnet_jax.__all__
    )
    assert {"ClippingLevel", "create_model", "train_and_evaluate"} <= set(qresnet_jax.__all__)
    assert set(qresnet_jax.__all__) <= set(dir(qresnet_jax))
    with pytest.raises(AttributeError, match="module 'qresnet_jax' has no attribute 'nonsense'"):
        _ = qresnet_jax.nonsense


# From the lowest to the highest: a folder, or a module beside the folders, imports from those before it.
LAYERS = (
    ("errors", "pixels"),
    ("system", "quantize"),
    ("ops", "data"),
    ("nn",),
    ("models",),
    ("ship", "config"),
    ("train",),
    ("report",),
    ("commands",),
    ("__main__",),
    ("sweep",),
)


def imported(path):
    """Names of our modules that a file imports, at its top or inside a function; not for type checkers alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room(name):
    """The folder, or module beside the folders, of a dotted name; None for the package itself and for others."""
    first, _, rest = name.partition(".")
    if first != "qresnet_jax" or not rest:
        return None
    return (qresnet_jax._HOME.get(rest) or rest).split(".")[0]


def test_every_folder_has_its_place_in_the_order():
    found = {path.stem for path in (REPO / "qresnet_jax").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert found - {"__init__", "__pycache__", "zoo"} == {name for rank in LAYERS for name in rank}


def test_imports_between_folders_go_down_only():
    rank = {name: i for i, names in enumerate(LAYERS) for name in names}
    seen = set()
    for path in sorted((REPO / "qresnet_jax").rglob("*.py")):
        own = path.relative_to(REPO / "qresnet_jax").with_suffix("").parts[0]
        if own == "__init__":
            continue
        for name in imported(path):
            other = room(name)
            if other is None or other == own:
                continue
            seen.add((own, other))
            assert rank[other] < rank[own], f"{path} imports {name}"
    assert ("train", "ship") in seen and ("nn", "ops") in seen  # the check sees imports


def test_every_module_imports_without_a_cycle_inside_its_folder():
    """Each module alone in a fresh interpreter would take minutes; a cycle shows in the graph of top-level imports."""
    graph = {}
    for path in (REPO / "qresnet_jax").rglob("*.py"):
        name = ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = set(top_level(path))
    known = {
        name: {t if t in graph else t.rpartition(".")[0] for t in targets} & set(graph)
        for name, targets in graph.items()
    }
    list(graphlib.TopologicalSorter(known).static_order())  # raises CycleError


def top_level(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("qresnet_jax"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("quantize.registry", {"jax", "flax", "numpy"}),
        ("quantize.exact", {"jax", "flax", "numpy"}),
        ("quantize.weights", {"flax", "optax"}),
        ("quantize.activations", {"flax", "optax"}),
        ("quantize.hysteresis", {"flax"}),
        ("data", {"jax", "flax", "orbax"}),
        ("ship.load", {"jax", "flax"}),
        ("ship.packed.file", {"jax", "flax"}),
        ("ship.c.engine", {"jax", "flax"}),
        ("ship.wasm.writer", {"jax", "flax"}),
        ("ship.reference", {"jax", "flax"}),
        ("models.resnet", {"ml_collections", "orbax"}),
        ("train.step", {"orbax", "matplotlib"}),
        ("train.loop", {"matplotlib"}),
        ("ship.costs", {"matplotlib", "orbax"}),
        ("report.runs", {"jax", "numpy", "matplotlib"}),
        ("models.architecture", {"jax", "flax", "numpy"}),
        ("pixels", {"jax", "numpy"}),
        ("commands.sweep.run", {"jax", "numpy"}),
    ],
)
def test_light_modules_stay_light(module, never):
    assert not tops(modules_after(f"import qresnet_jax.{module}")) & never
