"""What a TensorFlow Lite file says of itself: labels, normalisation, licence.

Apps read it by TensorFlow's metadata schema, a FlatBuffer inside the model's;
the labels are a text file in a zip archive behind the model.
"""

import io
import zipfile
from typing import NamedTuple

import numpy as np

from keras_nasnet import packing

# Key of the metadata, in the model's table of such keys.
KEY = "TFLITE_METADATA"
LABELS_FILE = "labels.txt"
# Names of outputs with a number for each class, by what the numbers are.
PROBABILITY, LOGIT = "probability", "logit"
# Identifies the schema, and the parser that all its fields here need.
SCHEMA, PARSER_VERSION = b"M001", "1.0.0"
# Numbers of enumerations and unions in the schema.
IMAGE_PROPERTIES, FEATURE_PROPERTIES = 2, 1
NORMALIZATION_OPTIONS = 1
RGB = 1
AXIS_LABELS = 2


class Metadata(NamedTuple):
    """What `read()` finds.

    Args:
        labels: List of strings, or `None`.
        normalization: Mean and standard deviation, or `None`.
        name: String, or `None`.
        licence: String, or `None`.
        outputs: List of the names of the outputs in the order of the file,
            or `None`.
    """

    labels: list | None = None
    normalization: tuple | None = None
    name: str | None = None
    licence: str | None = None
    outputs: list | None = None


