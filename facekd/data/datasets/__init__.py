"""Opens labelled images, whatever format they are in: `open_dataset(path, image_size)`."""

from facekd.data.datasets.cifar_dataset import CifarDataset, Split
from facekd.data.datasets.class_counts import print_summary
from facekd.data.datasets.encoded_dataset import EncodedDataset
from facekd.data.datasets.face_dataset import FaceDataset, OnBadRecord
from facekd.data.datasets.folder_dataset import FolderDataset
from facekd.data.datasets.generated_dataset import SyntheticDataset
from facekd.data.datasets.opening import open_dataset
from facekd.data.datasets.record_dataset import RecordDataset

__all__ = [
    "CifarDataset",
    "EncodedDataset",
    "FaceDataset",
    "FolderDataset",
    "OnBadRecord",
    "RecordDataset",
    "Split",
    "SyntheticDataset",
    "open_dataset",
    "print_summary",
]
