"""The first start on a machine, without waiting for compilers: what was compiled before is there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playing import SPECS, new_voice, save_model

from streamer.kernels import cache
from streamer.mixer import Mixer
from streamer.warming import compile_beside, compile_together


@pytest.mark.parametrize("name", SPECS)
def test_another_process_makes_all_that_a_generator_needs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_model(tmp_path / "model.safetensors", SPECS[name])
    new_voice(model, 0.1).warm()
    Mixer(48000)
    folder = tmp_path / "streamer" / cache.folder().name
    shutil.copytree(cache.folder(), folder)
    mark = folder / f"voice-{model.spec.architecture}.ready"
    mark.unlink()  # without that, nothing would have to be compiled
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    compile_together(model.spec.architecture)
    assert mark.exists()


def test_what_has_been_compiled_is_not_compiled_again() -> None:
    mark = cache.folder() / "voice-wavenet.ready"
    compile_beside("wavenet")
    compiled = mark.stat().st_mtime_ns
    compile_beside("wavenet")
    assert mark.stat().st_mtime_ns == compiled
    mark.unlink()
    compile_beside("wavenet")
    assert mark.stat().st_mtime_ns > compiled
