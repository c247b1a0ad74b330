"""Tiny vision-language models with random weights, written to disk as a hub would hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForImageTextToText

from efm_model.vlm_config import BackboneRequest

SIDE = 28
_WORDS = "push the red blue cube star go to middle a assistant robot s task : . ' now left right"
_TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "max_position_embeddings": 512,
}  # fmt: skip
_CHAT = (
    "{{% for m in messages %}}{{% for c in m.content %}}{{% if c.type == 'image' %}}{image}"
    "{{% else %}}{{{{ c.text }}}}{{% endif %}}{{% endfor %}}{end}{{% endfor %}}"
    "{{% if add_generation_prompt %}} assistant :{{% endif %}}"
)


def _tokenizer(*control: str) -> Any:
    names = ["<pad>", "<bos>", "<eos>", "<unk>", *control, *_WORDS.split()]
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
        unk_token="<unk>", additional_special_tokens=list(control),
    )  # fmt: skip


def _paligemma() -> tuple[Any, Any]:
    """Bidirectional prefix, no chat template, fixed resolution."""
    images = transformers.SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    images.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(images, _tokenizer("<image>"))
    text = {k: v for k, v in _TEXT.items() if k != "max_position_embeddings"}
    config = transformers.PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 7,
            "projection_dim": 32,
        },
        text_config={"model_type": "gemma", "head_dim": 16, "vocab_size": len(processor.tokenizer),
                     **text},
        projection_dim=32, hidden_size=32, image_token_id=processor.image_token_id,
    )  # fmt: skip
    return config, processor


def _idefics3() -> tuple[Any, Any]:
    """What SmolVLM is: causal, splits pictures unless told not to, chat template."""
    images = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}
    )
    processor = transformers.Idefics3Processor(
        images, _tokenizer("<image>", "<fake_token_around_image>", "<global-img>"),
        image_seq_len=16, chat_template=_CHAT.format(image="<image>", end="<end_of_utterance>"),
    )  # fmt: skip
    config = transformers.Idefics3Config(
        image_token_id=processor.image_token_id, scale_factor=1, pad_token_id=0,
        vision_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
                       "num_attention_heads": 2, "image_size": SIDE, "patch_size": 7},
        text_config={"model_type": "llama", "vocab_size": len(processor.tokenizer), **_TEXT},
    )  # fmt: skip
    return config, processor


def _qwen(version: str) -> tuple[Any, Any]:
    """Three-axis rotary positions, as many tokens as the picture has patches."""
    from efm_model.vlm_source import _processor_class

    control = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    words = _tokenizer(*control)
    area = {"shortest_edge": 28 * 28 * 4, "longest_edge": 28 * 28 * 4}
    images = transformers.Qwen2VLImageProcessorPil(size=area)
    ids = {
        f"{name}_token_id": words.convert_tokens_to_ids(token)
        for name, token in zip(("image", "video", "vision_start", "vision_end"), control,
                               strict=True)
    }  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
    text = {**_TEXT, "vocab_size": len(words), "rope_parameters": rope}
    if version == "2":
        ids["tie_word_embeddings"] = True  # as the models of 2 B parameters
        seen = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
        config = transformers.Qwen2VLConfig(text_config=text, vision_config=seen, **ids)
    else:
        seen = {
            "depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 2,
            "intermediate_size": 64, "fullatt_block_indexes": [1], "window_size": 56,
        }  # fmt: skip
        config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=seen, **ids)
    chat = _CHAT.format(image="<|vision_start|><|image_pad|><|vision_end|>", end="")
    return config, _processor_class(config)(images, words, None, chat_template=chat)


_MAKERS = {
    "paligemma": _paligemma, "idefics3": _idefics3,
    "qwen2_vl": lambda: _qwen("2"), "qwen2_5_vl": lambda: _qwen("2.5"),
}  # fmt: skip
KINDS = tuple(_MAKERS)


def write_model(kind: str, folder: Path, seed: int = 0, spare: int = 0) -> BackboneRequest:
    """A model directory as `save_pretrained` leaves it, and the request for it.

    spare: ids that no token names, at the end of the vocabulary.
    """
    config, processor = _MAKERS[kind]()
    config.get_text_config().vocab_size += spare
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
        for name, weight in model.named_parameters():
            if weight.ndim > 1:  # large enough that a picture matters after two layers
                torch.nn.init.normal_(weight, std=1.0 if "embed" in name else 0.25)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return BackboneRequest(source=str(folder), local_files_only=True, instruction_tokens=8)
