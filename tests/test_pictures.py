"""Pictures of rows: every place they may come from, and everything that is refused at its file:line."""

import base64
import io
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graft.cleaning import Cleaning
from graft.data import DataConfig, Problem, Record, data_digest, parts, read_part, typed
from graft.errors import DataError
from graft.pictures import FORMATS, Pictures, converted, file_name, opened, thumbnail
from graft.reading import RowError
from graft.tasks import Field

IMAGE = Field("image", "image")
LABEL = Field("label", "label", target=True)


def picture(seed: int = 0, size: tuple[int, int] = (6, 4), mode: str = "RGB", form: str = "PNG", **save: Any) -> bytes:
    """Return an encoded picture of random pixels, ``size`` wide and high."""
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=form, **save)
    return file.getvalue()


def uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for split in ("train", "validation", "test"):
        (folder / split).mkdir(parents=True)
    (folder / "files").mkdir()
    return folder


def part(data: Path, *values: Any, split: str = "train") -> Path:
    path = data / split / "part.jsonl"
    rows = [{"image": value, "label": "x"} for value in values]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(data: Path, values: list[Any], **types: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = data / "train" / "part.parquet"
    columns = {"image": pa.array(values, types.get("type")), "label": pa.array(["x"] * len(values))}
    pq.write_table(pa.table(columns), path)
    return path


def read(path: Path, **config: Any) -> list[Record | Problem]:
    return list(read_part(path, path.parents[2], (IMAGE, LABEL), DataConfig(**config)))


def pictures_of(found: list[Record | Problem]) -> list[bytes]:
    return [one.row["image"] for one in found if isinstance(one, Record)]


# -- where they come from


def test_paths_and_data_uris_of_a_part_give_the_encoded_bytes(data: Path) -> None:
    first, second = picture(1), picture(2)
    (data / "files" / "ab").mkdir()
    (data / "files" / "ab" / "one.png").write_bytes(first)
    assert pictures_of(read(part(data, "files/ab/one.png", uri(second)))) == [first, second]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_cells_of_a_table_are_paths_or_data_uris(data: Path, suffix: str) -> None:
    (data / "files" / "one.png").write_bytes(picture(1))
    comma = "\t" if suffix == ".tsv" else ","
    path = data / "train" / f"part{suffix}"
    lines = ["image", "label"], ["files/one.png", "x"], [uri(picture(2)).replace(",", ","), "y"]
    if suffix == ".csv":
        lines[2][0] = f'"{lines[2][0]}"'
    path.write_text("".join(comma.join(line) + "\n" for line in lines))
    assert pictures_of(read(path)) == [picture(1), picture(2)]


def test_parquet_holds_bytes_or_the_struct_of_the_datasets_library(data: Path) -> None:
    import pyarrow as pa

    contents = [picture(number) for number in range(3)]
    assert pictures_of(read(table(data, contents, type=pa.binary()))) == contents
    structs = [{"bytes": content, "path": "elsewhere.png"} for content in contents]
    assert pictures_of(read(table(data, structs))) == contents
    (data / "files" / "one.png").write_bytes(contents[0])
    assert pictures_of(read(table(data, [{"bytes": None, "path": "files/one.png"}]))) == contents[:1]
    assert pictures_of(read(table(data, ["files/one.png"]))) == contents[:1]


def test_parquet_written_by_the_datasets_library_is_read(data: Path) -> None:
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    shown = Image.open(io.BytesIO(picture(3)))
    rows = {"image": [shown], "label": ["x"]}
    path = data / "train" / "part.parquet"
    Dataset.from_dict(rows, Features({"image": ImageFeature(), "label": Value("string")})).to_parquet(str(path))
    (content,) = pictures_of(read(path))
    assert np.array_equal(np.asarray(opened(content)), np.asarray(shown))


def test_bytes_of_other_parquet_columns_are_text_still(data: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = data / "train" / "part.parquet"
    columns = {"image": pa.array([picture()]), "label": pa.array([b"caf\xe9"], pa.binary())}
    pq.write_table(pa.table(columns), path)
    (problem,) = read(path)
    assert str(problem).startswith("data/train/part.parquet:1: label: expected UTF-8, found the byte 0xe9")


# -- what is refused


def broken_png(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size that no pixel backs."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    checked = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    packed = zlib.compress(b"\0" * 10)
    body = b"IDAT" + packed
    return b"\x89PNG\r\n\x1a\n" + checked + struct.pack(">I", len(packed)) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("files/no.png", "expected a picture, found 'files/no.png', which is not there or cannot be read"),
        ("files", "expected a picture, found 'files', which is no file"),
        ("train/part.jsonl", r"expected the path of a picture in data/files (files/name.png), found 'train/part"),
        ("../secret.png", "expected the path of a picture in data/files"),
        ("files/../../secret.png", "expected the path of a picture in data/files"),
        ("/etc/passwd", "expected the path of a picture in data/files"),
        ("", "expected the path of a picture in data/files"),
        ("files/\0.png", "expected text without NUL"),
        ("files/out.png", "expected a picture that lies in data/files, found 'files/out.png', a link that leads out"),
        ("files/loop.png", "'files/loop.png', which is not there or cannot be read"),
        ("files/text.png", "expected a picture (png, jpg, webp, gif, bmp, tif), found bytes of no known format"),
        ("files/cut.png", "found broken bytes"),
        ("files/cut.jpg", "found broken bytes"),
        ("files/empty.png", "expected a picture, found no bytes"),
        ("files/bomb.png", "expected a picture of at most 100 pixels (data.max_image_pixels), found far more"),
        ("files/zero.png", "expected a picture"),
        ("files/large.png", "expected a picture of at most 100 pixels (data.max_image_pixels), found 11 x 10"),
        ("files/drawing.eps", "found bytes of no known format"),
        ("data:image/png;base64,!!", "expected a picture in base64"),
        ("data:text/plain;base64,aGk=", "expected a data URI of a picture"),
        ("data:image/png,abc", "expected a data URI of a picture"),
        (7, "expected a picture (its path, a data URI or its bytes), found the integer 7"),
        (None, "expected a picture (its path, a data URI or its bytes), found null"),
        ({"url": "x"}, "expected a picture (its path, a data URI or its bytes), found an object"),
    ],
)
def test_a_bad_picture_is_named_with_its_line_and_column(data: Path, name: Any, message: str) -> None:
    (data.parent / "secret.png").write_bytes(picture())
    contents = {
        "text.png": b"no picture",
        "cut.png": picture(size=(9, 9))[:-60],
        "cut.jpg": picture(form="JPEG")[:-200],
        "empty.png": b"",
        "bomb.png": broken_png(30_000, 30_000),
        "zero.png": broken_png(0, 5),
        "large.png": picture(size=(11, 10)),
        "drawing.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n",
    }
    for file, content in contents.items():
        (data / "files" / file).write_bytes(content)
    (data / "files" / "out.png").symlink_to(data.parent / "secret.png")
    (data / "files" / "loop.png").symlink_to(data / "files" / "loop.png")
    (data / "files" / "good.png").write_bytes(picture())
    found = read(part(data, "files/good.png", name), max_image_pixels=100)
    assert [type(one) for one in found] == [Record, Problem]
    assert str(found[1]).startswith("data/train/part.jsonl:2: image: ")
    assert message in str(found[1])


def test_a_huge_file_is_refused_before_it_is_read(data: Path) -> None:
    path = data / "files" / "huge.png"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 5 << 30)
    (problem,) = read(part(data, "files/huge.png"))
    assert "at most 33554432 pixels (data.max_image_pixels), found 'files/huge.png', 5368709120 bytes" in str(problem)


