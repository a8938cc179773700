import copy
import io

import numpy as np
import pytest
import torch
from models.zoo import settled
from PIL import Image
from torch import nn

from autoprune.architecture import Architecture
from autoprune.errors import TaskError
from autoprune.pruning.build import build
from autoprune.pruning.verification import prunable
from examples.detection import (
    STRIDES,
    BloodCells,
    Detector,
    TrafficObjects,
    assigned,
    average_precision,
    detection_loss,
    detections,
    distinct,
    flat,
    mirrored,
    overlap,
)

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)


def encoded(width, height):
    pixels = RNG.integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def annotation(*boxes):
    parts = [
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
        f"<ymax>{d}</ymax></bndbox></object>"
        for name, a, b, c, d in boxes
    ]
    return f"<annotation>{''.join(parts)}</annotation>"


def write_bccd(folder):
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / "BCCD" / name).mkdir(parents=True)
    for number in range(4):
        (folder / "BCCD" / "JPEGImages" / f"{number}.png").write_bytes(encoded(512, 384))
        boxes = [("RBC", 100, 40, 200, 140), ("Platelets", 5, 6, 5, 9)][: 1 + number % 2]
        (folder / "BCCD" / "Annotations" / f"{number}.xml").write_text(annotation(*boxes))
    for name, rows in (("train", "0\n1\n"), ("val", "2\n"), ("test", "3\n")):
        (folder / "BCCD" / "ImageSets" / "Main" / f"{name}.txt").write_text(rows)


def boxes_of(*rows):
    return torch.tensor(rows, dtype=torch.float32)[None]


