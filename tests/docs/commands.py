"""The commands of a page: each meets its rule in `RULES`, an unknown one fails, and what trains runs in forks of one process."""

import json
import os
import pathlib
import re
import select
import shutil
import subprocess
import sys
import tomllib

from PIL import Image

from tests.docs.pages import REPO

PYTHON = ("python", ".venv/bin/python")
QRESNET = (["qresnet"], ["python", "main.py"], ["python", "-m", "qresnet_jax"])
# Two epochs instead of as many as the document says, and so on: what is shown is that the command works.
SHORT = {
    "train": {"num_epochs": "2"},
    "profile": {"profile.steps": "2"},
    "bench": {"bench.batch_sizes": "(1,)", "bench.seconds": "0.01"},
}


class Worker:
    """Runs commands in forks of one process. What pages have in common, such as training on digits, is run once."""

    def __init__(self, directory):
        self.directory, self.done = directory, {}
        kept = {name: os.environ[name] for name in os.environ if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        kept |= {name: value for name, value in os.environ.items() if name.startswith(("JAX_", "XDG_"))}
        settings = {
            "GLIBC_TUNABLES": "",  # no restart of the process
            "OPENBLAS_NUM_THREADS": "1",  # no threads before a fork
            "JAX_NUM_CPU_DEVICES": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.docs.worker"],
            cwd=REPO, env={**kept, **settings}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, words, directory, *, trial=False):
        """The output of a command that succeeds."""
        request = {"words": words, "directory": str(directory), "trial": trial}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        assert select.select([self.process.stdout], [], [], 600)[0], f"{' '.join(words)} takes too long"
        answer = json.loads(self.process.stdout.readline())
        assert answer["status"] == 0, f"{' '.join(words)}:\n{answer['output']}"
        return answer["output"]

    def run_once(self, words, directory):
        """The output of a command that was run in a directory of the worker's; its files are copied to `directory`."""
        if tuple(words) not in self.done:
            before = self._files()
            output = self.run(words, self.directory)
            written = [path for path, time in self._files().items() if before.get(path) != time]
            self.done[tuple(words)] = output.replace(f"{self.directory}/", ""), written
        output, written = self.done[tuple(words)]
        for path in written:
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.directory / path, directory / path)
        return output

    def _files(self):
        files = (path for path in self.directory.rglob("*") if path.is_file())
        return {path.relative_to(self.directory): path.stat().st_mtime_ns for path in files}

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


def qresnet(words, directory, worker, helps):
    """Runs what works on digits; all else is checked by the real code up to the work itself."""
    if words[0] == "sweep":  # checked up to the first run, which the sweep's own tests train
        return worker.run(["qresnet", *words], directory, trial=True)
    flags = dict(word.removeprefix("--").partition("=")[::2] for word in words)
    assert all(word.startswith("--") for word in words), words
    mode, config = flags.get("mode", "train"), flags.get("config", "")
    if pathlib.Path(config).stem != "digits":
        return worker.run(["qresnet", *words], directory, trial=True)
    flags |= {f"config.{name}": value for name, value in SHORT.get(mode, {}).items()}
    if mode == "train":
        flags.setdefault("workdir", "runs/digits")
    for name in filter(None, flags.get("config.predict.images", "").split(",")):
        path = worker.directory / name.replace("**", "deep").replace("*", "x")
        path = path if path.suffix else path / "x.png"  # a directory
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(path)
    return worker.run_once(
        ["qresnet", *(f"--{name}={value}" for name, value in sorted(flags.items()))], directory
    )


def make(words, directory, worker, helps):
    """Names targets and variables of a Makefile of ours: that of the repository, or of an example."""
    files = [path.read_text() for path in (REPO / "Makefile", *REPO.glob("examples/*/Makefile"))]
    targets = [set(re.findall(r"^([\w-]+):", text, flags=re.MULTILINE)) for text in files]
    variables = set(re.findall(r"^([A-Z_]+) *[:?]?=", "\n".join(files), flags=re.MULTILINE))
    asked = {word for word in words if "=" not in word}
    assert any(asked <= known for known in targets), f"make {' '.join(words)}"
    assert {word.partition("=")[0] for word in words if "=" in word} <= variables, f"make {' '.join(words)}"


