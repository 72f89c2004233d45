"""How images lie on a disk: a folder a class, one flat folder, tar archives, WebDataset shards, a Hugging Face dataset."""

import importlib.util
import os
import tarfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from io import BytesIO
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from mae_helpers.images import labels
from mae_helpers.images.labels import wordnet_ids
from mae_helpers.images.pixels import SUFFIXES, ImageError, opened
from mae_helpers.profile.parameters import shown
from mae_helpers.profile.settings import Images


class Entry(NamedTuple):
    """One image: its class, empty where that is not known, its file's name, its id, and how to open it."""

    label: str
    name: str
    id: str
    open: Callable[[], Image.Image]


ORDER = itemgetter(0, 1, 2)  # by class, name and id
KINDS = Image.registered_extensions().items()
OTHERS = {suffix for suffix, kind in KINDS if "image/" in Image.MIME.get(kind, "")} | {".heic", ".heif"}  # or read here
HIDDEN = (".", "__MACOSX", "@eaDir", "$RECYCLE.BIN")  # what systems and archivers hide or leave beside images


def _visible(names: Iterable[str]) -> list[str]:
    """Names in order, but for those that are `HIDDEN`."""
    return sorted(name for name in names if not name.startswith(HIDDEN))


def files_below(folder: Path) -> Iterator[Path]:
    """The files in a folder and in those below it, also behind links; each folder once, nothing hidden."""
    seen = set()
    for place, inner, names in os.walk(folder, followlinks=True):
        state = os.stat(place)
        if (state.st_dev, state.st_ino) in seen:  # a link that leads back
            inner.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        inner[:] = _visible(inner)
        yield from (Path(place, name) for name in _visible(names))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _images_in(folder: Path) -> list[Path]:
    return [folder / name for name in _visible(os.listdir(folder)) if _is_image(Path(name))]


def class_folders(root: Path) -> list[str]:
    """The folders that hold an image, in them or further below."""
    inner = (name for name in _visible(os.listdir(root)) if (root / name).is_dir())
    return [name for name in inner if any(map(_is_image, files_below(root / name)))]


def _left(paths: Iterable[Path]) -> Counter:
    """How many of the files `paths` have each of an image's suffixes."""
    return Counter(path.suffix.lower() for path in paths if path.suffix.lower() in OTHERS)


def _warn(root: Path, paths: Iterable[Path], why: str = "of formats that are not read here") -> None:
    """Say how many images are left out."""
    if other := _left(paths):
        told = ", ".join(f"{count} {suffix}" for suffix, count in sorted(other.items()))
        warnings.warn(f"{root}: left out, {why}: {told}; save them as PNG", stacklevel=3)


def folders(images: Images) -> list[Entry]:
    """A folder a class, its images in it or further below; only the folders of wanted classes are listed."""
    root, wanted = Path(images.folder), images.classes
    if wanted in ("all", []):
        wanted = class_folders(root)
        # several folders of images and no image, as in `train` and `val`: no class
        if parts := [name for name in wanted if not _images_in(root / name) and len(class_folders(root / name)) > 1]:
            raise ImageError(f"{root}: no image in its folders {parts[:12]}; name the one that holds a folder a class")
        beside = {*_visible(os.listdir(root))} - {*wanted}
        if lost := sorted(name for name in beside if _left(files_below(root / name)) or not (root / name).exists()):
            what = "a broken link, or all its images of formats that are not read here; mend it, or name the `classes`"
            raise ImageError(f"{root}: no image behind {lost[:12]}: {what}")
    files = [(name, path) for name in wanted for path in files_below(root / name)]
    _warn(root, (path for _, path in files if not _is_image(path)))
    found = [(name, path.relative_to(root), path) for name, path in files if _is_image(path)]
    return [Entry(name, place.name, place.as_posix(), partial(opened, path)) for name, place, path in found]


def flat(images: Images) -> list[Entry]:
    """One folder; classes come from the ground-truth file `labels`, or one of a usual name beside the images."""
    paths, root = _images_in(Path(images.folder)), Path(images.folder)
    if not paths:
        raise ImageError(f"{images.folder}: no image ({', '.join(sorted(SUFFIXES))}) in it; correct `folder`")
    _warn(root, {*files_below(root)} - {*paths}, "in folders below it, or of formats that are not read here")
    return _labelled(images, [Entry("", path.name, path.name, partial(opened, path)) for path in paths])


