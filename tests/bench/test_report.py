"""Table, CSV file and figure of a sweep."""

import csv
import io

import pytest

from wasi.bench.bench_table import text
from wasi.bench.jobs import baselines, labels, read_jobs
from wasi.bench.report import bench_csv, write_report
from wasi.bench.time_figure import _series, _ticks, draw

from .jobs import config, content, metrics, write_sweep

VANILLA = metrics(1000, 300, 900)


@pytest.fixture
def sweep(tmp_path):
    write_sweep(
        tmp_path,
        [
            content(config("wasi", 0.8), metrics(500, 200, 300), VANILLA),
            content(config("wasi", 0.4), metrics(250, 100, 150), VANILLA),
            content(config("vanilla"), VANILLA, VANILLA),
            content(config("wasi", 0.9), {}, {}, "failed", "the measuring process was killed by SIGKILL"),
        ],
    )
    return tmp_path


def row(table: str, label: str) -> list[str]:
    return [line for line in table.splitlines() if line.strip().startswith(f"{label}  ")]


def test_rows_are_ordered_and_named(sweep):
    assert labels(read_jobs(sweep)) == ["vanilla", "wasi 0.4", "wasi 0.8", "wasi 0.9"]


def test_the_table_says_what_was_measured(sweep):
    output = text(read_jobs(sweep))
    times, memory = row(output, "wasi 0.8")
    assert times.split()[2:] == [
        "500.0",
        "600.0",
        "2.00×",
        "[1.80,",
        "2.20]",
        "200.0",
        "1.50×",
        "[1.35,",
        "1.65]",
        "3.000",
        "6.000",
    ]
    assert memory.split()[2:] == [
        "300.0",
        "3.00×",
        "90.00",
        "30.00",
        "0",
        "150.0",
        "30.00",
        "120.0",
        "330.0",
        "600.0",
        "100.0",
        "10%",
        "30%",
        "5%",
        "5%",
        "50%",
    ]
    assert set("".join(row(output, "wasi 0.9 (failed)")[0].split()[3:])) == {"-"}
    assert "wasi 0.9: failed: the measuring process was killed by SIGKILL" in output
    assert "vit_b_32 (surrogate weights) on synthetic, batch 32, Cortex-A76, 4 threads" in output
    assert max(map(len, output.splitlines())) <= 160


def test_a_baseline_that_is_no_job_has_a_row(tmp_path):
    write_sweep(tmp_path, [content(config("wasi", 0.8), metrics(500, 200, 300), VANILLA)])
    times, _ = row(text(read_jobs(tmp_path)), "vanilla (baseline)")
    assert times.split()[2:4] == ["1000", "1200"]


def test_a_baseline_of_a_job_s_method_but_other_options_has_a_row(tmp_path):
    lean = content(config("vanilla", train__memory="lean"), metrics(1500, 200, 300), VANILLA)
    write_sweep(tmp_path, [lean, content(config("wasi", 0.8), metrics(500, 200, 300), VANILLA)])
    jobs = read_jobs(tmp_path)
    assert row(text(jobs), "vanilla (baseline)")[0].split()[2] == "1000"
    assert set(_series(jobs)) == {"vanilla, memory=lean", "vanilla", "wasi, memory=plain"}


def test_baselines_on_other_data_are_baselines_of_their_own(tmp_path):
    contents = []
    for size, slower in ((100, 1), (1000, 2)):
        data = {"dataset": {"name": "synthetic", "batch_size": 32, "train_size": size}}
        base = metrics(1000 * slower, 300, 900)
        for cfg, measured in ((config("vanilla"), base), (config("wasi", 0.8), metrics(500, 200, 300))):
            one = content(cfg | data, measured, base)
            one["baseline"]["config"] |= data
            contents.append(one)
    write_sweep(tmp_path, contents)
    jobs = read_jobs(tmp_path)
    found = baselines(jobs)
    times = [base.run.metrics["time/train_step_ms_p50"] for base in found.values()]
    assert sorted(times) == [1000, 2000] and all(base.is_job for base in found.values())
    assert len({base.name for base in found.values()}) == 2


