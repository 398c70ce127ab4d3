"""What kernels need of a chip, and what a recorded run says: read back as the benchmark writes it."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks import kernels, report
from qdelta_analysis import hardware
from qdelta_analysis.plots import launch_figure, throughput_figure
from qdelta_kernels.triton.launch import table


def test_one_row_of_the_launch_table_is_compiled():
    pytest.importorskip("triton")
    needs = hardware.launch_resources(80, 16, 64)
    row = table()["sm_80", 16, 64]
    assert set(needs.kernel.values) == {"intra", "forward", "trace", "state_gradient", "token_gradient"}
    forward = needs.isel(launch=needs.kernel.values == "forward")
    assert sorted(forward.BV.values) == sorted({launch.BV for launch in row.forward.values()})
    assert set(needs.register_limit.values) <= {launch.registers for launch in launches_of(row)}
    assert (needs.registers > 0).all()
    assert (needs.registers <= 255).all()
    assert (needs.shared > 0).all()
    assert (needs.shared <= needs.attrs["shared_limit"]).all()
    assert (needs.mma > 0).all()  # sm_80 has no warp group products
    assert (needs.wgmma == 0).all()
    registers, shared = launch_figure(needs).data
    np.testing.assert_array_equal(registers.x, needs.registers)
    np.testing.assert_array_equal(shared.x, needs.shared / 1024)
    assert len(set(registers.y)) == needs.sizes["launch"]


def launches_of(row) -> list:
    """Every launch of a row of the table."""
    parts = (getattr(row, field.name) for field in dataclasses.fields(row))
    return [launch for part in parts for launch in (part.values() if isinstance(part, dict) else [part])]


def test_no_row_of_the_table_is_compiled(as_users_call):
    with pytest.raises(ValueError, match=r"\(arch, bits, K\) is \(90, 16, 512\); expected a row of the launch table"):
        hardware.launch_resources(90, 16, 512)


def test_without_triton_it_says_so(monkeypatch):
    monkeypatch.setattr(hardware, "HAS_TRITON", False)
    with pytest.raises(RuntimeError, match=r"Triton is not installed; expected .*, or qdelta's extra 'gpu'\.$"):
        hardware.launch_resources()


def test_what_does_not_compile_is_reported(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(hardware, "__name__", "no_such_module")
    with pytest.raises(RuntimeError, match=r"row \(90, 16, 128\) did not compile: .*no_such_module"):
        hardware.launch_resources()


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """What `make bench` would have written, had every kernel taken the same numbers of milliseconds each time."""
    run = lambda *a: None
    seconds = iter(np.linspace(1e-3, 2e-3, 1000))
    fakes = {
        "_inputs": lambda *shape: (None, None),
        "_check": run,
        "_peers": lambda x: {"FLA gated": (run, run), "FLA comba": (run, None)},
        "_forward": lambda *a: run,
        "_gradients": lambda *a: run,
        "_peak": lambda f: 1,
        "_time": lambda f: float(next(seconds)),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(kernels, name, fake)
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(kernels.torch.cuda, "get_device_name", lambda: "Imaginary GPU", raising=False)
    figures = [report.Figure("Imaginary GPU: device-to-device copy, read + write", 3.0, "TB/s")]
    for shape in kernels.SHAPES[:3]:
        figures += kernels._shape(shape, 3e12, 8e14)
    report.write("kernels", kernels.TITLE, {"date": "2026-01-01"}, figures)
    return tmp_path / "kernels.json", {figure.name: figure.value for figure in figures}


def test_a_recorded_run_is_read_back(recorded):
    path, figures = recorded
    found = hardware.recorded_throughput(path)
    assert found.attrs["device"] == "Imaginary GPU"
    assert found.attrs["date"] == "2026-01-01"
    assert list(found.kernel.values) == ["ours", "FLA gated", "FLA comba"]
    assert list(zip(*(found[name].values for name in "BTHKV"), strict=True)) == kernels.SHAPES[:3]
    for i, (B, T, H, K, V) in enumerate(kernels.SHAPES[:3]):
        for name in found["pass"].values:
            for kernel in found.kernel.values:
                ms = figures.get(f"{B} x {T}, H {H}, K {K}, V {V}: {name}, {kernel}", np.nan)
                one = found.throughput.sel({"pass": name, "kernel": kernel}).isel(shape=i)
                np.testing.assert_allclose(one, B * T * H / (ms / 1e3), rtol=1e-4)
        floor = kernels._floor((B, T, H, K, V), 3e12, 8e14)
        np.testing.assert_allclose(found.floor[i], B * T * H / floor, rtol=1e-3)
    assert np.isnan(found.throughput.sel({"pass": "forward + backward", "kernel": "FLA comba"})).all()


def test_its_picture_shows_it_under_the_device_s_name(recorded):
    found = hardware.recorded_throughput(recorded[0])
    figure = throughput_figure(found)
    assert figure.layout.legend.title.text == "on Imaginary GPU"
    bars = {(bar.name, bar.xaxis): bar.x for bar in figure.data if bar.type == "bar"}
    assert ("FLA comba", "x2") not in bars
    ours = found.throughput.sel({"pass": "forward + backward", "kernel": "ours"})
    np.testing.assert_allclose(bars["ours", "x2"], ours / 1e9)
    (floor,) = (trace.x for trace in figure.data if trace.type == "scatter")
    np.testing.assert_allclose(floor, found.floor / 1e9)


def test_nothing_is_made_up_where_nothing_was_recorded(tmp_path):
    assert hardware.recorded_throughput(tmp_path / "kernels.json") is None


def test_the_package_holds_what_the_benchmark_wrote():
    assert hardware.RECORDED.read_text() == (report.RESULTS / "kernels.json").read_text()


@pytest.mark.parametrize("kept", ["device-to-device", "forward, ours"])
def test_a_file_that_lacks_what_is_shown_is_refused(recorded, kept):
    path, _ = recorded
    whole = json.loads(path.read_text())
    whole["figures"] = [figure for figure in whole["figures"] if kept in figure["name"]]
    path.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=r"kernels\.json holds no forward times with a device's name; expected what"):
        hardware.recorded_throughput(path)


FIGURES = [
    {"name": "GPU: device-to-device copy, read + write", "value": 3.0, "unit": "TB/s"},
    {"name": "1 x 64, H 2, K 64, V 64: forward, FLA gated", "value": 1.0, "unit": "ms"},
    {"name": "1 x 64, H 2, K 64, V 64: forward, ours", "value": 0.5, "unit": "ms"},
]


def holding(*figures) -> bytes:
    return json.dumps({"title": "t", "machine": {"date": "d"}, "figures": figures}).encode()


@pytest.mark.parametrize(
    "content",
    [
        *[b"", b"[]", b"{}", b"null", b'{"figures":3}', b'{"figures":[{"x":1}]}'],
        *[
            b'{"figures":[{"name":1,"value":2}]}',
            b"\\xff",
            b"[" * 100_000,
            json.dumps({"title": "t", "figures": FIGURES}).encode(),
            holding(),
        ],
        *[holding(*FIGURES[:2], FIGURES[2] | {"value": x}) for x in (0, -1, "1", None, float("nan"), 10**400)],
        holding(*FIGURES, {"name": "1 x 64, H 2, K 64, V 64: fused floor / ours", "value": 0, "unit": ""}),
        holding(*FIGURES, {"name": "1 x 0, H 2, K 64, V 64: forward, ours", "value": 1.0, "unit": "ms"}),
        holding(*FIGURES, {"name": f"{10**30} x 1, H 2, K 64, V 64: forward, ours", "value": 1.0, "unit": "ms"}),
    ],
)
def test_a_damaged_file_is_named(content, tmp_path, as_users_call):
    (tmp_path / "kernels.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"kernels\.json (cannot be read|holds no forward times).*; expected what `"):
        hardware.recorded_throughput(tmp_path / "kernels.json")


def test_a_path_is_a_text_too_and_a_folder_is_no_file(tmp_path, as_users_call):
    path = tmp_path / "kernels.json"
    path.write_bytes(holding(*FIGURES))
    found = hardware.recorded_throughput(str(path)).throughput.sel({"pass": "forward"})
    np.testing.assert_allclose(found.squeeze(), [128 / 1e-3, 128 / 0.5e-3])
    with pytest.raises(ValueError, match="is a folder; expected what `make bench` writes"):
        hardware.recorded_throughput(tmp_path)


def test_a_shape_without_a_time_of_ours_has_no_floor(tmp_path):
    path = tmp_path / "kernels.json"
    path.write_bytes(holding(*FIGURES[:2]))
    found = hardware.recorded_throughput(path)
    assert np.isnan(found.floor).all()
    assert found.throughput.sel({"pass": "forward"}).item() == 128 / 1e-3
