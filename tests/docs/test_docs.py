"""What README and docs show runs: every block of code, every command, every link, every name.

    python    runs, page by page in order, in one namespace and a directory of the page's own
    sh        each command meets its rule in `commands.RULES`; an unknown one fails
    text      the output of the block before it; `...` stands for anything
    c         compiles
    js        runs under Node.js, beside the files of an export, where Node.js is installed
    html      its script is right JavaScript
    usage     its flags are those of --help
    formula   stands in the sources
    tree      is the tree of the package
    cluster   is a script for machines that are not here: its syntax is right, and its configs and fields exist
    yaml      the same, of a manifest

A block of another kind fails.
"""

import contextlib
import doctest
import importlib
import io
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
import yaml
from PIL import Image

from qresnet_jax.commands import COMMANDS
from qresnet_jax.commands.help import help_text
from qresnet_jax.config import default_config, flatten
from qresnet_jax.system.config_files import shipped_configs
from tests.docs import pages
from tests.docs.commands import Worker, run_command, shell
from tests.docs.pages import PAGES, REPO, name_of

PACKAGE = REPO / "qresnet_jax"


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    started = Worker(tmp_path_factory.mktemp("trained"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def helps(worker):
    """`helps(script or "-m", module)`: what `--help` prints, asked once."""
    known = {}

    def ask(*words):
        if words not in known:
            known[words] = worker.run(["python", *words, "--help"], REPO)
        return known[words]

    return ask


# The blocks of a page.


def run_python(text, namespace):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(text, "<document>", "exec"), namespace)
    return output.getvalue()


def assert_compiles(text, directory, compiler):
    (header,) = re.findall(r'#include "([^"]+)"', text)
    (folder,) = {path.parent for path in directory.rglob(header)}
    (folder / "fragment.c").write_text(text)
    subprocess.run(
        [compiler, "-std=c99", "-Wall", "-Werror", "-c", "fragment.c"], cwd=folder, check=True, timeout=300
    )


def run_script(text, directory):
    """What JavaScript prints that stands beside the files of an export."""
    if shutil.which("node") is None:
        return None
    (directory / "package.json").write_text('{"type": "module"}')
    (directory / "script.js").write_text(text)
    return shell(["node", "script.js"], directory)


def check_script(page, directory):
    (script,) = re.findall(r'<script type="module">(.*?)</script>', page, re.DOTALL)
    (directory / "script.mjs").write_text(script)
    if shutil.which("node"):
        shell(["node", "--check", "script.mjs"], directory)


def sources():
    return " ".join(" ".join(path.read_text().split()) for path in PACKAGE.rglob("*.py"))


def assert_tree(text):
    """Every folder of the package is listed, below its parent; lines beside folders are descriptions."""
    listed, parents = set(), []
    for line in text.splitlines():
        folder, description = re.fullmatch(r"( *\w+/) +(\S.*)", line).groups()
        depth = (len(folder) - len(folder.lstrip())) // 2
        parents = [*parents[:depth], folder.strip().rstrip("/")]
        listed.add("/".join(parents))
        assert description
    files = subprocess.run(
        ["git", "ls-files", "qresnet_jax"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert listed == {str(pathlib.Path(name).parent) for name in files.stdout.splitlines()}


def assert_fields_exist(text):
    """Of commands for machines that are not here: their configs and fields exist."""
    fields, names = flatten(default_config()), re.findall(r"--config=(\w+)", text)
    assert names and set(names) <= set(shipped_configs())
    assert set(re.findall(r"--config\.([\w.]+)=", text)) <= fields.keys()


def has_code(page):
    return any(block for block in pages.blocks(page.read_text()))


@pytest.mark.parametrize("page", [page for page in PAGES if has_code(page)], ids=name_of)
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch, worker, helps, compiler, request):
    if page.name == "wasm.md":
        request.getfixturevalue("wasm_tools")
    monkeypatch.chdir(tmp_path)
    namespace, output, before = {"__name__": "__document__"}, "", ""
    for block in pages.blocks(page.read_text()):
        where = f"{name_of(page)}, line {block.line}"
        try:
            match block.language:
                case "python":
                    output = run_python(block.text, namespace)
                case "sh":
                    outputs = [
                        run_command(words, tmp_path, worker, helps) for words in pages.commands(block.text)
                    ]
                    output = "".join(filter(None, outputs)).replace(f"{tmp_path}/", "")
                case "js":
                    output = run_script(block.text, tmp_path / "web")
                case "html":
                    check_script(block.text, tmp_path)
                case "text" if before == "js" and output is None:
                    pass
                case "text":
                    assert pages.is_stated(output, block.text, whole=before == "python"), output
                case "c":
                    assert_compiles(block.text, tmp_path, compiler)
                case "usage":
                    for flag in re.findall(r"--\w+", block.text):
                        assert flag in help_text(), flag
                case "formula":
                    for line in block.text.splitlines():
                        assert " ".join(line.split()) in sources(), f"no source has the formula {line}"
                case "tree":
                    assert_tree(block.text)
                case "cluster":
                    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True, timeout=60)
                    assert_fields_exist(block.text)
                case "yaml":
                    assert all(isinstance(part, dict) for part in yaml.safe_load_all(block.text))
                    assert_fields_exist(block.text)
                case kind:
                    raise AssertionError(f"no rule says how to check a block of the kind {kind!r}")
        except BaseException as error:
            error.add_note(where)
            raise
        before = block.language


# Links and names.


@pytest.mark.parametrize("page", [*PAGES, REPO / "CHANGELOG.md"], ids=name_of)
def test_links_lead_somewhere(page):
    for target in pages.links(page.read_text()):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in pages.anchors(file.read_text()), target


FOLDERS = "qresnet_jax|docs|configs|benchmarks|examples|tests"
FILES = (".c", ".h", ".html", ".js", ".o", ".onnx", ".safetensors", ".stablehlo", ".wasm")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_are_those_of_the_code(page):
    fields = flatten(default_config())
    groups = {name.rpartition(".")[0] for name in fields} - {""}
    for span in pages.code_spans(page.read_text()):
        if re.fullmatch(rf"(?:{FOLDERS})/[\w./*-]*", span):
            assert list(REPO.glob(span)), f"no such file: {span}"
        if re.fullmatch(r"qresnet_jax(?:\.\w+)+", span):
            resolve(span)
        if mode := re.match(r"--mode=(\w+)", span):
            assert mode[1] in COMMANDS, span
        named = re.findall(r"--config\.([\w.]+)", span)
        if not span.endswith(FILES):
            named += re.findall(rf"^((?:{'|'.join(groups)})\.\w[\w.]*)", span)
        for name in named:
            assert name in fields or name in groups, f"no such field: {name}"


def resolve(dotted):
    """The module or the attribute of a dotted name."""
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.import_module(dotted)
    owner, _, name = dotted.rpartition(".")
    return getattr(resolve(owner), name)


def test_every_config_is_described():
    text = (REPO / "docs" / "training.md").read_text()
    for name in shipped_configs():
        assert f"| `{name}` |" in text, name


def test_new_import_paths_of_the_changelog_exist():
    text = (REPO / "CHANGELOG.md").read_text()
    new = re.findall(r"^ *\| `qresnet_jax\.[^|]* \| `(qresnet_jax[\w.]*)`", text, flags=re.MULTILINE)
    assert len(new) > 40
    for name in new:
        resolve(name)


WITH_EXAMPLES = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>> " in path.read_text()]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=name_of)
def test_the_examples_in_docstrings_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(".".join(path.relative_to(REPO).with_suffix("").parts))
    failed, attempted = doctest.testmod(module)
    assert attempted and not failed


def test_the_picture_of_the_readme_is_drawn_by_its_script(tmp_path, worker):
    worker.run(
        ["python", str(REPO / "docs" / "pictures" / "overview.py"), f"--out={tmp_path}/overview.png"], REPO
    )
    with (
        Image.open(tmp_path / "overview.png") as drawn,
        Image.open(REPO / "docs/pictures/overview.png") as kept,
    ):
        assert drawn.size == kept.size
        difference = np.abs(np.asarray(drawn.convert("L"), float) - np.asarray(kept.convert("L"), float))
    assert difference.mean() < 2  # another version of matplotlib moves some pixels


# The checks themselves see mistakes.


@pytest.mark.parametrize(
    "command, message",
    [
        ("qresnet --config=cifar10_w1a2 --config.no_such_field=1", "does not exist"),
        ("qresnet --config=cifar10_w1a2 --config.model.depth=21", "model.depth=21"),
        ("qresnet --config=cifar10_w1a2 --mode=dance", "mode"),
        ("qresnet --config=no_such_config", "no_such_config"),
        ("make nonsense", "nonsense"),
        ('pip install ".[nonsense]"', "nonsense"),
        ("python benchmarks/train_step.py --nonsense", "no such flag"),
        ("python benchmarks/no_such_script.py", "no_such_script"),
        ("rm -rf /", "no rule says how"),
    ],
)
def test_a_wrong_command_is_noticed(command, message, tmp_path, worker, helps):
    (words,) = pages.commands(command)
    with pytest.raises(AssertionError, match=message):
        run_command(words, tmp_path, worker, helps)
