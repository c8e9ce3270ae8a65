"""The same bits however the data is split: over shards, workers, a Ray cluster, and time."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from onnxgraft.data.ranges import Histogram, Ranges
from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.run import workers
from onnxgraft.stages.quantize import Checkpoint, calibrate
from onnxgraft.stages.quantize.measure.measurer import Job, Measurer, Shard, Tally, shards_of
from tests.conftest import model_of, only_ci, only_deep
from tests.quantize.test_calibration import NETWORK, constants, images, samples_of

SITES = ("image", "small", "seen2")


@pytest.fixture
def model() -> Model:
    """Return the network with its weights."""
    return model_of(NETWORK, constants())


@pytest.fixture
def samples(model: Model, tmp_path: Path) -> Samples:
    """Return 30 samples."""
    return samples_of(tmp_path, model, image=images(30))


def same(one: dict[str, Histogram], other: dict[str, Histogram]) -> bool:
    """Tell whether histograms hold exactly the same."""
    return list(one) == list(other) and all(
        (one[name].counts == other[name].counts).all()
        and (one[name].minimum, one[name].maximum) == (other[name].minimum, other[name].maximum)
        for name in one
    )


def assert_equal(found: Ranges, expected: Ranges) -> None:
    """Demand the same bits of two calibrations."""
    assert same(found.histograms, expected.histograms)
    assert same(found.early, expected.early)
    for field in ("tensors", "moved", "samples", "channels", "images", "skipped", "sites"):
        assert getattr(found, field) == getattr(expected, field), field


def job_of(model: Model, samples: Samples, **changes: Any) -> Job:
    job = Job(model.to_onnx().SerializeToString(), SITES, (), samples, False)
    return replace(job, **changes)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 30, 100, 999, 10_000])
def test_shards_cover_every_sample_once_and_end_where_the_last_quarter_begins(count: int) -> None:
    shards = shards_of(count)
    assert [p for start, end in shards for p in range(start, end)] == list(range(count))
    assert count - count // 4 in {end for _, end in shards}


@pytest.mark.parametrize("seed", range(5))
def test_any_split_into_shards_and_any_order_gives_the_same(
    model: Model, samples: Samples, seed: int
) -> None:
    chance = random.Random(seed)
    cuts = sorted({0, 30, *chance.sample(range(1, 30), chance.randrange(0, 12))})
    shards = list(itertools.pairwise(cuts))
    chance.shuffle(shards)
    whole, split = Tally(), Tally()
    with Measurer(job_of(model, samples), threads=1) as measurer:
        whole.merge(measurer.tally((0, 30)))
    with Measurer(job_of(model, samples), threads=3, lanes=3) as measurer:
        for shard in shards:
            split.merge(measurer.tally(shard))
    assert same(whole.histograms, split.histograms)
    assert whole.samples == {name: split.samples[name] for name in whole.samples}


def test_bad_samples_leave_nothing_behind_in_several_lanes(model: Model, tmp_path: Path) -> None:
    batch = images(24)
    batch[[3, 4, 17], 0, 0, 0] = np.nan
    bad = samples_of(tmp_path, model, image=batch)
    good = replace(bad, indices=tuple(i for i in range(24) if i not in (3, 4, 17)))
    whole, rest = Tally(), Tally()
    with Measurer(job_of(model, bad, skip_bad=True), threads=3, lanes=3) as measurer:
        whole.merge(measurer.tally((0, 24)))
    with Measurer(job_of(model, good), threads=1) as measurer:
        rest.merge(measurer.tally((0, 21)))
    assert same(whole.histograms, rest.histograms)
    assert set(whole.skipped) == {bad.name(3), bad.name(4), bad.name(17)}


def test_processes_give_the_same(model: Model, samples: Samples) -> None:
    expected = calibrate(model, samples, per_channel=["seen2"])
    assert_equal(calibrate(model, samples, per_channel=["seen2"], workers=3), expected)


def test_an_error_in_a_process_is_told_as_here(model: Model, tmp_path: Path) -> None:
    batch = images(9)
    batch[7, 0, 0, 0] = np.nan
    samples = samples_of(tmp_path, model, image=batch)
    with pytest.raises(InputError, match=r"data\.npz\[7\]: of the 192 values"):
        calibrate(model, samples, workers=2)


def _die(shard: Shard) -> bytes:
    os._exit(1)


def test_a_process_that_dies_is_told(
    model: Model, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_do", _die)
    with pytest.raises(InputError, match=r"a worker process died.*--resume"):
        calibrate(model, samples, workers=2)


@only_deep
def test_a_ray_cluster_gives_the_same_though_it_loses_a_worker(
    model: Model, samples: Samples, monkeypatch: pytest.MonkeyPatch, ray: Any
) -> None:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        expected = calibrate(model, samples)

        @ray.remote  # type: ignore[untyped-decorator]
        class Mortal(workers._Worker):
            """The worker of the cluster; the first process that counts a shard dies of it."""

            def do(self, part: Any) -> Any:
                try:
                    os.close(os.open(died, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    return super().do(part)
                os.kill(os.getpid(), signal.SIGKILL)
                raise AssertionError

        died = Path(samples.source).with_name("died")
        monkeypatch.setattr(ray, "remote", lambda **how: lambda worker: Mortal.options(**how))
        assert_equal(calibrate(model, samples, workers=2, ray="auto"), expected)
        assert died.exists()
        monkeypatch.undo()
        broken = images(9)
        broken[7, 0, 0, 0] = np.inf
        np.savez(Path(samples.source).with_name("broken.npz"), image=broken)
        bad = open_samples(Path(samples.source).with_name("broken.npz"), model.inputs)
        with pytest.raises(InputError, match=r"broken\.npz\[7\]: of the 192 values"):
            calibrate(model, bad, workers=0, ray="auto")
    finally:
        ray.shutdown()


@only_deep
def test_a_machine_of_the_cluster_that_goes_is_done_without(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray: Any
) -> None:
    from ray.cluster_utils import Cluster

    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number, image in enumerate(images(30)):
            pixels = np.clip(image.transpose(1, 2, 0) * 50 + 128, 0, 255).astype(np.uint8)
            archive.writestr(f"{number:02}.png", cv2.imencode(".png", pixels)[1].tobytes())
    samples = open_samples(f"zip::{(tmp_path / 'images.zip').as_uri()}", model.inputs)
    expected = calibrate(model, samples)
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        other = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        nodes = tmp_path / "nodes"
        nodes.mkdir()

        @ray.remote  # type: ignore[untyped-decorator]
        class Slow(workers._Worker):
            """The worker of the cluster, which says on which node it is, and takes its time."""

            def do(self, part: Any) -> Any:
                (nodes / ray.get_runtime_context().get_node_id()).touch()
                time.sleep(0.5)
                return super().do(part)

        def go() -> None:
            while len([*nodes.iterdir()]) < 2:
                time.sleep(0.02)
            cluster.remove_node(other, allow_graceful=False)

        monkeypatch.setattr(ray, "remote", lambda **how: lambda worker: Slow.options(**how))
        going = threading.Thread(target=go, daemon=True)
        going.start()
        assert_equal(calibrate(model, samples, workers=2, ray="auto"), expected)
        going.join(10)
        assert not going.is_alive()  # so both had begun, and one of them went
    finally:
        ray.shutdown()
        cluster.shutdown()


@only_ci
def test_processes_read_by_url_themselves(model: Model, samples: Samples, tmp_path: Path) -> None:
    (tmp_path / "i").mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"i/{number:02}.png"), pixels)
    here = open_samples(tmp_path / "i", model.inputs)
    there = open_samples((tmp_path / "i").as_uri(), model.inputs)
    assert same(calibrate(model, here).histograms, calibrate(model, there, workers=2).histograms)


@pytest.mark.usefixtures("ray")
def test_a_cluster_that_is_not_there_is_told(model: Model, samples: Samples) -> None:
    with pytest.raises(InputError, match="no Ray cluster can be reached"):
        calibrate(model, samples, ray="auto")


# Going on after a run was cut short.


class _Cut(Exception):
    pass


def cut_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a calibration end after so many shards, as if it were killed."""
    finished = Checkpoint.put
    left = iter(range(count))

    def put(self: Checkpoint, name: str, packed: bytes) -> None:
        if next(left, None) is None:
            raise _Cut
        finished(self, name, packed)

    monkeypatch.setattr(Checkpoint, "put", put)


