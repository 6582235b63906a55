"""Data sets as uint8 images with labels and class names: loading, fixed splits, digests. Never imports torch."""

from resq_deploy.data.dataset import Dataset, Split, agreed, to_model_input
from resq_deploy.data.sources import DATASETS, load_dataset

__all__ = ["DATASETS", "Dataset", "Split", "agreed", "load_dataset", "to_model_input"]
