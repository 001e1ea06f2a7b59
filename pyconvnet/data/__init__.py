"""Data: datasets, preparation, statistics, augmentation draws, and the loader that makes batches."""

from .augmentation import PAPER, VIEWS, Augmentation
from .cifar import Cifar10
from .dataset import ArrayDataset, Dataset, Subset, split
from .digits import Digits
from .files import ImageFiles
from .folder import ImageFolder
from .images import load_image
from .loader import Batch, Loader
from .predecoded import Predecoded, predecode
from .sources import open_dataset
from .statistics import Statistics, statistics

__all__ = [
    "PAPER",
    "VIEWS",
    "ArrayDataset",
    "Augmentation",
    "Batch",
    "Cifar10",
    "Dataset",
    "Digits",
    "ImageFiles",
    "ImageFolder",
    "Loader",
    "Predecoded",
    "Statistics",
    "Subset",
    "load_image",
    "open_dataset",
    "predecode",
    "split",
    "statistics",
]
