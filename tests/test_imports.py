"""What imports what, in fresh processes: wrong configs are refused without waiting for JAX, and imports go down only."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

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


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("quantizers", {"qresnet_jax.layers", "qresnet_jax.train", "qresnet_jax.data", "flax", "optax"}),
        ("hysteresis", {"qresnet_jax.layers", "qresnet_jax.train", "qresnet_jax.data", "flax"}),
        ("fixed_point", {"qresnet_jax.layers", "qresnet_jax.train", "qresnet_jax.data", "flax"}),
        ("layers", {"qresnet_jax.resnet", "qresnet_jax.train", "qresnet_jax.data", "qresnet_jax.config"}),
        ("resnet", {"qresnet_jax.train", "qresnet_jax.data", "qresnet_jax.config", "orbax"}),
        ("data", {"qresnet_jax.train", "qresnet_jax.resnet", "qresnet_jax.layers", "flax", "orbax"}),
        ("data.pipeline", {"qresnet_jax.train", "qresnet_jax.resnet", "qresnet_jax.layers", "flax"}),
        ("train.step", {"qresnet_jax.train.loop", "qresnet_jax.train.checkpoint", "orbax"}),
        ("train.optim", {"qresnet_jax.train.loop", "qresnet_jax.train.step", "qresnet_jax.data"}),
        ("train.evaluate", {"qresnet_jax.train.loop"}),
        ("train.loop", {"qresnet_jax.report.report", "matplotlib"}),
        ("deploy.layer_table", {"qresnet_jax.train", "qresnet_jax.report", "matplotlib"}),
        ("report.runs", {"jax", "numpy", "matplotlib"}),
    ],
)
def test_imports_go_down_only(module, never):
    assert not modules_after(f"import qresnet_jax.{module}") & never
