"""Training of the neural models: loop, checkpoints and logs."""

from glass.training.checkpoint import load_checkpoint, save_checkpoint
from glass.training.log import MetricLog
from glass.training.loop import TrainResult, train
from glass.training.validation import Validator

__all__ = [
    "MetricLog",
    "TrainResult",
    "Validator",
    "load_checkpoint",
    "save_checkpoint",
    "train",
]
