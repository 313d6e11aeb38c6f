"""The command line: `keras-nasnet`, or `python -m keras_nasnet`.

A command is a function that takes the parsed arguments, and an entry in
`_parser()`.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import sys

from keras_nasnet.conversion import QUANTIZATIONS
from keras_nasnet.litert import LiteModel

# What a command needs of Keras it imports itself: exported files are run where
# Keras has no backend.
MODELS = {
    "tiny": "NASNetTiny",
    "mobile": "NASNetMobile",
    "large": "NASNetLarge",
    "cifar": "NASNetCIFAR",
}

NETWORKS = """
NETWORK is one of
  tiny, mobile, large, cifar
                        a NASNet-A, here with random weights
  nasnet-a              the genotype of NASNet-A
  FILE.json             another genotype
  FILE.keras            a saved model"""

SUMMARY_DESCRIPTION = f"""\
Lists the layers of a network with their output shapes, their parameters and
the multiply-adds that they spend on one image. A genotype is put in the place
of NASNet-A in NASNet-A Mobile: 4 cells in a stack, 44 filters in the first.
{NETWORKS}"""

SUMMARY_EXAMPLES = """\
examples:
  keras-nasnet summary mobile
  keras-nasnet summary large --input-size 480 640
  keras-nasnet summary found.json
"""

PREDICT_DESCRIPTION = """\
Says what images show. Every image that cannot be read is named on stderr; the
others are answered all the same, and the exit status is then 1.

NETWORK is one of
  tiny           NASNet-A for the 10 classes of CIFAR-10, a part of the package
  mobile, large  NASNet-A for the 1000 classes of ImageNet, downloaded once
  FILE.keras     a saved classifier
  FILE.tflite    an exported one; TensorFlow is not needed
A file may also stand before the images instead of behind --model."""

PREDICT_EXAMPLES = """\
examples:
  keras-nasnet predict photo.jpg
  keras-nasnet predict *.jpg --model large --top 3
  keras-nasnet predict photo.jpg --model mine.keras --json
  keras-nasnet predict mine.tflite photo.jpg
"""

DETECT_DESCRIPTION = """\
Finds objects in images, prints them and draws them into a copy of each image.
Printed are score, name, and left, top, right and bottom of the object in pixels
of the file, turned upright. Copies of large images are smaller.
Every image that cannot be read is named on stderr; the others are answered all
the same, and the exit status is then 1."""

DETECT_EXAMPLES = """\
examples:
  keras-nasnet detect photo.jpg --model detector.keras --out found
"""

EXPORT_DESCRIPTION = """\
Writes a network for phones (FILE.tflite) or servers (FILE.onnx, or the folder
of a SavedModel), as few operations as possible, and compares what the file
answers with the network's answers.

NETWORK is one of tiny, mobile, large, as in `keras-nasnet predict`, or
  FILE.keras     a saved model

A FILE.tflite becomes smaller by --quantization
  float16, weight_only_int8    stored so, computed in floats
  dynamic_int8                 computed in integers, scaled for every image
  int8, int16x8                integers throughout, ranges measured on --data
"""

EXPORT_EXAMPLES = """\
examples:
  keras-nasnet export tiny --out tiny.tflite --quantization int8 --data photos
  keras-nasnet export mine.keras --out mine.tflite --quantization float16
  keras-nasnet export mobile --out mobile.onnx
  keras-nasnet export mine.keras --out mine
"""

BENCHMARK_DESCRIPTION = """\
Times TensorFlow Lite files on this machine, in turns. XNNPACK is the library
that runs them fast; the fewer partitions it took a network in, the better: 1
is best, and 0 means that it took nothing. Ratios are to the first file."""

BENCHMARK_EXAMPLES = """\
examples:
  keras-nasnet benchmark float.tflite int8.tflite --threads 1 2
"""

PLOT_DESCRIPTION = f"""\
Draws the two cells of a genotype, like Figure 4 of the NASNet paper, or the
layers of a network and the two inputs of every cell.
{NETWORKS}"""

PLOT_EXAMPLES = """\
examples:
  keras-nasnet plot nasnet-a --out cells.svg
  keras-nasnet plot found.json --out found.png
  keras-nasnet plot mobile --out mobile.png
