"""What `--seeds` and `--grid` mean, and every mistake in them, each refused in one message."""

import itertools
import re

import pytest
from ml_collections import FieldReference

from qresnet_jax.commands.sweep.plan import MOST_MEMBERS, member_name, parse_seeds, plan, split_values
from qresnet_jax.config import default_config, flatten
from qresnet_jax.errors import UserError


@pytest.mark.parametrize(
    ("text", "seeds"), [("5", [0, 1, 2, 3, 4]), ("1", [0]), ("0,3,7", [0, 3, 7]), (" 4, 0 ", [4, 0])]
)
def test_seeds_are_counted_or_listed(text, seeds):
    assert parse_seeds(text) == seeds


def test_the_members_are_the_product_and_differ_in_nothing_else():
    base = default_config()
    before = flatten(base)
    rates, bits = [0.05, 0.1], [(2, 2, 2), (2, 2, 4)]
    grid = ["config.optim.learning_rate=0.05,1e-1", "config.model.act_bits=(2,2,2),[2, 2, 4]"]
    members = plan(base, "3", grid)
    got = [(m.config.seed, m.config.optim.learning_rate, m.config.model.act_bits) for m in members]
    assert got == list(
        itertools.product(range(3), rates, bits)
    )  # all settings with the first seed come first
    varied = {"seed", "optim.learning_rate", "model.act_bits"}
    for member in members:
        fields = flatten(member.config)
        assert {name: fields[name] for name in varied} == member.settings
        assert {k: v for k, v in fields.items() if k not in varied} == {
            k: v for k, v in before.items() if k not in varied
        }
    assert len({m.name for m in members}) == len(members) and flatten(base) == before
    assert members[0].name == "learning_rate=0.05-act_bits=2-2-2-seed=0"


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("config.model.sync_bn=True,false", [True, False]),
        ("config.optim.schedule=cosine, step", ["cosine", "step"]),
        ("config.init_from='',\"a,b\"", ["", "a,b"]),
        ("config.num_epochs=1,20", [1, 20]),
        ("config.optim.warmup_epochs=1", [1.0]),
        ("config.seed=3,4", [3, 4]),
    ],
)
def test_values_have_the_types_of_their_fields(word, values):
    field = word.partition("=")[0].removeprefix("config.")
    got = [m.settings[field] for m in plan(default_config(), None, [word])]
    assert got == values and [*map(type, got)] == [*map(type, values)]


def test_without_seeds_the_seed_is_that_of_the_config():
    base = default_config()
    base.seed = 7
    assert [m.settings for m in plan(base, None, [])] == [{"seed": 7}]


def test_fields_that_refer_to_others_follow_the_grid():
    base = default_config()
    rate = FieldReference(0.1)
    base.optim.learning_rate, base.optim.clipping_level.learning_rate = rate, rate * 0.5
    for member in plan(base, None, ["config.optim.learning_rate=0.2,0.4"]):
        assert member.config.optim.clipping_level.learning_rate == member.config.optim.learning_rate / 2


def test_commas_inside_brackets_and_quotes_do_not_separate():
    assert split_values("(2,2,2),(4,(1,2)) , 'a,b',\"c,(\",d") == [
        "(2,2,2)",
        "(4,(1,2))",
        "'a,b'",
        '"c,("',
        "d",
    ]


def test_names_are_those_of_directories_and_differ():
    settings = [{"optim.learning_rate": 0.1, "optim.clipping_level.learning_rate": 0.1, "seed": 0}]
    settings += [
        {"init_from": text, "seed": 0} for text in ("a/b", "a:b", "a b", "../a", "a" * 300, "a" * 301)
    ]
    names = [member_name(s) for s in settings]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[A-Za-z0-9_.=+-]{1,200}", name) and not name.startswith(".") for name in names)
    assert names[0] == "optim.learning_rate=0.1-optim.clipping_level.learning_rate=0.1-seed=0"


RATE = "config.optim.learning_rate"


