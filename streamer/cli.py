"""The command line: each command reads its arguments, calls who does the work, and prints.

An error that streamer raises on purpose is one line on stderr and exit code 2; Ctrl-C ends any command
without a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from streamer import __version__, controls, threads
from streamer.console import ended_by_ctrl_c, say, say_aside, say_if_compiling
from streamer.controls import CONTROLS, DEFAULT_PORT, Control, Value
from streamer.library import DEFAULT_MODEL, open_model
from streamer.models.errors import StreamerError
from streamer.models.quantisers import Kind
from streamer.models.training.presets import PRESETS
from streamer.precision import AUTO, SETTINGS

if TYPE_CHECKING:  # what compiles or opens sound is imported by the commands that need it
    from streamer.models.checkpoint import PrecisionBits

MOST_VOICES = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for an error with a remedy, 130 after Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        code = int(options.run(options))
        sys.stdout.flush()
        return code
    except StreamerError as error:
        print(f"streamer: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # `streamer models | head`: nobody reads what is left, nor what exiting would add
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


# --- arguments ----------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="streamer",
        description="A neural synthesiser that is played live.",
        epilog="Example: streamer play",
    )
    parser.add_argument("--version", action="version", version=f"streamer {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (
        _add_play,
        _add_render,
        _add_models,
        _add_controls,
        _add_devices,
        _add_doctor,
        _add_train,
        _add_import,
        _add_logits,
        _add_price,
        _add_eval,
        _add_report,
        _add_audition,
        _add_bench,
        _add_export,
    ):
        add(commands)
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], about: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=about, epilog=f"Example: {example}"
    )
    parser.set_defaults(run=run)
    return parser


def _add_play(commands: Any) -> None:
    example = "streamer play techno --device usb --temperature 0.9"
    parser = _command(
        commands, "play", _play, "Play a model on a sound device, controlled over OSC.", example
    )
    parser.add_argument(
        "model", nargs="?", default=DEFAULT_MODEL, metavar="MODEL", help="a name, or a model file"
    )
    _add_playing(parser)


def _add_playing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="number, or part of the name, of a sound device")
    parser.add_argument("--list-devices", action="store_true", help="list the sound devices and end")
    parser.add_argument("--rate", type=_positive(int), metavar="HZ", help="device rate; its own by default")
    parser.add_argument("--block", type=_positive(int), default=0, metavar="FRAMES", help="frames a callback")
    parser.add_argument(
        "--voices",
        type=_voice_count,
        default=1,
        metavar="N",
        help="of the model; 2 or more are spread in stereo",
    )
    parser.add_argument("--score", type=Path, metavar="FILE", help="record the performance in a new file")
    parser.add_argument(
        "--input", nargs="?", const="", metavar="DEVICE", help="hear this input device, for priming from it"
    )
    parser.add_argument(
        "--midi", nargs="?", const="", metavar="PORT", help="play from MIDI ports of this name; from all"
    )
    parser.add_argument("--quiet", action="store_true", help="say only what matters, and draw nothing")
    parser.add_argument(
        "--osc-port", type=int, default=DEFAULT_PORT, metavar="PORT", help="0 takes any free one"
    )
    parser.add_argument(
        "--osc-host", default="127.0.0.1", metavar="ADDRESS", help="0.0.0.0 is the whole network"
    )
    parser.add_argument(
        "--oscquery-port", type=int, metavar="PORT", help="answer OSCQuery there; 0 takes any free one"
    )
    _add_stepping(parser)
    _add_live_controls(parser)


def _add_render(commands: Any) -> None:
    example = "streamer render out.flac --model techno --seconds 60 --seed 7"
    parser = _command(commands, "render", _render, "Write what a model plays to a WAV or FLAC file.", example)
    parser.add_argument("out", type=Path, metavar="OUT", help="a file that ends in .wav or .flac")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a name, or a model file")
    parser.add_argument("--seconds", type=_positive(float), help="length of the file; 20 by default")
    parser.add_argument(
        "--score", type=Path, metavar="FILE", help="render the performance that streamer play recorded there"
    )
    parser.add_argument("--stems", action="store_true", help="of a score: a file for each voice")
    _add_stepping(parser)
    _add_live_controls(parser)


def _add_models(commands: Any) -> None:
    parser = _command(
        commands, "models", _models, "List the models that can be played.", "streamer models --json"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_controls(commands: Any) -> None:
    about, example = "List the live controls: ranges, defaults, OSC addresses.", "streamer controls --json"
    parser = _command(commands, "controls", _controls, about, example)
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_devices(commands: Any) -> None:
    _command(commands, "devices", _devices, "List the sound devices.", "streamer devices")


def _add_doctor(commands: Any) -> None:
    about = "Measure this machine and say whether, and how safely, a model will play on it."
    parser = _command(commands, "doctor", _doctor, about, "streamer doctor techno")
    parser.add_argument(
        "model", nargs="?", default=DEFAULT_MODEL, metavar="MODEL", help="a name, or a model file"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    _add_stepping(parser)


def _add_train(commands: Any) -> None:
    about, example = "Train a model on a folder of audio.", "streamer train ~/music/album --for laptop-16k"
    parser = _command(commands, "train", _train, about, example)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="audio files, searched recursively")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--for",
        choices=PRESETS,
        default=PRESETS[0],
        dest="preset",
        help=f"a model for this class of machines, at this rate; {PRESETS[0]} by default",
    )
    what.add_argument("--recipe", help="another recipe's name, or a TOML file")
    parser.add_argument(
        "--run",
        type=Path,
        dest="run_folder",
        metavar="FOLDER",
        help="resumed where it exists; default: runs/RECIPE, or runs/FOLDER-PRESET",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto")
    parser.add_argument("--threads", type=_positive(int), help="processor threads; all by default")
    parser.add_argument(
        "--sample-every", type=float, default=5.0, metavar="MINUTES", help="hear it as it learns; 0 is never"
    )
    parser.add_argument("--tensorboard", action="store_true", help="write for TensorBoard, too")


def _add_import(commands: Any) -> None:
    about = "Turn a checkpoint of another WaveNet or SampleRNN program into a model that plays here."
    example = "streamer import logdir/model.ckpt-9 mine.safetensors --rate 16000"
    parser = _command(commands, "import", _import, about, example)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a checkpoint, or a folder with one")
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT", help="a file that ends in .safetensors")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be written, and how fast")
    parser.add_argument("--family", metavar="NAME", help="the program; recognised by default")
    parser.add_argument("--rate", type=_positive(int), metavar="HZ", help="of the sound that it learned")
    parser.add_argument("--quantiser", choices=get_args(Kind), help="what its codes mean")
    parser.add_argument("--dilations", type=_wholes, metavar="N,...", help="of all layers, or of one block")
    parser.add_argument("--condition", metavar="C", help="to hold for good: an id, numbers, or FILE.npy")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the program's own; else looked for")
    parser.add_argument(
        "--defaults", action="store_true", help="take the program's defaults for what nothing says"
    )
    parser.add_argument("--newest", action="store_true", help="of several in a folder, take the newest")


def _wholes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _add_logits(commands: Any) -> None:
    about = "Write what a model says of each of the codes that it is given, from its first state on."
    example = "streamer logits mine.safetensors codes.npy logits.npy"
    parser = _command(commands, "logits", _logits, about, example)
    parser.add_argument("model", metavar="MODEL", help="a name, or a model file")
    parser.add_argument("codes", type=Path, metavar="CODES", help=".npy of whole numbers (T,)")
    parser.add_argument("out", type=Path, metavar="LOGITS", help=".npy to write, float32 (T, Q)")
    parser.add_argument("--history", type=Path, metavar="FILE", help=".npy of the codes before CODES")
    parser.add_argument("--condition", metavar="C", help="an id, numbers between commas, or FILE.npy")
    parser.add_argument("--precision", choices=SETTINGS, default="fp32", help="fp32 by default")


def _add_price(commands: Any) -> None:
    about = "Measure what lower precision costs a model, and write it into the model's file."
    example = "streamer price my.safetensors ~/music/album"
    parser = _command(commands, "price", _price, about, example)
    parser.add_argument("model", metavar="MODEL", help="a name, or a model file")
    parser.add_argument(
        "audio",
        nargs="+",
        type=Path,
        metavar="AUDIO",
        help="files that it has not learned from, or the folder that it has, for what training held out",
    )


def _add_export(commands: Any) -> None:
    about = "Write one step of a model as ONNX, for other programs (docs/export.md)."
    parser = _command(commands, "export", _export, about, "streamer export techno techno.onnx")
    parser.add_argument("model", metavar="MODEL", help="a name, or a model file")
    parser.add_argument("out", type=Path, metavar="OUT", help="a file that ends in .onnx")


def _add_eval(commands: Any) -> None:
    about = (
        "Measure how well a model knows what its corpus holds back, and let it play for long, watched over. "
        "Exit code 1 where it falls silent, clips, drifts, hisses or loops."
    )
    parser = _command(commands, "eval", _eval, about, "streamer eval techno corpora/techno")
    parser.add_argument("model", metavar="MODEL", help="a name, or a model file")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the audio that it was trained on")
    parser.add_argument("--minutes", type=_positive(float), default=3.0, help="at each temperature; 3")
    parser.add_argument(
        "--temperatures",
        **_several(_taken_by(controls.find("temperature")), "T"),
        help="by default the model's own, and 0.1 around it",
    )
    parser.add_argument("--seed", type=_taken_by(controls.find("seed")), default=0, help="of what it plays")
    parser.add_argument("--precision", choices=SETTINGS, default=AUTO, help="at which it plays")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="draw how it begins, and its level all along"
    )


def _add_report(commands: Any) -> None:
    about = "Write what a run has come to into one HTML file: curves, sounds, pictures, what is wrong."
    parser = _command(commands, "report", _report, about, "streamer report runs/album-laptop-16k")
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="the folder of a run")


def _add_audition(commands: Any) -> None:
    about = "Play the checkpoints of a run: m and M, or OSC, switch between them while it plays."
    parser = _command(commands, "audition", _audition, about, "streamer audition runs/album-laptop-16k")
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN", help="the folder of a run, also of one that goes on"
    )
    _add_playing(parser)


def _add_bench(commands: Any) -> None:
    about = (
        "Measure the steppers' speed beside torch, with cached state and without; after latency, how soon a "
        "cue is heard; after soak, what a long storm of cues costs; after training, how fast recipes train."
    )
    example = "streamer bench techno --json; streamer bench latency techno"
    parser = _command(commands, "bench", _bench, about, example)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="names, files or shapes; all by default")
    parser.add_argument(
        "--precision", **_several(str, "P"), help="fp32, bf16, int8 or int8dot; all by default"
    )
    parser.add_argument(
        "--threads", **_several(_positive(int), "N"), help="by default also more than 1 where it may help"
    )
    parser.add_argument(
        "--voices", **_several(_positive(int), "N"), help="1 by default, and 8 of shipped models"
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: a rough picture")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw the rows, and cost against depth")
    parser.add_argument(
        "--baseline", type=Path, metavar="FILE", help="an earlier --json: exit code 1 where a row is slower"
    )

    played = parser.add_argument_group("latency and soak", "played on a sound device")
    played.add_argument("--device", help="number, or part of the name, of a sound device")
    played.add_argument("--block", type=_positive(int), default=128, metavar="FRAMES", help="a callback")
    played.add_argument("--cues", type=_positive(int), default=100, metavar="N", help="of latency")
    played.add_argument("--seconds", type=_positive(float), default=60.0, help="of soak")


def _several(kind: Callable[[str], Any], name: str) -> dict[str, Any]:
    """Arguments of an option that takes several values: between commas, or by naming it again."""

    def parse(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",")]

    return {"type": parse, "action": "extend", "default": [], "metavar": f"{name},..."}


def _add_stepping(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=SETTINGS,
        default=AUTO,
        help="of the weights; auto: the fastest of those whose measured price is small",
    )
    parser.add_argument(
        "--threads",
        type=_thread_count,
        metavar="N",
        help="how many multiply, or auto, the default: one, more where the model is too slow for one",
    )


def _thread_count(text: str) -> int | None:
    if text == AUTO:
        return None
    try:
        return threads.check(int(text))
    except StreamerError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _voice_count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= MOST_VOICES:
        raise argparse.ArgumentTypeError(f"{text} voices are impossible: choose 1 to {MOST_VOICES}")
    return count


_thread_count.__name__ = _voice_count.__name__ = (
    "number"  # what argparse says that the text of a ValueError is not
)
_wholes.__name__ = "list of whole numbers"


def _add_live_controls(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("controls", "where they start; `streamer controls` describes them")
    for control in CONTROLS:
        if control.type in ("float", "int"):
            option = "--" + control.name.replace("_", "-")
            group.add_argument(option, type=_taken_by(control), metavar="N", help=control.expects)


def _taken_by(control: Control) -> Callable[[str], Value]:
    def parse(text: str) -> Value:
        try:
            return controls.parse(control, text)
        except StreamerError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < 1e9:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    parse.__name__ = "number"
    return parse


# --- commands -----------------------------------------------------------------------------------------------


def _play(options: argparse.Namespace) -> int:
    from streamer import performing

    return _devices(options) if options.list_devices else performing.play(options)


def _render(options: argparse.Namespace) -> int:
    from streamer import performing

    return performing.render_model(options)


def _models(options: argparse.Namespace) -> int:
    from streamer.models import library

    entries = library.catalogue()
    rows = [_model_row(entry) for entry in entries if entry.header is not None]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        _print_table(
            rows, ("name", "architecture", "sample_rate", "license", "bits_per_sample", "parameters")
        )
    for entry in entries:
        if entry.header is None:
            print(f"streamer: {entry.problem}", file=sys.stderr)
    return 0


def _model_row(entry: Any) -> dict[str, Any]:
    header = entry.header
    bits = header.provenance.precision_bits
    return {
        "name": entry.name,
        "architecture": header.spec.architecture,
        "sample_rate": header.sample_rate,
        "license": header.provenance.licence,
        "bits_per_sample": header.provenance.bits_per_sample,
        "precision_bits": bits and asdict(bits),
        "parameters": header.spec.parameters,
        "title": header.provenance.title,
        "hash": header.hash,
    }


def _controls(options: argparse.Namespace) -> int:
    if options.json:
        print(controls.as_json())
    else:
        _print_table(json.loads(controls.as_json()), ("address", "min", "max", "default", "description"))
    return 0


def _devices(options: argparse.Namespace) -> int:
    from streamer import audio

    found = audio.devices()
    if not found:
        say("There is no sound device: connect one, or start JACK.")
    for device in found:
        mark = "*" if device.is_default else " "
        print(f"{mark} {device}, {device.outputs} outputs, {device.rate} Hz")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from streamer import doctor

    name, checkpoint = open_model(options.model)
    say_if_compiling(checkpoint.spec.architecture)
    with ended_by_ctrl_c():
        report = doctor.examine(name, checkpoint, precision=options.precision, thread_count=options.threads)
    print(report.as_json() if options.json else report.as_text())
    return 0 if report.playable else 1


def _bench(options: argparse.Namespace) -> int:
    kinds = {"latency": _bench_latency, "soak": _bench_soak, "training": _bench_training}
    return kinds.get("".join(options.models[:1]), _bench_speed)(options)


def _bench_latency(options: argparse.Namespace) -> int:
    from streamer import audio, latency

    device = audio.find_device(options.device)
    names = options.models[1:] or [DEFAULT_MODEL]
    with ended_by_ctrl_c():
        found = [latency.measure(name, device, options.block, options.cues) for name in names]
    if options.json:
        say(latency.as_json(found))
    else:
        _print_table([asdict(each) for each in found], latency.COLUMNS)
    return 0


def _bench_soak(options: argparse.Namespace) -> int:
    from streamer import audio, shapes, soak

    device, name = audio.find_device(options.device), (*options.models[1:], *shapes.SMALL)[0]
    with ended_by_ctrl_c():
        found = soak.measure(
            name, device, options.block, options.seconds, (options.voices or [MOST_VOICES])[-1]
        )
    say(json.dumps(asdict(found), indent=2))
    return 0


def _bench_training(options: argparse.Namespace) -> int:
    from streamer import training

    training.require_torch()
    from streamer import training_speed

    found = training_speed.run(options.models[1:])
    if options.json:
        say(training_speed.as_json(found))
    else:
        _print_table([asdict(each) for each in found], training_speed.COLUMNS)
    return 0


def _bench_speed(options: argparse.Namespace) -> int:
    from streamer import bench, contenders, depth, plots, rows

    before = rows.read_json(options.baseline) if options.baseline else []
    ways = contenders.Ways(options.precision, options.threads, options.voices)
    if options.plot:
        plots.prepare(options.plot)
    effort = bench.QUICK if options.quick else bench.FULL

    def measure(names: Sequence[str]) -> list[rows.Row]:
        return bench.run(names, say_aside, effort, ways)

    with ended_by_ctrl_c():
        found = measure(options.models)
        say(rows.as_json(found) if options.json else rows.as_table(found))
        if options.plot:
            plots.draw_realtime(found, options.plot)
            plots.draw_depth(depth.measure(say_aside, bench.QUICK), options.plot)
        lost = bench.slower_twice(found, before, measure) if options.baseline else {}
    for line in rows.as_words(lost):
        say_aside(line)
    return 1 if lost else 0


def _train(options: argparse.Namespace) -> int:
    from streamer import training

    return training.run(options)


def _export(options: argparse.Namespace) -> int:
    try:
        from streamer.models import onnx_export
    except ImportError:
        raise StreamerError("ONNX needs one more package: pip install 'streamer[onnx]'") from None

    name, model = open_model(options.model)
    onnx_export.export(model, options.out)
    say(f"One step of {name} is in {options.out}; docs/export.md says how to run it.")
    return 0


def _import(options: argparse.Namespace) -> int:
    from streamer import importing

    return importing.run(options)


def _logits(options: argparse.Namespace) -> int:
    from streamer import logits

    return logits.run(options)


def _report(options: argparse.Namespace) -> int:
    from streamer import report

    with ended_by_ctrl_c():
        say(f"Written: {report.write(options.run_folder)}")
    return 0


def _audition(options: argparse.Namespace) -> int:
    from streamer import audition

    return _devices(options) if options.list_devices else audition.run(options)


def _price(options: argparse.Namespace) -> int:
    from streamer import precision, price, runs
    from streamer.models import checkpoint, library

    path = library.resolve(options.model, allow_path=True)
    loaded = checkpoint.load(path)
    codes = price.held_out(options.audio, loaded, say_aside, runs.longest_silence(path))
    # Written as it is, so that a file that may not be written is refused before some minutes of measuring.
    model = checkpoint.describe(path, loaded.provenance)
    with ended_by_ctrl_c():
        bits = price.measure(options.model, model, codes, lambda step: say_aside(f"Measuring {step} ..."))
    _print_table(_price_rows(bits), ("precision", "bits a sample", "against fp32"))
    if checkpoint.read_header(path).hash != model.hash:
        raise StreamerError(f"{path}: was changed while it was measured: measure it again")
    model = checkpoint.describe(path, replace(model.provenance, precision_bits=bits))
    chosen = precision.choose(AUTO, model, precision.has_dot_product())
    say(f"Measured on {len(codes) / model.sample_rate:.1f} s, written into {path}. Here, auto is {chosen}.")
    return 0


def _eval(options: argparse.Namespace) -> int:
    from streamer import evaluation

    found = evaluation.run(options)
    if options.json:
        print(json.dumps(asdict(found), indent=2))
    else:
        _print_table(evaluation.bits_rows(found), evaluation.BITS_COLUMNS)
        _print_table(evaluation.sound_rows(found), evaluation.SOUND_COLUMNS)
        _print_table(evaluation.watched_rows(found), evaluation.WATCHED_COLUMNS)
    for line in evaluation.verdict(found):
        say_aside(line)
    return 1 if any(take.faults for take in found.judged) else 0


def _price_rows(bits: PrecisionBits) -> list[dict[str, Any]]:
    from streamer.precision import price_words

    measured = {name: value for name, value in asdict(bits).items() if value is not None}
    return [
        {"precision": name, "bits a sample": f"{value:.4f}", "against fp32": price_words(name, bits)}
        for name, value in measured.items()
    ]


def _print_table(rows: list[dict[str, Any]], columns: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column != columns[-1])
    for row in rows:
        table.add_row(*("" if row[column] is None else str(row[column]) for column in columns))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