def pip(words, directory, worker, helps):
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras, needed = project["optional-dependencies"], " ".join(project["dependencies"])
    assert words[0] == "install"
    for word in words[1:]:
        if word == "--no-deps" or re.search(rf"\b{re.escape(word)}\b[^-]", needed):
            continue
        asked = re.fullmatch(r"-e|--editable|\.(?:\[([\w,]+)\])?", word)
        assert asked, f"pip {' '.join(words)}"
        assert set((asked[1] or "").split(",")) <= {*extras, ""}, word


def python(words, directory, worker, helps):
    """A module or a script: its flags are in its help. A comparison of runs that are here is run."""
    count = 2 if words[0] == "-m" else 1
    what, given = words[:count], words[count:]
    if what == ["-m", "pytest"]:
        assert all((REPO / word.split("::")[0]).exists() for word in given if not word.startswith("-")), given
        return None
    if count == 1:
        assert (REPO / what[0]).is_file(), what[0]
    text = helps(*what)
    for word in given:
        if word.startswith("-"):
            assert word.partition("=")[0] in text, f"{' '.join(words)}: no such flag"
    if what[-1] == "qresnet_jax.report.compare":
        runs = [directory / word for word in given if not word.startswith("-")]
        return worker.run_once(["python", *words], directory) if all(run.exists() for run in runs) else None
    positional = re.search(r"\{([\w,]+)\}", text.partition("\n\n")[0].splitlines()[-1])
    if choices := positional and positional[1].split(","):
        assert given[0] in choices, words
    return None


def compile_c(words, directory, worker, helps):
    """Compiles as written, beside an exported network; without the machine's options where its compiler is missing."""
    from qresnet_jax import load_packed

    load_packed("digits_resnet8_w1a2", "numpy").export(directory, format="c", c_profile="small")
    (directory / "images").write_bytes(bytes(3 * 64))
    if shutil.which(words[0]) is None:
        assert words[0].endswith("-gcc"), words
        words = ["cc", *(word for word in words[1:] if not word.startswith(("-mcpu", "-mthumb")))]
    return shell(words, directory)


def program(words, directory, worker, helps):
    """A program that an earlier command has made."""
    return shell(words, directory)


def installed(words, directory, worker, helps):
    """A program that comes with a package of the tests. tests/ship/onnx/test_qonnx.py runs it."""
    assert pathlib.Path(sys.executable).with_name(words[0]).exists(), words[0]


def shell(words, directory):
    source = pathlib.Path(directory, words[words.index("<") + 1]).read_bytes() if "<" in words else None
    words = words[: words.index("<")] if "<" in words else words
    done = subprocess.run(words, cwd=directory, input=source, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


RULES = {
    "make": make,
    "pip": pip,
    "python": python,
    "cc": compile_c,
    "arm-none-eabi-gcc": compile_c,
    "./example": program,
    "qonnx-cleanup": installed,
    "qonnx-inference-cost": installed,
}


def run_command(words, directory, worker, helps):
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # a setting of the environment
        words = words[1:]
    words = (
        ["python", *words[1:]] if words[0] in PYTHON else [words[0].removeprefix(".venv/bin/"), *words[1:]]
    )
    for start in QRESNET:
        if words[: len(start)] == start:
            return qresnet(words[len(start) :], directory, worker, helps)
    assert words[0] in RULES, f"no rule says how to check the command {words[0]!r}"
    arguments = words if RULES[words[0]] in (compile_c, program, installed) else words[1:]
    return RULES[words[0]](arguments, directory, worker, helps)
