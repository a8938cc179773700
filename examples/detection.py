"""Objects in front of a car, and cells under a microscope: a small anchor-free detector.

    AUTOPRUNE_DATA=/data autoprune search examples/traffic_objects.yaml

`TrafficObjects` reads TraPedesVeh (Njoku et al., ICTC 2022, CC0): its folders `train` and `test` of
images with a Pascal VOC file each, or `traffic.npz`, in the data folder (the configuration's
`data`, or AUTOPRUNE_DATA) or its subfolder `traffic`. `BloodCells` reads BCCD (MIT): its folder
`BCCD` in the form of Pascal VOC, or `bccd.npz`, there or in `bccd`. The dense models are trained
once, in a quarter of an hour, and kept.

The metric is the mean average precision at an overlap of 50 %, by pycocotools
(`pip install 'autoprune[examples]'`); `map` is the mean over overlaps from 50 to 95 %.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.errors import TaskError
from autoprune.tasks import (
    InMemoryTask,
    Normalize,
    Split,
    TensorLoader,
    cached_arrays,
    data_folders,
    device_of,
    read_npz,
)

STRIDES = (8, 16, 32)
_LARGEST = (40.0, 96.0)  # the longer side of the boxes that the first two levels find
_REACH = 1.5  # strides from a box's middle in which it is to be found
_GAMMA, _ALPHA = 2.0, 0.25  # of the focal loss
_LEAST_SCORE, _MOST, _OVERLAP = 0.05, 100, 0.5  # what is answered for an image
_PARTS = ("train", "val", "test")
_VALIDATION = 30  # images of the training folder of TraPedesVeh
_SIDES = ("xmin", "ymin", "xmax", "ymax")


class DetectionTask(InMemoryTask):
    """Targets are `(M, 5)`: corners in pixels and a class for each box, rows of -1 to fill up."""

    metric = "map50"
    dense_epochs = 60
    dense_lr = 2e-3
    batch_size = 16
    evaluation_batch_size = 16
    prepare = Normalize(mean=(0.5,) * 3, std=(0.25,) * 3)
    folder: str  # of the set, and the name of its .npz file
    size: tuple[int, int]  # height and width: multiples of 32
    names: dict[str, int]  # of the set's classes -> the task's
    flips: tuple[int, ...] = (3,)  # dimensions along which training images are mirrored

    def __init__(self, data: str | Path | None = None) -> None:
        self.data = data

    def build_model(self) -> nn.Module:
        """C2f stages, a feature pyramid of three levels, a head for each."""
        return Detector(1 + max(self.names.values()))

    def splits(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """uint8 images (N, 3, H, W), boxes (N, M, 5), rows."""
        return _splits(type(self), self.data)

    def train_loader(self, seed: int) -> Mirrored:
        """Shuffled, and mirrored at random."""
        return Mirrored(super().train_loader(seed), seed, self.flips)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Focal loss of the classes, and 1 - GIoU of the boxes."""
        return detection_loss(self.outputs(model, batch), batch[1])

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """`map50`, `map` and the mean loss of a split."""
        modes, device = [(module, module.training) for module in model.modules()], device_of(model)
        found: list[Tensor] = []
        truth: list[Tensor] = []
        losses = []
        model.eval()
        try:
            with torch.inference_mode():
                for images, targets in self.split_loader(split):
                    maps = [each.cpu() for each in model(images.to(device))]
                    found += detections(maps)
                    truth += [boxes[boxes[:, 4] >= 0] for boxes in targets]
                    losses += [float(detection_loss(maps, targets))] * len(images)
        finally:
            for module, training in modes:
                module.training = training
        return {**average_precision(found, truth), "loss": sum(losses) / len(losses)}