def maps_of(height=192, width=256, classes=3, value=-8.0):
    """Maps that see nothing, with boxes of one stride to every side."""
    sizes = [(height // stride, width // stride) for stride in STRIDES]
    maps = [torch.zeros(1, classes + 4, *size) for size in sizes]
    for each in maps:
        each[:, :classes] = value
    return maps


def test_pascal_voc_is_scaled_with_its_boxes_and_split_by_its_lists(tmp_path):
    write_bccd(tmp_path)
    splits = BloodCells(tmp_path).splits()
    images, boxes, _ = splits["train"]
    assert images.shape == (4, 3, 192, 256)
    assert [splits[name][2].tolist() for name in ("train", "val", "test")] == [[0, 1], [2], [3]]
    assert boxes[0].tolist() == [[50.0, 20.0, 100.0, 70.0, 0.0]]  # half of the size
    assert boxes[1].tolist() == boxes[0].tolist()  # the box without an area is left out


def test_folders_give_the_parts_of_traffic_and_images_keep_their_shape(tmp_path):
    for part, count in (("train", 40), ("test", 5)):
        (tmp_path / part).mkdir()
        for number in range(count):
            (tmp_path / part / f"{number}.png").write_bytes(encoded(104, 52))
            box = ("truck", 10, 10, 20, 30)
            (tmp_path / part / f"{number}.xml").write_text(annotation(box))
    splits = TrafficObjects(tmp_path).splits()
    assert [len(splits[name][2]) for name in ("train", "val", "test")] == [10, 30, 5]
    images, boxes, _ = splits["train"]
    assert images.shape == (45, 3, 416, 256)
    assert (images[:, :, 128:] == 128).all()  # 104 x 52 becomes 256 x 128, the rest is grey
    scale = 256 / 104
    expected = [10 * scale, 10 * scale, 20 * scale, 30 * scale, 1.0]
    assert boxes[0, 0].tolist() == pytest.approx(expected)


def test_mirrored_images_keep_their_boxes_around_the_same_pixels():
    images = torch.zeros(2, 3, 32, 64)
    images[:, :, 4:8, 10:20] = 1.0
    boxes = boxes_of([10, 4, 20, 8, 2], [-1] * 5).repeat(2, 1, 1)
    for dim in (2, 3):
        there, moved = mirrored(images, boxes, torch.tensor([True, False]), dim)
        left, top, right, bottom = map(int, moved[0, 0, :4])
        assert there[0, :, top:bottom, left:right].min() == 1.0
        assert there[0].sum() == images[0].sum()
        assert torch.equal(moved[:, 1], boxes[:, 1])
        assert torch.equal(there[1], images[1])
        assert torch.equal(moved[1], boxes[1])


def test_batches_are_mirrored_alike_under_one_seed(tmp_path):
    write_bccd(tmp_path)
    task = BloodCells(tmp_path)
    first, again = (list(task.train_loader(3)) for _ in range(2))
    assert len(task.train_loader(3)) == len(first) == 1
    assert all(torch.equal(a, b) for a, b in zip(first[0], again[0], strict=True))
    loader = task.train_loader(3)
    assert len({tuple(next(iter(loader))[1].flatten().tolist()) for _ in range(16)}) > 1


def test_each_box_is_found_by_places_near_its_middle_on_the_level_of_its_size():
    _, _, places, strides = flat(maps_of())
    small, large = [96, 64, 112, 80, 0], [32, 32, 192, 192, 1]
    which = assigned(boxes_of(small, large, [-1] * 5), places, strides)[0]
    for box, stride, middle in ((0, 8, (104, 72)), (1, 32, (112, 112))):
        there = places[which == box]
        assert (strides[which == box] == stride).all()
        assert len(there) == (4 if box == 0 else 9)
        assert (there - torch.tensor(middle)).abs().max() < 1.5 * stride


def test_of_two_boxes_at_a_place_the_smaller_one_counts():
    _, _, places, strides = flat(maps_of())
    which = assigned(boxes_of([40, 40, 80, 80, 0], [44, 44, 76, 76, 1]), places, strides)[0]
    assert set(which.tolist()) == {-1, 1}


@pytest.mark.parametrize(
    ("box", "iou", "giou"),
    [
        ((0, 0, 2, 2), 1.0, 1.0),
        ((1, 0, 3, 2), 1 / 3, 1 / 3),  # the hull is the union
        ((1, 1, 3, 3), 1 / 7, 1 / 7 - 2 / 9),
        ((3, 0, 4, 2), 0.0, -2 / 8),
    ],
)
def test_overlaps(box, iou, giou):
    one, other = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor(box, dtype=torch.float32)
    assert overlap(one, other).item() == pytest.approx(iou)
    assert overlap(one, other, generalized=True).item() == pytest.approx(giou)


def seeing(row, column, label, logit=8.0):
    maps = maps_of()
    maps[0][0, label, row, column] = logit
    return maps


def test_a_confident_place_becomes_a_box():
    found = detections(seeing(row=3, column=5, label=2))[0]
    assert found.shape == (1, 6)
    assert found[0].tolist() == pytest.approx([36, 20, 52, 36, 2, 0.99966], abs=1e-4)


def test_the_loss_is_least_where_the_boxes_are():
    box = boxes_of([36, 20, 52, 36, 2])  # its middle is the place of row 3, column 5
    maps = maps_of()
    _, _, places, strides = flat(maps)
    chosen = (assigned(box, places, strides) >= 0)[0, : 24 * 32].view(24, 32)
    right, wrong = maps_of(), maps_of()
    right[0][0, 2][chosen], wrong[0][0, 1][chosen] = 8.0, 8.0
    assert detection_loss(right, box) < detection_loss(maps, box) < detection_loss(wrong, box)
    assert detection_loss(maps, boxes_of([-1] * 5)) < 1e-3  # nothing there, nothing seen


def test_only_the_best_of_overlapping_boxes_of_a_class_is_kept():
    rows = torch.tensor(
        [
            [0, 0, 10, 10, 0, 0.9],
            [1, 0, 11, 10, 0, 0.8],  # the same object
            [1, 0, 11, 10, 1, 0.7],  # another class
            [20, 0, 30, 10, 0, 0.6],
        ]
    )
    assert distinct(rows)[:, 5].tolist() == pytest.approx([0.9, 0.7, 0.6])


def test_precision_of_known_answers():
    truth = [torch.tensor([[0.0, 0, 10, 10, 0], [20, 0, 30, 10, 0]]), torch.zeros(0, 5)]
    perfect = [torch.cat([truth[0], torch.tensor([[0.9], [0.8]])], 1), torch.zeros(0, 6)]
    assert average_precision(perfect, truth) == pytest.approx({"map50": 1.0, "map": 1.0})
    half = [perfect[0][:1], torch.tensor([[0.0, 0, 10, 10, 0, 0.95]])]
    # the best answer is wrong, the second finds one of two: precision 1/2 up to a recall of 1/2,
    # of which 51 of COCO's 101 points are
    assert average_precision(half, truth)["map50"] == pytest.approx(51 / 101 / 2)
    nothing = [torch.zeros(0, 6)] * 2
    assert average_precision(nothing, truth) == {"map50": 0.0, "map": 0.0}


def test_maps_have_the_sizes_of_their_strides():
    maps = Detector(classes=3).eval()(torch.zeros(2, 3, 64, 96))
    assert [tuple(each.shape) for each in maps] == [(2, 7, 8, 12), (2, 7, 4, 6), (2, 7, 2, 3)]


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(TaskError, match=r"looked for bccd.npz and for files of Pascal VOC"):
        BloodCells(tmp_path).val_loader()
    write_bccd(tmp_path)
    (tmp_path / "BCCD" / "Annotations" / "2.xml").write_text(annotation(("WBCs", 1, 1, 9, 9)))
    with pytest.raises(TaskError, match=r"2.png: objects must be RBC, WBC, Platelets, got ..WBCs"):
        BloodCells(tmp_path).val_loader()
    (tmp_path / "BCCD" / "Annotations" / "2.xml").write_text("<annotation>")
    with pytest.raises(TaskError, match=r"2.xml cannot be read as Pascal VOC"):
        BloodCells(tmp_path).val_loader()
    (tmp_path / "BCCD" / "JPEGImages" / "0.png").write_bytes(b"nothing")
    with pytest.raises(TaskError, match=r"0.png cannot be read as an image"):
        BloodCells(tmp_path).val_loader()
    (tmp_path / "BCCD" / "JPEGImages" / "0.png").unlink()
    with pytest.raises(TaskError, match=r"0.xml has no image of its name"):
        BloodCells(tmp_path).val_loader()


def test_the_blocks_of_c2f_are_found_and_can_go():
    torch.manual_seed(0)
    model, x = settled(Detector(2)).eval(), torch.randn(1, 3, 64, 64)
    graph = prunable(model, x)
    names = [
        *("stem.2.blocks.0", "stage8.1.blocks.0", "stage8.1.blocks.1", "stage16.1.blocks.0"),
        *("stage16.1.blocks.1", "stage32.1.blocks.0", "merge16.blocks.0", "merge8.blocks.0"),
    ]
    assert [block.name for block in graph.blocks] == names
    for dropped in ([names[1]], names[::2], names):
        by_hand = copy.deepcopy(model)
        for name in dropped:  # without its branch x + f(x) is x
            parent, _, place = name.rpartition(".")
            by_hand.get_submodule(parent)[int(place)] = nn.Identity()
        small = build(model, graph, Architecture(dropped=dropped)).model
        assert [p.numel() for p in small.parameters()] == [p.numel() for p in by_hand.parameters()]
        for found, wanted in zip(small(x), by_hand(x), strict=True):
            torch.testing.assert_close(found, wanted)
