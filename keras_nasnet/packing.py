"""Reads and writes TensorFlow Lite files, without waste.

Such a file is a FlatBuffer. Per channel that it quantises, a converter writes
a zero point of eight bytes, always 0, for weights and biases alike: a tenth of
a small network. Equal vectors are therefore written once, and referred to.
"""

import numpy as np

IDENTIFIER = b"TFL3"
# Where the schema wants constants to start, for the vector units of phones.
ALIGNMENT = 16


def unpack(content):
    """Returns the `ModelT` of a TensorFlow Lite file.

    Args:
        content: Bytes of the file.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        # Quantisers put data behind the model; packing would lose it.
        if buffer.offset > 1:
            end = buffer.offset + buffer.size
            buffer.data = np.frombuffer(content[buffer.offset : end], "uint8")
            buffer.offset = buffer.size = 0
    return model


def pack(model):
    """Returns the bytes of a file with a `ModelT`."""
    builder = _sharing_builder()
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _sharing_builder():
    """Returns a FlatBuffer builder that writes equal vectors once."""
    import flatbuffers

    class SharingBuilder(flatbuffers.Builder):
        def __init__(self):
            super().__init__()
            self.written = {}

        def StartVector(self, elemSize, numElems, alignment):
            # Bytes are constants, or things that nobody minds to align.
            if elemSize == 1:
                alignment = ALIGNMENT
            return super().StartVector(elemSize, numElems, alignment)

        def CreateNumpyVector(self, x):
            key = (x.dtype.str, x.tobytes())
            if key not in self.written:
                self.written[key] = super().CreateNumpyVector(x)
            return self.written[key]

        def CreateString(self, s, *args):
            # Called with bytes for what was read and with text for the rest.
            if s not in self.written:
                self.written[s] = super().CreateString(s, *args)
            return self.written[s]

    return SharingBuilder()
