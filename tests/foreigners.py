"""Checkpoints that other programs wrote, and which of our fixtures says what they must become."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dialects import FOLDER, Dialect, answers, dialect

from streamer.models.importing.importer import Imported, understand
from streamer.models.importing.settings import NOTHING, Given

FOREIGN = FOLDER / "foreign"
RATE = Given(rate=16_000)


@dataclass(frozen=True)
class Foreigner:
    """One checkpoint."""

    path: str
    family: str
    dialect: str
    """Of `DIALECTS`, which has the same model in our format; empty where only the logits are kept."""
    quantiser: str
    """Under which `quantisers.npz` has what its program's own quantiser gives; empty where it has not."""
    given: Given = NOTHING
    """What neither the checkpoint nor a config beside it says."""

    @property
    def source(self) -> Path:
        return FOREIGN / self.path

    def known(self) -> Dialect:
        """What it was fed, and what its program answered."""
        stored = self.source.parent / "expected.npz"
        return dialect(self.dialect) if self.dialect else answers(stored, self.source)


FOREIGNERS: dict[str, Foreigner] = {
    "prism-gru": Foreigner(
        "prism-gru-noskip-linear48/model.ckpt-2", "prism", "prism-gru-noskip", "prism-linear-48", RATE
    ),
    "prism-gru-mulaw": Foreigner("prism-gru-noskip-mulaw256/model.ckpt-3", "prism", "", "prism-mulaw", RATE),
    "prism-gru-skip": Foreigner(
        "prism-gru-skip-linear40/model.ckpt-12", "prism", "prism-gru-skip", "prism-linear-40", RATE
    ),
    "prism-lstm-skip": Foreigner(
        "prism-lstm-skip-linear40/model.ckpt-7", "prism", "prism-lstm-skip", "prism-linear-40", RATE
    ),
    "prism-lstm-skip-mulaw": Foreigner(
        "prism-lstm-skip-mulaw256/model.ckpt-4", "prism", "", "prism-mulaw", RATE
    ),
    "mehri": Foreigner(
        "mehri-3tier-gru/params_e2_i12956_t22.94_tr1.8943_v1.3897.pkl",
        "mehri",
        "mehri-3tier-gru",
        "mehri-linear",
    ),
    "dadabots": Foreigner(
        "dadabots-2tier-lstm-skip/params_e3_i27222_t21.12_tr1.7659_v1.3827.pkl",
        "mehri",
        "dadabots-2tier-lstm",
        "dadabots-linear",
    ),
    "dadabots-protocol2": Foreigner(
        "dadabots-2tier-lstm-skip/params_e3_i27222_t21.12_tr1.7659_v1.3827.protocol2.pkl",
        "mehri",
        "dadabots-2tier-lstm",
        "dadabots-linear",
    ),
    "dadabots-mulaw": Foreigner(
        "dadabots-2tier-lstm-skip-mulaw256/params_e2_i87752_t0.57_tr1.9068_v1.5781.pkl",
        "mehri",
        "dadabots-2tier-lstm-mulaw",
        "dadabots-mulaw",
    ),
    "deepsound-2tier": Foreigner(
        "deepsound-2tier-noh0-nown/ep3-it2500", "deepsound", "deepsound-2tier", "deepsound-48", RATE
    ),
    "deepsound-3tier": Foreigner(
        "deepsound-3tier-h0-wn/ep1-it100", "deepsound", "deepsound-3tier", "deepsound-64", RATE
    ),
    "ibab": Foreigner("ibab-biases/model.ckpt-1234", "ibab", "ibab-biases", "ibab-256"),
    "ibab-conditioned": Foreigner("ibab-gc/model.ckpt-99", "ibab", "ibab-conditioned", "ibab-64"),
    "keskival": Foreigner(
        "keskival/sound-model", "keskival", "", "", Given(rate=48_000, dilations=(1, 2, 4))
    ),
    "nv-wavenet": Foreigner("nv-wavenet/wavenet_1000", "nv-wavenet", "nv-wavenet", "nv-wavenet"),
    "vincentherrmann": Foreigner(
        "vincent-wavenet/snapshot_2018-03-05_12-34-56",
        "vincentherrmann",
        "vincentherrmann",
        "vincentherrmann",
        RATE,
    ),
    "vincentherrmann-state": Foreigner(
        "vincent-wavenet/state_dict.pt",
        "vincentherrmann",
        "vincentherrmann",
        "vincentherrmann",
        Given(rate=16_000, dilations=(1, 2, 4, 8)),
    ),
    "r9y9": Foreigner("r9y9-wavenet-softmax/checkpoint_step000001000.pth", "r9y9", "r9y9", "r9y9"),
}


@cache
def imported(name: str) -> Imported:
    """One of `FOREIGNERS`, understood."""
    return understand(FOREIGNERS[name].source, given=FOREIGNERS[name].given)
