"""ddddocr and RapidOCR: lines of text, rendered here; a line counts only if all of it is right."""

from __future__ import annotations

import io
import keyword
import random
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from application import Case, Client, session


class _Lines:
    metric = "exact lines"
    unit = 100.0
    told_by = "what was rendered"
    without_dependencies = ()

    def score(self, answers: Sequence[Any], truths: Sequence[Any]) -> float:
        return 100 * float(np.mean([a == t for a, t in zip(answers, truths, strict=True)]))


class Captchas(_Lines):
    name = "ddddocr"
    packages = ("ddddocr", "captcha")
    calibration = 300

    def model(self) -> Path:
        import ddddocr

        # Its other one is quantised already.
        return Path(ddddocr.__file__).parent / "common.onnx"

    def client(self, model: Path) -> Client:
        return _CaptchaClient(model)

    def cases(self, count: int, seed: int) -> list[Case]:
        """Captchas of four digits, as the captcha package makes them; a seed gives the same ones."""
        from captcha import image

        generator = random.Random(seed)
        found = []
        # The package draws from the operating system's generator, which cannot be seeded.
        with patch.object(image, "secrets", _Secrets(generator)):
            for _ in range(count):
                text = "".join(generator.choices(string.digits, k=4))
                data = io.BytesIO()
                image.ImageCaptcha(width=160, height=60).generate_image(text).save(data, "PNG")
                found.append(Case(data.getvalue(), text))
        return found


class _Secrets:
    """What the captcha package takes from the module ``secrets``, from a seeded generator."""

    def __init__(self, generator: random.Random) -> None:
        self.choice, self.randbelow, self.randbits = (
            generator.choice,
            generator.randrange,
            generator.getrandbits,
        )


class _CaptchaClient:
    def __init__(self, model: Path) -> None:
        from ddddocr.core.ocr_engine import OCREngine

        self._engine = OCREngine(beta=True)
        self.session = self._engine.session = session(model)

    def __call__(self, given: bytes) -> str:
        return str(self._engine.predict(given)).lower()


class TextLines(_Lines):
    name = "RapidOCR"
    packages = ("rapidocr-onnxruntime",)
    calibration = 300

    def model(self) -> Path:
        import rapidocr_onnxruntime

        return Path(rapidocr_onnxruntime.__file__).parent / "models" / "ch_PP-OCRv4_rec_infer.onnx"

    def client(self, model: Path) -> Client:
        return _TextClient(model)

    def cases(self, count: int, seed: int) -> list[Case]:
        """Lines of one to five words in a font of PIL's, turned a little, blurred, noisy; widths differ."""
        from PIL import Image, ImageDraw, ImageFilter, ImageFont

        generator = np.random.default_rng(seed)
        words = [*keyword.kwlist, *keyword.softkwlist, *dir(str), *dir(np)]
        words = sorted({w.strip("_").lower() for w in words if w.isascii()})
        words = [w for w in words if w.isalnum() and 3 <= len(w) <= 12]
        found = []
        for _ in range(count):
            text = " ".join(generator.choice(words, generator.integers(1, 6)))
            if generator.random() < 0.4:
                text += f" {generator.integers(10, 99999)}"
            font = ImageFont.load_default(size=float(generator.integers(14, 40)))
            _, _, width, height = font.getbbox(text)
            shade = int(generator.integers(150, 256))
            image = Image.new("RGB", (int(width) + 16, int(height) + 12), (shade, shade, shade))
            dark = tuple(int(v) for v in generator.integers(0, 110, 3))
            ImageDraw.Draw(image).text((8, 4), text, font=font, fill=dark)
            image = image.rotate(float(generator.normal(0, 0.7)), expand=False, fillcolor=(shade,) * 3)
            image = image.filter(ImageFilter.GaussianBlur(float(generator.uniform(0, 1.1))))
            grain = generator.normal(0, generator.uniform(0, 14), image.size[::-1])
            pixels = np.asarray(image, np.float32) + grain[..., None]
            found.append(Case(np.clip(pixels, 0, 255).astype(np.uint8), text))
        return found


class _TextClient:
    def __init__(self, model: Path) -> None:
        from rapidocr_onnxruntime.ch_ppocr_rec import TextRecognizer

        self._recognizer = TextRecognizer(
            {"model_path": str(model), "rec_batch_num": 1, "rec_img_shape": [3, 48, 320]}
        )
        self.session = self._recognizer.session.session = session(model)

    def __call__(self, given: np.ndarray) -> str:
        return str(self._recognizer(given)[0][0][0])
