import pathlib
import re
import shutil

import pytest

REPO = pathlib.Path(__file__).parents[2]
RESULTS = REPO / "benchmarks" / "results"
TABLE = "# Title\n\n<!-- table: train_step -->\n<!-- end table -->\n\nText.\n"
FIGURE = "It takes <!-- figure: train_step.ratio_1 --><!-- end figure --> times as long.\n"


@pytest.fixture
def tables(benchmark):
    return benchmark("tables")


@pytest.fixture
def checkout(tmp_path):
    """A repository with two documents and one result file."""
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "results").mkdir()
    shutil.copy(RESULTS / "train_step.json", tmp_path / "results")
    (tmp_path / "README.md").write_text(TABLE)
    (tmp_path / "docs" / "deep" / "page.md").write_text(FIGURE)
    return tmp_path


@pytest.fixture
def run(tables, checkout, capsys):
    """`run(*arguments)`: exit status and messages of the command in that repository."""

    def command(*arguments):
        status = tables.main(list(arguments), checkout, checkout / "results")
        return status, capsys.readouterr().err

    return command


def test_rendering_replaces_what_is_between_the_markers_and_nothing_else(run, checkout, benchmark):
    assert run() == (0, "")
    text = (checkout / "README.md").read_text()
    before, after = text.split("<!-- table: train_step -->")
    table, rest = after.split("<!-- end table -->")
    assert (before, rest) == ("# Title\n\n", "\n\nText.\n")
    measurements = benchmark("results").load("train_step", checkout / "results")["measurements"]
    assert table.strip() == benchmark("templates").TABLES["train_step"].render(measurements)
    page = (checkout / "docs" / "deep" / "page.md").read_text()
    ratio = measurements["1 thread"]["figures"]["ratio"]["median"]
    assert page == FIGURE.replace("--><!--", f"-->{ratio:.2f}<!--")


def test_rendering_is_idempotent(run, checkout):
    run()
    once = {path: path.read_text() for path in checkout.rglob("*.md")}
    run()
    assert {path: path.read_text() for path in checkout.rglob("*.md")} == once
    assert run("--check") == (0, "")


def test_check_writes_nothing_and_names_what_has_not_been_rendered(run, checkout):
    status, message = run("--check")
    assert status == 1
    assert "README.md: table train_step differs from its result file: run `make tables`" in message
    assert "docs/deep/page.md: figure train_step.ratio_1 differs" in message
    assert (checkout / "README.md").read_text() == TABLE


@pytest.mark.parametrize("file", ["README.md", "docs/deep/page.md", "results/train_step.json"])
def test_a_planted_difference_is_found(run, checkout, file):
    run()
    path = checkout / file
    old, new = ("0.97", "0.79") if file.endswith("md") else ('"threads": 1', '"threads": 3')
    ratio = (checkout / "docs/deep/page.md").read_text().split("-->")[1].split("<")[0]
    old = ratio if file.endswith("md") else old
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    status, message = run("--check")
    assert status == 1 and "differs from its result file" in message


@pytest.mark.parametrize(
    "text, message",
    [
        ("<!-- table: no_such -->\n<!-- end table -->", r"README.md: there is no table 'no_such'; there are: results, "),
        ("a <!-- figure: no_such.key --> <!-- end figure -->", "README.md: no result file 'no_such' has figures"),
        ("a <!-- figure: train_step.no_such --> <!-- end figure -->", "there is no figure 'no_such' in train_step; there are: "),
        ("<!-- table: train_step -->", "README.md: table train_step has no '<!-- end table -->'"),
        ("\n<!-- end table -->", "README.md, line 2: 'end table' without a 'table: NAME'"),
        ("<!-- table: train_step -->\n<!-- end figure -->", "'end figure' without a 'figure: NAME'"),
        ("<!-- table: train_step -->\na <!-- figure: x.y -->", "figure x.y begins before table train_step has its end"),
        ("<!-- figure: train_step.ratio_1 --><!-- end figure -->", "begins the line, which Markdown then takes as HTML"),
        ("- <!-- figure: train_step.ratio_1 --><!-- end figure -->", "begins the line, which Markdown then takes as HTML"),
        ("<!-- table: inference -->\n<!-- end table -->", r"README.md: there is no result file .*inference.json"),
    ],
)  # fmt: skip
def test_wrong_markers_are_named(run, checkout, text, message):
    (checkout / "README.md").write_text(text)
    for arguments in ((), ("--check",)):
        status, found = run(*arguments)
        assert status == 1 and re.search(message, found), found
    assert (checkout / "README.md").read_text() == text


def test_a_result_file_that_no_document_shows_is_named(run, checkout):
    run()
    shutil.copy(RESULTS / "size.json", checkout / "results")
    status, message = run("--check")
    assert status == 1 and "size.json is shown by no table or figure" in message


def test_a_file_that_lacks_a_figure_is_named(run, checkout):
    path = checkout / "results" / "train_step.json"
    path.write_text(path.read_text().replace('"ours"', '"theirs"'))
    status, message = run()
    assert status == 1
    assert (
        "README.md: table train_step: train_step.json lacks what the template needs (KeyError: 'ours')"
        in message
    )


def test_every_name_is_listed_and_described(tables, capsys):
    assert tables.main(["--list"]) == 0
    listed = capsys.readouterr().out
    for name in tables.TABLES:
        assert f"table: {name}\n" in listed
        assert f"\n    {name} " in tables.__doc__, f"the docstring of tables.py does not describe {name}"
    for file in tables.FIGURES:
        assert f"figure: {file}." in listed


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_result_files_of_the_repository_are_valid(benchmark, path):
    benchmark("results").load(path.stem)


def test_every_table_ends_with_its_provenance(tables):
    for name in tables.TABLES:
        last = tables.render_table(name, RESULTS).splitlines()[-1]
        assert last.startswith("*") and last.endswith("*") and "easured on " in last, name


@pytest.mark.parametrize(
    ("config", "figures"),
    [
        (
            "digits",
            [
                "accuracy_digits.w1a2_test_mean",
                "accuracy_digits.w1a2_test_sd",
                "accuracy_digits.w1a2_test_worst",
            ],
        ),
        (
            "fashion_mnist_w1a2",
            ["accuracy_fashion_mnist.w1a2_test_mean", "accuracy_fashion_mnist.w1a2_test_sd"],
        ),
    ],
)
def test_the_docstring_of_a_config_states_what_was_measured(tables, config, figures):
    text = (REPO / "configs" / f"{config}.py").read_text()
    for name in figures:
        assert tables.render_figure(name, RESULTS).removesuffix(" %") in text, name
