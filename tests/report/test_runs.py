"""Runs are grouped by all that matters but the seed, and named by what differs."""

import json

import pytest

from qresnet_jax.errors import UserError
from qresnet_jax.report.runs import group, read_run


@pytest.fixture
def make_run(tmp_path):
    """`make_run(name, test, **fields)`: a workdir with two epochs; fields as optim__learning_rate."""

    def make_run(name, test=0.5, **fields):
        config = {
            "seed": 0,
            "num_epochs": 2,
            "data": {"name": "digits", "data_dir": ""},
            "optim": {"name": "sgd"},
        }
        for path, value in fields.items():
            *parents, last = path.split("__")
            part = config
            for parent in parents:
                part = part.setdefault(parent, {})
            part[last] = value
        records = [{"step": 5, "eval_accuracy": 0.25}, {"step": 10, "eval_accuracy": 0.75}]
        if test is not None:
            records[-1]["test_accuracy"] = test
        workdir = tmp_path / name
        workdir.mkdir()
        (workdir / "config.json").write_text(json.dumps(config))
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return workdir

    return make_run


def names(*workdirs):
    return {
        name: [run.workdir.name for run in runs]
        for name, runs in group(list(map(read_run, workdirs))).items()
    }


def test_a_run_is_read(make_run):
    run = read_run(make_run("a", test=0.6, optim__learning_rate=0.1))
    assert run.validation == [0.25, 0.75] and run.test == 0.6
    assert run.fields["optim.learning_rate"] == 0.1 and run.fields["data.name"] == "digits"
    assert read_run(make_run("b", test=None)).test is None


def test_seeds_share_a_group(make_run):
    runs = [make_run(f"s{seed}", seed=seed) for seed in range(3)]
    assert names(*runs) == {"all alike": ["s0", "s1", "s2"]}


def test_groups_are_named_by_what_differs(make_run):
    runs = [
        make_run("a", model__depth=20, model__act_bits=[2, 2, 2]),
        make_run("b", model__depth=8, model__act_bits=[2, 2, 4]),
        make_run("c", model__depth=8, model__act_bits=[2, 2, 4], seed=1),
        make_run("d", model__depth=8),
    ]
    assert names(*runs) == {
        "depth=20, act_bits=(2,2,2)": ["a"],
        "depth=8, act_bits=(2,2,4)": ["b", "c"],
        "depth=8, act_bits=not set": ["d"],
    }


def test_names_of_the_same_last_part_are_written_out(make_run):
    runs = [make_run("a"), make_run("b", data__name="mnist", optim__name="adamw", init_from="")]
    assert list(names(*runs)) == [
        "data.name=digits, optim.name=sgd, init_from=not set",
        "data.name=mnist, optim.name=adamw, init_from=''",
    ]


def test_where_files_lie_does_not_matter(make_run):
    runs = [make_run("a"), make_run("b", seed=1, data__data_dir="/data", export__path="x", log_every_steps=7)]
    assert names(*runs) == {"all alike": ["a", "b"]}


def test_a_run_cannot_count_twice(make_run):
    workdir, copy, other = make_run("a"), make_run("copy", data__data_dir="/elsewhere"), make_run("b", seed=1)
    for second in (workdir, copy):
        with pytest.raises(UserError, match="a and .* hold the same run.*leave one of them out"):
            names(workdir, other, second)


def test_what_is_no_run_is_refused(make_run, tmp_path):
    with pytest.raises(UserError, match="there is no directory .*nowhere.*workdirs of runs"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no workdir of a run.*config.json"):
        read_run(tmp_path)
    for content in ("{", "[]"):
        (make_run(f"damaged{content}") / "config.json").write_text(content)
        with pytest.raises(UserError, match="no workdir of a run.*config.json"):
            read_run(tmp_path / f"damaged{content}")
    young = make_run("young")
    (young / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="young has no metrics yet.*train first"):
        read_run(young)
