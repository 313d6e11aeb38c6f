"""Running a network as fast as a CPU allows."""

import os

import keras
import numpy as np

from keras_nasnet.emission import emit
from keras_nasnet.lowering import as_functional
from keras_nasnet.lowering import simplify
from keras_nasnet.lowering import trace

DTYPES = ("float32", "bfloat16")

# Cells have branches. Up to this number of threads, each one takes operations
# of its own, which spares them to share out every small one.
BRANCHES = 4

# Otherwise all sessions of a process share the threads that the first one got.
# TensorFlow reads this at its first operation, when no model exists yet.
os.environ.setdefault("TF_OVERRIDE_GLOBAL_THREADPOOL", "1")


def compile_inference(model, batch_size=None, dtype="float32", threads=None):
    """Turns a model into a function that does nothing but inference.

    The network is simplified like `fuse` does. On TensorFlow its weights
    become constants, so that they are laid out for the processor once instead
    of at every call; on JAX and PyTorch the simplified model is what runs.

    Args:
        model: A functional or sequential model with layers of this package.
        batch_size: Number of images per call. `None` takes any number.
        dtype: `"float32"`, or `"bfloat16"` to compute in 16 bits, which is
            faster only where the processor has instructions for it. What goes
            in and out is float32 in both cases.
        threads: Number of threads for one call, on TensorFlow only. `None`
            takes one per core. Has no effect if TensorFlow ran an operation
            before this package was imported.

    Returns:
        A function that takes what `model` takes, as NumPy arrays, and returns
        what it returns, as NumPy arrays.

    Raises:
        ValueError: If an argument cannot be used, or if `model` has no graph
            of layers.

    Example:

    >>> model = keras_nasnet.NASNetTiny(weights=None)
    >>> classify = keras_nasnet.compile_inference(model, batch_size=1)
    >>> classify(np.ones((1, 32, 32, 3), "float32")).shape
    (1, 10)
    """
    if dtype not in DTYPES:
        raise ValueError(
            f"`dtype` must be one of {', '.join(DTYPES)}. "
            f"Received: dtype={dtype!r}"
        )
    backend = keras.config.backend()
    if threads is not None and (backend != "tensorflow" or threads < 1):
        raise ValueError(
            "`threads` must be a positive integer, and needs the TensorFlow "
            f"backend. Received: threads={threads!r} on {backend}"
        )
    model = as_functional(model)
    inputs, outputs = trace(model)
    fast = emit(
        inputs,
        simplify(outputs, merge=False),
        like=model,
        dtype=dtype,
        batch_size=batch_size,
    )
    if backend == "tensorflow":
        return _frozen(fast, threads)
    return lambda inputs: keras.tree.map_structure(
        lambda output: np.asarray(output, "float32"),
        fast.predict_on_batch(inputs),
    )


def _frozen(model, threads):
    """Makes constants of the weights, in a session with its own threads."""
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    specs = [tf.TensorSpec(x.shape, x.dtype, x.name) for x in model.inputs]
    structure = model.output

    @tf.function(input_signature=specs)
    def run(*arrays):
        inputs = keras.tree.pack_sequence_as(model.input, arrays)
        outputs = keras.tree.flatten(model(inputs, training=False))
        return [tf.cast(output, "float32") for output in outputs]

    frozen = convert_to_constants.convert_variables_to_constants_v2(
        run.get_concrete_function()
    )
    threads = threads or os.cpu_count()
    config = tf.compat.v1.ConfigProto(
        inter_op_parallelism_threads=threads,
        intra_op_parallelism_threads=1 if threads <= BRANCHES else threads,
        use_per_session_threads=True,
    )
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(frozen.graph.as_graph_def(), name="")
        session = tf.compat.v1.Session(graph=graph, config=config)
        call = session.make_callable(
            [graph.get_tensor_by_name(t.name) for t in frozen.outputs],
            [graph.get_tensor_by_name(t.name) for t in frozen.inputs],
        )

    def infer(inputs):
        outputs = call(*keras.tree.flatten(inputs))
        return keras.tree.pack_sequence_as(structure, outputs)

    return infer