@pytest.mark.parametrize(
    ("seeds", "grid", "given", "message"),
    [
        ("0", [], (), "--seeds=0: must be a number of seeds from 1"),
        ("", [], (), "--seeds=: must be a number of seeds"),
        ("-1", [], (), "--seeds=-1: must be"),
        ("1.5", [], (), "--seeds=1.5: must be"),
        ("a,b", [], (), "--seeds=a,b: must be"),
        ("1,,2", [], (), "--seeds=1,,2: must be"),
        ("1,2,1", [], (), "--seeds: the value 1 is given twice"),
        ("4294967295", [], (), "at most 10,000 are possible; the one seed 4294967295 is --config.seed"),
        ("0,4294967296", [], (), "config.seed=4294967296: must be an integer from 0 to 4294967295"),
        ("2", ["config.seed=1,2"], (), "the seed is given both by --seeds and by --grid"),
        ("2", [], ("seed",), "the seed is given both by --seeds and by --config.seed"),
        (None, ["config.seed=1,2"], ("seed",), "config.seed is given both by --config.seed and in --grid"),
        (
            None,
            [f"{RATE}=0.1,0.2"],
            ("optim.learning_rate",),
            "is given both by --config.optim.learning_rate and",
        ),
        (
            None,
            ["optim.learning_rate=0.1"],
            (),
            "must name a field of the config and its values, as in --grid",
        ),
        (None, ["workdir=a,b"], (), "must name a field of the config"),
        (None, [RATE], (), "must name a field of the config and its values"),
        (None, ["config.optim.lr=0.1"], (), "the field does not exist: optim.lr; the fields are optim."),
        (None, ["config.learning_rat=0.1"], (), "Did you mean optim.learning_rate instead of learning_rat?"),
        (None, ["config.optim=1"], (), "config.optim is a section: name one of its fields"),
        (None, ["config.model.act_bits[2]=2,4"], (), "a tuple is given whole"),
        (None, ["config.log_every_steps=1,2"], (), "config.log_every_steps has no effect on what is learned"),
        (None, ["config.bench.seconds=1"], (), "config.bench.seconds has no effect"),
        (None, [f"{RATE}="], (), "a value is empty"),
        (None, [f"{RATE}=0.1,,0.2"], (), "a value is empty"),
        (None, [f"{RATE}=0.1", f"{RATE}=0.2"], (), "config.optim.learning_rate has two --grid"),
        (None, [f"{RATE}=0.1,0.10"], (), f"--grid {RATE}: the value 0.1 is given twice"),
        (None, [f"{RATE}=fast"], (), f"--grid {RATE}: 'fast' must be a number"),
        (None, ["config.num_epochs=1.5"], (), "--grid config.num_epochs: '1.5' must be an integer"),
        (None, ["config.data.flip=maybe"], (), "--grid config.data.flip: 'maybe' must be True or False"),
        (None, ["config.model.act_bits=2,4"], (), "'2' must be a tuple such as (2,2,4)"),
        (None, ["config.model.act_bits=(2,2,2"], (), "'(2,2,2' must be a tuple"),
        (None, ["config.model.act_bits=(2,2)"], (), "config.model.act_bits=(2, 2): must have 3 entries"),
        (None, [f"{RATE}=0.1,0"], (), "config.optim.learning_rate=0.0: must be a number > 0"),
        (None, [f"{RATE}=0.1,nan"], (), "config.optim.learning_rate=nan: must be"),
        (None, ["config.optim.warmup_epochs=0,300"], (), "(in the sweep, at optim.warmup_epochs=300.0)"),
        (
            None,
            ["config.optim.distillation.weight=0.3,0.5"],
            (),
            "config.optim.distillation.weight has no effect without config.optim.distillation.teacher, so",
        ),
        ("10000", [f"{RATE}=0.1,0.2"], (), f"would have 20,000 members, but at most {MOST_MEMBERS:,}"),
    ],
)
def test_mistakes_are_refused_in_one_message(seeds, grid, given, message):
    with pytest.raises(UserError) as error:
        plan(default_config(), seeds, grid, given)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_field_may_have_no_effect_in_a_part_of_the_runs():
    grid = ["config.optim.hysteresis.relative=True,False", "config.optim.hysteresis.threshold=0,0.1"]
    assert len(plan(default_config(), "1", grid)) == 4


def test_several_processes_are_refused():
    config = default_config()
    config.distributed.auto = True
    with pytest.raises(UserError, match="a sweep trains in one process: leave config.distributed out"):
        plan(config, "2", [])