def write(
    content,
    name,
    description,
    normalization,
    licence=None,
    labels=None,
    outputs=None,
):
    """Adds metadata to a model.

    Args:
        content: Bytes of a TensorFlow Lite file.
        name: Name of the model.
        description: What it does, in a sentence.
        normalization: Mean and standard deviation with which pixels in
            [0, 255] become the input.
        licence: Optional name or text of its licence.
        labels: Optional list of the names of the classes.
        outputs: Optional dictionary from the number of a tensor to the name
            of the output that it is, for outputs with a number for each class.

    Returns:
        Bytes of a file with metadata in the place of what it had before.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = packing.unpack(content)
    model.metadata = [
        entry for entry in model.metadata or [] if entry.name != KEY.encode()
    ]
    (graph,) = model.subgraphs
    described = _describe(
        graph,
        name,
        description,
        normalization,
        licence,
        bool(labels),
        outputs or {},
    )
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(described, "uint8")
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name = KEY
    entry.buffer = len(model.buffers) - 1
    model.metadata.append(entry)
    return append_labels(packing.pack(model), labels)


def append_labels(content, labels):
    """Puts the names of the classes behind a model."""
    if not labels:
        return content
    file = io.BytesIO(content)
    # Apps read it in place, so it is not compressed.
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(LABELS_FILE, "".join(f"{x}\n" for x in labels))
    return file.getvalue()


def read(path):
    """Reads the metadata of a TensorFlow Lite file.

    Args:
        path: Path of the file.

    Returns:
        A `Metadata`, of `None`s where the file says nothing.
    """
    from ai_edge_litert import schema_py_generated as schema

    labels = None
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if LABELS_FILE in archive.namelist():
                labels = archive.read(LABELS_FILE).decode().splitlines()
    with open(path, "rb") as file:
        content = file.read()
    model = schema.Model.GetRootAs(content, 0)
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        if entry.Name() == KEY.encode():
            buffer = model.Buffers(entry.Buffer())
            data = buffer.DataAsNumpy().tobytes()
            if buffer.Offset() > 1:
                end = buffer.Offset() + buffer.Size()
                data = content[buffer.Offset() : end]
            return _parse(data, labels)
    return Metadata(labels)


def _describe(
    graph, name, description, normalization, licence, has_labels, names
):
    """Returns a FlatBuffer of the metadata schema.

    Args:
        graph: The model's only `SubGraphT`.
        name, description, normalization, licence: As in `write()`.
        has_labels: Whether there is a file with labels.
        names: The argument `outputs` of `write()`.
    """
    mean, std = normalization
    image = Table(
        {
            0: "image",
            1: f"RGB image; its pixels become (pixel - {mean}) / {std}.",
            3: Table({0: UByte(IMAGE_PROPERTIES), 1: Table({0: Byte(RGB)})}),
            4: [
                Table(
                    {
                        0: UByte(NORMALIZATION_OPTIONS),
                        1: Table({0: Floats(mean), 1: Floats(std)}),
                    }
                )
            ],
        }
    )
    outputs = []
    for index in graph.outputs:
        output = {
            0: names.get(index) or graph.tensors[index].name.decode(),
            3: Table({0: UByte(FEATURE_PROPERTIES), 1: Table({})}),
        }
        if has_labels and index in names:
            output[1] = f"A {names[index]} for each class."
            output[6] = [
                Table(
                    {
                        0: LABELS_FILE,
                        1: "Names of the classes.",
                        2: Byte(AXIS_LABELS),
                    }
                )
            ]
        outputs.append(Table(output))
    fields = {
        0: name,
        1: description,
        3: [Table({2: [image], 3: outputs})],
        7: PARSER_VERSION,
    }
    if licence:
        fields[5] = licence
    return Table(fields).packed()


class Table:
    """A FlatBuffer table as data.

    Args:
        fields: Dictionary from the field's number in the schema to its value:
            a string, a `Table`, a list of `Table`s, or one of the classes
            below.
    """

    def __init__(self, fields):
        self.fields = fields

    def packed(self):
        """Returns the bytes of a file with this table as its root."""
        import flatbuffers

        builder = flatbuffers.Builder()
        builder.Finish(self.add_to(builder), file_identifier=SCHEMA)
        return bytes(builder.Output())

    def add_to(self, builder):
        # What a table refers to comes before the table.
        parts = {
            number: self._add_part(builder, value)
            for number, value in self.fields.items()
            if not isinstance(value, (Byte, UByte))
        }
        builder.StartObject(max(self.fields, default=-1) + 1)
        for number, value in self.fields.items():
            if isinstance(value, Byte):
                builder.PrependInt8Slot(number, value.value, 0)
            elif isinstance(value, UByte):
                builder.PrependUint8Slot(number, value.value, 0)
            else:
                builder.PrependUOffsetTRelativeSlot(number, parts[number], 0)
        return builder.EndObject()

    def _add_part(self, builder, value):
        if isinstance(value, str):
            return builder.CreateString(value)
        if isinstance(value, Floats):
            return builder.CreateNumpyVector(np.array([value.value], "float32"))
        if isinstance(value, Table):
            return value.add_to(builder)
        offsets = [table.add_to(builder) for table in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()


class Byte(NamedTuple):
    """A signed byte."""

    value: int


class UByte(NamedTuple):
    """An unsigned byte."""

    value: int


class Floats(NamedTuple):
    """A list of one float."""

    value: float


def _parse(data, labels):
    """Reads back what `_describe()` writes, as far as we need it."""
    import flatbuffers

    root = _Reader.root(flatbuffers, data)
    graphs = root.tables(3)
    normalization = outputs = None
    if graphs:
        outputs = [output.string(0) for output in graphs[0].tables(3)]
    if graphs and graphs[0].tables(2):
        for unit in graphs[0].tables(2)[0].tables(4):
            if unit.ubyte(0) == NORMALIZATION_OPTIONS:
                options = unit.table(1)
                normalization = (options.float(0), options.float(1))
    return Metadata(
        labels, normalization, root.string(0), root.string(5), outputs
    )


class _Reader:
    """Reads a table by the numbers of its fields."""

    def __init__(self, table, numbers):
        self._table = table
        self._numbers = numbers

    @classmethod
    def root(cls, flatbuffers, data):
        numbers = flatbuffers.number_types
        position = flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, 0)
        return cls(flatbuffers.table.Table(data, position), numbers)

    def _offset(self, number):
        offset = self._table.Offset(4 + 2 * number)
        return offset and offset + self._table.Pos

    def string(self, number):
        offset = self._offset(number)
        return self._table.String(offset).decode() if offset else None

    def ubyte(self, number):
        offset = self._offset(number)
        return (
            self._table.Get(self._numbers.Uint8Flags, offset) if offset else 0
        )

    def float(self, number):
        start = self._table.Vector(self._offset(number) - self._table.Pos)
        return self._table.Get(self._numbers.Float32Flags, start)

    def table(self, number):
        return self._at(self._table.Indirect(self._offset(number)))

    def tables(self, number):
        offset = self._offset(number)
        if not offset:
            return []
        start = self._table.Vector(offset - self._table.Pos)
        count = self._table.VectorLen(offset - self._table.Pos)
        return [
            self._at(self._table.Indirect(start + 4 * i)) for i in range(count)
        ]

    def _at(self, position):
        table = type(self._table)(self._table.Bytes, position)
        return _Reader(table, self._numbers)