def test_baselines_on_other_machines_are_baselines_of_their_own(tmp_path):
    contents = [content(config("wasi", 0.8), metrics(500, 200, 300), metrics(ms, 300, 900)) for ms in (1000, 2000)]
    contents[1]["provenance"]["machine"] = {"processor": "Cortex-A72"}
    write_sweep(tmp_path, contents)
    found = baselines(read_jobs(tmp_path))
    assert sorted(base.run.metrics["time/train_step_ms_p50"] for base in found.values()) == [1000, 2000]


def test_a_baseline_is_recognised_as_a_job_on_a_machine_without_their_gpu(tmp_path):
    vanilla = content(config("vanilla") | {"device": {"name": "auto"}}, VANILLA, VANILLA)
    vanilla["baseline"]["config"] |= {"device": {"name": "auto"}}
    vanilla["provenance"]["device"] = "cuda:0"
    write_sweep(tmp_path, [vanilla])
    assert row(text(read_jobs(tmp_path)), "vanilla (baseline)") == []


def test_jobs_are_told_apart_by_what_differs(tmp_path):
    write_sweep(
        tmp_path,
        [
            content(config("wasi", 0.8), metrics(500, 200, 300), None),
            content(config("wasi", 0.8, train__memory="lean"), metrics(500, 200, 300), None),
            content(config("wasi", 0.8, method__scope="mlp"), metrics(500, 200, 300), None),
        ],
    )
    assert sorted(labels(read_jobs(tmp_path))) == [
        "wasi 0.8, all, memory=lean",
        "wasi 0.8, all, memory=plain",
        "wasi 0.8, mlp, memory=plain",
    ]


def test_folders_of_images_with_one_name_are_tables_of_their_own(tmp_path):
    jobs = [content(config("wasi", 0.8), metrics(step, 200, 300), None) for step in (500, 700)]
    for job, parent in zip(jobs, ("spring", "autumn"), strict=True):
        job["config"]["dataset"] |= {"name": "image_folder", "root": f"/data/{parent}/photos"}
    write_sweep(tmp_path, jobs)
    output = text(read_jobs(tmp_path))
    for parent in ("spring", "autumn"):
        assert f"on image_folder ({parent}/photos), batch 32" in output
    write_report(tmp_path)
    assert len(list(tmp_path.glob("time_vs_epsilon_*.png"))) == 2


def test_a_device_or_an_optimizer_is_told_by_the_name_of_its_group(tmp_path):
    jobs = [content(config("wasi", 0.8), metrics(500, 200, 300), None) for _ in range(2)]
    for job, device, optimizer in zip(jobs, ("cpu", "cuda"), ("torch.optim.SGD", "torch.optim.AdamW"), strict=True):
        job["config"] |= {"device": {"name": device}, "optimizer": {"_target_": optimizer}}
    write_sweep(tmp_path, jobs)
    assert sorted(labels(read_jobs(tmp_path))) == [
        "wasi 0.8, optimizer=AdamW, device=cuda",
        "wasi 0.8, optimizer=SGD, device=cpu",
    ]


def test_csv_holds_every_number_as_it_is(sweep):
    rows = list(csv.DictReader(io.StringIO(bench_csv(read_jobs(sweep), sweep))))
    assert [r["job"] for r in rows] == ["job2", "job1", "job0", "job3"]
    wasi = rows[2]
    assert float(wasi["memory/train_rss_peak_mib"]) == 300 * 1.1
    assert float(wasi["baseline/time/train_step_ms_p50"]) == 1000
    assert float(wasi["ratio/time/train_step_ms_p50/low"]) == 1.8
    assert rows[3]["status"] == "failed" and rows[3]["time/train_step_ms_p50"] == ""


def test_vanilla_is_the_last_marker():
    assert list(_ticks(["vanilla", 0.8, 0.4, "lora", "svd_llm"])) == [0.4, 0.8, "lora", "svd_llm", "vanilla"]


def test_figure_of_a_block(sweep, tmp_path):
    assert draw(read_jobs(sweep))["png"].startswith(b"\x89PNG")
    assert draw([job for job in read_jobs(sweep) if job.status == "failed"]) == {}