"""


def main(argv=None):
    """Runs a command.

    Args:
        argv: List of strings, the arguments; `None` takes the process's own.

    Returns:
        The exit status: 0; 1 if some images could not be read; 2 if the user
        has to change something, which is then said in one line on stderr.
    """
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:  # after --help or a usage error
        return stop.code
    try:
        return args.run(args) or 0
    except (ValueError, OSError, ImportError) as error:
        message = " ".join(str(error).split())
        print(f"keras-nasnet {args.command}: {message}", file=sys.stderr)
        return 2


def summary(args):
    """Prints the layers of a network and what they cost."""
    import keras

    from keras_nasnet.genotypes import Genotype
    from keras_nasnet.macs import count_macs_by_layer

    size = _image_size(args.input_size)
    model = _load(args.network, size)
    if isinstance(model, Genotype):
        model = _like_mobile(model, size)
    macs = count_macs_by_layer(model)
    rows = [("layer", "output shape", "parameters", "multiply-adds")]
    for layer in model.layers:
        shape = keras.tree.flatten(layer.output)[0].shape[1:]
        rows.append(
            (
                layer.name,
                " x ".join("?" if n is None else str(n) for n in shape),
                f"{layer.count_params():,}",
                _in_millions(macs.get(layer.name, 0)),
            )
        )
    trainable = sum(math.prod(w.shape) for w in model.trainable_weights)
    print(f"{model.name}\n")
    _print_table(rows)
    print()
    _print_table(
        [
            ("parameters", f"{model.count_params():,}"),
            ("  trainable", f"{trainable:,}"),
            ("multiply-adds", _in_millions(sum(macs.values()))),
        ]
    )


def plot(args):
    """Draws a genotype or a network."""
    from keras_nasnet.canvas import picture_path
    from keras_nasnet.genotypes import Genotype
    from keras_nasnet.visualize import plot_cell
    from keras_nasnet.visualize import plot_network

    # Before a network is built for nothing.
    path = picture_path(args.out)
    loaded = _load(args.network)
    if isinstance(loaded, Genotype):
        plot_cell(loaded, path)
    else:
        plot_network(loaded, path)
    print(f"Wrote {path}")


def predict(args):
    """Classifies image files, each on its own."""
    network, images = args.model, args.images
    if network is None and images[0].endswith((".keras", ".tflite")):
        network, *images = images
    if not images:
        raise ValueError(f"no IMAGE to ask {network} about.")
    classify = _classifier(network or "tiny", args)
    failed = 0
    for path in images:
        answer = {"image": path}
        try:
            answer["predictions"] = [p._asdict() for p in classify(path)]
        except ValueError as error:
            answer["error"] = str(error)
            failed += 1
        if args.json:
            print(json.dumps(answer))
        else:
            _print_answer(answer)
    return 1 if failed else 0


def _classifier(network, args):
    """Returns a function from the path of an image to its predictions."""
    if args.top < 1:
        raise ValueError(f"--top must be at least 1. Received: {args.top}")
    if network.endswith(".tflite"):
        model = LiteModel(network, os.cpu_count())
        model.check_classifies()
        return lambda path: model.classify(path, args.top)
    from keras_nasnet.compiled import compile_inference
    from keras_nasnet.inference import head
    from keras_nasnet.inference import load_classifier
    from keras_nasnet.inference import predict

    model = load_classifier(network)
    head(model)  # Whether it has one, before it is asked about images.
    infer = compile_inference(model, batch_size=1) if args.fast else None
    return lambda path: predict(model, path, args.top, infer)


def detect(args):
    """Finds objects in image files, and draws them."""
    if not 0 <= args.min_score <= 1:
        raise ValueError(
            f"--min-score must be from 0 to 1. Received: {args.min_score:g}"
        )
    outs = _drawings(args.images, args.out)
    from keras_nasnet import detection
    from keras_nasnet.inference import load_model

    if not os.path.isfile(args.model):
        raise ValueError(f"there is no file {args.model!r}")
    detector = load_model(args.model)
    if not detection.is_detector(detector):
        raise ValueError(f"{args.model} is not a detector.")
    os.makedirs(args.out, exist_ok=True)
    failed = 0
    for path, out in zip(args.images, outs):
        try:
            found, image = detection.detect(detector, path, args.min_score)
        except ValueError as error:
            print(f"keras-nasnet detect: {error}", file=sys.stderr)
            failed += 1
            continue
        detection.draw(image, found).save(f"{out}.new", format="png")
        os.replace(f"{out}.new", out)
        print(f"{path} -> {out}")
        for name, score, box in found:
            corners = " ".join(f"{n:.0f}" for n in box)
            print(f"  {score:7.2%}  {name}  {corners}")
    return 1 if failed else 0


def _drawings(images, folder):
    """Returns where to draw into copies of images, a path for each.

    Raises:
        ValueError: If that would overwrite one of the images.
    """
    # Not their names, of which a file may have several.
    files = {_file_id(path) for path in images if os.path.exists(path)}
    outs = []
    for path in images:
        name = os.path.splitext(os.path.basename(path))[0]
        out = os.path.join(folder, f"{name}.png")
        # Images of one name in several folders.
        for i in itertools.count(1):
            if out not in outs:
                break
            out = os.path.join(folder, f"{name}_{i}.png")
        if os.path.exists(out) and _file_id(out) in files:
            raise ValueError(
                f"--out must be a folder without the images. {out} is one of "
                "them, and would be overwritten."
            )
        outs.append(out)
    return outs


def _file_id(path):
    status = os.stat(path)
    return status.st_dev, status.st_ino


def export(args):
    """Writes a network for phones or servers."""
    import keras_nasnet
    from keras_nasnet.inference import load_classifier
    from keras_nasnet.records import licence_of

    if args.out.endswith(".tflite"):
        keras_nasnet.export_tflite(
            load_classifier(args.network),
            args.out,
            args.quantization,
            representative_data=args.data,
            labels=args.labels,
            io_dtype=args.io_dtype or "float32",
            licence=licence_of(args.network),
        )
        return
    if args.quantization or args.data or args.labels or args.io_dtype:
        raise ValueError(
            "--quantization, --data, --labels and --io-dtype are for files "
            f"that end in .tflite. Received: --out {args.out}"
        )
    model = load_classifier(args.network)
    difference = keras_nasnet.export(model, args.out)
    print(f"Wrote {args.out}. Outputs differ by {difference:.1e} at most.")


def benchmark(args):
    """Times TensorFlow Lite files, and compares them with the first one."""
    models = {
        (path, threads): LiteModel(path, threads)
        for threads in itertools.chain.from_iterable(args.threads)
        for path in args.files
    }
    times = {key: model.benchmark(0) for key, model in models.items()}
    # In turns, so that whatever else the machine does meets all alike.
    for _ in range(args.runs):
        for key, model in models.items():
            times[key] += model.benchmark(1, warm_up=0)
    rows = [("file", "threads", "median", "ratio", "partitions", "MB")]
    for (path, threads), model in models.items():
        median = statistics.median(times[path, threads])
        first = statistics.median(times[args.files[0], threads])
        rows.append(
            (
                path,
                str(threads),
                f"{1e3 * median:.2f} ms",
                f"{median / first:.2f}",
                str(model.partitions()),
                f"{os.path.getsize(path) / 1e6:.2f}",
            )
        )
    _print_table(rows)


def _print_answer(answer):
    if "error" in answer:
        print(f"keras-nasnet predict: {answer['error']}", file=sys.stderr)
        return
    print(answer["image"])
    for prediction in answer["predictions"]:
        print(f"  {prediction['probability']:7.2%}  {prediction['name']}")


def _parser():
    parser = argparse.ArgumentParser(
        prog="keras-nasnet",
        description="Runs NASNet networks and looks into their cells.",
        epilog="`keras-nasnet COMMAND --help` explains a command.",
    )
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )

    command = _add_command(
        commands,
        summary,
        "list the layers of a network and what they cost",
        SUMMARY_DESCRIPTION,
        SUMMARY_EXAMPLES,
    )
    command.add_argument("network", metavar="NETWORK", help="see above")
    command.add_argument(
        "--input-size",
        type=int,
        nargs="+",
        metavar=("H", "W"),
        help="height and width of the image in pixels, one number if it is "
        "square (default: the size that the network was made for)",
    )

    command = _add_command(
        commands,
        predict,
        "say what images show",
        PREDICT_DESCRIPTION,
        PREDICT_EXAMPLES,
    )
    command.add_argument("images", nargs="+", metavar="IMAGE")
    command.add_argument(
        "--model",
        metavar="NETWORK",
        help="the network to ask (default: tiny)",
    )
    command.add_argument(
        "--top",
        type=int,
        default=5,
        help="number of answers for an image (default: 5)",
    )
    command.add_argument(
        "--json", action="store_true", help="print a line of JSON per image"
    )
    command.add_argument(
        "--fast",
        action="store_true",
        help="take some seconds to make the network faster, which pays for "
        "many images",
    )

    command = _add_command(
        commands,
        detect,
        "find objects in images and draw them",
        DETECT_DESCRIPTION,
        DETECT_EXAMPLES,
    )
    command.add_argument("images", nargs="+", metavar="IMAGE")
    command.add_argument(
        "--model", required=True, metavar="FILE.keras", help="a saved detector"
    )
    command.add_argument(
        "--out", required=True, metavar="FOLDER", help="where to draw"
    )
    command.add_argument(
        "--min-score",
        type=float,
        default=0.5,
        help="lowest score of what is drawn, from 0 to 1 (default: 0.5)",
    )

    command = _add_command(
        commands,
        export,
        "write a network for phones or servers",
        EXPORT_DESCRIPTION,
        EXPORT_EXAMPLES,
    )
    command.add_argument("network", metavar="NETWORK", help="see above")
    command.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="what to write: FILE.tflite, FILE.onnx, or the folder of a "
        "SavedModel",
    )
    command.add_argument(
        "--quantization",
        choices=list(QUANTIZATIONS),
        metavar="KIND",
        help="one of those above (default: none, floats of 32 bits)",
    )
    command.add_argument(
        "--data",
        metavar="FOLDER",
        help="images to compare a FILE.tflite on (default: noise), and to "
        "measure ranges on for int8 and int16x8, which need some hundred",
    )
    command.add_argument(
        "--labels",
        metavar="FILE",
        help="names of the classes, one in each line (default: the model's)",
    )
    command.add_argument(
        "--io-dtype",
        choices=["float32", "uint8"],
        help="what an int8 file takes and returns (default: float32)",
    )

    command = _add_command(
        commands,
        benchmark,
        "time exported files",
        BENCHMARK_DESCRIPTION,
        BENCHMARK_EXAMPLES,
    )
    command.add_argument("files", nargs="+", metavar="FILE.tflite")
    command.add_argument(
        "--threads",
        type=_counts,
        nargs="+",
        default=[[1]],
        help="numbers of threads, as 1 2 or 1,2 (default: 1)",
    )
    command.add_argument(
        "--runs", type=_count, default=50, help="calls of each (default: 50)"
    )

    command = _add_command(
        commands,
        plot,
        "draw the cells of a genotype or the layers of a network",
        PLOT_DESCRIPTION,
        PLOT_EXAMPLES,
    )
    command.add_argument("network", metavar="NETWORK", help="see above")
    command.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="the picture to write: .png, .svg or .pdf",
    )
    return parser


def _count(text):
    """Reads a positive integer."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(
            f"expected a positive integer. Received: {text!r}"
        )
    return number


