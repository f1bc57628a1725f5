"""The image processor of a base: the numbers of transformers and of a closed form, bases that do not fit."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graft import tasks
from graft.base import load_processor
from graft.base.images import load_image_processor
from graft.errors import ConfigError

TASK = tasks.get("image_classification")
CONFIG = tasks.config_class("image_classification")()
RESAMPLERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}


def encoded(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> bytes:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture
def changed(tiny_vit: Path, tmp_path: Path) -> Any:
    """``changed(**settings)``: a copy of the tiny base with other settings of its processor (None: without the key)."""

    def change(**settings: Any) -> Path:
        folder = tmp_path / "base"
        shutil.copytree(tiny_vit, folder)
        path = folder / "preprocessor_config.json"
        merged = json.loads(path.read_text()) | settings
        path.write_text(json.dumps({name: value for name, value in merged.items() if value is not None}))
        return folder

    return change


def batch_of(folder: Path, content: bytes) -> np.ndarray:
    rows = TASK.encode(CONFIG, [{"image": content}], load_image_processor(folder), 0)
    return TASK.collate(rows, 0, {"labels": []})["pixel_values"].numpy()


@pytest.mark.parametrize("size", [(8, 8), (20, 13), (5, 40)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_base_gets_what_transformers_own_processor_makes(tiny_vit: Path, size: tuple[int, int], mode: str) -> None:
    from transformers import ViTImageProcessorPil

    content = encoded(size, mode)
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    expected = ViTImageProcessorPil.from_pretrained(tiny_vit)(picture, return_tensors="np")["pixel_values"]
    found = batch_of(tiny_vit, content)
    assert (found.shape, found.dtype) == ((1, 3, 8, 8), np.float32)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("resample", RESAMPLERS)
def test_pixels_follow_pillow_and_the_formula(changed: Any, resample: int) -> None:
    content = encoded((21, 17))
    resized = Image.open(io.BytesIO(content)).resize((8, 8), resample=Image.Resampling(resample))
    expected = (np.asarray(resized, np.float64) / 255 - [0.5, 0.4, 0.3]) / [0.5, 0.25, 0.2]
    found = batch_of(changed(resample=resample), content)
    np.testing.assert_allclose(found[0], np.moveaxis(expected, -1, 0), atol=1e-6)


def test_a_processor_may_leave_out_scale_and_normal_form(changed: Any) -> None:
    content = encoded((8, 8))
    raw = np.moveaxis(np.asarray(Image.open(io.BytesIO(content))), -1, 0)
    found = batch_of(changed(do_normalize=False, do_rescale=False), content)
    assert np.array_equal(found[0], raw.astype(np.float32))


def test_a_crop_is_taken_after_the_resize(changed: Any) -> None:
    folder = changed(image_processor_type="CLIPImageProcessor", size={"shortest_edge": 10}, crop_size=8)
    content = encoded((20, 10))
    shown = Image.open(io.BytesIO(content)).resize((20, 10), Image.Resampling.BILINEAR).crop((6, 1, 14, 9))
    pixels = load_image_processor(folder).pixels(content)
    assert np.array_equal(np.moveaxis(pixels, 0, -1), np.asarray(shown))


def test_a_grey_base_gets_one_channel(tmp_path: Path, make_vit: Any) -> None:
    make_vit(tmp_path / "grey", num_channels=1)
    path = tmp_path / "grey" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    content = encoded((8, 8), "L")
    grey = np.asarray(Image.open(io.BytesIO(content)), np.float64)
    found = batch_of(tmp_path / "grey", content)
    assert found.shape == (1, 1, 8, 8)
    np.testing.assert_allclose(found[0, 0], (grey / 255 - 0.5) / 0.25, atol=1e-6)


def test_the_picture_comes_back_from_the_base_s_numbers(tiny_vit: Path) -> None:
    processor, content = load_image_processor(tiny_vit), encoded((8, 8))
    again = processor.picture(batch_of(tiny_vit, content)[0])
    assert np.array_equal(again, np.asarray(Image.open(io.BytesIO(content))))


def test_a_picture_costs_its_patches_and_the_class_token(tiny_vit: Path) -> None:
    assert load_processor("image", tiny_vit).patches == (8 // 4) ** 2 + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"height": 16, "width": 16}}, r"gives pictures of 16 x 16, the base reads 8 x 8; correct its size"),
        ({"do_resize": False}, "gives pictures of sizes that depend on the picture's, the base reads 8 x 8"),
        ({"image_mean": [0.1, 0.2]}, "image_mean has 2 numbers for 3 channels"),
        ({"image_processor_type": "NoSuchProcessor"}, "the image processor in base cannot be loaded"),
    ],
)
def test_a_processor_that_does_not_fit_is_refused(changed: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_image_processor(changed(**settings))


def test_a_base_without_a_processor_or_of_strange_colours_is_refused(changed: Any, tiny_base: Path) -> None:
    with pytest.raises(ConfigError, match=r"no preprocessor_config\.json in base"):
        load_image_processor(tiny_base)
    folder = changed()
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | {"num_channels": 5}))
    with pytest.raises(ConfigError, match="reads pictures of 5 channels"):
        load_image_processor(folder)


def test_the_base_is_pinned_with_its_processor_and_without_a_tokenizer(tiny_vit: Path) -> None:
    from graft.base.contents import fingerprint
    from graft.identity import digest_json

    found = fingerprint(tiny_vit, "./vit")
    assert set(found.files) == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert (found.tokenizer, found.chat_template, found.positions) == (digest_json({}), None, None)