def test_everything_is_written_beside_the_jobs(sweep):
    output = write_report(sweep)
    assert {path.name for path in sweep.iterdir() if path.is_file()} == {
        "bench.csv",
        "report.html",
        "time_vs_epsilon_vit_b_32_surrogate_weights_synthetic_32.png",
        "time_vs_epsilon_vit_b_32_surrogate_weights_synthetic_32.svg",
    }
    assert str(sweep) in output and "bench.csv" in output


def test_a_sweep_without_a_job(tmp_path):
    assert "no benchmark job" in write_report(tmp_path) and (tmp_path / "bench.csv").exists()


def test_jobs_that_differ_by_their_schedule_alone_are_named_by_it(tmp_path):
    jobs = [config("wasi", 0.8) for _ in range(2)]
    for job, schedule in zip(jobs, ("constant", "cosine"), strict=True):
        job["scheduler"] = {"_target_": f"wasi.training.schedule.{schedule}"}
    write_sweep(tmp_path, [content(job, metrics(500, 200, 300), VANILLA) for job in jobs])
    assert labels(read_jobs(tmp_path)) == ["wasi 0.8, scheduler=constant", "wasi 0.8, scheduler=cosine"]


def test_jobs_of_two_numbers_of_threads_have_a_baseline_row_each_and_no_common_heading(tmp_path):
    jobs = []
    for threads in (3, 4):
        job = content(config("wasi", 0.8), metrics(500 / threads, 200, 300), metrics(1000 / threads, 300, 900))
        for one in (job["config"], job["baseline"]["config"]):
            one["device"] = {"name": "cpu", "num_threads": threads}
        job["provenance"]["threads"] = {"torch": threads}
        jobs.append(job)
    write_sweep(tmp_path, jobs)
    output = text(read_jobs(tmp_path))
    assert output.splitlines()[0].endswith("batch 32, Cortex-A76")
    assert row(output, "vanilla, num_threads=3 (baseline)")[0].split()[3] == "333.3"
    assert row(output, "vanilla, num_threads=4 (baseline)")[0].split()[3] == "250.0"
    assert row(output, "wasi 0.8, num_threads=3 / vanilla, num_threads=3 (baseline)")
    assert "wasi 0.8, num_threads=4: measured with 4 threads" in output
    assert len(_series(read_jobs(tmp_path))) == 4


def test_baselines_of_two_methods_are_named_in_their_rows(tmp_path):
    beside_lora = content(config("wasi", 0.8), metrics(500, 200, 300), metrics(800, 300, 900))
    beside_lora["baseline"]["config"] = config("lora")
    beside_lora["config"]["bench"]["baseline"] = "lora"
    write_sweep(tmp_path, [beside_lora, content(config("wasi", 0.4), metrics(250, 100, 150), VANILLA)])
    output = text(read_jobs(tmp_path))
    assert row(output, "lora (baseline)") and row(output, "vanilla (baseline)")
    assert row(output, "wasi 0.8 / lora (baseline)") and row(output, "wasi 0.4 / vanilla (baseline)")


@pytest.mark.parametrize("status", ["invalid", "interrupted"])
def test_a_job_that_was_not_completed_is_marked_and_not_drawn(tmp_path, status):
    throttled = content(config("wasi", 0.8), metrics(900, 200, 300), VANILLA, status, "the device throttled")
    write_sweep(tmp_path, [throttled, content(config("wasi", 0.4), metrics(250, 100, 150), VANILLA)])
    jobs = read_jobs(tmp_path)
    assert row(text(jobs), f"wasi 0.8 ({status})") and row(text(jobs), "wasi 0.4")
    assert [x for x, _ in _series(jobs)["wasi"].points] == [0.4]


def test_a_legend_of_long_names_lies_inside_the_figure(tmp_path, monkeypatch):
    jobs = []
    for number in range(4):
        job = config("wasi", 0.8, method__scope=f"a_very_long_scope_of_layers_that_is_number_{number}_of_those_tried")
        jobs.append(content(job, metrics(500, 200, 300), None))
    write_sweep(tmp_path, jobs)
    drawn = []
    monkeypatch.setattr("wasi.bench.time_figure.images", lambda figure: drawn.append(figure) or {})
    draw(read_jobs(tmp_path))
    (figure,) = drawn
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width
