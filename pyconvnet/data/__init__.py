"""Data: datasets, preparation, statistics, augmentation draws, and the loader that makes batches."""

# ruff: noqa: F401  (all that is imported here is meant to be read from here)

from ..common.names import public_names as _public_names
from .augmentation import PAPER, VIEWS, Augmentation
from .cifar import Cifar10
from .dataset import ArrayDataset, Dataset, Subset, split
from .digits import Digits
from .files import ImageFiles
from .folder import ImageFolder
from .images import load_image
from .loader import Batch, Loader
from .map_style import MapStyleDataset
from .predecoded import Predecoded, predecode
from .preparation import prepare
from .shards import Shards
from .sources import open_dataset
from .statistics import Statistics, statistics

__all__ = _public_names(globals())
