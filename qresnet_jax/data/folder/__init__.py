"""A folder or an archive of image files as a data set: its files, what its folders mean, and its decoded images."""

from qresnet_jax.data.folder.prepare import prepare_folder, read_folder

__all__ = ["prepare_folder", "read_folder"]
