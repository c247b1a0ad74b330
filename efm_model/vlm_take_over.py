"""Vision-language models taken over: read from the hub or a directory once, written to a folder.

The folder holds the model's config.json, model.safetensors and its processor's files, and nothing
that could run; checkpoints link to it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from efm_model.vlm_config import BackboneRequest
from efm_model.vlm_files import ORIGIN
from efm_model.vlm_source import (
    BackboneError,
    check_directory,
    options_of,
    read_config,
    read_model,
    read_processor,
)

log = logging.getLogger(__name__)

_KEPT = (".json", ".txt", ".safetensors")
OFFLINE: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
"""Options under which nothing but a folder is read."""


def take_over(request: BackboneRequest, store: Path) -> Path:
    """The folder below `store` that holds the requested model, written on the first call.

    Only JSON, text and safetensors are kept. Raises BackboneError when the model cannot be used.
    """
    directory = check_directory(request.source)
    folder = store / _slug(request, directory)
    if taken_over(request, store) is not None:
        log.debug("backbone '%s' is in %s already", request.source, folder.name)
        return folder
    options = options_of(request)
    config = read_config(request.source, options)
    processor = read_processor(request.source, config, options)
    model, _ = read_model(request.source, request.dtype, options)
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store, prefix=".new-") as name:
        partial = Path(name) / "backbone"
        model.save_pretrained(partial, max_shard_size="1000GB")
        processor.save_pretrained(partial)
        _keep_what_is_safe(partial)
        _check_processor(request.source, processor, partial)
        origin = {
            "source": directory.name if directory else request.source,
            "revision": getattr(config, "_commit_hash", None) or request.revision,
            "dtype": request.dtype,
            "chat_template": getattr(processor, "chat_template", None),
        }
        (partial / ORIGIN).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / ORIGIN).is_file():  # else another process was faster
                raise
    return folder


def taken_over(request: BackboneRequest, store: Path) -> Path | None:
    """The folder that `take_over` would give without work, None before the first call."""
    folder = store / _slug(request, check_directory(request.source))
    return folder if (folder / ORIGIN).is_file() else None


def origin_of(folder: Path) -> dict[str, Any]:
    """Source, revision, dtype and chat template of a folder that `take_over` wrote."""
    facts: dict[str, Any] = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
    return facts


def _slug(request: BackboneRequest, directory: Path | None) -> str:
    """Folder name: readable, and another for another source, revision, dtype or content."""
    key = [request.source, request.revision, request.dtype]
    if directory is not None:
        files = sorted(p for p in directory.iterdir() if p.is_file())
        key += [f"{p.name}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in files]
    digest = hashlib.sha256("|".join(key).encode()).hexdigest()[:12]
    name = (directory or Path(request.source)).name
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', name)[:40]}-{digest}"


def _keep_what_is_safe(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        elif not path.name.endswith(_KEPT):
            path.unlink()


def _check_processor(source: str, processor: Any, folder: Path) -> None:
    """Refuse a tokenizer that needs files which are not kept."""
    again = load_processor(folder)
    text = "Push the red star 12 mm to the blue cube, then wait."
    if processor.tokenizer(text)["input_ids"] != again.tokenizer(text)["input_ids"]:
        raise BackboneError(
            f"backbone '{source}': its tokenizer changes when saved as tokenizer.json; convert it "
            "to a fast tokenizer first"
        )


def load_processor(folder: Path) -> Any:
    """The processor of a backbone folder; nothing but the folder is read."""
    return read_processor(str(folder), read_config(str(folder), OFFLINE), OFFLINE)
