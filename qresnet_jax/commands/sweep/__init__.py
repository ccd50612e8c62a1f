"""`qresnet sweep`: trains a network with several seeds and settings, and compares them."""
