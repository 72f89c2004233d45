"""How images lie on a disk: a folder a class, one flat folder, tar archives, WebDataset shards, a Hugging Face dataset."""

import importlib.util
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path, PurePosixPath

from PIL import Image

from mae_helpers.images import labels
from mae_helpers.images.labels import wordnet_ids
from mae_helpers.images.pixels import SUFFIXES, ImageError, opened
from mae_helpers.profile.parameters import shown
from mae_helpers.profile.settings import Images


@dataclass(frozen=True)
class Listing:
    """What lies in one place: an id and a class name of each image, how to open one, and the classes that there are.

    A class name is empty where it is not known. `present` may name more classes than were listed.
    """

    ids: Sequence[str]
    classes: Sequence[str]
    open: Callable[[int], Image.Image]
    present: Sequence[str]
    root: Path | None = None


def class_index(name: str, position: int) -> int:
    """A class's index in the model's head: by table for a WordNet id, else its position in sorted order."""
    known = wordnet_ids()
    return known.index(name) if name in known else position


def image_files(folder: Path) -> list[Path]:
    """The image files of one folder, sorted; hidden ones are none."""
    return sorted(path for path in _visible(folder) if path.suffix.lower() in SUFFIXES)


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def folders(images: Images) -> Listing:
    """A folder a class; only the folders of wanted classes are listed."""
    root = Path(images.folder)
    present = sorted(path.name for path in _visible(root) if path.is_dir())
    wanted = present if images.classes in ("all", []) else images.classes
    paths = [path for name in wanted if name in present for path in image_files(root / name)]
    if present and not paths and set(wanted) <= set(present):
        raise ImageError(f"{root}: no image in its folders {present[:12]}; name the one that holds a folder a class")
    ids = [path.relative_to(root).as_posix() for path in paths]
    return Listing(ids, [path.parent.name for path in paths], lambda row: opened(paths[row]), present, root)


def flat(images: Images) -> Listing:
    """One folder; classes come from the ground-truth file `labels`, or one of a usual name beside the images."""
    root = Path(images.folder)
    paths = image_files(root)
    if not paths:
        raise ImageError(f"{root}: no image ({', '.join(sorted(SUFFIXES))}) in it; correct `folder`")
    return _labelled(images, Listing([path.name for path in paths], (), lambda row: opened(paths[row]), (), root))


def _labelled(images: Images, found: Listing) -> Listing:
    """Images with the classes that a ground-truth file gives them."""
    classes = labels.classes(images, found.root, found.ids)
    return replace(found, classes=classes, present=sorted(set(classes)))


def _by_class(named: Sequence[tuple[str, str, str]], read: Callable[[int], Image.Image], root: Path) -> Listing:
    """A listing of images given by class, file name and id, in the order of these."""
    order = sorted(range(len(named)), key=named.__getitem__)
    ids, classes = [named[row][2] for row in order], [named[row][0] for row in order]
    return Listing(ids, classes, lambda row: read(order[row]), sorted(set(classes)), root)


Place = tuple[Path, int, int]  # an archive, and first byte and size of a file in it


def _content(place: Place) -> bytes:
    archive, offset, size = place
    with archive.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _label(place: Place, where: str) -> str:
    """The WordNet id that a shard's .cls stands for."""
    text = _content(place).decode("utf-8", "replace").strip()
    if not text.isdecimal() or len(text) > 9 or int(text) >= len(wordnet_ids()):
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


