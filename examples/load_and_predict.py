"""Classifies real images with a network that comes with the package.

    python examples/load_and_predict.py

The network is a ResNet-8 with 1-bit weights and 2-bit activations, trained on scikit-learn's digits. The
images are the set's test images, which were written by other people than the training images.
"""

import numpy as np

import qresnet_jax
from qresnet_jax.data import load_dataset

# Images are arrays of bytes, uint8 [N, height, width, channels]; here [360, 8, 8, 1].
images, labels = load_dataset(qresnet_jax.load_config("digits").data).test

# A name from the zoo, or the path of a file that `qresnet --mode=export` has written.
network = qresnet_jax.load_packed("digits_resnet8_w1a2")
print(network)

classes = network.predict(images)  # integers [N], positions in network.class_names
for i in range(5):
    print(f"image {i} shows a {labels[i]}, and is classified as {network.class_names[classes[i]]}")
print(f"{np.mean(classes == labels):.2%} of the {len(images)} test images are classified correctly")