def _labelled(images: Images, found: Sequence[Entry]) -> list[Entry]:
    """Sorted images with the classes that a ground-truth file gives them."""
    classes = labels.classes(images, Path(images.folder), [entry.id for entry in found])
    return [entry._replace(label=label) for entry, label in zip(found, classes, strict=True)]


Place = tuple[Path, int, int]  # an archive, and first byte and size of a file in it


def _content(place: Place) -> bytes:
    archive, offset, size = place
    with archive.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _label(place: Place, name: str) -> str:
    """The WordNet id that a shard's .cls stands for."""
    text = _content(place).decode("utf-8", "replace").strip()
    if not text.isdecimal() or len(text) > 9 or int(text) >= len(wordnet_ids()):
        where = f"{place[0]}/{name}"
        raise ImageError(f"{where}: {text[:40]!r} is no class of ImageNet; a .cls holds a number from 0 to 999")
    return wordnet_ids()[int(text)]


def _members(file: tarfile.TarFile, prefix: PurePosixPath, start: int) -> Iterator[tuple[PurePosixPath, int, int]]:
    """Path, first byte and size of each file of an archive and of the archives in it, which count as folders.

    ImageError for an image that is no plain file of the archive: a link, a sparse one, one of a name that climbs out.
    """
    before = -1
    for member in file:
        if member.offset <= before or member.size < 0:
            raise tarfile.ReadError("it leads back to itself")
        before, path, offset = member.offset, prefix / member.name, start + member.offset_data
        if path.suffix.lower() in SUFFIXES and not member.isdir() and (not member.isreg() or member.issparse()):
            raise ImageError(f"{shown(member.name)} is a link, a device or sparse; pack it as a plain file (tar -h)")
        if member.isreg() and (path.is_absolute() or ".." in path.parts):
            raise ImageError(f"{shown(member.name)} lies outside of the archive's folder; pack it anew")
        if member.isreg() and path.suffix == ".tar":
            with tarfile.open(fileobj=file.extractfile(member), mode="r:") as inner:
                yield from _members(inner, path.with_suffix(""), offset)
        elif member.isreg() and not path.name.startswith("."):
            yield path, offset, member.size


def _scan(archive: Path, prefix: str) -> list[tuple[PurePosixPath, Place]]:
    """The files of an archive; one that is cut short, compressed or none at all is an ImageError."""
    try:
        with tarfile.open(archive, "r:") as file:
            found = [(path, (archive, *place)) for path, *place in _members(file, PurePosixPath(prefix), 0)]
            if file.offset + tarfile.BLOCKSIZE > archive.stat().st_size:  # tarfile itself does not miss the end's mark
                raise tarfile.ReadError("its end is missing")
    except ImageError as error:
        raise ImageError(f"{archive}: {error}") from None
    except Exception as error:  # tarfile has errors of its own, and lets those of numbers and names through
        raise ImageError(f"{archive}: not a readable tar archive ({error}); copy it again, uncompressed") from None
    return found


def tar(images: Images) -> list[Entry]:
    """One tar of class folders, a folder of tars, one a class, or WebDataset shards: `key.jpg` beside `key.cls`.

    One tar without folders, as the validation set is published, takes its classes from a ground-truth file. (timm has
    readers for these, but they read every byte of an archive to list it, take one cut short for whole, or only stream.)
    """
    root, inside, found = Path(images.folder), [], []
    archives = [root] if root.is_file() else sorted(path for path in root.glob("*.tar") if path.is_file())
    for archive in archives:
        inside += _scan(archive, archive.stem if len(archives) > 1 or archive.stem in wordnet_ids() else "")
    keys = {path: place for path, place in inside if path.suffix == ".cls"}
    known = {*wordnet_ids(), *(images.classes if images.classes != "all" else [])}  # a class whatever lies within it
    for path, place in inside:
        if path.suffix.lower() not in SUFFIXES:
            continue
        parts = path.parts[next((at for at, part in enumerate(path.parts[:-1]) if part in known), -2) :]
        label, name = "".join(parts[:-1][:1]), "/".join(parts)
        if keys:
            key, name = path.with_name(f"{path.name.split('.')[0]}.cls"), str(path)
            if key not in keys:
                raise ImageError(f"{place[0]}: {path.name} has no .cls beside it; every image of a shard needs one")
            label = _label(keys[key], key.name)
        found.append(Entry(label, path.name, name, lambda place=place: opened(BytesIO(_content(place)))))
    if not found:
        raise ImageError(f"{root}: no image in it; name a tar archive, or a folder that holds some")
    return found if any(entry.label for entry in found) else _labelled(images, sorted(found, key=ORDER))