def test_a_link_inside_the_folder_and_a_linked_data_folder_are_followed(data: Path) -> None:
    (data / "files" / "one.png").write_bytes(picture(1))
    (data / "files" / "two.png").symlink_to("one.png")
    elsewhere = data.parent / "elsewhere"
    data.rename(elsewhere)
    data.symlink_to(elsewhere)
    assert pictures_of(read(part(data, "files/two.png"))) == [picture(1)]


def test_base64_is_a_picture_only_where_there_are_no_paths(tmp_path: Path) -> None:
    content, text = picture(), base64.b64encode(picture()).decode()
    for value in (content, text, f"{text[:40]}\n{text[40:]}", uri(content)):
        assert typed(IMAGE, value, "row 1") == content
    with pytest.raises(DataError, match=r"row 1: expected a picture in base64, found '/etc/passwd\.'"):
        typed(IMAGE, "/etc/passwd.", "row 1")
    with pytest.raises(RowError, match="which is not there"):
        Pictures(tmp_path).read(text)


# -- what is made of them


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_picture_is_filed_under_its_content_and_true_format(form: str) -> None:
    import hashlib

    content = picture(form=form)
    digest = hashlib.sha256(content).hexdigest()
    assert file_name(content) == f"files/{digest[:2]}/{digest}.{FORMATS[form]}"