class TrafficObjects(DetectionTask):
    """Signs, vehicles, pedestrians, cyclists: train 154, validation 30, test 46 images."""

    folder, size = "traffic", (416, 256)
    names = {  # noqa: RUF012 - a constant
        **{"traffic sign": 0, "vehicle": 1, "truck": 1, "pedestrian": 2},
        **{"cyclist": 3, "bicycle": 3, "scooter": 3, "motorcycle": 3},
    }


class BloodCells(DetectionTask):
    """Red cells, white cells, platelets: train 205, validation 87, test 72 images."""

    folder, size = "bccd", (192, 256)
    names = {"RBC": 0, "WBC": 1, "Platelets": 2}  # noqa: RUF012 - a constant
    flips = (2, 3)


class Mirrored:
    """The batches of a loader, each image mirrored along each of `dims` or not, with its boxes."""

    def __init__(self, loader: TensorLoader, seed: int, dims: Sequence[int]) -> None:
        self.loader, self.seed, self.dims = loader, seed, dims

    def __len__(self) -> int:
        """The number of batches in one pass."""
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass; which images are mirrored depends on the seed and the pass."""
        drawn = torch.Generator().manual_seed(abs(self.seed) % 2**31 + 2**31 * self.loader.epoch)
        for images, boxes in self.loader:
            for dim in self.dims:
                chosen = torch.rand(len(images), generator=drawn) < 0.5
                images, boxes = mirrored(images, boxes, chosen, dim)
            yield images, boxes


def mirrored(images: Tensor, boxes: Tensor, chosen: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The `chosen` images and their boxes mirrored along dimension 2 (height) or 3 (width)."""
    low, high = (1, 3) if dim == 2 else (0, 2)
    there = boxes.clone()
    there[..., low], there[..., high] = (images.shape[dim] - boxes[..., s] for s in (high, low))
    is_box = chosen[:, None] & (boxes[..., 4] >= 0)
    return (
        torch.where(chosen[:, None, None, None], images.flip(dim), images),
        torch.where(is_box[..., None], there, boxes),
    )


