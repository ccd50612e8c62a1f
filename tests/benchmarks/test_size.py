def test_resnet8_has_the_counts_of_its_definition(benchmark):
    size = benchmark("size")
    found = size.costs(*size.NETWORKS["digits"])
    channels = [(16, 16)] * 2 + [(16, 32), (32, 32), (32, 64), (64, 64)]
    binary = sum(9 * a * b for a, b in channels) + 16 * 32 + 32 * 64  # the projections are 1x1
    norms = 2 * (16 + 2 * 16 + 3 * 32 + 3 * 64)
    parameters = binary + norms + 9 * 16 + 64 * 10 + 10
    assert (found["binary_parameters"], found["parameters"]) == (binary, parameters)
    assert found["float_bytes"] == 4 * parameters
    assert binary / 8 < found["packed_bytes"] < binary / 4
