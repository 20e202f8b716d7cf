"""The memory of a whole run, measured in a process of its own."""

from wasi.bench.resident import resident_memory_of


def test_a_run_of_fewer_images_than_a_batch_is_measured_as_it_trains(compose_config, tmp_path):
    small = ("dataset=digits", "dataset.train_size=16", "dataset.val_size=8", "dataset.test_size=8")
    cfg = compose_config(*small, "model=vit_micro", "method=vanilla", "dataset.batch_size=32")
    found = resident_memory_of(cfg, 1, tmp_path / "log")
    assert 0 < found["memory/train_rss_peak_mib"] < found["memory/process_rss_peak_mib"]