class Detector(nn.Module):
    """Three levels of maps `(B, classes + 4, H / stride, W / stride)`, one for each of `STRIDES`.

    The last four channels are distances to the sides of a box: logarithms, in strides.
    """

    def __init__(self, classes: int, widths: Sequence[int] = (16, 24, 40, 64, 96)) -> None:
        super().__init__()
        w2, w4, w8, w16, w32 = widths
        self.stem = nn.Sequential(_conv(3, w2, 3, 2), _conv(w2, w4, 3, 2), C2f(w4, w4, 1))
        self.stage8 = nn.Sequential(_conv(w4, w8, 3, 2), C2f(w8, w8, 2))
        self.stage16 = nn.Sequential(_conv(w8, w16, 3, 2), C2f(w16, w16, 2))
        self.stage32 = nn.Sequential(_conv(w16, w32, 3, 2), C2f(w32, w32, 1))
        self.merge16, self.merge8 = C2f(w16 + w32, w16, 1), C2f(w8 + w16, w8, 1)
        self.heads = nn.ModuleList(_head(width, classes) for width in (w8, w16, w32))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of images `(B, 3, H, W)`; H and W are multiples of 32."""
        fine = self.stage8(self.stem(x))
        middle = self.stage16(fine)
        coarse = self.stage32(middle)
        middle = self.merge16(torch.cat([_twice(coarse), middle], 1))
        fine = self.merge8(torch.cat([_twice(middle), fine], 1))
        pyramid = (fine, middle, coarse)
        return [head(level) for head, level in zip(self.heads, pyramid, strict=True)]


class C2f(nn.Module):
    """Half of the channels go through residual blocks; all that they gave is joined again."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.half = outputs // 2
        self.enter = _conv(inputs, 2 * self.half, 1)
        self.blocks = nn.ModuleList(_Bottleneck(self.half) for _ in range(blocks))
        self.leave = _conv((2 + blocks) * self.half, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, H, W)` -> `(B, outputs, H, W)`."""
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class _Bottleneck(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(width, width, 3), _conv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.SiLU())


def _head(width: int, classes: int) -> nn.Sequential:
    last = nn.Conv2d(width, classes + 4, 1)
    with torch.no_grad():
        last.bias[:classes] = -math.log(99.0)  # one of a hundred places holds an object
        last.bias[classes:] = 0.5
    return nn.Sequential(_conv(width, width, 3), last)


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def flat(maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class logits `(B, P, C)`, corners `(B, P, 4)`, places `(P, 2)` and strides `(P,)`."""
    parts, places, strides = [], [], []
    for each, stride in zip(maps, STRIDES, strict=True):
        rows, columns = torch.meshgrid(*(torch.arange(n) for n in each.shape[2:]), indexing="ij")
        places.append((torch.stack([columns, rows], -1).flatten(0, 1) + 0.5) * stride)
        strides.append(torch.full((rows.numel(),), float(stride)))
        parts.append(each.flatten(2).transpose(1, 2))
    merged, place = torch.cat(parts, 1).float(), torch.cat(places).to(maps[0].device)
    steps = torch.cat(strides).to(maps[0].device)
    away = merged[..., -4:].clamp(-4.0, 4.0).exp() * steps[:, None]
    corners = torch.cat([place - away[..., :2], place + away[..., 2:]], -1)
    return merged[..., :-4], corners, place, steps


def assigned(boxes: Tensor, places: Tensor, strides: Tensor) -> Tensor:
    """Which of `boxes` `(B, M, 5)` each place is to find, `(B, P)`: the smallest, -1 for none.

    A place is near a box's middle, inside the box, and of the level for boxes of its size.
    """
    low, high = boxes[:, None, :, :2], boxes[:, None, :, 2:4]  # B 1 M 2
    at = places[None, :, None]  # 1 P 1 2
    is_inside = ((at >= low) & (at <= high)).all(-1)
    is_near = (at - (low + high) / 2).abs().amax(-1) < _REACH * strides[None, :, None]
    longer = (high - low).amax(-1)
    bounds = torch.tensor(_LARGEST, device=boxes.device)
    steps = torch.tensor(STRIDES, device=boxes.device)[torch.bucketize(longer, bounds)]
    fits = is_inside & is_near & (steps == strides[None, :, None]) & (boxes[:, None, :, 4] >= 0)
    area = torch.where(fits, (high - low).prod(-1), math.inf)
    least, which = area.min(2)
    return torch.where(least.isfinite(), which, -1)


def detection_loss(maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Focal loss summed over places and classes, and 1 - GIoU, for each place with a box."""
    logits, corners, places, strides = flat(maps)
    which = assigned(boxes, places, strides)
    batch, place = (which >= 0).nonzero(as_tuple=True)
    target = boxes[batch, which[batch, place]]
    wanted = torch.zeros_like(logits)
    wanted[batch, place, target[:, 4].long()] = 1.0
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    missed = (wanted - logits.sigmoid()).abs()
    share = _ALPHA * wanted + (1.0 - _ALPHA) * (1.0 - wanted)
    focal = (share * missed**_GAMMA * entropy).sum()
    apart = (1.0 - overlap(corners[batch, place], target[:, :4], generalized=True)).sum()
    return (focal + apart) / max(1, len(batch))


def overlap(a: Tensor, b: Tensor, *, generalized: bool = False) -> Tensor:
    """IoU of boxes `(..., 4)`; or GIoU (Rezatofighi et al. 2019), which also says how far apart."""
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(
        min=0
    )
    inside = shared.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inside
    iou = inside / union.clamp(min=1e-9)
    if not generalized:
        return iou
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    around = hull.prod(-1).clamp(min=1e-9)
    return iou - (around - union) / around


def detections(maps: Sequence[Tensor]) -> list[Tensor]:
    """For each image `(K, 6)`: corners, class and score, best first, without near-duplicates."""
    logits, corners, _, _ = flat(maps)
    found = []
    for scores, boxes in zip(logits.sigmoid(), corners, strict=True):
        best, label = scores.max(1)
        order = best.argsort(descending=True)[: 3 * _MOST]
        order = order[best[order] >= _LEAST_SCORE]
        found.append(distinct(torch.cat([boxes[order], label[order, None], best[order, None]], 1)))
    return found


def distinct(boxes: Tensor) -> Tensor:
    """Rows `(K, 6)`, best first, without those that overlap a better one of their class."""
    ious = overlap(boxes[:, None, :4], boxes[None, :, :4])
    rivals = (ious > _OVERLAP) & (boxes[:, None, 4] == boxes[None, :, 4])
    kept: list[int] = []
    for row in range(len(boxes)):
        if not rivals[row, kept].any():
            kept.append(row)
    return boxes[kept[:_MOST]]


def average_precision(found: Sequence[Tensor], truth: Sequence[Tensor]) -> dict[str, float]:
    """`map50` and `map` of detections `(K, 6)` against boxes `(M, 5)`, an image each.

    Classes without a box do not count. 0 where nothing was found.
    """
    coco, evaluation = _needed("pycocotools.coco"), _needed("pycocotools.cocoeval")
    boxes = [_entry(i, row) for i, rows in enumerate(truth) for row in rows.tolist()]
    answers = [
        {**_entry(i, row), "score": row[5]} for i, rows in enumerate(found) for row in rows.tolist()
    ]
    if not answers:
        return {"map50": 0.0, "map": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its tables
        known = coco.COCO()
        known.dataset = {
            "images": [{"id": number} for number in range(len(truth))],
            "annotations": [{**box, "id": number} for number, box in enumerate(boxes, 1)],
            "categories": [{"id": label} for label in sorted({b["category_id"] for b in boxes})],
        }
        known.createIndex()
        judged = evaluation.COCOeval(known, known.loadRes(answers), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return {"map50": float(judged.stats[1]), "map": float(judged.stats[0])}


def _entry(image: int, row: Sequence[float]) -> dict[str, Any]:
    left, top, right, bottom = row[:4]
    width, height = right - left, bottom - top
    return {
        "image_id": image,
        "category_id": int(row[4]),
        "bbox": [left, top, width, height],
        "area": width * height,
        "iscrowd": 0,
    }


def _needed(module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise TaskError(f"this task needs {module} · pip install 'autoprune[examples]'") from error


@cache
def _splits(
    task: type[DetectionTask], data: str | Path | None
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    files = _files(data, task.folder)

    def decode() -> dict[str, np.ndarray]:
        read = _packed(files[0]) if files[0].suffix == ".npz" else _voc(files)
        images, boxes, parts = zip(*(fitted(sample, task) for sample in read), strict=True)
        most = max(map(len, boxes))
        filled = [np.pad(b, ((0, most - len(b)), (0, 0)), constant_values=-1) for b in boxes]
        return {"images": np.stack(images), "boxes": np.stack(filled), "part": np.array(parts)}

    arrays = cached_arrays(f"{task.folder}-{'x'.join(map(str, task.size))}", files, decode)
    images, boxes = (torch.from_numpy(arrays[name]) for name in ("images", "boxes"))
    rows = [torch.from_numpy(np.flatnonzero(arrays["part"] == part)) for part in range(3)]
    return {name: (images, boxes, part) for name, part in zip(_PARTS, rows, strict=True)}


class Sample(NamedTuple):
    """An encoded image, where it came from, its boxes by the names of their classes, its part."""

    image: bytes
    place: str
    boxes: list[tuple[str, list[float]]]
    part: int


def fitted(sample: Sample, task: type[DetectionTask]) -> tuple[np.ndarray, np.ndarray, int]:
    """Pixels `(3, H, W)` scaled to fit the task's size, at the top left; boxes `(M, 5)`; part."""
    height, width = task.size
    pillow = _needed("PIL.Image")
    try:
        with pillow.open(io.BytesIO(sample.image)) as opened:
            image = opened.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise TaskError(f"{sample.place} cannot be read as an image: {error}") from error
    scale = min(width / image.width, height / image.height)
    inner = (round(image.width * scale), round(image.height * scale))
    canvas = pillow.new("RGB", (width, height), (128, 128, 128))
    canvas.paste(image.resize(inner, pillow.Resampling.BOX))
    unknown = sorted({name for name, _ in sample.boxes} - task.names.keys())
    if unknown:
        raise TaskError(f"{sample.place}: objects must be {', '.join(task.names)}, got {unknown}")
    boxes = [[*(scale * side for side in box), task.names[name]] for name, box in sample.boxes]
    pixels = np.asarray(canvas).transpose(2, 0, 1)
    return pixels, np.array(boxes, np.float32).reshape(-1, 5), sample.part


def _files(data: str | Path | None, name: str) -> list[Path]:
    folders = data_folders(data, name)
    for folder in folders:
        if (folder / f"{name}.npz").is_file():
            return [folder / f"{name}.npz"]
        for place in (folder, folder / "BCCD"):
            if found := sorted(place.glob("*/*.xml")):
                return found
    raise TaskError(
        f"{name} is not in {' or '.join(map(str, folders))}: looked for {name}.npz and for files "
        "of Pascal VOC, Annotations/*.xml or train/*.xml"
    )


def _packed(file: Path) -> Iterator[Sample]:
    keys = ("jpeg_bytes", "jpeg_offsets", "split", "boxes", "box_labels", "box_image")
    named = file.stem == TrafficObjects.folder
    held = read_npz(file, (*keys, *(["class_names"] if named else [])))
    names = held["class_names"].tolist() if named else list(BloodCells.names)
    for number, (start, stop) in enumerate(pairwise(held["jpeg_offsets"].tolist())):
        rows = np.flatnonzero(held["box_image"] == number)
        boxes = [(names[held["box_labels"][row]], held["boxes"][row].tolist()) for row in rows]
        image = held["jpeg_bytes"][start:stop].tobytes()
        yield Sample(image, f"image {number} of {file}", boxes, int(held["split"][number]))


def _voc(files: list[Path]) -> Iterator[Sample]:
    """Annotations of Pascal VOC: with lists of the parts, or in folders `train` and `test`."""
    parts = {}
    for number, part in enumerate(_PARTS):
        listed = files[0].parents[1] / "ImageSets" / "Main" / f"{part}.txt"
        names = listed.read_text().split() if listed.is_file() else []
        parts |= {("Annotations", name): number for name in names}
    training = [file for file in files if file.parent.name == "train"]
    drawn = np.random.default_rng(0).permutation(len(training))[:_VALIDATION]
    parts |= {("train", training[row].stem): 1 for row in drawn}
    for file in files:
        beside = [file.parent, file.parents[1] / "JPEGImages"]
        images = [p for f in beside for p in f.glob(f"{file.stem}.*") if p.suffix != ".xml"]
        if not images:
            raise TaskError(f"{file} has no image of its name beside it or in JPEGImages")
        part = parts.get((file.parent.name, file.stem), 2 if file.parent.name == "test" else 0)
        yield Sample(images[0].read_bytes(), str(images[0]), list(_boxes(file)), part)


def _boxes(file: Path) -> Iterator[tuple[str, list[float]]]:
    try:
        for found in ElementTree.parse(file).iter("object"):
            sides = [float(found.findtext(f"bndbox/{side}") or "") for side in _SIDES]
            if sides[0] < sides[2] and sides[1] < sides[3]:  # BCCD has two boxes without an area
                yield found.findtext("name") or "", sides
    except (ElementTree.ParseError, ValueError) as error:
        raise TaskError(f"{file} cannot be read as Pascal VOC: {error}") from error