def tar(images: Images) -> Listing:
    """One tar of class folders, a folder of tars, one a class, or WebDataset shards: `key.jpg` beside `key.cls`.

    One tar without folders, as the validation set is published, takes its classes from a ground-truth file. (timm has
    readers for these, but they read every byte of an archive to list it, take one cut short for whole, or only stream.)
    """
    root = Path(images.folder)
    archives = [root] if root.is_file() else sorted(path for path in root.glob("*.tar") if path.is_file())
    keys, pictures, named = {}, [], []
    for archive in archives:
        inside = _scan(archive, archive.stem if len(archives) > 1 or archive.stem in wordnet_ids() else "")
        keys |= {path: place for path, place in inside if path.suffix == ".cls"}
        pictures += [(path, place) for path, place in inside if path.suffix.lower() in SUFFIXES]
    if not pictures:
        raise ImageError(f"{root}: no image in it; name a tar archive, or a folder that holds some")
    for path, (archive, *_) in pictures:
        label, folder = path.with_name(f"{path.name.split('.')[0]}.cls"), path.parent.name
        if keys and label not in keys:
            raise ImageError(f"{archive}: {path.name} has no .cls beside it; every image of a shard needs one")
        if keys:
            named.append((_label(keys[label], f"{archive}/{label.name}"), path.name, str(path)))
        else:
            named.append((folder, path.name, f"{folder}/{path.name}".lstrip("/")))
    found = _by_class(named, lambda row: opened(BytesIO(_content(pictures[row][1]))), root)
    return found if any(found.classes) else _labelled(images, found)


def hugging_face(images: Images) -> Listing:
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
    names = [Path(path).name if path else f"{row:08d}" for row, path in enumerate(paths)]
    classes = [known.get(label, "") for label in reader.dataset[reader.label_key]]  # a test set's are -1
    named = [(label, name, f"{label}/{name}".lstrip("/")) for label, name in zip(classes, names, strict=True)]
    return _by_class(named, lambda row: opened(reader[row][0]), Path(images.folder))


def detect(images: Images) -> str:
    """Which layout a place has: hf, tar, folders or flat. Folders named by a class decide, whatever lies beside them."""
    if images.folder.startswith("hf:"):
        return "hf"
    root = Path(images.folder)
    if root.is_file():
        return "tar"
    names = {path.name for path in _visible(root) if path.is_dir()}
    if names & {*wordnet_ids(), *(images.classes if images.classes != "all" else [])}:
        return "folders"
    if image_files(root):
        return "flat"
    return "tar" if any(root.glob("*.tar")) else "folders" if names else "flat"


def listing(images: Images) -> Listing:
    """What lies in the place that a profile names, in sorted order."""
    source = detect(images) if images.source == "auto" else images.source
    if source in ("folders", "flat") and not Path(images.folder).is_dir():
        raise ImageError(f"{images.folder}: a file, but `source` is {source}; name a folder, or use another `source`")
    found = {"folders": folders, "flat": flat, "tar": tar, "hf": hugging_face}[source](images)
    twice = [name for name, times in Counter(found.ids).items() if times > 1]
    if twice:
        raise ImageError(f"{images.folder}: {twice[0]} is in it twice; each image needs a name of its own")
    strange = [name for name in found.ids if any("\ud800" <= character <= "\udfff" for character in name)]
    if strange:  # a name of other bytes than UTF-8: no table could hold it
        raise ImageError(f"{images.folder}: {shown(strange[0])} has a name that is not UTF-8; rename it")
    return found


def chosen_rows(found: Listing, images: Images) -> list[int]:
    """The rows of a profile's wanted classes, the same number of each where there is a `count`; ImageError if too few.

    Where no class is known, or asked for, the first `count`.
    """
    place, count = images.folder or images.source, images.count
    wanted = list(found.present) if images.classes in ("all", []) else images.classes
    missing = [name for name in wanted if name not in found.present]
    if missing:
        raise ImageError(f"{place}: no images of the classes {missing[:12]}; it holds {list(found.present)[:12]}")
    if not any(wanted):
        if len(found.ids) < (count or 0):
            raise ImageError(f"{place}: {len(found.ids)} images, {count} were asked for; lower `count`")
        return list(range(len(found.ids)))[:count]
    if count is not None and count % len(wanted):
        raise ImageError(f"{place}: count {count} cannot be shared evenly by {len(wanted)} classes; change `count`")
    each = None if count is None else count // len(wanted)
    by_class: dict[str, list[int]] = {name: [] for name in wanted}
    for row, name in enumerate(found.classes):
        by_class.get(name, []).append(row)
    for name, rows in by_class.items():
        if each and len(rows) < each:
            raise ImageError(f"{place}/{name}: {len(rows)} images, {each} were asked for; lower images.count")
    return [row for rows in by_class.values() for row in rows[:each]]
