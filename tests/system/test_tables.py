from qresnet_jax.system.tables import aligned


def test_columns_are_as_wide_as_their_widest_cell():
    rows = [("name", "of", "n"), ("a", "stem", "1,000"), ("longest", "", "2")]
    assert aligned(rows, left=2) == ["name     of        n", "a        stem  1,000", "longest            2"]
    assert aligned(iter(rows))[0] == "name       of      n"
