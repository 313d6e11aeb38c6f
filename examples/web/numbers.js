// From pixels to what a network takes, and from what it returns to shares.

// A file with uint8 input takes pixels as they are.
export function toInput(pixels, dtype, { mean, std }) {
  return dtype === "uint8"
    ? Uint8Array.from(pixels)
    : Float32Array.from(pixels, (pixel) => (pixel - mean) / std);
}

export function toProbabilities(scores, isLogits) {
  const highest = Math.max(...scores);
  const shares = isLogits
    ? Array.from(scores, (score) => Math.exp(score - highest))
    : Array.from(scores);
  const total = shares.reduce((a, b) => a + b); // 255 for integers
  return shares.map((share) => share / total);
}
