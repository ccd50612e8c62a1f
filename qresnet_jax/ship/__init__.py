"""Networks as they ship: folding to integers, the packed file, engines that run it. Never imports `qresnet_jax.train`."""
