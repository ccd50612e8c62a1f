"""Fashion-MNIST, ResNet-20 in float: the twin of `fashion_mnist_w1a2.py`, everything else equal.

python main.py --config=configs/fashion_mnist_fp32.py

Test accuracy 93.11 %, validation 93.48 % (one seed), in about 20 minutes on 2 cores that other work shared.
"""

from configs import fashion_mnist_w1a2


def get_config():
    config = fashion_mnist_w1a2.get_config()
    config.model.weight_bits = 32
    config.model.activation = "none"
    return config