def hugging_face(images: Images) -> list[Entry]:
    """A data set by its name on the Hugging Face hub, `hf:ILSVRC/imagenet-1k`, or by its folder (timm's reader)."""
    if importlib.util.find_spec("datasets") is None:
        raise ImageError(f"{images.folder}: needs the package `datasets`; install it into the environment")
    from pyarrow.compute import struct_field
    from timm.data.readers.reader_hfds import ReaderHfds

    try:
        reader = ReaderHfds(images.folder.removeprefix("hf:"), split=images.split)
    except Exception as error:  # no network, no account, no such name or split: each has a kind of its own
        reason = str(error).strip().partition("\n")[0][:200]
        raise ImageError(f"{images.folder}, split {images.split!r}: {type(error).__name__}: {reason}") from error
    known = {number: name for name, number in reader.class_to_idx.items()}
    if len(known) == len(wordnet_ids()):  # the hub's ImageNet has words for names, in the usual order
        known = dict(enumerate(wordnet_ids()))
    paths = struct_field(reader.dataset.data.column(reader.image_key), "path").to_pylist()  # without reading the bytes
    found = []
    for row, (path, number) in enumerate(zip(paths, reader.dataset[reader.label_key], strict=True)):
        label, name = known.get(number, ""), Path(path).name if path else f"{row:08d}"  # a test set's number is -1
        found.append(Entry(label, name, f"{label}/{name}".lstrip("/"), lambda row=row: opened(reader[row][0])))
    return found


def detect(images: Images) -> str:
    """Which layout a place has: hf, tar, folders or flat. Folders named by a class decide, whatever lies beside them."""
    if images.folder.startswith("hf:"):
        return "hf"
    root = Path(images.folder)
    if root.is_file():
        return "tar"
    names = {path.name for path in root.iterdir() if path.is_dir()}
    if names & {*wordnet_ids(), *(images.classes if images.classes != "all" else [])}:
        return "folders"
    if _images_in(root):
        return "flat"
    return "tar" if any(root.glob("*.tar")) else "folders" if names else "flat"


def listing(images: Images) -> tuple[list[Entry], list[str]]:
    """What lies in the place that a profile names, by class and name, and the classes that there are."""
    source = detect(images) if images.source == "auto" else images.source
    if source in ("folders", "flat") and not Path(images.folder).is_dir():
        raise ImageError(f"{images.folder}: a file, but `source` is {source}; name a folder, or use another `source`")
    found = sorted({"folders": folders, "flat": flat, "tar": tar, "hf": hugging_face}[source](images), key=ORDER)
    name, times = Counter(entry.id for entry in found).most_common(1)[0] if found else ("", 0)
    if times > 1:
        raise ImageError(f"{images.folder}: {name} is in it twice; each image needs a name of its own")
    for entry in found:
        if any("\ud800" <= character <= "\udfff" for character in entry.id):  # no UTF-8: no table could hold it
            raise ImageError(f"{images.folder}: {shown(entry.id)} has a name that is not UTF-8; rename it")
    present = class_folders(Path(images.folder)) if source == "folders" else {entry.label for entry in found}
    return found, sorted(present)


def chosen(found: Sequence[Entry], present: Sequence[str], images: Images) -> list[Entry]:
    """The images of a profile's wanted classes, the same number of each where there is a `count`; ImageError if too few.

    Where no class is known, or asked for, the first `count`.
    """
    place, count = images.folder or images.source, images.count
    wanted = list(present) if images.classes in ("all", []) else images.classes
    missing = [name for name in wanted if name not in present]
    if missing:
        raise ImageError(f"{place}: no images of the classes {missing[:12]}; it holds {list(present)[:12]}")
    if not any(wanted):
        if len(found) < (count or 0):
            raise ImageError(f"{place}: {len(found)} images, {count} were asked for; lower `count`")
        return list(found[:count])
    if count is not None and count % len(wanted):
        raise ImageError(f"{place}: count {count} cannot be shared evenly by {len(wanted)} classes; change `count`")
    each = None if count is None else count // len(wanted)
    by_class: dict[str, list[Entry]] = {name: [] for name in wanted}
    for entry in found:
        by_class.get(entry.label, []).append(entry)
    for name, entries in by_class.items():
        if each and len(entries) < each:
            raise ImageError(f"{place}/{name}: {len(entries)} images, {each} were asked for; lower images.count")
    return [entry for entries in by_class.values() for entry in entries[:each]]
