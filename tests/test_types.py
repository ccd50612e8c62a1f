"""Types: every public signature is annotated, and a type checker sees the names that there are at run time."""

import ast
import pathlib
import subprocess
import sys

import pytest

import qresnet_jax

PACKAGE = pathlib.Path(qresnet_jax.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))


def is_public(name):
    return not name.startswith("_") or name in ("__init__", "__call__")


def public_functions(body, of=""):
    """`(dotted name, definition, whether the first parameter is the object or its class)`, also of methods."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_public(node.name):
            is_static = any(ast.unparse(decorator) == "staticmethod" for decorator in node.decorator_list)
            yield of + node.name, node, bool(of) and not is_static
        elif isinstance(node, ast.ClassDef) and is_public(node.name):
            yield from public_functions(node.body, f"{of}{node.name}.")


def not_annotated(function, is_method):
    """The names of the parameters without a type; "return" if the result has none."""
    given = function.args
    parameters = [*given.posonlyargs, *given.args][is_method:]
    parameters += [*given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    missing = [parameter.arg for parameter in parameters if parameter.annotation is None]
    return missing + ["return"] * (function.returns is None)


def test_the_check_of_signatures_sees_what_is_missing():
    source = "def f(a: int, *b, c, **d): ...\nclass A:\n  def __init__(self, e): ...\n  def _g(self, f): ..."
    found = {name: not_annotated(*rest) for name, *rest in public_functions(ast.parse(source).body)}
    assert found == {"f": ["c", "b", "d", "return"], "A.__init__": ["e", "return"]}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_signatures_are_annotated(path):
    functions = public_functions(ast.parse(path.read_text()).body)
    missing = {name: not_annotated(*rest) for name, *rest in functions}
    assert {name: parameters for name, parameters in missing.items() if parameters} == {}


def test_every_ignored_error_has_its_code_and_a_reason():
    lines = [line for path in SOURCES for line in path.read_text().splitlines() if "# type:" in line]
    assert lines  # the check sees them
    for line in lines:
        comment = line.split("# type:", 1)[1]
        assert comment.startswith(" ignore[") and "]  # " in comment, line


def static_names():
    """What `__init__.py` imports for type checkers: `{name: module, inside the package}`, "" for a module itself."""
    (block,) = (
        node
        for node in ast.parse((PACKAGE / "__init__.py").read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        (alias,) = statement.names
        assert alias.asname == alias.name  # what PEP 484 takes for an export
        yield alias.name, statement.module.removeprefix("qresnet_jax").removeprefix(".")


def test_a_type_checker_sees_the_names_of_run_time():
    assert dict(static_names()) == qresnet_jax._HOME
    assert {name for name, _ in static_names()} == set(qresnet_jax.__all__)
    assert (PACKAGE / "py.typed").is_file()


SCRIPT = """
import flax.nnx as nnx
import numpy as np
import qresnet_jax

reveal_type(qresnet_jax.load_packed("x"))
reveal_type(qresnet_jax.load_packed("x").predict(np.zeros((1, 8, 8, 1), np.uint8)))
reveal_type(qresnet_jax.create_model(qresnet_jax.default_config().model, rngs=nnx.Rngs(0)))
reveal_type(qresnet_jax.nn.PACT(2).max_level)
reveal_type(qresnet_jax.train_and_evaluate(qresnet_jax.default_config(), "runs/x"))
qresnet_jax.load_packed(5)
qresnet_jax.nonsense
"""
REVEALED = [
    "qresnet_jax.ship.load.PackedNetwork",
    "numpy.ndarray[",
    "qresnet_jax.models.resnet.ResNet",
    "int",
    "dict[str, float]",
]


@pytest.mark.slow  # with an empty cache mypy reads JAX, Flax and NumPy first, which takes longer than ten seconds
def test_mypy_knows_the_types_in_a_program_of_a_user(tmp_path):
    script = tmp_path / "user.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--no-error-summary"]
    command += [f"--config-file={PACKAGE.parent / 'pyproject.toml'}", str(script)]
    result = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=600)
    revealed = [line for line in result.stdout.splitlines() if "Revealed type is" in line]
    for line, expected in zip(revealed, REVEALED, strict=True):
        assert f'Revealed type is "{expected}' in line.replace("builtins.", ""), result.stdout
    wrong_argument, wrong_name = (line for line in result.stdout.splitlines() if ": error:" in line)
    assert "[arg-type]" in wrong_argument and "nonsense" in wrong_name