@pytest.mark.parametrize("finished", [1, 3, 6])
def test_a_run_that_was_cut_short_goes_on_to_the_same(
    model: Model, samples: Samples, tmp_path: Path, finished: int
) -> None:
    expected = calibrate(model, samples)
    place = tmp_path / "r.json.partial"
    with pytest.MonkeyPatch.context() as patch:
        cut_after(finished, patch)
        with pytest.raises(_Cut):
            calibrate(model, samples, checkpoint=Checkpoint(place))
    assert len(list(place.glob("*.npz"))) == finished
    counted: list[Shard] = []
    with pytest.MonkeyPatch.context() as patch:
        tally = Measurer.tally
        patch.setattr(
            Measurer, "tally", lambda self, shard: counted.append(shard) or tally(self, shard)
        )
        checkpoint = Checkpoint(place, resume=True)
        assert_equal(calibrate(model, samples, checkpoint=checkpoint), expected)
    assert len(counted) == len(shards_of(30)) - finished
    checkpoint.clear()
    assert not place.exists()


def test_what_was_damaged_or_changed_in_between_is_counted_again(
    model: Model, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(12):
        cv2.imwrite(str(folder / f"{index:02}.png"), rng.integers(0, 255, (8, 8, 3), np.uint8))
    place = tmp_path / "p"
    calibrate(model, open_samples(folder, model.inputs), checkpoint=Checkpoint(place))
    first, *_ = sorted(place.glob("*.npz"))
    first.write_bytes(first.read_bytes()[:100])
    cv2.imwrite(str(folder / "05.png"), rng.integers(0, 255, (8, 8, 3), np.uint8))
    samples = open_samples(folder, model.inputs)
    found = calibrate(model, samples, checkpoint=Checkpoint(place, resume=True))
    assert_equal(found, calibrate(model, samples))


def test_what_was_counted_of_a_tensor_that_is_none_is_counted_again(
    model: Model, samples: Samples, tmp_path: Path
) -> None:
    place = tmp_path / "p"
    expected = calibrate(model, samples, checkpoint=Checkpoint(place))
    for kept in place.glob("*.npz"):
        tally = Tally.from_bytes(kept.read_bytes())
        name, *_ = tally.histograms
        tally.histograms = {f"no {n}" if n == name else n: h for n, h in tally.histograms.items()}
        kept.write_bytes(tally.to_bytes())
        break
    assert_equal(calibrate(model, samples, checkpoint=Checkpoint(place, resume=True)), expected)


@pytest.mark.parametrize(
    ("what", "told"),
    [("model", "model"), ("samples", "choice of samples"), ("tensors", "set of tensors")],
)
def test_a_checkpoint_of_something_else_is_refused(
    model: Model, samples: Samples, tmp_path: Path, what: str, told: str
) -> None:
    calibrate(model, samples, checkpoint=Checkpoint(tmp_path / "p"))
    other = model_of(NETWORK, constants(seed=9)) if what == "model" else model
    chosen = samples.head(29) if what == "samples" else samples
    channels = ["seen2"] if what == "tensors" else []
    with pytest.raises(InputError, match=f"begun with another {told}"):
        calibrate(
            other, chosen, per_channel=channels, checkpoint=Checkpoint(tmp_path / "p", resume=True)
        )


@pytest.mark.parametrize("text", ["", "{", "1.5", "[]", '"a"', "null", '{"mo\xff'])
def test_a_plan_that_is_none_is_told(
    text: str, model: Model, samples: Samples, tmp_path: Path
) -> None:
    calibrate(model, samples, checkpoint=Checkpoint(tmp_path / "p"))
    (tmp_path / "p" / "plan.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"plan\.json: is damaged; run without --resume"):
        calibrate(model, samples, checkpoint=Checkpoint(tmp_path / "p", resume=True))


def test_without_resume_a_checkpoint_is_begun_again(
    model: Model, samples: Samples, tmp_path: Path
) -> None:
    calibrate(model_of(NETWORK, constants(seed=9)), samples, checkpoint=Checkpoint(tmp_path / "p"))
    found = calibrate(model, samples, checkpoint=Checkpoint(tmp_path / "p"))
    assert_equal(found, calibrate(model, samples))


def test_a_folder_that_is_no_checkpoint_is_left_alone(
    model: Model, samples: Samples, tmp_path: Path
) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is in the way of the checkpoint"):
        calibrate(model, samples, checkpoint=Checkpoint(tmp_path / "p"))
    assert (tmp_path / "p" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("plan", ["plan.json", "plan.json.finished"])
def test_a_checkpoint_elsewhere_is_not_cleared_by_a_link(
    model: Model, samples: Samples, tmp_path: Path, plan: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / plan).write_text("{}")
    (tmp_path / "p").symlink_to(elsewhere)
    with pytest.raises(InputError, match="is in the way of the checkpoint"):
        calibrate(model, samples, checkpoint=Checkpoint(tmp_path / "p"))
    assert [entry.name for entry in elsewhere.iterdir()] == [plan]


@pytest.mark.parametrize("left", ["nothing", "temporary", "finished"])
def test_a_run_that_was_killed_as_it_began_or_ended_is_no_obstacle(
    model: Model, samples: Samples, tmp_path: Path, left: str
) -> None:
    place = tmp_path / "p"
    if left == "finished":
        calibrate(model, samples, checkpoint=Checkpoint(place))
        (place / "plan.json").rename(place / "plan.json.finished")
    else:
        place.mkdir()
        if left == "temporary":
            (place / ".plan.json.x7f").write_text('{"mod')
    found = calibrate(model, samples, checkpoint=Checkpoint(place, resume=True))
    assert_equal(found, calibrate(model, samples))


@only_ci
def test_a_command_that_is_killed_goes_on_to_the_same_file(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", image=images(600))
    command = [
        sys.executable, "-m", "onnxgraft", "calibrate", tmp_path / "net.onnx",
        "--data", tmp_path / "data.npz",
    ]  # fmt: skip
    whole, cut = tmp_path / "whole.json", tmp_path / "cut.json"
    subprocess.run([*command, "-o", whole], check=True, capture_output=True)
    process = subprocess.Popen([*command, "-o", cut], stdout=subprocess.DEVNULL)
    partial = tmp_path / "cut.json.partial"
    while process.poll() is None and len(list(partial.glob("*.npz"))) < 2:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not cut.exists():  # it was fast enough to be killed on the way
        assert partial.exists()
    subprocess.run([*command, "-o", cut, "--resume"], check=True, capture_output=True)
    assert cut.read_bytes() == whole.read_bytes()
    assert not partial.exists()


def test_a_full_disk_leaves_the_old_file(
    model: Model, samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = calibrate(model, samples, "minmax")
    ranges.save(tmp_path / "r.json")
    before = {path: path.read_bytes() for path in tmp_path.glob("r.json*")}

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"can't be written .No space left on device"):
        calibrate(model, samples, "mse").save(tmp_path / "r.json")
    assert {path: path.read_bytes() for path in tmp_path.glob("r.json*")} == before


@only_deep
def test_the_shared_networks_give_the_same_in_processes(shared: Path) -> None:
    """Real convolutions: onnxruntime with one thread and with two gives the same bits."""
    pytest.importorskip("tensorflow")
    from onnxgraft import commands
    from onnxgraft.data.preprocess import Preprocess

    folder = shared / "models/mobilenet_camvid/mobilenet_camvid.pb"
    done = commands.convert(str(folder), verify=False)
    recipe = Preprocess(crop=(4, 0, 352, 480), mean=(109.56690979, 107.69937134, 104.42664337))
    data = open_samples(shared / "data/camvid/calib", done.model.inputs, recipe, images=4)
    assert_equal(calibrate(done.model, data, workers=2), calibrate(done.model, data))
