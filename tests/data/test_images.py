"""Resolution policies against the reference's sizes, and what is said of pictures that are not there."""

import json

import pytest
from conftest import GOLDEN
from PIL import Image

from gen2embed import UserError
from gen2embed.data.pictures import check_pictures, load_picture
from gen2embed.model import resolution
from gen2embed.model.resolution import Resolution
from gen2embed.shipped.resizing import size_after
from gen2embed.types import ImagePart

CASES = json.loads((GOLDEN / "resolutions.json").read_text())


def test_golden_sizes():
    assert len(CASES) == 280
    for case in CASES:
        resized = resolution.resize(Image.new("RGB", case["size"]), policy=case["policy"])
        assert list(resized.size) == case["resized"], case


def test_original_and_alias():
    picture = Image.effect_noise((301, 77), 50).convert("RGB")
    assert resolution.resize(picture, "original") is picture
    assert resolution.resize(picture, "random").tobytes() == resolution.resize(picture, "clamp").tobytes()
    assert Resolution("random") == Resolution("clamp")


def test_resampling_filters():
    picture = Image.effect_noise((1200, 500), 50).convert("RGB")
    size = size_after(1200, 500, "clamp")
    assert resolution.resize(picture, "clamp").tobytes() == picture.resize(size, Image.Resampling.LANCZOS).tobytes()
    assert (
        resolution.resize(picture, "clip").tobytes() == picture.resize((336, 336), Image.Resampling.BICUBIC).tobytes()
    )


def test_unknown_policy_lists_all():
    message = "resolution 'tiny' is unknown; choose one of low, clip, mid_low, mid, mid_high, high, clamp, original"
    for call in (lambda: resolution.resize(Image.new("RGB", (9, 9)), "tiny"), lambda: Resolution("tiny")):
        with pytest.raises(UserError) as error:
            call()
        assert str(error.value) == message


@pytest.mark.parametrize("name", ["min_pixels", "max_pixels"])
def test_no_pixels(name):
    with pytest.raises(UserError, match=rf"resolution\.{name} is at least 1, or null; got 0"):
        Resolution("original", **{name: 0})


def test_check_counts(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "fine.png")
    (tmp_path / "text.png").write_text("not a picture")
    pictures = [ImagePart(tmp_path / name) for name in ("fine.png", "a.png", "b.png", "c.png", "d.png")]
    with pytest.raises(
        UserError,
        match=r"4 of 5 pictures are missing: .*a.png, .*b.png, .*c.png, …; looked in .*/test_check_counts.*; set",
    ):
        check_pictures(pictures, [tmp_path])
    with pytest.raises(UserError, match=r"1 of 2 pictures are unreadable: .*text.png"):
        check_pictures([pictures[0], ImagePart(tmp_path / "text.png")])
    check_pictures(pictures[:1])


def test_load_names_the_file(tmp_path):
    cut = tmp_path / "cut.png"
    Image.effect_noise((99, 99), 50).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    check_pictures([ImagePart(cut)])  # its header is whole
    with pytest.raises(UserError, match=r"cut\.png is not a picture that can be read"):
        load_picture(ImagePart(cut))
    assert load_picture(ImagePart(Image.new("L", (3, 3)))).mode == "RGB"


def test_a_header_tells_what_cannot_be_made_rgb(tmp_path):
    Image.new("I", (9, 9)).save(tmp_path / "depth.tiff")
    with pytest.raises(UserError, match=r"1 of 1 pictures are with greys of 32 bits.*depth\.tiff; save"):
        check_pictures([ImagePart(tmp_path / "depth.tiff")])


def test_a_missing_picture_suggests_what_is_there(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "flower.png")
    with pytest.raises(UserError, match=r"1 of 1 pictures are missing: .*did you mean .*flower\.png"):
        check_pictures([ImagePart(tmp_path / "flowr.PNG")])
