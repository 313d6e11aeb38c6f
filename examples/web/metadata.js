// What a file from `keras_nasnet.export_tflite` says of itself: a FlatBuffer
// inside the model's, and the names of the classes in a zip archive behind it.
const KEY = "TFLITE_METADATA";
const LABELS_FILE = "labels.txt";
const NORMALIZATION_OPTIONS = 1;
// Names of outputs with a number for each class.
const PROBABILITY = "probability";
const LOGIT = "logit";

// A FlatBuffer table, read by the numbers that fields have in its schema.
class Table {
  constructor(view, position) {
    this.view = view;
    this.position = position;
  }

  static root(view) {
    return new Table(view, view.getUint32(0, true));
  }

  // The position of a field, 0 if it is not there.
  field(number) {
    const fields = this.position - this.view.getInt32(this.position, true);
    const place = 4 + 2 * number;
    const isThere = place < this.view.getUint16(fields, true);
    const offset = isThere && this.view.getUint16(fields + place, true);
    return offset ? this.position + offset : 0;
  }

  target(number) {
    const position = this.field(number);
    return position + this.view.getUint32(position, true);
  }

  byte(number) {
    return this.field(number) ? this.view.getUint8(this.field(number)) : 0;
  }

  integer(number) {
    return this.field(number) ? this.view.getUint32(this.field(number), true) : 0;
  }

  // The first number of a vector; `undefined` if there is none.
  firstFloat(number) {
    const [place] = this.places(number);
    return place && this.view.getFloat32(place, true);
  }

  firstLong(number) {
    const [place] = this.places(number);
    return place && Number(this.view.getBigInt64(place, true));
  }

  table(number) {
    return new Table(this.view, this.target(number));
  }

  tables(number) {
    return this.places(number).map((position) =>
      new Table(this.view, position + this.view.getUint32(position, true)));
  }

  integers(number) {
    return this.places(number).map((position) =>
      this.view.getUint32(position, true));
  }

  // Where the elements of a vector are, if they have 4 bytes each.
  places(number) {
    if (!this.field(number)) return [];
    const start = this.target(number);
    const count = this.view.getUint32(start, true);
    return Array.from({ length: count }, (_, i) => start + 4 + 4 * i);
  }

  // A string, or any vector of bytes.
  bytes(number) {
    if (!this.field(number)) return new Uint8Array();
    const start = this.target(number);
    const { buffer, byteOffset } = this.view;
    const length = this.view.getUint32(start, true);
    return new Uint8Array(buffer, byteOffset + start + 4, length);
  }

  text(number) {
    return new TextDecoder().decode(this.bytes(number));
  }
}

// Mean and standard deviation of pixels, and the output of the classes.
function readDescription(view) {
  const model = Table.root(view);
  const entry = model.tables(6).find((table) => table.text(0) === KEY);
  if (!entry) return { normalization: null, output: null };
  const data = model.tables(4)[entry.integer(1)].bytes(0);
  const [graph] = Table.root(
    new DataView(data.buffer, data.byteOffset, data.byteLength),
  ).tables(3);
  const unit = graph.tables(2)[0].tables(4)
    .find((table) => table.byte(0) === NORMALIZATION_OPTIONS);
  const options = unit?.table(1);
  const names = graph.tables(3).map((output) => output.text(0));
  return {
    normalization: options
      ? { mean: options.firstFloat(0), std: options.firstFloat(1) }
      : null,
    output: readOutput(model, names),
  };
}

// Name of the output of the classes in LiteRT, and what its numbers mean.
function readOutput(model, names) {
  const place = names.findIndex((name) => [PROBABILITY, LOGIT].includes(name));
  if (place < 0) return null;
  const [graph] = model.tables(2);
  const number = graph.integers(2)[place];
  const tensor = graph.tables(0)[number];
  // LiteRT has outputs in the order of the signature, not of the file; without
  // a signature, they have the names of tensors.
  const named = model.tables(7)[0]?.tables(1)
    .find((output) => output.integer(1) === number);
  const steps = tensor.field(4) ? tensor.table(4) : null;
  return {
    name: (named ?? tensor).text(named ? 0 : 3),
    isLogits: names[place] === LOGIT,
    step: steps?.firstFloat(2) ?? 1,
    zero: steps?.firstLong(3) ?? 0,
  };
}

function readLabels(view) {
  const text = (start, length) => new TextDecoder().decode(
    new Uint8Array(view.buffer, view.byteOffset + start, length),
  );
  let end = view.byteLength - 22;
  while (end > 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end <= 0) return [];
  let entry = end - view.getUint32(end + 12, true);
  // Offsets in the archive count from its own beginning or from the file's.
  const shift = entry - view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    const size = view.getUint32(entry + 24, true);
    const lengths = [28, 30, 32].map((at) => view.getUint16(entry + at, true));
    if (text(entry + 46, lengths[0]) === LABELS_FILE) {
      const header = shift + view.getUint32(entry + 42, true);
      const names = view.getUint16(header + 26, true);
      const extra = view.getUint16(header + 28, true);
      // Stored as it is, so that apps can read it in place.
      return text(header + 30 + names + extra, size).trimEnd().split("\n");
    }
    entry += 46 + lengths[0] + lengths[1] + lengths[2];
  }
  return [];
}

// Returns `labels`, `normalization` and `output`, which is that of the classes.
export function readMetadata(buffer) {
  const view = new DataView(buffer);
  const { normalization, output } = readDescription(view);
  if (!normalization) {
    throw new Error(
      "The file does not say how images have to be scaled. Write it with " +
      "keras_nasnet.export_tflite.",
    );
  }
  if (!output) {
    throw new Error("The file is no classifier: it returns features.");
  }
  return { labels: readLabels(view), normalization, output };
}