def test_exif_orientation_turns_the_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rows and columns change places
    content = picture(size=(16, 8), form="JPEG", exif=exif)
    plain = np.asarray(Image.open(io.BytesIO(content)))
    assert np.array_equal(np.asarray(opened(content)), np.rot90(plain, -1))


def test_sixteen_bit_grey_keeps_its_upper_bits() -> None:
    values = (np.arange(16, dtype=np.uint16) * 4096).reshape(4, 4)
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="PNG")
    colour = np.asarray(converted(opened(file.getvalue()), "RGB"))
    assert np.array_equal(colour, np.repeat((values // 256).astype(np.uint8)[:, :, None], 3, axis=2))


def test_grey_is_the_same_in_all_colours_and_transparency_is_dropped() -> None:
    grey = Image.open(io.BytesIO(picture(mode="L")))
    assert np.array_equal(np.asarray(converted(grey, "RGB")), np.stack([np.asarray(grey)] * 3, axis=2))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 4), np.uint8)
    assert np.array_equal(np.asarray(converted(Image.fromarray(pixels), "RGB")), pixels[:, :, :3])


def test_a_thumbnail_is_small_and_keeps_the_proportions() -> None:
    wide, small = (thumbnail(picture(size=size)) for size in ((400, 100), (10, 4)))
    sizes = [Image.open(io.BytesIO(base64.b64decode(one.partition(",")[2]))).size for one in (wide, small)]
    assert sizes == [(96, 24), (10, 4)]


# -- what else sees rows


def test_pictures_count_in_the_digest_of_the_data(data: Path) -> None:
    for split in ("train", "validation", "test"):
        part(data, "files/one.png", split=split)
    (data / "files" / "one.png").write_bytes(picture(1))
    first = data_digest(data)
    assert sorted(parts(data)) == ["test", "train", "validation"]
    (data / "files" / "one.png").write_bytes(picture(2))
    assert data_digest(data) != first


def test_duplicates_are_found_by_the_bytes_of_the_picture(data: Path) -> None:
    config = DataConfig(clean=("duplicates",))
    cleaning = Cleaning(config.clean, config.privacy)
    path = part(data, uri(picture(1)), uri(picture(2)), uri(picture(1)))
    found = list(read_part(path, data.parent, (IMAGE, LABEL), config, cleaning))
    assert [one.place for one in found] == ["data/train/part.jsonl:1", "data/train/part.jsonl:2"]
    assert cleaning.counts == {"duplicates": 1}
    assert cleaning.disagreements == 0


@pytest.mark.parametrize("name", ["files/.hidden/one.png", "files/.one.png", "files/__pycache__/one.png"])
def test_pictures_that_the_digest_leaves_out_are_refused(data: Path, name: str) -> None:
    (data / name).parent.mkdir(parents=True, exist_ok=True)
    (data / name).write_bytes(picture(7))
    (problem,) = read(part(data, name))
    assert "expected a picture in data/files that is not hidden" in str(problem)
