"""Hypothesis strategies of recipes: whole inputs with up to three changes, each where its file can have it."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.faulty_files import ERRORS, OPTIONAL_CALLS
from tests.fuzzing.bases import DATASETS, PIPELINES
from tests.fuzzing.mutations import WEIGHTS
from tests.fuzzing.recipes import SEQUENCE, Mutation, Recipe

_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "TGA", "ICO", "PCX", "DIB", "SGI", "JPEG2000", "AVIF")
_MODES = ("RGB", "L", "LA", "P", "RGBA", "CMYK", "I;16", "1", "F", "I", "YCbCr", "HSV", "PA", "LAB")
_SIDES = (32, 32, 32, 1, 2, 31, 33, 64, 256)
_HUGE = (0, 1, 32, 65535, 20000, 2**31 - 1, 2**31, 2**32 - 1)

_NUMBERS = (0, 1, -1, 2, 255, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, -(10**30))
_FLOATS = (0.0, -0.0, 0.5, 1e-300, 1e300, -1e300, float("nan"), float("inf"), float("-inf"))
_NAMES = (
    *("", " ", ".", "..", "../canary.png", "../../canary.png", "image/../../canary.png", "/etc/passwd"),
    *("ROOT/canary.png"),
    *("image", "image/", "image//0_0.png", "./image/0_0.png", "image\\0_0.png", "..\\canary.png", "C:\\x.png"),
    *("~/x.png"),
    *("\0", "a\0b.png", "a\nb.png", "\ud800.png", "ü.png", "x" * 300, "x/" * 3000, "-", "con", "image/0_0.png"),
    *("_meta.yaml"),
    *("images.lst", "image/1_1.png", "image/none.png", "http://127.0.0.1:9/x.png", "file:///etc/passwd", "*", "%s"),
    *("{0}"),
    *("<b>x</b>", "$HOME", "nan", "NULL", "None", "cat", "dog", "0", "-1", "image_info", "category", "id", "image"),
    *("str"),
    *("bytes", "int64", "image/png", "COCO_classification", "COCO_object_detection", "ImageDirectory"),
    *("ModelDirectory"),
    *("torchvision.models", "resnet18", "DenseNet", "os", "system", "subprocess", "Popen", "builtins", "eval"),
    *("pytorch"),
    *("torchvision.datasets", "ImageFolder", "torchvision.ops", "MLP", "torchvision.io", "read_file", "get_model"),
    *("timm"),
    *(
        "torch.nn",
        "Linear",
        "timm.models",
        "create_model",
        "train_pytorch_model.cli.main",
        "main",
        "state_dict",
        "pickle",
    ),
)
_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(_NUMBERS),
    st.sampled_from(_FLOATS),
    st.sampled_from(_NAMES),
    st.integers(-3, 3),
    st.text(max_size=4),
)
JSON = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=3),
    max_leaves=6,
)
_STEPS = st.lists(st.integers(0, 7), max_size=6).map(tuple)
_ACTIONS = st.sampled_from(("set", "set", "set", "delete", "repeat", "rename"))
_SHARES = st.sampled_from((0.0, 0.01, 0.1, 0.5, 0.9, 0.99)) | st.floats(0, 1).map(lambda share: round(share, 3))

_SNIPPETS = st.sampled_from(
    [
        *(b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\r\n", b"\n", b"\n\n", b"\t", b"\t- x", b" ", b"\x1b[2J"),
        *(b"\x85"),
        *(b"[", b"]", b"{", b"}", b'"', b"'", b",", b":", b"null", b"-1", b"NaN", b"Infinity", b"1e999", b"0x1"),
        *(b"0123"),
        *(b"\\", b"\\ud800", b"\xed\xa0\x80", "\u2028".encode(), b"%", b"&x", b"*x", b"&x [*x]", b"<<: *x", b"? "),
        *(b"---\n"),
        *(b"!!python/object/apply:os.system ['touch payload']", b"!!python/name:os.system", b"!!binary x", b"!x "),
        *(b"!!set"),
        *(b"%YAML 1.1\n---\n", b"type: ImageDirectory\n", b'{"a": 1, "a": 2}', b"9" * 5000),
        *(b"image_list: images.lst\n"),
    ]
)
_TIMES = st.sampled_from((1, 1, 1, 2, 1000, 100_000))
_WHOLES = st.sampled_from(
    [
        *(b"", b"\n", b"\0", b"\0\0\0\0", b"null", b"true", b"5", b'"x"', b"[]", b"{}", b"[[]]", b"[{}]"),
        *(b"{}\n{}\n", b"x: y"),
        *(b"- a\n- b\n", b"\xff\xfe\0\0", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x80\x02.", b"\x80\x04N."),
        *(b"GIF89a"),
        *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"BM", b"P6 999999 999999 255\n", b"P6 1 1 255\nabc"),
        *(b"P1 1 1 1", b"II*\0"),
        *(b"a: &a [x, x]\nb: &b [*a, *a]\n", b"%PDF-1.4\n", b"#!/bin/sh\ntouch payload\n", b"<svg/>"),
        *(b"%!PS-Adobe-3.0 EPSF"),
        *(b",label\n0,cat\n0,dog\n", b",label\n-1,x\n", b",label\n99999999999,x\n", b",label\nx,y\n", b"label\n"),
        *(b",label\n"),
        *(b",label\n0\n", b"index,label\n0,cat\n1,cat\n2,cat\n", b',label\n0,"cat', b",label\n0,cat\n1,\n2,nan\n"),
        *(b",x\n0,1\n"),
        *(b"columnAttributes", b'{"columnAttributes": []}', b'{"columnAttributes": [{}]}', b'{"columnAttributes": {}}'),
    ]
)


def _mutation(kind: str, file: st.SearchStrategy[str] | str, *arguments: st.SearchStrategy[Any]) -> Any:
    files = st.just(file) if isinstance(file, str) else file
    return st.builds(Mutation, st.just(kind), files, st.tuples(*arguments))


def _any_file(file: st.SearchStrategy[str] | str) -> Any:
    """What may be done to a file whatever it holds."""
    kinds = ("remove", "folder", "link inside", "link out", "link to itself", "dangling link", "pipe", "device")
    return st.one_of(
        _mutation("truncate", file, _SHARES),
        _mutation("flip", file, _SHARES, st.sampled_from((1, 2, 128, 255)), st.sampled_from((1, 1, 4, 100))),
        _mutation("insert", file, _SHARES, _SNIPPETS, _TIMES),
        _mutation("content", file, _WHOLES, _TIMES),
        _mutation("content", file, st.binary(max_size=20)),
        _mutation("mode", file, st.sampled_from((0, 0o200, 0o444))),
        _mutation("sparse", file, st.sampled_from((2**20, 2**28, 2**32 + 1, 2**40))),
        *[_mutation(kind, file) for kind in kinds],
        _mutation("copy in", file, st.sampled_from(("canary.png", "train/_schema.json", "model/model", "train/*0"))),
        _mutation(
            "rename",
            file,
            st.sampled_from((".hidden", "x", "x.png", "x.JPG", "x.gif", "_meta.yaml", "ü\n.png", "\udcff.png")),
        ),
    )


def _image(folder: str) -> Any:
    image = st.integers(0, 11).map(lambda number: f"{folder}/*{number}")
    side = st.sampled_from(_SIDES)
    frames = st.sampled_from((1, 1, 3))
    return st.one_of(
        _any_file(image),
        _mutation("image", image, st.sampled_from(_FORMATS), st.sampled_from(_MODES), side, side, frames),
        _mutation("claimed size", image, st.sampled_from(_HUGE), st.sampled_from(_HUGE)),
        _mutation(
            "images",
            folder,
            st.sampled_from(_FORMATS),
            st.sampled_from(_MODES),
            st.sampled_from((1, 2, 8, 32, 48)),
            st.sampled_from((1, 2, 8, 32, 48)),
        ),
    )


_MEMBERS = ("cat/0.png", "cat/new.png", "../x.png", "/x.png", "cat", "caf\u00e9/a.png", "cafe\u0301/a.png", "CAT/0.png")
_TARGETS = ("", "", "0.png", "1.png", "../dog/0.png", "..", "../../canary.png", "/etc/passwd", "new.png", "nowhere")
_TWINS = (
    *(("caf\u00e9/a.png", "cafe\u0301/a.png"), ("cat/\u00e9.png", "cat/e\u0301.png"), ("\u0441at/a.png", "cat/a.png")),
    *(("Cat/a.png", "cat/a.png"), ("cat /a.png", "cat/a.png"), ("cat/a.png", "cat/A.PNG")),
)


def _alike(folder: str) -> Any:
    """What may be done to an archive, and names that look alike."""
    archive = f"{folder}/*0"
    return st.one_of(
        _mutation("member", archive, st.sampled_from(_MEMBERS), st.sampled_from(_TARGETS), st.sampled_from((1, 1, 2))),
        _mutation("append", archive, st.sampled_from((archive, "canary.png"))),
        _mutation("twins", folder, st.sampled_from(_TWINS)),
    )


def _list(folder: str) -> Any:
    file = f"{folder}/images.lst"
    number = st.integers(-1, 11)
    info = st.dictionaries(
        st.sampled_from(("file_name", "base_file_name", "coco_url", "width", "height", "id")),
        st.sampled_from(_NAMES) | JSON,
        max_size=2,
    )
    return st.one_of(
        _mutation("line", file, number, _STEPS, _ACTIONS, JSON),
        _mutation("line", file, number, _STEPS, _ACTIONS, JSON),
        _mutation("image info", file, number, info),
        _mutation("line text", file, number, st.sampled_from(("delete", "repeat"))),
        _mutation(
            "line text", file, number, st.just("set"), st.sampled_from(("", " ", "{}", "[]", "5", "null", "x", "{"))
        ),
        _mutation("replace", file, st.sampled_from((b"\n", b'"', b"image", b"cat", b"id")), _SNIPPETS),
        _any_file(file),
    )


def _schema(folder: str) -> Any:
    file = f"{folder}/_schema.json"
    number = st.sampled_from((0, 1, 2, 3, 7, -1, 2**31, 2**63, 10**30, True, None, "0", 0.0, 1.5))
    entry = (
        st.tuples(number, st.sampled_from(("cat", "dog", "owl", "Others", "", 5, None, "\ud800", "../x", "nan"))) | JSON
    )
    cats = [(number, name) for number, name in enumerate(("cat", "dog", "owl"))]
    return st.one_of(
        _mutation("json", file, _STEPS, _ACTIONS, JSON),
        _mutation("json", file, st.tuples(st.just(0), st.integers(0, 2), st.integers(0, 5)), _ACTIONS, JSON),
        _mutation("json", file, st.tuples(*[st.integers(0, 2)] * 5), _ACTIONS, JSON),
        _mutation("categories", file, st.lists(entry, max_size=4)),
        _mutation("categories", file, st.lists(entry, max_size=2).map(lambda more: [*cats, *more])),
        _any_file(file),
    )


def _yaml(file: str) -> Any:
    return st.one_of(
        _mutation("yaml", file, _STEPS, _ACTIONS, JSON),
        _mutation("yaml", file, st.tuples(st.integers(0, 9)), _ACTIONS, _LEAVES),
        _any_file(file),
    )


_FOREIGN_TEXTS = ("x.json", "labels.csv", "x.jsonl", "a.txt")
_FOREIGN_IMAGES = ("extra.png", ".x/a.png", "__MACOSX/a.png", "new/a.png", "new/b/c.png", "x.json", "labels.csv")


def _folder(name: str) -> Any:
    """What may be done to a folder, or beside its files."""
    inside = st.sampled_from(
        ("image", ".hidden", "__MACOSX", ".ipynb_checkpoints", "cat", "new", "_meta.yaml", "image/x")
    )
    path = inside.map(lambda child: f"{name}/{child}")
    kinds = ("remove", "file", "folder", "link to folder", "link to itself", "link up", "dangling link", "pipe")
    return st.one_of(
        *[_mutation(kind, st.just(name) | path) for kind in kinds],
        _mutation("mode", st.just(name) | path, st.sampled_from((0, 0o444, 0o555, 0o200))),
        _mutation(
            "copy in",
            st.sampled_from(_FOREIGN_IMAGES).map(lambda child: f"{name}/{child}"),
            st.sampled_from(("canary.png", "train/_schema.json")),
        ),
        _mutation("content", st.sampled_from(_FOREIGN_TEXTS).map(lambda child: f"{name}/{child}"), _WHOLES),
    )


def _dataset(folder: str) -> Any:
    return st.one_of(
        _image(folder),
        _list(folder),
        _schema(folder),
        _yaml(f"{folder}/_meta.yaml"),
        _folder(folder),
        _alike(folder),
        _any_file(f"{folder}/_samples.json"),
    )


def _model() -> Any:
    file = "model/model"
    names = st.lists(st.sampled_from(("model/data.pkl", "data.pkl", "version", "archive/data/0", "../x")), max_size=3)
    params = st.tuples(st.just(2), st.integers(0, 4), st.integers(0, 5))
    weights = st.one_of(
        _mutation("weights", file, st.sampled_from(tuple(WEIGHTS)), st.integers(0, 40)),
        _mutation("weights", file, st.sampled_from(tuple(WEIGHTS)), st.integers(0, 40)),
        _mutation("payload", file, st.booleans(), st.booleans()),
        _mutation("legacy weights", file),
        _mutation(
            "wrapped weights",
            file,
            st.sampled_from(("state_dict", "model_state_dict", "model", "net", "state_dict_ema")),
            st.sampled_from(("", "module.", "model.", "_orig_mod.")),
        ),
        _mutation("saved object", file, st.integers(0, 7)),
        _mutation("zip", file, names.map(tuple), st.booleans()),
        _any_file(file),
    )
    spec = st.one_of(
        _yaml("model/model_spec.yaml"),
        _mutation("yaml", "model/model_spec.yaml", params, _ACTIONS, JSON),
        _mutation("yaml", "model/model_spec.yaml", st.tuples(*[st.integers(0, 5)] * 3), st.just("set"), _LEAVES),
    )
    return st.one_of(weights, spec, _yaml("model/_meta.yaml"), _folder("model"), _any_file("model/index_to_label.csv"))


def _transformation() -> Any:
    file = "transformation/_transforms.json"
    return st.one_of(
        _mutation("json", file, _STEPS, _ACTIONS, JSON),
        _any_file(file),
        _yaml("transformation/_meta.yaml"),
        _folder("transformation"),
    )


def _scored() -> Any:
    file = st.sampled_from(("_data.parquet", "_schema.json", "_meta.yaml")).map(lambda name: f"scored/{name}")
    return st.one_of(
        _any_file(file), _mutation("json", "scored/_schema.json", _STEPS, _ACTIONS, JSON), _folder("scored")
    )


_EXPRESSIONS = (
    *(
        "${{parent.inputs.images}}",
        "${{parent.inputs.none}}",
        "${{parent.jobs.one.outputs.copy}}",
        "${{inputs.images}}",
    ),
    *(
        "${{parent.jobs.two.outputs.names}}",
        "${{parent.outputs.names}}",
        "${{}}",
        "${{",
        "${{parent}}",
        "$[[x]]",
        "$[[",
    ),
    *("azureml:x:1", "azureml://x", "./first.yml", "./none.yml", "file:./first.yml", "command", "pipeline", "uri_file"),
    *("uri_folder", "boolean", "integer", "sleep 60", "exit 3", "true", "kill -9 $$", "echo x > ${{outputs.names}}"),
)


def _pipeline() -> Any:
    """What may be done to a pipeline and its components."""
    names = ("pipeline.yml", "pipeline.yml", "first.yml", "second.yml", "convert-to-image-directory.yaml")
    file = st.sampled_from(names).map(lambda name: f"pipeline/{name}")
    value = st.sampled_from(_EXPRESSIONS) | JSON
    deeper = st.tuples(*[st.integers(0, 4)] * 3) | st.tuples(*[st.integers(0, 4)] * 4)
    return st.one_of(
        _mutation("yaml", file, _STEPS, _ACTIONS, value),
        _mutation("yaml", file, st.tuples(st.integers(0, 9)), _ACTIONS, value),
        _mutation("yaml", file, deeper, _ACTIONS, value),
        _mutation("yaml", file, deeper, _ACTIONS, value),
        _any_file(file),
        _any_file("pipeline/.amlignore"),
        _folder("pipeline/images"),
        _mutation("content", st.sampled_from(("pipeline/.amlignore", "pipeline/.gitignore")), _WHOLES),
    )


# Parameters.

_INTEGERS = (
    "1",
    "1",
    "1",
    "2",
    "3",
    "0",
    "-1",
    "7",
    "13",
    "100000",
    str(2**31),
    str(2**63),
    str(10**30),
    "x",
    "1.5",
    " 1",
    "",
)
_DECIMALS = ("0.001", "0.1", "10", "1e-300", "5e-324", "0", "-1", "nan", "inf", "-inf", "1e38", "3.5e38", "1e400", "x")
_SEEDS = ("0", "1", "-1", str(2**31), str(2**32), str(2**63), str(2**64), str(10**30), "none", "x", "9" * 5000)
_OUTPUTS = (
    *("{root}/written", "{root}/new/and/deeper", "{root}", "{root}/train", "{root}/train/new", "{root}/model"),
    *("{root}/.."),
    *("{root}/outputs", "{root}/outputs/new", "{root}/outputs/report", "{root}/outputs/checkpoints"),
    *("{root}/canary.png"),
    *("{root}/canary.png/new", "{root}/" + "x" * 300, "relative", "{root}/written/", "{root}/ü\n", "/dev/null/x"),
    *("/proc/x"),
    *("{root}/link", "{root}/outside", "{root}/\udc80"),
)
_REPORTS = (
    *(
        "{root}/outputs",
        "{root}/reports",
        "{root}/written",
        "{root}/written/reports",
        "{root}/train",
        "{root}/train/new",
    ),
    *("{root}/canary.png", "/proc/x", "{root}/" + "y" * 300, "relative", "{root}/outside"),
)
_INPUTS = (
    "{root}/none",
    "{root}/canary.png",
    "{root}/outside",
    "{root}/tmp",
    "/dev/null",
    "/proc/self/fd/0",
    "{root}/\udc80",
    ".",
)
_SWITCHES = {
    "image-store": ("auto", "device", "memory", "disk", "none", "x"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
    "cuda-graph": ("auto", "on", "off"),
    "compile": ("auto", "on", "off"),
    "scale-learning-rate": ("true", "false", "on", "off"),
    "sync-batch-norm": ("false", "true"),
    "microbatch-size": ("off", "auto", "1", "2", "100", "0", "-1", "x"),
    "resume": ("auto", "never", "require"),
    "report": ("off", "off", "off", "off", "basic", "full"),
    "log-format": ("text", "json"),
    "skip-unreadable-images": ("true", "true", "false", "x"),
    "include-samples": ("true", "false"),
    "quiet": ("",),
    "epochs": ("1", "2", "0", "-1", "x", "1e3", ""),
    "batch-size": _INTEGERS,
    "patience": _INTEGERS,
    "warmup-epochs": _INTEGERS,
    "print-frequency": _INTEGERS,
    "learning-rate": _DECIMALS,
    "checkpoint-minutes": _DECIMALS,
    "random-seed": _SEEDS,
    "trained-model-path": _OUTPUTS,
    "outputs-path": _REPORTS,
    "checkpoint-path": _REPORTS,
    "train-data-path": _INPUTS,
    "untrained-model-path": _INPUTS,
    "unknown": ("",),
}
_COMMON = ("log-format", "quiet", "outputs-path")
_FLAGS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": _SWITCHES,
    "check": {name: values for name, values in _SWITCHES.items() if name != "report"},
    "score-image-model": {
        **{name: _SWITCHES[name] for name in (*_COMMON, "precision", "batch-size", "skip-unreadable-images")},
        "csv": ("true", "false"),
        "trained-model": _INPUTS,
        "dataset": _INPUTS,
        "scored-dataset": _OUTPUTS,
    },
    "convert-to-image-directory": {
        **{name: _SWITCHES[name] for name in _COMMON},
        "input-path": _INPUTS,
        "output-path": _OUTPUTS,
    },
    "split-image-directory": {
        **{name: _SWITCHES[name] for name in (*_COMMON, "random-seed")},
        "fraction": ("0.5", "0.9", "0", "1", "nan", "inf", "1e-9", "x"),
        "src-path": _INPUTS,
        "tgt-train-path": _OUTPUTS,
        "tgt-test-path": _OUTPUTS,
    },
    "apply-image-transformation": {
        **{name: _SWITCHES[name] for name in (*_COMMON, "random-seed")},
        "mode": ("For training", "For inference", "x"),
        "input-image-dir-path": _INPUTS,
        "output-path": _OUTPUTS,
    },
    "evaluate-model": {
        **{name: _SWITCHES[name] for name in _COMMON},
        "scored-dataset": (*_INPUTS, "{root}/scored/_data.parquet"),
        "evaluation-path": _OUTPUTS,
    },
    "initialize-model": {
        **{name: _SWITCHES[name] for name in (*_COMMON, "random-seed")},
        "model-name": ("shufflenet_v2_x0_5", "squeezenet1_1", "x", "../x"),
        "weights": (*_INPUTS, "{root}/model", "none", "x"),
        "untrained-model-path": _OUTPUTS,
    },
    "run-pipeline": {
        **{name: _SWITCHES[name] for name in _COMMON},
        "input": ("images={root}/outside", "images=", "images={root}/none", "x=1", "images", "=", "images=azureml:x:1"),
        "output-path": _OUTPUTS,
        "dry-run": ("",),
        "force": ("",),
    },
    SEQUENCE: {"allow-partial": ("true",), "skip-unreadable-images": ("true",), "class-level": ("1", "-1", "2")},
}
_BASES = {
    "train": {
        "model": ("tiny", "tiny", "tiny", "trained", "shufflenet", "squeezenet", "retired"),
        "train": DATASETS[:4],
        "valid": DATASETS[:4],
    },
    "score-image-model": {"model": ("trained", "trained", "trained", "squeezenet", "tiny"), "valid": DATASETS},
    "convert-to-image-directory": {"train": DATASETS},
    "split-image-directory": {"train": DATASETS},
    "apply-image-transformation": {"train": DATASETS},
    "evaluate-model": {},
    "initialize-model": {"model": ("shufflenet", "squeezenet", "retired")},
    "run-pipeline": {"pipeline": PIPELINES},
    SEQUENCE: {"train": DATASETS},
}
_BASES["check"] = _BASES["train"]
_PORTS = {
    "train": ("train", "valid", "model", "model"),
    "check": ("train", "valid", "model", "model"),
    "score-image-model": ("valid", "model", "model"),
    "convert-to-image-directory": ("train",),
    "split-image-directory": ("train",),
    "apply-image-transformation": ("train", "train", "transformation"),
    "evaluate-model": ("scored",),
    "initialize-model": ("model",),
    "run-pipeline": ("pipeline", "pipeline", "pipeline"),
    SEQUENCE: ("train",),
}
# Most often that which all of this is for.
_COMMANDS = ("train",) * 6 + ("check",) * 2 + ("score-image-model",) * 3 + tuple(_FLAGS)[3:]
_BY_PORT = {
    "train": _dataset("train"),
    "valid": _dataset("valid"),
    "model": _model(),
    "transformation": _transformation(),
    "scored": _scored(),
    "pipeline": _pipeline(),
}
# What may lie at an output, or near it, beforehand.
_EARLIER_FILES = (
    *("written/foreign.txt", "written/_meta.yaml", "written", "outputs/foreign.txt", "outputs", "outputs/report"),
    *("outputs/module_statistics", "outputs/checkpoints", "outputs/checkpoints/x", "outputs/metrics.jsonl"),
    "outputs/unreadable_images.json",
)
_EARLIER_FOLDERS = ("written", "written/image", "outputs", "outputs/report", "written/.unfinished-model")
_EARLIER = st.one_of(
    _mutation("content", st.sampled_from(_EARLIER_FILES), _WHOLES),
    _mutation("content", st.sampled_from(_EARLIER_FILES), _WHOLES),
    _mutation("folder", st.sampled_from(_EARLIER_FOLDERS)),
    _mutation("dangling link", st.sampled_from(("written", "outputs", "link"))),
    _mutation("link to folder", st.sampled_from(("written", "outputs", "link", "outputs/checkpoints"))),
)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """A recipe of any command."""
    command = draw(st.sampled_from(_COMMANDS))
    bases: dict[str, str] = {}
    for name, choices in _BASES[command].items():
        if draw(st.integers(0, 3)) == 3:
            bases[name] = draw(st.sampled_from(choices))
    flags: dict[str, str] = {}
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 1, 2)))):
        name = draw(st.sampled_from(tuple(_FLAGS[command])))
        flags[name] = draw(st.sampled_from(_FLAGS[command][name]))
    mutations = []
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 2, 3, 0)))):
        port = draw(st.sampled_from((*_PORTS[command] * 3, "output")))
        mutations.append(draw(_EARLIER if port == "output" else _BY_PORT[port]))
    if bases.get("pipeline") == "components":
        flags["dry-run"] = ""  # its steps import everything, which takes long
    failing_call: tuple[str, ...] = ()
    if draw(st.integers(0, 7)) == 7:
        folder = draw(st.sampled_from(("", "written", "outputs", "tmp", "train")))
        failing_call = (draw(st.sampled_from(OPTIONAL_CALLS)), draw(st.sampled_from(ERRORS)), folder)
    num_processes = 1
    if command == "train":
        if draw(st.integers(0, 15)) == 15:
            flags["export"] = draw(st.sampled_from(("onnx", "mlflow")))
        if draw(st.integers(0, 31)) == 31:
            num_processes = 2
    return Recipe(command, tuple(bases.items()), tuple(flags.items()), tuple(mutations), failing_call, num_processes)
