"""Words to ids, pictures to arrays: the same in training and on the robot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efm_core.actions import ActionDim, ActionSpace
from efm_core.observation import Observation
from efm_model.backbone import build_backbone
from efm_model.config import CameraSpec, ModelConfig, SmallBackboneConfig
from efm_model.preprocess import (
    PADDING,
    UNKNOWN,
    Preprocessor,
    PreprocessorConfig,
    build_vocabulary,
    split_words,
)

CONFIG = PreprocessorConfig(
    cameras=(CameraSpec(name="left", width=20, height=16),),
    vocabulary=build_vocabulary(["push the red moon", "Red, moon!"]),
    max_tokens=4,
)
SPACE = ActionSpace(dims=(ActionDim(name="x", unit="m", low=-1.0, high=1.0),))


def test_vocabulary_is_sorted_and_free_of_repeats():
    assert CONFIG.vocabulary == ("moon", "push", "red", "the")


def test_words_are_cut_padded_and_unknown_ones_marked():
    preprocessor = Preprocessor(CONFIG)
    assert preprocessor.vocabulary_size == 6
    assert preprocessor.tokens("Push, RED banana").tolist() == [3, 4, UNKNOWN, PADDING]
    assert preprocessor.tokens("the the the the the").tolist() == [5, 5, 5, 5]
    assert preprocessor.unknown_words("push the banana") == ["banana"]
    with pytest.raises(ValueError, match="holds no word"):
        preprocessor.tokens(" ... ")


@given(st.text(alphabet="abc red moon.,!", min_size=0, max_size=40))
def test_any_text_gives_ids_in_range_or_a_clear_error(text):
    preprocessor = Preprocessor(CONFIG)
    if not split_words(text):
        with pytest.raises(ValueError, match="holds no word"):
            preprocessor.tokens(text)
        return
    tokens = preprocessor.tokens(text)
    assert tokens.shape == (4,)
    assert tokens.min() >= PADDING
    assert tokens.max() < preprocessor.vocabulary_size


def test_json_round_trip():
    preprocessor = Preprocessor(CONFIG)
    again = Preprocessor.from_json(preprocessor.to_json())
    assert again.config == preprocessor.config
    assert again.tokens("push moon").tolist() == preprocessor.tokens("push moon").tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": (0.1, 0.0, 0.1)}, "normalisation"),
        ({"mean": (float("nan"), 0.0, 0.1)}, "normalisation"),
        ({"vocabulary": ("a", "a")}, "repeats a word"),
    ],
)
def test_unusable_files_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PreprocessorConfig.model_validate(CONFIG.model_dump() | change)


@pytest.mark.parametrize(
    "image", [np.zeros((20, 16, 3), np.uint8), np.zeros((16, 20, 3), np.float32)]
)
def test_pictures_of_another_size_or_type_are_refused(image):
    observation = Observation({"left": image}, "push")
    with pytest.raises(ValueError, match=r"camera 'left': image is .* expects uint8"):
        Preprocessor(CONFIG).batch([observation])


def test_pictures_keep_their_bytes_in_the_order_of_the_configuration():
    cameras = (CameraSpec(name="b"), CameraSpec(name="a"))
    preprocessor = Preprocessor(PreprocessorConfig(cameras=cameras, vocabulary=("push",)))
    rng = np.random.default_rng(0)
    images = {n: rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for n in ("a", "b", "c")}
    batch, tokens = preprocessor.batch([Observation(images, "push")])
    assert batch.shape == (1, 2, 64, 64, 3)
    assert batch.dtype == np.uint8
    assert np.array_equal(batch[0, 0], images["b"])
    assert np.array_equal(batch[0, 1], images["a"])
    assert tokens[0, 0] == 2


def test_configurations_that_do_not_fit_are_refused():
    config = ModelConfig(action_space=SPACE, small=SmallBackboneConfig(vocabulary=9))
    with pytest.raises(ValueError, match="two files are of different checkpoints"):
        build_backbone(config, CONFIG)
    with pytest.raises(ValueError, match="backbone 'huge' is unknown"):
        build_backbone(config.model_copy(update={"backbone": "huge"}), CONFIG)
    with pytest.raises(ValueError, match="camera names repeat"):
        ModelConfig(action_space=SPACE, cameras=(CameraSpec(), CameraSpec()))
    with pytest.raises(ValueError, match="cameras differ in size"):
        ModelConfig(action_space=SPACE, cameras=(CameraSpec(), CameraSpec(name="b", width=32)))
