import pytest

from qresnet_jax.errors import DataError
from qresnet_jax.ship.load import zoo as networks


@pytest.fixture
def zoo(benchmark):
    return benchmark("zoo")


def test_the_digits_network_is_measured_on_its_test_set(zoo, benchmark, tmp_path, monkeypatch, capsys):
    arguments = ["--only=digits_resnet8", "--engine=numpy", f"--save={tmp_path}"]
    monkeypatch.setattr("sys.argv", ["zoo.py", *arguments])
    assert zoo.main() == 0
    (found,) = benchmark("results").load("zoo", tmp_path)["measurements"].values()
    figures = found["figures"]
    assert figures["images"] == 360 and figures["correct"] == 360 * figures["accuracy"]
    assert figures["accuracy"] > 0.95
    assert figures["bytes"] == networks()["digits_resnet8_w1a2"].stat().st_size
    assert (
        f"| `digits_resnet8_w1a2` | `digits` | {100 * figures['accuracy']:.2f} % of 360 images |"
        in capsys.readouterr().out
    )


def test_a_missing_set_is_named_with_a_way_to_get_it_and_the_others_are_measured(
    zoo, monkeypatch, tmp_path, capsys
):
    def missing(config):
        if config.name == "fashion_mnist":
            raise DataError("no such file")
        return real(config)

    real = zoo.load_dataset
    monkeypatch.setattr(zoo, "load_dataset", missing)
    monkeypatch.setattr("sys.argv", ["zoo.py", "--engine=numpy"])
    assert zoo.main() == 1
    output = capsys.readouterr()
    assert "`digits_resnet8_w1a2`" in output.out and "`fashion_mnist_resnet20_w1a2`" not in output.out
    assert "fashion_mnist is missing" in output.err and "apt-get install dataset-fashion-mnist" in output.err


def test_every_network_says_how_it_was_trained(zoo):
    assert zoo.TRAINED_BY.keys() == networks().keys()
