"""Tells by a file's name whether it is an image, could be one, or is metadata that is no part of a dataset."""

from __future__ import annotations

from pathlib import PurePosixPath

from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.text.name_forms import bytes_if_not_utf8

# The first line has designer-core's endings. Files with the endings of the last lines are images, too, but no decoder
# reads them: they are reported as images that cannot be read.
IMAGE_ENDINGS = frozenset(
    [
        *(".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"),
        *(".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".mpo", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        *(".apng", ".pbm", ".pnm", ".dib", ".gif", ".avif", ".avifs", ".ico"),
        *(".heic", ".heif", ".hif", ".jxl", ".svg", ".psd", ".xcf", ".tga", ".dds", ".exr", ".pcx", ".eps", ".dcm"),
        *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2", ".raw"),
    ]
)
# Texts, documents, code, weights, sounds and fonts, which people keep beside images.
_OTHER_ENDINGS = frozenset(
    [
        *(".txt", ".md", ".rst", ".log", ".pdf", ".doc", ".docx", ".rtf", ".html", ".htm", ".css", ".js", ".xml"),
        *(".yaml", ".yml", ".toml", ".cfg", ".ini", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".xls", ".xlsx"),
        *(".pt", ".pth", ".ckpt", ".safetensors", ".onnx", ".pb", ".tflite", ".wav", ".mp3", ".ttf", ".otf"),
        *(".c", ".cpp", ".h", ".java", ".ts", ".exe", ".dll", ".so"),
        *(".py", ".pyc", ".ipynb", ".sh", ".bat", ".r", ".m", ".url", ".lnk", ".md5", ".sha1", ".sha256"),
    ]
)
_METADATA = frozenset(
    [
        *("__macosx", "@eadir", "#recycle", "@recycle", "lost+found", "$recycle.bin", "system volume information"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__pycache__"),
    ]
)
# Hidden folders of tools and operating systems; images in them are copies, or no images of the dataset.
_HIDDEN_FOLDERS = frozenset(
    [
        *(".git", ".svn", ".hg", ".dvc", ".ipynb_checkpoints", ".cache", ".idea", ".vscode", ".venv", ".thumbnails"),
        *(".Trashes", ".Trash", ".Spotlight-V100", ".fseventsd", ".TemporaryItems", ".DocumentRevisions-V100"),
        *(".AppleDouble", ".snapshot", ".snapshots", ".picasaoriginals", ".amlignore"),
    ]
)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name, without its path, is hidden or metadata of an operating system."""
    return name.startswith(".") or name.casefold() in _METADATA


def is_known_metadata(name: str) -> bool:
    """Whether nobody expects a hidden file or folder of this name to be read."""
    is_copy = name.startswith(("._", ".Trash-", ".~")) or name.casefold() in _METADATA or name in _HIDDEN_FOLDERS
    return is_copy or not is_hidden(name)


def is_image_name(name: str) -> bool:
    """Whether a name ends as those of images do."""
    return _ending(name) in IMAGE_ENDINGS


def could_be_image(name: str) -> bool:
    """Whether only the content tells if a file is an image: its ending is neither that of texts nor of images."""
    return _ending(name) not in _OTHER_ENDINGS and not is_image_name(name)


def check_encoding(name: str, where: str) -> None:
    """Check that the name of an image or of a file of labels is UTF-8, as image lists and labels must be.

    Raises:
        InvalidDatasetError: if it is not; the message shows its bytes.
    """
    found = bytes_if_not_utf8(name)
    if found is not None:
        raise InvalidDatasetError(
            where,
            f"the name {found!r} is not UTF-8",
            "Rename the file or its folder. convmv does so for many names of another encoding.",
        )


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
