"""What a study keeps of each deployed file's layers, so that its tables need not open the file: sizes and scales."""

import dataclasses
import pathlib

from resq_deploy.errors import InputError
from resq_deploy.quantization.scales import layer_scales
from resq_deploy.records import read_json, sha256_file, write_json

FILE = "layers.json"
SCHEMA = 1


def keep_layers(file: pathlib.Path) -> None:
    """Write `layers.json` beside an int8 file, unless it is there; without quantized layers there is nothing to keep.

    Raises:
        RunFolderError: if it cannot be read or written.
    """
    path, digest = file.with_name(FILE), sha256_file(file)
    known = read_json(path) if path.is_file() else {}
    if isinstance(known, dict) and known.get("file") == digest:
        return
    try:
        found = layer_scales(file)
    except InputError:
        return
    layers = {name: dataclasses.asdict(of) for name, of in found.items()}
    write_json(path, {"schema": SCHEMA, "file": digest, "layers": layers})
