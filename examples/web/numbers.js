// From pixels to what a network takes, and from what it returns to probabilities.

// A file with uint8 input takes pixels as they are.
export function toInput(pixels, dtype, { mean, std }) {
  return dtype === "uint8"
    ? Uint8Array.from(pixels)
    : Float32Array.from(pixels, (pixel) => (pixel - mean) / std);
}

// Integers mean steps from a zero; probabilities may be of independent classes.
export function toProbabilities(numbers, { isLogits, step, zero }) {
  const scores = Array.from(numbers, (number) => (number - zero) * step);
  if (!isLogits) return scores;
  const highest = Math.max(...scores);
  const shares = scores.map((score) => Math.exp(score - highest));
  const total = shares.reduce((a, b) => a + b);
  return shares.map((share) => share / total);
}
