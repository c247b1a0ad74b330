"""A `transformers` model from the hub or a directory: read safely, and refused in plain words.

Everything goes through the Auto classes: what an architecture is called is nowhere written here.
No code of a model repository is ever run, and only safetensors are read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from efm_model.vlm_config import BackboneRequest

log = logging.getLogger(__name__)
_T = TypeVar("_T")
_PINS = {"do_image_splitting": False, "do_pan_and_scan": False, "crop_to_patches": False}
"""Options of image processors that would make the number of tokens depend on the picture."""
_MAJOR = 5  # image processors can be told to use Pillow since this version of transformers
_FAILURES = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError,
             SafetensorError)  # fmt: skip


class BackboneError(ValueError):
    """A backbone that cannot be used; says which and what to do."""


def asking(source: str, step: Callable[[], _T]) -> _T:
    """`step()`, with whatever the libraries raise told as BackboneError about `source`."""
    try:
        return step()
    except BackboneError:
        raise
    except _FAILURES as error:
        raise BackboneError(f"backbone '{source}': {explain(error)}") from error


def explain(error: BaseException) -> str:
    """What went wrong in loading a model, and the remedy."""
    text = " ".join(" ".join(str(e) for e in _chain(error)).split())
    names = {type(e).__name__ for e in _chain(error)}
    low = text.lower()
    if "GatedRepoError" in names or "gated repo" in low:
        return (
            "its licence must be accepted first: do so on its hub page, then `hf auth login`, or "
            "give a directory with the model's files"
        )
    if "trust_remote_code" in low or "custom code" in low:
        return "it brings Python code of its own, which is never run; choose a model without"
    if isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError):
        return f"a package is missing: {text[:300]}"
    if isinstance(error, ModuleNotFoundError):
        return f"a package is missing ({text[:200]}); pip install it"
    if any(s in low for s in ("does not recognize this architecture", "unrecognized model",
                              "unrecognized configuration class")):  # fmt: skip
        return (
            "this version of transformers has no image-and-text model of its architecture; upgrade "
            f"transformers or choose another ({text[:200]})"
        )
    if names & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError"} or any(
        s in low for s in ("couldn't connect", "offline", "cannot find the requested files")
    ):
        return (
            "the hub cannot be reached and the files are not in the local cache; fetch it once on "
            "a connected machine, or give a directory with the model's files"
        )
    if "RepositoryNotFoundError" in names or "not a valid model identifier" in low:
        return "no such model on the hub (or it is private: `hf auth login`); check the name"
    return f"{text[:400]}; give a hub id or a directory that save_pretrained wrote"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def check_directory(source: str) -> Path | None:
    """The directory that `source` names, None for a hub id. Raises BackboneError."""
    path = Path(source).expanduser()
    if not path.exists():
        if source.startswith((".", "/", "~")):
            raise BackboneError(f"backbone '{source}': there is no such directory; check the path")
        return None
    if not (path / "config.json").is_file():
        raise BackboneError(f"backbone '{source}': config.json is missing; copy the directory anew")
    if not any(path.glob("*.safetensors")):
        pickled = any(path.glob("*.bin")) or any(path.glob("*.pt*"))
        why = "its weights are pickled, which is refused" if pickled else "no *.safetensors in it"
        raise BackboneError(f"backbone '{source}': {why}; save it with save_pretrained")
    return path


def options_of(request: BackboneRequest) -> dict[str, Any]:
    """Keyword arguments for `from_pretrained` of the Auto classes."""
    options: dict[str, Any] = {
        "trust_remote_code": False, "local_files_only": request.local_files_only,
    }  # fmt: skip
    if request.revision:
        options["revision"] = request.revision
    return options


def read_processor(source: str, config: Any, options: dict[str, Any]) -> Any:
    """The model's processor, its image processor on Pillow and without splitting of pictures.

    Pillow always, torchvision never: the two differ in the last digits of a resized picture, and
    the robot shall see what the trainer saw. Raises BackboneError when the model has none.
    """
    processor = asking(
        source,
        lambda: _processor_class(config).from_pretrained(source, backend="pil", **options),
    )
    for part in ("image_processor", "tokenizer", "image_token_id"):
        if getattr(processor, part, None) is None:
            raise BackboneError(
                f"backbone '{source}': its processor has no {part}; a model that takes pictures "
                "and text is needed, with its processor's files (processor_config.json or "
                "preprocessor_config.json, tokenizer.json)"
            )
    for name, value in _PINS.items():
        if getattr(processor.image_processor, name, value) != value:
            setattr(processor.image_processor, name, value)
    return processor


def _processor_class(config: Any) -> Any:
    """`AutoProcessor`, or the class behind it without its video part.

    Video processors need torchvision; pictures do not, and nothing here shows a model a video.
    """
    from transformers import AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    if type(config) not in PROCESSOR_MAPPING:
        return AutoProcessor
    full: Any = PROCESSOR_MAPPING[type(config)]
    wanted = list(full.get_attributes())
    kept = [name for name in wanted if "video" not in name]
    return AutoProcessor if kept == wanted else _without(full, wanted, kept)


def _without(full: Any, wanted: list[str], kept: list[str]) -> Any:
    """A subclass of processor class `full` that has only the parts `kept` of `wanted`."""

    def get_attributes(cls: Any) -> list[str]:
        return list(kept)

    def arguments(cls: Any, *args: Any, **options: Any) -> list[Any]:
        parts = super(variant, cls)._get_arguments_from_pretrained(*args, **options)
        found = dict(zip(kept, parts, strict=True))
        return [found.get(name) for name in wanted]

    variant: Any = type(
        full.__name__, (full,),
        {"get_attributes": classmethod(get_attributes),
         "_get_arguments_from_pretrained": classmethod(arguments)},
    )  # fmt: skip
    return variant


def read_config(source: str, options: dict[str, Any]) -> Any:
    """The model's configuration. Raises BackboneError."""
    import transformers
    from transformers import AutoConfig

    if int(transformers.__version__.split(".")[0]) < _MAJOR:
        raise BackboneError(
            f"backbone '{source}': transformers {transformers.__version__} is installed, {_MAJOR} "
            f"or newer is needed; pip install 'transformers>={_MAJOR}'"
        )
    return asking(source, lambda: AutoConfig.from_pretrained(source, **options))


def read_model(source: str, dtype: str, options: dict[str, Any]) -> tuple[Any, str]:
    """The model with its weights, and the attention implementation in use.

    Raises BackboneError, also when a weight is missing from the files: it would be random.
    """
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging as their_logging

    their_logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    def load(attention: str) -> Any:
        return AutoModelForImageTextToText.from_pretrained(
            source, dtype=dtype, attn_implementation=attention, use_safetensors=True,
            output_loading_info=True, **options,
        )  # fmt: skip

    def with_fallback() -> tuple[Any, str]:
        try:
            return load("sdpa"), "sdpa"
        except (ValueError, ImportError) as error:
            if "attention" not in str(error).lower():
                raise
            log.info("backbone '%s' has no fused attention (%s)", source, str(error)[:120])
            return load("eager"), "eager"

    (model, info), attention = asking(source, with_fallback)
    lacking = sorted(info.get("missing_keys", ()))
    if lacking:
        raise BackboneError(
            f"backbone '{source}': {len(lacking)} weights are missing from its files, "
            f"'{lacking[0]}' first; they would be random: copy the model anew"
        )
    return model, attention
