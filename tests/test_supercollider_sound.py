"""SuperCollider with a streamer of its own, over a real sound server: scsynth hears what the model wrote."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import numpy as np
import platformdirs
import soundfile as sf
from jackrig import JackServer
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from playing import LIVE, MODEL_RATE, save_models
from programs import Program, find_program

from streamer.models.checkpoint import Checkpoint
from streamer.voice import Voice

ROOT = Path(__file__).resolve().parents[1]
QUARK = ROOT / "patches" / "supercollider" / "Streamer"
SEED, PIECE = 5, 160

# scsynth is a device like any other, named as its client; what it hears goes into a buffer, then into a file.
SCRIPT = r"""
(
s = Server(\test, NetAddr("127.0.0.1", %(scsynth)d));
Server.default = s;
Streamer.program = "%(streamer)s";
s.waitForBoot {
    var options = ["--device", "SuperCollider", "--seed", "%(seed)d"];
    Streamer.start("wave", options, %(port)d, { |x|
        fork {
            var buffer = Buffer.alloc(s, s.sampleRate, 2);
            s.sync;
            { RecordBuf.ar(SoundIn.ar([0, 1]), buffer, loop: 0, doneAction: 2); Silent.ar }.play.onFree {
                fork {
                    buffer.write("%(file)s", "wav", "float");
                    s.sync;
                    x.free;
                    "Recorded.".postln;
                }
            };
        }
    });
};
)
"""


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def tape_of_the_first_voice(model: Checkpoint) -> NDArray[np.float32]:
    """More than it can have written before it was recorded."""
    voice = Voice("wave", model, {**LIVE, "seed": SEED}, 30.0, number=1)
    voice.fill()
    return voice.tape.read(0, voice.tape.lead)


def places_of(sound: NDArray[np.float32], tape: NDArray[np.float32]) -> list[int]:
    """Where the pieces of a sound lie on a tape, bit for bit; those that do not are left out."""
    windows = sliding_window_view(tape, PIECE)
    places = []
    for piece in sound[: len(sound) // PIECE * PIECE].reshape(-1, PIECE):
        near = np.flatnonzero(windows[:, 0] == piece[0])
        places += [int(at) for at in near if np.array_equal(windows[at], piece)][:1]
    return places


def test_scsynth_hears_the_model(jack_server: JackServer, tmp_path: Path) -> None:
    sclang = find_program("sclang", "supercollider-language")
    find_program("scsynth", "supercollider-server")
    models = tmp_path / "models"
    models.mkdir()
    tape = tape_of_the_first_voice(save_models(models)["wave"])  # compiles what the player needs, too
    settings = tmp_path / "sclang.yaml"
    settings.write_text(f"includePaths:\n    - {QUARK}\nexcludePaths:\n    []\npostInlineWarnings: true\n")
    scsynth, port = free_ports(2)
    recorded = tmp_path / "recorded.wav"
    words = {"scsynth": scsynth, "port": port, "seed": SEED, "file": recorded}
    driver = tmp_path / "driver.scd"
    driver.write_text(SCRIPT % {**words, "streamer": Path(sys.executable).with_name("streamer")})
    jack_server.stop()
    with JackServer(tmp_path, MODEL_RATE) as server:  # at the model's rate samples pass bit for bit
        environment = {
            **server.environment,
            "STREAMER_MODELS": str(models),
            "XDG_CACHE_HOME": platformdirs.user_cache_dir(),  # where the kernels lie, compiled
        }
        with Program([sclang, "-l", str(settings), str(driver)], tmp_path, environment) as program:
            program.wait_said("Recorded.")
            said = program.wait_said("streamer ended with code 0")
    assert "ERROR" not in said
    sound, rate = sf.read(recorded, dtype="float32")
    assert rate == MODEL_RATE
    assert np.array_equal(sound[:, 0], sound[:, 1])
    # Where a busy machine lost blocks on the way, what is left must still be the tape's, in its order.
    places = places_of(sound[:, 0], tape)
    assert places == sorted(places)
    assert len(places) > len(sound) // PIECE / 2
