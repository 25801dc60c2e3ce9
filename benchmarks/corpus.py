"""The texts that map_reduce is measured on, made once and kept in the user's cache directory.

Corpus A is the C sources of a Linux kernel, concatenated in path order, cut after 300 MB at the end
of a line. It comes out of a Debian package; where that can't be had, the standard library's sources
stand in, repeated until they are as long, and the name of what was made says so.
"""

import os
import shutil
import subprocess
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from attrs import define, field, frozen

PACKAGE = "linux-source-6.1"
CORPUS_BYTES = 300_000_000
_PIECE = 1 << 20


class NoPackage(Exception):
    """The Debian package can't be had here; the text says why."""


@frozen
class Corpus:
    """A file to count the words of, and what it is, for people."""

    path: Path
    title: str

    @property
    def size(self) -> int:
        return self.path.stat().st_size


def cache_directory() -> Path:
    """Where corpora are kept: below ``XDG_CACHE_HOME``, or the user's ``.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "dispy-trio"


def kernel_corpus(directory: Path | None = None) -> Corpus:
    """Corpus A out of the cache, made first when it is not there.

    Falls back to the standard library's sources, and says so in the title.
    """
    home = directory or cache_directory()
    kernel = Corpus(home / "corpus-a.txt", f"C sources of Debian's {PACKAGE}")
    stand_in = Corpus(home / "corpus-stdlib.txt", "")
    if kernel.path.exists():
        return kernel
    home.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=home) as scratch:
            _build_kernel(kernel.path, Path(scratch))
    except NoPackage as error:
        if not stand_in.path.exists():
            _publish(stand_in.path, _repeated_library())
        reason = f"the standard library's sources repeated, because {error}"
        return Corpus(stand_in.path, reason)
    return kernel


def shortened(corpus: Corpus, size: int) -> Corpus:
    """The first *size* bytes of a corpus, as a corpus of its own beside it."""
    path = corpus.path.with_name(f"{corpus.path.stem}-{size}.txt")
    if not path.exists():
        with corpus.path.open("rb") as source:
            _publish(path, _pieces(source, size), size)
    return Corpus(path, f"{corpus.title}, cut after {size / 1e6:g} MB")


# --- the kernel's sources ----------------------------------------------------------------------
@define
class _Heap:
    """All C sources in one scratch file, in the order of the archive, with their places."""

    file: BinaryIO
    places: dict[str, tuple[int, int]] = field(factory=dict)

    def add(self, name: str, source: BinaryIO, size: int) -> None:
        self.places[name] = (self.file.tell(), size)
        shutil.copyfileobj(source, self.file, _PIECE)

    def in_path_order(self) -> Iterator[bytes]:
        for name in sorted(self.places):
            start, size = self.places[name]
            self.file.seek(start)
            yield from _pieces(self.file, size)


def _build_kernel(path: Path, scratch: Path) -> None:
    package = _download(scratch)
    with (scratch / "sources").open("w+b") as file:
        heap = _Heap(file)
        _collect(package, heap)
        _publish(path, heap.in_path_order())


def _download(scratch: Path) -> Path:
    """Have apt fetch the package into *scratch*."""
    try:
        done = subprocess.run(
            ["apt-get", "download", PACKAGE],
            cwd=scratch,
            check=False,
            capture_output=True,
            text=True,
        )
    except OSError as error:
        raise NoPackage(f"apt-get does not run here: {error}") from error
    packages = list(scratch.glob("*.deb"))
    if done.returncode or not packages:
        said = done.stderr.strip().splitlines() or ["no package came"]
        raise NoPackage(f"apt-get download {PACKAGE} failed: {said[-1]}")
    return packages[0]


def _collect(package: Path, heap: _Heap) -> None:
    """Read the package as a stream of a tar with a tar in it; nothing else is unpacked."""
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as outer:
            inner = next(member for member in outer if member.name.endswith(".tar.xz"))
            stream = outer.extractfile(inner)
            assert stream is not None
            with tarfile.open(fileobj=stream, mode="r|xz") as sources:
                for member in sources:
                    if member.isfile() and member.name.endswith((".c", ".h")):
                        content = sources.extractfile(member)
                        assert content is not None
                        heap.add(member.name, content, member.size)  # type: ignore[arg-type]
        shutil.copyfileobj(process.stdout, _Nowhere())


class _Nowhere:
    """Takes what is left in the pipe, so that its writer ends well."""

    def write(self, data: bytes) -> int:
        return len(data)


# --- the stand-in ------------------------------------------------------------------------------
def _repeated_library() -> Iterator[bytes]:
    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(p for p in library.rglob("*.py") if "site-packages" not in p.parts)
    while True:
        for file in files:
            yield file.read_bytes()


# --- both --------------------------------------------------------------------------------------
def _pieces(source: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0 and (piece := source.read(min(size, _PIECE))):
        size -= len(piece)
        yield piece


def _publish(path: Path, pieces: Iterator[bytes], size: int = CORPUS_BYTES) -> None:
    """Write the first *size* bytes of the pieces, less the last line that does not fit."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as target:
            last_newline = 0
            for piece in pieces:
                piece = piece[: size - target.tell()]
                if (found := piece.rfind(b"\n")) >= 0:
                    last_newline = target.tell() + found + 1
                target.write(piece)
                if target.tell() >= size:
                    break
            target.truncate(last_newline)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
