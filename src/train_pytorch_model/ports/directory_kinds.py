"""The kinds of directories that modules write, and the files that each may contain."""

from __future__ import annotations

from dataclasses import dataclass

from train_pytorch_model.models.weight_records import RECORD_FILE
from train_pytorch_model.ports.small_files import META_FILE


@dataclass(frozen=True)
class Kind:
    """A kind of directory. An output may replace an earlier output of the same kind, and nothing else."""

    type_name: str
    """The type in `_meta.yaml`."""
    files: frozenset[str]
    """The names of all files that it may contain."""
    folders: frozenset[str] = frozenset()
    """The names of all folders that it may contain."""
    has: str = ""
    """A file that distinguishes it from another kind of the same type."""
    lacks: str = ""
    """A file that only the other kind of the same type has."""

    is_large: bool = False
    """Whether it is as large as the data, so that it should be written only once."""

    @property
    def is_model(self) -> bool:
        """Whether it is a trained or untrained model."""
        return self.type_name == "ModelDirectory"


_LABEL_MAP = "index_to_label.csv"
TRAINED = Kind(
    "ModelDirectory",
    frozenset(
        [
            *(META_FILE, "model_spec.yaml", "model", _LABEL_MAP, "_schema.json", "_samples.json"),
            *("score.py", "served_model.py", "conda_env.yaml", "conda.yaml", "local_dependencies.zip", "model.onnx"),
            *("served_batches.py", "served_images.py", "served_json.py", "served_networks.py", "served_requests.py"),
            *("image_formats.py", "image_geometry.py", "image_geometry.json", "training_parameters.json"),
            *("model_task.py", "task.json", "heat_maps.py", "heat_pictures.py", "served_explanations.py"),
        ]
    ),
    frozenset(("mlflow_model",)),
    has=_LABEL_MAP,
)
UNTRAINED = Kind("ModelDirectory", frozenset((META_FILE, "model_spec.yaml", "model", RECORD_FILE)), lacks=_LABEL_MAP)
TRANSFORMATION = Kind("TransformationDirectory", frozenset((META_FILE, "_transforms.json")))
TABLE = Kind(
    "DataFrameDirectory",
    frozenset((META_FILE, "_data.parquet", "_data.visualization", "_samples.json", "_data.csv")),
    frozenset(("schema",)),
)
EVALUATION = Kind(
    "AnyDirectory",
    frozenset(
        [
            *(META_FILE, "metrics.json", "per_class.csv"),
            *("confusion_matrix.csv", "confusion_matrix.png", "reliability.png"),
            *("per_label.csv", "label_confusion.png", "precision_recall.csv", "precision_recall.png"),
        ]
    ),
    has="metrics.json",
)
EXPLANATIONS_FILE = "explanations.csv"
HEAT_MAPS = "heat_maps"
EXPLANATIONS = Kind(
    "AnyDirectory", frozenset((META_FILE, EXPLANATIONS_FILE)), frozenset((HEAT_MAPS,)), has=EXPLANATIONS_FILE
)
CROSS_VALIDATION = Kind(
    "AnyDirectory",
    frozenset((META_FILE, "cross_validation.json", "cross_validation.csv", "folds.csv")),
    has="cross_validation.json",
)
IMAGES = Kind(
    "ImageDirectory",
    frozenset((META_FILE, "images.lst", "_schema.json", "_samples.json")),
    frozenset(("image",)),
    is_large=True,
)
