"""`Family`: all that is known of one program whose models are imported."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from streamer.models.container import parse_json
from streamer.models.importing.settings import Given, Options, Said, Settings, doubling
from streamer.models.importing.weights import Floats, Weights
from streamer.models.quantisers import Kind
from streamer.models.specs import Spec

Model: TypeAlias = "tuple[Spec, dict[str, Floats]]"


def _says_nothing(options: Options, layers: int) -> Said:
    return Said()


def _read_json(text: str) -> Mapping[str, object]:
    """A JSON object, and in one level what the objects in it say."""
    values = parse_json(text, "it")
    for value in list(values.values()):
        if isinstance(value, dict):
            values |= value
    return values


@dataclass(frozen=True)
class Family:
    """One program: how its checkpoints are told, what they do not say, and how they become ours."""

    name: str
    title: str
    """For readers."""
    home: str
    """Its repository on GitHub."""
    marks: tuple[str, ...]
    """Tensors that every model of it has, and none of another program; the first finds the names' prefix."""
    convert: Callable[[Weights, Settings], Model]
    """Takes every tensor that plays a part, and says why of the others. Raises `CheckpointError`."""
    quantisers: tuple[Kind, ...]
    """All that the program has, its own default first."""
    rate: int
    """Its default, Hz."""
    layer: str = ""
    """Matches one tensor of every layer that needs a dilation, its number in a group."""
    block: int = 1
    """Layers after which its dilations start over, by default."""
    configs: tuple[str, ...] = ()
    """Patterns of the file beside a checkpoint, or in the folder above, that holds its settings."""
    read_config: Callable[[str], Mapping[str, object]] = field(default=_read_json)
    said: Callable[[Options, int], Said] = field(default=_says_nothing)
    """What its own settings say, given the number of layers. Raises `CheckpointError`."""

    def usual(self, layers: int) -> Given:
        """The program's own defaults."""
        fits = layers > 0 and layers % self.block == 0
        return Given(self.rate, self.quantisers[0], doubling(layers, self.block) if fits else None)
