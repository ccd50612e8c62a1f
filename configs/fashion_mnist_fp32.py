"""Fashion-MNIST, ResNet-20 in float: the twin of `fashion_mnist_w1a2.py`.

    python main.py --config=configs/fashion_mnist_fp32.py
"""

from configs.fashion_mnist_w1a2 import get_config as quantized


def get_config():
    config = quantized()
    config.model.weight_bits = 32
    config.model.activation = "none"
    return config