def _counts(text):
    """Reads positive integers with commas between them."""
    return [_count(part) for part in text.split(",")]


def _add_command(commands, run, summary, description, examples):
    """Registers a function as the command of its name."""
    command = commands.add_parser(
        run.__name__,
        help=summary,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _load(network, size=None):
    """Returns the model or the genotype that the user named."""
    import keras_nasnet
    from keras_nasnet import genotypes

    if network == "nasnet-a":
        return genotypes.NASNET_A
    if network in MODELS:
        shape = size and (*size, 3)
        factory = getattr(keras_nasnet, MODELS[network])
        return factory(input_shape=shape, weights=None)
    extension = os.path.splitext(network)[1]
    if extension not in (".keras", ".json"):
        raise ValueError(
            f"unknown network {network!r}. Expected nasnet-a, "
            f"{', '.join(MODELS)} or the path of a .keras or .json file."
        )
    if not os.path.isfile(network):
        raise ValueError(f"there is no file {network!r}")
    if extension == ".json":
        return genotypes.Genotype.load(network)
    return _load_model(network, size)


def _load_model(path, size):
    import keras

    from keras_nasnet.inference import load_model

    model = load_model(path)
    if size is None:
        return model
    image = keras.Input((*size, model.inputs[0].shape[-1]))
    # Kept as it is, a tensor or a list of one.
    inputs = keras.tree.map_structure(lambda _: image, model.input)
    return keras.models.clone_model(model, input_tensors=inputs)


def _like_mobile(genotype, size):
    """Puts a genotype where NASNet-A stands in NASNet-A Mobile."""
    from keras_nasnet.nasnet import NASNet

    first_stack = 44
    return NASNet(
        input_shape=size and (*size, 3),
        genotype=genotype,
        num_cells=4,
        penultimate_filters=first_stack * 4 * len(genotype.normal.outputs),
        name=genotype.name or "nasnet",
    )


def _image_size(numbers):
    if numbers is None:
        return None
    if len(numbers) > 2 or min(numbers) < 1:
        raise ValueError(
            "--input-size takes the height and the width of the image, or "
            "one number for both, in pixels. "
            f"Received: {' '.join(map(str, numbers))}"
        )
    return (numbers[0], numbers[-1])


def _in_millions(count):
    return f"{count / 1e6:,.2f} M" if count else "0"


def _print_table(rows):
    """Prints rows in columns, the first one to the left, others right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for first, *others in rows:
        cells = [f"{text:>{n}}" for text, n in zip(others, widths[1:])]
        print("  ".join([f"{first:<{widths[0]}}", *cells]))
