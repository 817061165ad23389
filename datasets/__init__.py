"""What is trained on: files as one manifest, shards written and read, batches in a resumable order, the demo set."""

from .annotations import read_annotations
from .annotations.classes import read_classes
from .demo import DemoConfig, make_demo
from .errors import DataError
from .loading.loader import (
    QUARANTINED,
    ClipSettings,
    TrainBatch,
    TrainBatches,
    ViewBatch,
    train_batches,
    train_draws,
    view_batches,
)
from .loading.order import Balance, Draw, Position, TrainOrder, epoch_order, rank_share
from .loading.streaming import StreamSettings, clips_of
from .loading.streams import StreamedClip, StreamedPart, StreamedVideo, streamed
from .loading.workers import start_forkserver
from .manifest import SPLITS, Manifest, Video, assign_splits, videos_in_folder
from .preparing.steps import PrepareConfig, prepare
from .processes.journal import Journal
from .shards.cache import checksum
from .shards.card import Card, Split, read_card
from .shards.indexing import IndexConfig, index_data
from .shards.sources import open_dataset
from .shards.split import ShardedSplit
from .shards.verifying import CheckConfig, Findings, check_data
from .shards.verifying_shards import Fault
from .videos import Videos, open_videos

__all__ = [
    "QUARANTINED",
    "SPLITS",
    "Balance",
    "Card",
    "CheckConfig",
    "ClipSettings",
    "DataError",
    "DemoConfig",
    "Draw",
    "Fault",
    "Findings",
    "IndexConfig",
    "Journal",
    "Manifest",
    "Position",
    "PrepareConfig",
    "ShardedSplit",
    "Split",
    "StreamSettings",
    "StreamedClip",
    "StreamedPart",
    "StreamedVideo",
    "TrainBatch",
    "TrainBatches",
    "TrainOrder",
    "Video",
    "Videos",
    "ViewBatch",
    "assign_splits",
    "check_data",
    "checksum",
    "clips_of",
    "epoch_order",
    "index_data",
    "make_demo",
    "open_dataset",
    "open_videos",
    "prepare",
    "rank_share",
    "read_annotations",
    "read_card",
    "read_classes",
    "start_forkserver",
    "streamed",
    "train_batches",
    "train_draws",
    "videos_in_folder",
    "view_batches",
]
